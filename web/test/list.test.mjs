// A long list and a token: one server with tokens that has no worker, so that whatever is submitted stays queued or is overtaken.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { launch, live, open, problems, quiet, shoot, shooting, stayedHome } from './browser.mjs'
import { serveFleet } from './fleet.mjs'
import { api, starling, startAgent, until } from './world.mjs'

const deployments = 1000
const maxRows = 80 // in the page at any time

let agent, browser, addr

const config = (http, quic, gossip) => `name = "s1"
region = "r1"
data_dir = "data"
bind = "127.0.0.1"
ports {
  http = ${http}
  quic = ${quic}
  gossip = ${gossip}
}
http {
  bind = "127.0.0.1"
  tls = false
}
gossip {
  key = "${randomBytes(32).toString('base64')}"
}
tls {
  ca = "ca.pem"
  cert = "node.pem"
  key = "node-key.pem"
}
server {
  enabled = true
  bootstrap_expect = 1
}
cache {
  enabled = true
}
`
const tokens = {}

async function freePort() {
  const s = createServer()
  await new Promise((done) => s.listen(0, '127.0.0.1', done))
  const { port } = s.address()
  await new Promise((done) => s.close(done))
  return port
}

before(async () => {
  const dir = mkdtempSync(path.join(tmpdir(), 'starling-list-'))
  execFileSync(starling, ['tls', 'ca', 'create', '--cluster', 'list'], { cwd: dir })
  execFileSync(starling, ['tls', 'cert', 'create', '--name', 's1', '--region', 'r1', '--role', 'server,cache', '--host', '127.0.0.1'], { cwd: dir })
  const [http, quic, gossip] = [await freePort(), await freePort(), await freePort()]
  addr = `http://127.0.0.1:${http}`
  agent = await startAgent(dir, config(http, quic, gossip), addr)
  const boot = await api(addr, 'POST', '/v1/acl/bootstrap')
  tokens.operator = boot.secret
  const auth = { Authorization: `Bearer ${boot.secret}` }
  for (const role of ['viewer', 'deployer']) tokens[role] = (await api(addr, 'POST', '/v1/acl/tokens', { name: `a-${role}`, role }, auth)).secret
  for (let i = 0; i < 20; i++) {
    await api(addr, 'PUT', `/v1/apps/app-${i}`, { name: `app-${i}`, source: { git: 'https://git.example/x.git' }, build: { command: ['true'] }, deploy: {} }, auth)
  }
  let next = 0
  const some = async () => {
    for (let i = next++; i < deployments; i = next++) {
      await api(addr, 'POST', '/v1/deployments', { app: `app-${i % 20}`, sha: i.toString(16).padStart(40, '0') }, auth)
    }
  }
  await Promise.all(Array.from({ length: 16 }, some))
  browser = await launch()
}, { timeout: 240_000 })

after(async () => {
  await browser?.close()
  await agent?.stop()
})

async function signIn(page, secret) {
  await page.goto(`${addr}/ui/`)
  await page.getByLabel('Token').fill(secret)
  await page.keyboard.press('Enter')
}

test('a thousand deployments scroll without jank', { timeout: 180_000 }, async (t) => {
  const { context, page, seen } = await open(browser)
  await signIn(page, tokens.operator)
  await live(page)
  await page.locator(`.grid[aria-rowcount="${deployments}"]`).waitFor()
  const strict = quiet()
  const smooth = (r) => r.median < (strict ? 34 : 1000) && r.p95 < (strict ? 50 : 5000)
  const scroll = () => page.evaluate(async () => {
    const box = document.querySelector('.grid-box')
    const frames = []
    let rows = 0
    let long = 0
    const observer = new PerformanceObserver((l) => { long += l.getEntries().length })
    observer.observe({ entryTypes: ['longtask'] })
    let last = performance.now()
    for (let y = 0; y < box.scrollHeight - box.clientHeight; y += 170) { // 5 rows a frame
      box.scrollTop = y
      await new Promise(requestAnimationFrame)
      const now = performance.now()
      frames.push(now - last)
      last = now
      rows = Math.max(rows, document.querySelectorAll('.grid-row').length)
    }
    observer.disconnect()
    frames.sort((a, b) => a - b)
    return { frames: frames.length, median: frames[frames.length >> 1], p95: frames[Math.floor(frames.length * 0.95)], longest: frames.at(-1), long, rows, end: document.querySelector('.grid-row:last-child').getAttribute('aria-rowindex') }
  })
  let result = await scroll()
  for (let again = 0; again < 2 && !smooth(result); again++) result = await scroll() // another process may have had the processor
  t.diagnostic(`${result.frames} frames: median ${result.median.toFixed(1)} ms, p95 ${result.p95.toFixed(1)} ms, longest ${result.longest.toFixed(1)} ms, ${result.long} tasks over 50 ms; ${result.rows} rows in the page at most`)
  assert.ok(result.frames > 150)
  assert.ok(result.rows > 10 && result.rows < maxRows, `${result.rows} rows`)
  assert.ok(smooth(result), `median frame of ${result.median} ms, p95 of ${result.p95} ms`)
  const box = page.locator('.grid')
  await box.focus()
  await page.keyboard.press('End')
  await page.locator(`.grid-row[aria-rowindex="${deployments}"][aria-selected=true]`).waitFor()
  await page.locator('#filter').fill('app-7')
  await page.locator(`.grid[aria-rowcount="${deployments / 20}"]`).waitFor()
  stayedHome(seen, addr)
  await context.close()
})

test('buttons are those of the role that signs in', { timeout: 120_000 }, async () => {
  const auth = { Authorization: `Bearer ${tokens.operator}` }
  const [d] = await api(addr, 'GET', '/v1/deployments?active=true&limit=1', undefined, auth)
  const { context, page, seen } = await open(browser)
  await signIn(page, 'st_wrong')
  await page.getByRole('alert').filter({ hasText: 'not known' }).waitFor()
  const want = { viewer: [], deployer: ['cancel'], operator: ['pause', 'cancel'] }
  for (const [role, names] of Object.entries(want)) {
    await signIn(page, tokens[role])
    await page.locator('.who').filter({ hasText: role }).waitFor()
    await live(page)
    await page.locator('#filter').fill(d.id)
    await page.locator(`[id="row-${d.id}"] a`).click()
    await page.locator(`.deployment[data-deployment="${d.id}"] .matrix`).waitFor({ state: 'attached' })
    const shown = await page.locator('.actions [data-action]').evaluateAll((all) => all.map((b) => b.dataset.action))
    assert.deepEqual(shown.filter((n) => names.includes(n)).sort(), [...names].sort(), role)
    if (role === 'viewer') assert.deepEqual(shown, [])
    assert.deepEqual(await page.evaluate(() => [localStorage.length, document.cookie]), [0, ''], 'the token is kept nowhere else')
    await page.getByRole('button', { name: 'Sign out' }).click()
    await page.getByLabel('Token').waitFor()
    assert.equal(await page.evaluate(() => sessionStorage.length), 0)
    assert.equal(await page.locator('.deployment').count(), 0, 'nothing is shown any more')
  }
  stayedHome(seen, addr)
  await context.close()
})

test('a hundred thousand machines in ten regions fit on the page', { timeout: 180_000 }, async () => {
  for (const scheme of ['light', 'dark']) {
    const { context, page, seen } = await open(browser, { colorScheme: scheme, viewport: { width: 1440, height: 1120 } })
    await page.addInitScript((secret) => sessionStorage.setItem('starling.token', secret), tokens.operator)
    await serveFleet(page)
    await page.goto(`${addr}/ui/`)
    await page.locator('.grid[aria-rowcount="1000"]').waitFor()
    await live(page)
    assert.equal(await page.locator('.region').count(), 10)
    assert.deepEqual(await page.locator('.region h3').evaluateAll((all) => all.map((h) => h.textContent).slice(0, 3)), ['us-west', 'us-central', 'us-easthere'], 'from west to east')
    assert.equal(await page.locator('.strip-flow').count(), 9, 'lines to the nine regions that fetch')
    assert.deepEqual(await page.locator('.region-machines').evaluateAll((all) => all.filter((p) => p.scrollWidth > p.clientWidth).map((p) => p.textContent)), [], 'numbers fit their cards')
    await page.locator('.numbers li').filter({ hasText: /[1-9][\d.]* GB\/s/ }).waitFor()
    if (shooting) await until('a curve of the throughput', async () => (await page.locator('.spark-line').getAttribute('points')).split(' ').length > 14)
    assert.deepEqual(await problems(page), [], `overview, ${scheme}`)
    await shoot(page, `fleet-overview-${scheme}`)
    await page.goto(`${addr}/ui/deployments/d-5f3c2a`)
    await page.locator('.curve canvas').waitFor()
    await page.locator('.heat-bad').waitFor()
    await page.locator('.budget-legend').getByText(/^about 6:\d\d to go$/).waitFor()
    await live(page)
    assert.ok(await page.locator('.heat-cell').count() > 80)
    assert.deepEqual(await problems(page), [], `deployment, ${scheme}`)
    await shoot(page, `fleet-deployment-${scheme}`)
    stayedHome(seen, addr)
    await context.close()
  }
})
