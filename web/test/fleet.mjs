// What the API would say of a fleet of 100,000 machines: for the looks of the page at that size. Nothing here is measured.

const regions = [['us-west', 12_400], ['us-central', 9_800], ['us-east', 16_200], ['sa-east', 6_100], ['eu-west', 14_900], ['eu-central', 12_300], ['me-central', 4_200], ['ap-south', 9_100], ['ap-southeast', 7_400], ['ap-northeast', 7_600]]
const machines = regions.reduce((n, [, m]) => n + m, 0)
const cellMachines = 1200
const gigabyte = 1e9
const iso = (ms) => new Date(ms).toISOString()

// A small generator (Lehmer, 1951), so that every run draws the same picture.
function random(seed) {
  let x = seed
  return () => (x = (x * 48271) % 0x7fffffff) / 0x7fffffff
}

const share = (progress) => progress.reduce((s, n, i) => s + n * i, 0) / 20 / Math.max(1, progress.reduce((a, b) => a + b, 0))

/** spread draws how n machines stand when their mean share is m. */
function spread(n, m) {
  const weights = Array.from({ length: 21 }, (_, i) => Math.exp(-(((i / 20 - m) / 0.13) ** 2)))
  if (m > 0.8) weights[20] += 6 * (m - 0.8) * weights.reduce((a, b) => a + b, 0)
  const sum = weights.reduce((a, b) => a + b, 0)
  const out = weights.map((w) => Math.floor((n * w) / sum))
  out[20] += n - out.reduce((a, b) => a + b, 0)
  return out
}

const strategy = { gate: 'all_regions', waves: ['1%', '10%', '100%'], bake: '2m0s', max_failed: '0.5%', auto_revert: true, approval: false }

function deployment(id, app, phase, now, ageMS, over = {}) {
  const staged = { queued: 0, building: 0, replicating: 0, staging: 0.62, awaiting_approval: 1, rolling_out: 0.998, succeeded: 1, failed: 0.98, cancelled: 0.2 }[phase]
  const healthy = { rolling_out: 0.1, succeeded: 0.9997, failed: 0 }[phase] ?? 0
  const created = now - ageMS
  const took = { queued_ms: 21_000, build_ms: 312_000, replicate_ms: 48_000, stage_ms: 154_000, rollout_ms: 0, total_ms: 0 }
  const order = ['queued', 'building', 'replicating', 'staging', 'rolling_out']
  const at = order.indexOf(phase)
  const fields = ['queued_ms', 'build_ms', 'replicate_ms', 'stage_ms', 'rollout_ms']
  if (at >= 0) for (const f of fields.slice(at)) took[f] = 0
  const ended = ['succeeded', 'failed', 'cancelled'].includes(phase)
  if (ended) { took.rollout_ms = 310_000; took.total_ms = 845_000 }
  const before = fields.reduce((n, f) => n + took[f], 0)
  const size = 3.4 * gigabyte
  return {
    id, app, home: 'us-east', sha: id.slice(2).padEnd(8, '0').replace(/[^0-9a-f]/g, 'c') + '0'.repeat(32), artifact: 'sha256:' + '9f'.repeat(32), priority: 0, actor: 'token:ci',
    spec: { name: app, home: 'us-east', revision: 7, source: {}, deploy: { targets: 'role == web', deadline: '30m0s', keep: 3, strategy } }, generation: { epoch: 1, sequence: 41 },
    phase, reason: '', created_at: iso(created), deadline: iso(created + 1_800_000), phase_at: iso(Math.min(now, created + before)), ...(ended ? { ended_at: iso(created + 845_000) } : {}),
    attempt: 1, worker: 'us-east-worker-17/1', cache_hit: false, sandboxed: true, wave: phase === 'rolling_out' ? 1 : 0, wave_at: iso(now - 74_000), paused: false,
    regions: regions.map(([name], i) => ({ name, placed: at > 2 || ended, chunks_done: phase === 'replicating' ? 300 + 90 * i : 1312, chunks_total: at > 1 || ended ? 1312 : 0 })),
    timings: took, times: regions.map(([region], i) => ({ region, placed_ms: 352_000 + 2900 * i, ...(at > 3 || ended ? { all_staged_ms: 515_000 + 6100 * ((i * 7) % 10) } : {}) })),
    machines: { target: machines, staged: Math.round(machines * staged), due: Math.round(machines * 0.1), healthy: Math.round(machines * healthy), failed: phase === 'failed' ? 614 : phase === 'rolling_out' ? 3 : 0, absent: 41,
      samples: phase === 'rolling_out' ? [{ node: 'web-04412', region: 'eu-west', reason: 'not healthy within 1m0s: health check: GET http://127.0.0.1:8080/healthz: 503 Service Unavailable' }] : [],
      slowest: [{ node: 'web-09120', region: 'sa-east', fetch_ms: 148_300, bound: 'disk' }, { node: 'web-00231', region: 'ap-south', fetch_ms: 139_900, bound: 'own_link' }, { node: 'web-07754', region: 'us-west', fetch_ms: 131_200, bound: 'peer_link' }] },
    bytes: { artifact: size, new: 0.21 * gigabyte, wan: 9 * 0.21 * gigabyte, cache_out: 84 * 0.21 * gigabyte, peer: machines * 0.13 * gigabyte, local: machines * 2 * gigabyte, peer_rack: machines * 0.074 * gigabyte, peer_zone: machines * 0.041 * gigabyte, peer_region: machines * 0.015 * gigabyte },
    timeline: [{ at_ms: 21_000, region: 'us-east', event: 'build_began' }, { at_ms: 96_000, region: 'us-east', event: 'first_chunk_uploaded' }, { at_ms: 333_000, region: 'us-east', event: 'manifest_known' }, ...regions.map(([region], i) => ({ at_ms: 352_000 + 2900 * i, region, event: 'placed' }))].sort((a, b) => a.at_ms - b.at_ms),
    ...over,
  }
}

/** fleet answers the API's questions in the name of a server. */
export function fleet(now) {
  const draw = random(20261124)
  const apps = ['checkout', 'search', 'ledger', 'gateway', 'profile', 'media-proxy', 'pricing', 'mailer', 'fraud', 'catalog']
  const flying = [
    deployment('d-5f3c2a', 'checkout', 'staging', now, 452_000), deployment('d-77a01b', 'gateway', 'rolling_out', now, 830_000), deployment('d-0be4d9', 'media-proxy', 'replicating', now, 371_000),
    deployment('d-9c1e55', 'pricing', 'building', now, 143_000, { artifact: '' }), deployment('d-a2d8f0', 'search', 'awaiting_approval', now, 1_130_000), deployment('d-e60c3d', 'mailer', 'queued', now, 9_000, { artifact: '' }),
  ]
  const ended = Array.from({ length: 994 }, (_, i) => deployment(`d-${(0xabc000 + i).toString(16)}`, apps[Math.floor(draw() * apps.length)], draw() < 0.955 ? 'succeeded' : draw() < 0.7 ? 'failed' : 'cancelled', now, 900_000 + i * 86_000 * draw() * 2))
  const cells = regions.flatMap(([region, n], r) => Array.from({ length: Math.ceil(n / cellMachines) }, (_, i) => {
    const size = Math.round(n / Math.ceil(n / cellMachines))
    const progress = spread(size, Math.min(1, 0.5 + 0.45 * draw() - (r === 3 ? 0.22 : 0)))
    return { region, cell: `c${i + 1}`, zone: 'abc'[i % 3], machines: size, alive: size - Math.floor(draw() * 4), silent_ms: r === 6 && i === 2 ? 14_000 : 600, counts: { target: size, staged: progress[20], due: 0, healthy: 0, failed: r === 4 && i === 5 ? 2 : 0, absent: 0 }, progress }
  }))
  const curve = Array.from({ length: 72 }, (_, i) => ({ at_ms: 333_000 + i * 1650, progress: spread(machines, 0.72 / (1 + Math.exp(-(i - 38) / 9)) + 0.02) }))
  const of = (id) => [...flying, ...ended].find((d) => d.id === id)
  const why = (d) => {
    const told = d.regions.map((p) => {
      const mine = cells.filter((c) => c.region === p.name)
      const target = mine.reduce((n, c) => n + c.counts.target, 0)
      return { ...p, heard: true, silent_ms: 900, target, staged: mine.reduce((n, c) => n + Math.round(c.counts.target * share(c.progress)), 0), healthy: 0, failed: mine.reduce((n, c) => n + c.counts.failed, 0) }
    })
    const slow = { 'sa-east': ' Slowest to fetch: web-09120 (2m28.3s, bound by its disk).', 'us-west': ' Slowest to fetch: web-07754 (2m11.2s, bound by the links of peers).' }
    const answer = told.map((r) => `${r.staged} of ${r.target} machines staged in ${r.name}.${slow[r.name] ?? ''}`)
    return { phase_ms: 98_000, waits_for: [], answer, regions: told }
  }
  const answers = {
    '/v1/acl/self': { name: 'ada', role: 'approver', tokens: true, region: 'us-east', version: 'v1' },
    '/v1/regions': regions.map(([name, n], i) => ({ name, local: name === 'us-east', leader: `${name}-server-${1 + (i % 3)}`, servers: Array.from({ length: i % 4 === 2 ? 5 : 3 }, (_, k) => `10.${i}.0.${k + 2}:7471`), servers_alive: i === 6 ? 4 : i % 4 === 2 ? 5 : 3, caches: 4 + (i % 3) * 2, workers: i === 2 ? 24 : 3, machines: n, seen: true })),
    '/v1/deployments': [...flying, ...ended],
  }
  return (url) => {
    const [, id, what] = /^\/v1\/deployments\/([^/]+)(?:\/(\w+))?$/.exec(url.pathname) ?? []
    if (!id) return answers[url.pathname]
    const d = of(id)
    return { undefined: d, why: d && why(d), cells, curve }[`${what}`]
  }
}

// What the deployments under way move, in bytes each second.
const moving = [['d-5f3c2a', { peer: 84e9, cache_out: 115e6 }], ['d-0be4d9', { wan: 39e6, cache_out: 39e6 }]]

/** happened lists some events of the last minutes, oldest first. */
function happened(now) {
  const phase = (agoS, deployment, app, phase, detail) => [agoS, { type: 'deployment.phase', deployment, app, phase, detail }]
  const all = [
    phase(104, 'd-a2d8f0', 'search', 'awaiting_approval'), phase(98, 'd-5f3c2a', 'checkout', 'staging'), phase(84, 'd-0be4d9', 'media-proxy', 'replicating'),
    [74, { type: 'deployment.wave', deployment: 'd-77a01b', app: 'gateway', detail: 'wave 2 of 3' }], [31, { type: 'deployment.placed', deployment: 'd-0be4d9', app: 'media-proxy', detail: 'us-east' }],
    phase(17, 'd-9c1e55', 'pricing', 'building'), [9, { type: 'deployment.queued', deployment: 'd-e60c3d', app: 'mailer' }],
  ]
  return all.map(([agoS, e], i) => ({ index: 48_211 + i, n: 0, region: 'us-east', at: iso(now - agoS * 1000), ...e }))
}

// stream runs in the page in place of its fetch: the stream of events tells what happened, and then how bytes move.
function stream({ changes, moving }) {
  const real = globalThis.fetch
  const tickMS = 200
  globalThis.fetch = (url, init) => {
    if (!String(url).startsWith('/v1/events')) return real(url, init)
    const began = Date.now()
    const event = (name, body) => new TextEncoder().encode(`${name}data: ${JSON.stringify(body)}\n\n`)
    let timer
    return Promise.resolve(new Response(new ReadableStream({
      start(to) {
        for (const c of changes) to.enqueue(event(`id: ${c.index}.0@${c.region}\n`, c))
        timer = setInterval(() => {
          for (const [{ id, bytes, ...d }, rates] of moving) {
            const s = (Date.now() - began) / 1000
            const now = Object.fromEntries(Object.entries(bytes).map(([k, v]) => [k, v + (rates[k] ?? 0) * (s - 0.4 * Math.cos(s / 1.5))])) // faster and slower by a quarter
            to.enqueue(event('event: progress\n', { ...d, deployment: id, bytes: now }))
          }
        }, tickMS)
      },
      cancel() { clearInterval(timer) },
    }), { headers: { 'Content-Type': 'text/event-stream' } }))
  }
}

/** serveFleet has a page ask the made-up fleet instead of its server. */
export async function serveFleet(page) {
  const now = Date.now()
  const answer = fleet(now)
  await page.addInitScript(stream, { changes: happened(now), moving: moving.map(([id, rates]) => [{ ...answer(new URL(`http://fleet/v1/deployments/${id}`)), ends_at: iso(now + 412_000) }, rates]) })
  await page.route('**/v1/**', async (route) => {
    const url = new URL(route.request().url())
    if (url.pathname === '/v1/status/leader') return route.continue() // of the real server
    if (url.pathname.endsWith('/logs')) return route.fulfill({ contentType: 'text/plain', body: new URL(url).searchParams.get('offset') === '0' ? 'starling: running ./build.sh\ncompiling 1,204 packages\nlinking\n' : '' })
    const body = answer(url)
    return body === undefined ? route.fulfill({ status: 404, contentType: 'application/problem+json', body: '{"detail":"not in this picture"}' }) : route.fulfill({ json: body })
  })
}
