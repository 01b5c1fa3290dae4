// A real Chromium, watched: what it asks for, what it complains about.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { cpus, loadavg } from 'node:os'
import path from 'node:path'
import { chromium } from 'playwright-core'
import { withPalette } from './png.mjs'
import { root } from './world.mjs'

export const patienceMS = 60_000

/** quiet reports whether this computer has time to spare: only then do absolute times say anything about the page. */
export const quiet = () => loadavg()[0] < cpus().length / 2

export async function launch() {
  const executablePath = execFileSync('sh', ['-c', 'command -v chromium || command -v chromium-browser || command -v google-chrome'], { encoding: 'utf8' }).trim()
  return chromium.launch({ executablePath, args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--no-first-run'] })
}

/** open gives a page of a context of its own that notes whatever goes wrong in it. */
export async function open(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: 'light', reducedMotion: 'reduce', ...options })
  context.setDefaultTimeout(patienceMS)
  const page = await context.newPage()
  const seen = { requests: [], errors: [] }
  context.on('request', (r) => seen.requests.push(r.url()))
  page.on('pageerror', (e) => seen.errors.push(`${e}`))
  page.on('console', (m) => { if (m.type() === 'error' && /Content Security Policy|Uncaught/.test(m.text())) seen.errors.push(m.text()) })
  return { context, page, seen }
}

/** stayedHome fails if a page asked anybody but its own server, or broke. */
export function stayedHome(seen, origin) {
  assert.deepEqual(seen.requests.filter((url) => !url.startsWith(origin + '/') && !url.startsWith('blob:' + origin)), [], 'requests to elsewhere')
  assert.deepEqual(seen.errors, [], 'errors in the page')
}

export const live = (page) => page.locator('[data-standing=live]').waitFor()

/** problems lists what makes a page hard to use without eyes, mouse or much contrast. */
export function problems(page) {
  return page.evaluate(() => {
    const out = []
    const shown = (el) => el.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true }) && el.getBoundingClientRect().width > 0
    const nameOf = (el) => (el.getAttribute('aria-label') || (el.getAttribute('aria-labelledby') || '').split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join(' ') ||
      (el.labels && [...el.labels].map((l) => l.textContent).join(' ')) || el.textContent || el.getAttribute('title') || '').trim()
    const what = (el) => `<${el.tagName.toLowerCase()} class="${el.getAttribute('class') ?? ''}">${(el.textContent ?? '').slice(0, 40)}`
    for (const el of document.querySelectorAll('button, a, input, select, dialog, section, nav, [role=grid], [role=img], [role=group], [role=log], [tabindex="0"]')) {
      if (shown(el) && !nameOf(el)) out.push(`no name: ${what(el)}`)
    }
    const ids = [...document.querySelectorAll('[id]')].map((el) => el.id)
    for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) out.push(`id twice: ${id}`)
    if (document.querySelectorAll('h1').length !== 1) out.push('not one h1')
    if (document.querySelectorAll('main').length !== 1) out.push('not one main')
    if (!document.documentElement.lang) out.push('no language')
    for (const t of document.querySelectorAll('table')) if (!t.querySelector('th')) out.push(`a table without heads: ${what(t)}`)
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true })
    const rgba = (css) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1); const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255] }
    const luminance = ([r, g, b]) => { const f = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4 }; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b) }
    const under = (el) => { // what is behind an element, its own background on top
      const layers = []
      for (let e = el; e; e = e.parentElement) {
        const c = rgba(getComputedStyle(e).backgroundColor)
        if (c[3] > 0) layers.push(c)
        if (c[3] === 1) break
      }
      return layers.reverse().reduce((u, c) => [0, 1, 2].map((i) => u[i] * (1 - c[3]) + c[i] * c[3]), [255, 255, 255])
    }
    const pale = new Map()
    for (const el of document.querySelectorAll('body *')) {
      if (![...el.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !shown(el) || el.closest('svg, [disabled], .hidden, .heat-cell')) continue
      const style = getComputedStyle(el)
      const bg = under(el), c = rgba(style.color)
      const fg = [0, 1, 2].map((i) => bg[i] * (1 - c[3]) + c[i] * c[3])
      const [a, b] = [luminance(fg), luminance(bg)]
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
      const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.6 && +style.fontWeight >= 700)
      if (ratio < (large ? 3 : 4.5)) pale.set(`pale (${ratio.toFixed(2)}): ${what(el)}`, 1)
    }
    return [...out, ...pale.keys()]
  })
}

const shots = process.env.SCREENSHOTS && path.resolve(root, process.env.SCREENSHOTS) // a folder: pictures are kept there

/** Whether pictures are wanted. */
export const shooting = Boolean(shots)

/** shoot takes a picture of what is in sight, if pictures are wanted. */
export async function shoot(page, name) {
  if (!shots) return
  mkdirSync(shots, { recursive: true })
  await page.evaluate(() => scrollTo(0, 0))
  writeFileSync(path.join(shots, `${name}.png`), withPalette(await page.screenshot({ scale: 'css' })))
}
