// The page in a real Chromium, against a world of real processes. One world for all: they are in the order of a day.
import assert from 'node:assert/strict'
import { get } from 'node:http'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { launch, live, open, problems, quiet, shoot, stayedHome } from './browser.mjs'
import { api, end, Repo, restart, startWorld, until } from './world.mjs'

const maxScript = 150 * 1024 // bytes of JavaScript on the wire
const maxInteractiveMS = 1000

let world, browser, repo, addr
const again = [] // processes that a test started

before(async () => {
  world = await startWorld(['--regions', '2', '--servers', '3', '--machines', '8'])
  browser = await launch()
  repo = new Repo(path.join(world.dir, 'repo'))
  addr = world.servers.find((s) => s.region === 'r1').http
  for (const [app, strategy] of [['checkout', {}], ['search', {}], ['ledger', { approval: true, bake: '5m' }]]) await api(addr, 'PUT', `/v1/apps/${app}`, repo.app(app, strategy))
}, { timeout: 120_000 })

after(async () => {
  await browser?.close()
  for (const p of again) await end(p)
  await world?.stop()
})

const submit = (app, version, at = addr) => api(at, 'POST', '/v1/deployments', { app, sha: repo.commit(version) })

/** watch opens streams of events as pages do, and counts what comes. */
async function watch(at, n) {
  const all = await Promise.all(Array.from({ length: n }, () => new Promise((done, failed) => {
    const req = get(`${at}/v1/events?progress=true`, { agent: false }, (res) => {
      res.on('error', () => {}) // it is destroyed at the end
      res.told = 0
      res.on('data', () => { res.told++ })
      done(res)
    })
    req.on('error', failed)
  })))
  return all
}

const phase = (page, want) => page.locator(`.deployment[data-phase=${want}]`).waitFor()

test('the page is small, strict, and there within a second', { timeout: 120_000 }, async (t) => {
  const index = await fetch(`${addr}/ui/`)
  assert.match(index.headers.get('content-security-policy'), /^default-src 'self';/)
  const scripts = [...(await index.text()).matchAll(/src="(\/ui\/[^"]+\.js)"/g)].map((m) => m[1])
  assert.ok(scripts.length > 0)
  let bytes = 0
  for (const s of scripts) {
    const res = await fetch(addr + s, { headers: { 'Accept-Encoding': 'gzip' } })
    assert.equal(res.headers.get('content-encoding'), 'gzip')
    bytes += +res.headers.get('content-length')
  }
  t.diagnostic(`JavaScript: ${bytes} bytes compressed`)
  assert.ok(bytes > 1000 && bytes < maxScript, `${bytes} bytes of JavaScript`)
  let best = Infinity
  for (let i = 0; i < 3; i++) {
    const { context, page, seen } = await open(browser)
    const began = Date.now()
    await page.goto(`${addr}/ui/`)
    await page.locator('.numbers').waitFor()
    await page.locator('.region').first().waitFor()
    best = Math.min(best, Date.now() - began)
    await live(page)
    stayedHome(seen, addr)
    await context.close()
  }
  t.diagnostic(`interactive after ${best} ms`)
  assert.ok(best < (quiet() ? maxInteractiveMS : 20_000), `interactive after ${best} ms`)
})

test('a submission is seen live, from the queue to its success', { timeout: 180_000 }, async () => {
  const { context, page, seen } = await open(browser)
  await page.goto(`${addr}/ui/`)
  await live(page)
  await until('both regions are seen with their machines', async () => (await page.locator('.region.good').count()) === 2)
  const d = await submit('checkout', 'v1')
  await page.locator(`.flight[data-deployment="${d.id}"] a, [id="row-${d.id}"] a`).first().click()
  await phase(page, 'succeeded')
  await page.getByRole('log').filter({ hasText: 'built v1' }).waitFor()
  const text = await page.locator('.deployment').innerText()
  assert.match(text, /8\s*\/\s*8/)
  assert.match(text, /placed/)
  assert.equal(await page.locator('.matrix tbody tr').count(), 2)
  await until('the whole timeline', async () => /roll-out began[^]*ended/.test(await page.locator('.timeline').innerText()))
  await page.locator('.curve canvas').waitFor()
  assert.equal(await page.locator('.actions [data-action=cancel]').count(), 0)
  await page.getByRole('link', { name: 'Overview' }).first().click()
  await page.locator(`[id="row-${d.id}"] [data-phase=succeeded]`).waitFor()
  stayedHome(seen, addr)
  await context.close()
})

test('a release whose health check fails is seen to fail and to be reverted', { timeout: 180_000 }, async () => {
  const { context, page, seen } = await open(browser, { colorScheme: 'dark' })
  await api(addr, 'PUT', '/v1/apps/checkout', repo.app('checkout', { waves: ['50%', '100%'] }))
  const d = await submit('checkout', 'v2 broken')
  await page.goto(`${addr}/ui/deployments/${d.id}`)
  await phase(page, 'failed')
  await page.locator('.ending').filter({ hasText: 'Machines went back to' }).waitFor()
  await page.locator('.samples li').filter({ hasText: /machine-\d[^]*this release is broken/ }).first().waitFor()
  assert.match(await page.locator('.ending').innerText(), /more than the 0% allowed/)
  await shoot(page, 'failed-dark')
  await page.getByRole('link', { name: 'checkout' }).first().click()
  await page.locator('.app-page tr.present').filter({ hasText: 'runs now' }).waitFor()
  await page.locator('.app-page tr.present .held').filter({ hasText: '100 %' }).waitFor()
  const entry = page.locator('.history tbody tr', { has: page.locator(`a[href$="/deployments/${d.id}"]`) })
  await entry.locator('.news li', { hasText: 'v2 broken' }).filter({ hasText: 'Ada' }).waitFor()
  const change = entry.locator('.news li', { hasText: 'deploy.strategy.waves' })
  assert.deepEqual([await change.locator('del').innerText(), await change.locator('ins').innerText()], ['["25%","100%"]', '["50%","100%"]'], 'what the spec was and is')
  stayedHome(seen, addr)
  await context.close()
})

test('an approval is given by keyboard, after a question that Escape takes back; a promotion ends the bake', { timeout: 180_000 }, async () => {
  const { context, page, seen } = await open(browser)
  const d = await submit('ledger', 'v3')
  await page.goto(`${addr}/ui/deployments/${d.id}`)
  await phase(page, 'awaiting_approval')
  await page.locator('.waits').filter({ hasText: 'somebody with a token of role approver or operator' }).waitFor()
  assert.equal(await page.locator('.waits code').innerText(), `starling approve ${d.id}`)
  await page.locator('.heat-cell').first().waitFor()
  const approve = page.locator('[data-action=approve]')
  await approve.focus()
  await page.keyboard.press('Enter')
  await page.getByRole('dialog').waitFor()
  await page.keyboard.press('Escape')
  await page.getByRole('dialog').waitFor({ state: 'detached' })
  assert.equal((await api(addr, 'GET', `/v1/deployments/${d.id}`)).phase, 'awaiting_approval')
  assert.equal(await page.evaluate(() => document.activeElement?.dataset.action), 'approve', 'the focus is back')
  await page.keyboard.press('Enter')
  await page.getByRole('dialog').getByRole('button', { name: 'Approve' }).waitFor()
  await page.locator('dialog .plan').waitFor()
  await page.keyboard.press('Enter')
  await phase(page, 'rolling_out')
  await page.locator('.waits').filter({ hasText: 'it bakes for 5m' }).waitFor()
  await page.locator('[data-action=promote]').click()
  await page.getByRole('dialog').getByRole('button', { name: 'Promote' }).click()
  await phase(page, 'succeeded')
  await page.getByRole('list', { name: 'Events' }).filter({ hasText: 'deployment promoted' }).waitFor()
  stayedHome(seen, addr)
  await context.close()
})

test('a change is on the screen a moment after it was made, with 500 watchers more on the server', { timeout: 120_000 }, async (t) => {
  const { context, page } = await open(browser)
  const d = await submit('ledger', 'v4')
  await page.goto(`${addr}/ui/deployments/${d.id}`)
  await phase(page, 'awaiting_approval')
  await live(page)
  const watchers = await watch(addr, 500)
  t.after(() => watchers.forEach((w) => w.destroy()))
  const took = []
  for (let i = 0; i < 6; i++) {
    const action = i % 2 === 0 ? 'pause' : 'resume'
    took.push(await page.evaluate(async ([id, action]) => {
      const done = new Promise((seen) => {
        const look = () => { if ((document.querySelector('.title .paused') !== null) === (action === 'pause')) seen(performance.now()); else setTimeout(look, 5) }
        look()
      })
      const res = await fetch(`/v1/deployments/${id}/${action}`, { method: 'POST', body: '{}' })
      if (!res.ok) throw new Error(await res.text())
      const answered = performance.now()
      return Math.max(0, (await done) - answered)
    }, [d.id, action]))
  }
  took.sort((a, b) => a - b)
  t.diagnostic(`from the answer to the screen: median ${took[3].toFixed(0)} ms, longest ${took[5].toFixed(0)} ms`)
  assert.ok(took[3] < (quiet() ? 300 : 10_000), `${took}`)
  assert.ok(watchers.every((w) => w.told > 0), 'every watcher was told')
  await page.locator('[data-action=cancel]').click()
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click()
  await phase(page, 'cancelled')
  await context.close()
})

test('every page can be used without mouse, without eyes, and on a phone', { timeout: 180_000 }, async () => {
  const ds = await api(addr, 'GET', '/v1/deployments')
  const waiting = await submit('ledger', 'v5')
  await until('it waits for approval', async () => (await api(addr, 'GET', `/v1/deployments/${waiting.id}`)).phase === 'awaiting_approval')
  const pages = { overview: '/', deployment: `/deployments/${waiting.id}`, failure: `/deployments/${ds.find((d) => d.phase === 'failed').id}`, app: '/apps/checkout', cluster: '/cluster' }
  const ready = { overview: '.grid-row', deployment: '.matrix', failure: '.samples li', app: '.history', cluster: '[data-cache] .meter' }
  for (const [kind, options] of Object.entries({ light: {}, dark: { colorScheme: 'dark' }, phone: { viewport: { width: 360, height: 740 }, colorScheme: 'dark', hasTouch: true, isMobile: true } })) {
    const { context, page, seen } = await open(browser, options)
    for (const [name, url] of Object.entries(pages)) {
      await page.goto(`${addr}/ui${url}`)
      await page.locator(ready[name]).first().waitFor()
      await live(page)
      if (name === 'deployment') await page.locator('.curve canvas').waitFor()
      assert.deepEqual(await problems(page), [], `${name}, ${kind}`)
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name}, ${kind}: wider than the screen`)
      if (name !== 'failure') await shoot(page, `${name}-${kind}`)
    }
    stayedHome(seen, addr)
    await context.close()
  }
  const { context, page } = await open(browser)
  await page.goto(`${addr}/ui/`)
  await page.locator('.grid-row').first().waitFor()
  await page.keyboard.press('/')
  assert.equal(await page.evaluate(() => document.activeElement.id), 'filter')
  await page.keyboard.type('ledger')
  await until('the filter works', async () => (await page.locator('.grid-row').count()) === 3)
  await page.keyboard.press('Tab')
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('role')), 'grid')
  await page.keyboard.press('ArrowDown')
  await page.keyboard.press('ArrowDown')
  const at = await page.locator('[aria-selected=true]').getAttribute('id')
  await page.keyboard.press('Enter')
  await page.locator(`.deployment[data-deployment="${at.slice('row-'.length)}"]`).waitFor()
  await page.goBack()
  await page.locator('.grid').waitFor()
  await page.keyboard.press('Tab')
  await page.keyboard.press('Tab')
  assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), 'none', 'one sees where one is')
  await context.close()
})

test('a roll-out is aborted, and its machines go back', { timeout: 180_000 }, async () => {
  const { context, page, seen } = await open(browser)
  const d = (await api(addr, 'GET', '/v1/deployments?active=true')).find((d) => d.app === 'ledger')
  await api(addr, 'POST', `/v1/deployments/${d.id}/approve`, {})
  await page.goto(`${addr}/ui/deployments/${d.id}`)
  await page.locator('[data-action=abort]').click()
  await page.getByRole('dialog').getByRole('button', { name: 'Abort' }).click()
  await phase(page, 'failed')
  await page.locator('.ending').filter({ hasText: 'Machines went back to' }).waitFor()
  assert.equal(await page.locator('[data-action=abort]').count(), 0)
  stayedHome(seen, addr)
  await context.close()
})

test('where events are lost the page says so, and reads everything anew', { timeout: 120_000 }, async () => {
  const { context, page, seen } = await open(browser)
  let streams = 0
  const lists = []
  await page.route('**/v1/deployments?*', (route) => { // at first there is nothing
    lists.push(route.request().url())
    return lists.length === 1 ? route.fulfill({ json: [] }) : route.continue()
  })
  await page.route('**/v1/events?*', async (route) => {
    streams++
    const told = route.request().headers()['last-event-id']
    if (streams === 1) return route.fulfill({ contentType: 'text/event-stream', body: `id: ${told}\n\n` }) // and it breaks
    await page.locator('.page').filter({ hasText: 'Nothing is under way' }).waitFor()
    assert.equal(lists.length, 1)
    return route.continue({ headers: { ...route.request().headers(), 'last-event-id': streams === 2 ? '7.0@r2' : told } }) // as if it had been at a server of another region
  })
  await page.goto(`${addr}/ui/`)
  await page.locator('.feed [data-gap]').waitFor()
  await page.locator('.gapmark').filter({ hasText: '1 gap' }).waitFor()
  await page.locator('.grid-row').first().waitFor()
  await live(page)
  assert.equal(lists.length, 2)
  stayedHome(seen, addr)
  await context.close()
})

test('the leader that serves the page is killed: it says so, and goes on exactly where it was', { timeout: 240_000 }, async () => {
  const leader = await until('a leader', async () => (await api(addr, 'GET', '/v1/status/leader')).http)
  const proc = world.servers.find((s) => s.http.endsWith(leader))
  const other = world.servers.find((s) => s.region === 'r1' && s !== proc)
  const { context, page, seen } = await open(browser)
  await page.goto(`${proc.http}/ui/`)
  await live(page)
  const first = await submit('search', 'v6', other.http)
  await page.locator(`.flight[data-deployment="${first.id}"]`).waitFor()
  process.kill(proc.pid, 'SIGKILL')
  await page.locator('[data-standing=broken]').waitFor()
  await page.locator('.broken').waitFor()
  await shoot(page, 'broken-light')
  await until('the others go on', async () => (await api(other.http, 'GET', `/v1/deployments/${first.id}`)).phase === 'succeeded')
  const second = await submit('search', 'v7', other.http)
  await until('and on', async () => (await api(other.http, 'GET', `/v1/deployments/${second.id}`)).phase === 'succeeded')
  again.push(restart(proc))
  await live(page)
  for (const d of [first, second]) await page.locator(`[id="row-${d.id}"] [data-phase=succeeded]`).waitFor()
  const expected = await until('the events', async () => {
    const told = await page.locator('.feed li').allInnerTexts()
    return told.filter((t) => /succeeded/.test(t)).length === 2 && told
  })
  assert.equal(expected.filter((t) => /search deployment queued/.test(t.replace(/\s+/g, ' '))).length, 2, 'no event is missing and none told twice')
  assert.equal(await page.locator('[data-gap]').count(), 0)
  stayedHome(seen, proc.http)
  await context.close()
})
