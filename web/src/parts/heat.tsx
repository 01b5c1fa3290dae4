import { useState } from 'preact/hooks'
import type { CellProgress } from '../api/types'
import { count, span } from '../format'

/** share returns how much of the artifact a cell's machines hold together, 0 to 1. */
function share(c: CellProgress): number {
  const p = c.progress ?? []
  const all = Math.max(c.counts.target, p.reduce((a, b) => a + b, 0))
  if (all === 0) return 0
  const steps = Math.max(1, p.length - 1)
  return Math.max(c.counts.staged / all, p.reduce((sum, n, i) => sum + n * i, 0) / steps / all)
}

const silentMS = 10_000

function text(c: CellProgress): string {
  const n = c.counts
  return `${c.region}, cell ${c.cell}: ${Math.floor(100 * share(c))} % held, ${count(n.staged)} of ${count(n.target)} staged, ${count(n.healthy)} healthy` +
    (n.failed ? `, ${count(n.failed)} failed` : '') + (n.absent ? `, ${count(n.absent)} absent` : '') +
    (c.silent_ms < 0 ? ', not heard' : c.silent_ms > silentMS ? `, silent for ${span(c.silent_ms)}` : '') +
    (c.fetch_ms ? `; fetched in ${span(c.fetch_ms.p50)} (median), ${span(c.fetch_ms.p99)} (p99)` : '')
}

/** One square for each cell of machines, filled from below by how much it holds. A mark shows failures and silence. */
export function HeatStrip({ cells }: { cells: CellProgress[] }) {
  const [at, setAt] = useState<string | null>(null)
  const regions = [...new Set(cells.map((c) => c.region))]
  const shown = cells.find((c) => `${c.region}/${c.cell}` === at)
  return (
    <div class="heat">
      {regions.map((r) => {
        const mine = cells.filter((c) => c.region === r)
        return (
          <div key={r} class="heat-region">
            <span class="heat-name">{r}<span class="dim num"> {count(mine.reduce((n, c) => n + c.machines, 0))}</span></span>
            <ul class="heat-cells" aria-label={`Cells of ${r}`}>
              {mine.map((c) => {
                const s = share(c)
                const key = `${c.region}/${c.cell}`
                const bad = c.counts.failed > 0
                const silent = c.silent_ms < 0 || c.silent_ms > silentMS
                return (
                  <li key={key}>
                    <button
                      type="button" class={`heat-cell${bad ? ' heat-bad' : ''}${silent ? ' heat-silent' : ''}`} aria-label={text(c)} title={text(c)}
                      style={{ '--s': `${Math.round(100 * s)}%`, '--h': `${Math.round((100 * c.counts.healthy) / Math.max(1, c.counts.target))}%` }}
                      onMouseEnter={() => setAt(key)} onFocus={() => setAt(key)}
                    >{bad ? '✕' : silent ? '?' : ''}</button>
                  </li>
                )
              })}
            </ul>
          </div>
        )
      })}
      <p class="heat-text num" aria-hidden="true">{shown ? text(shown) : `${count(cells.length)} cell${cells.length === 1 ? '' : 's'}; point at one`}</p>
    </div>
  )
}
