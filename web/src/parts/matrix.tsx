import type { Deployment, RegionWhy } from '../api/types'
import { count, percent, span } from '../format'

interface Cell { share: number; text: string; at: number | undefined; kind?: string }

function Stage({ cell }: { cell: Cell }) {
  const done = cell.share >= 1
  return (
    <td class={`stage${done ? ' stage-done' : cell.share > 0 ? ' stage-part' : ''} ${cell.kind ?? ''}`}>
      <span class="stage-bar" style={{ width: `${Math.min(100, 100 * cell.share)}%` }} />
      <span class="stage-text num">{done && <span aria-hidden="true">✓ </span>}{cell.text}</span>
      {cell.at !== undefined && cell.at > 0 && <span class="stage-at num dim">{span(cell.at)}</span>}
    </td>
  )
}

const ratio = (a: number, b: number): number => (b > 0 ? a / b : 0)

/** Regions against stages: how far each is, and when it got there. */
export function Matrix({ d, why }: { d: Deployment; why: RegionWhy[] }) {
  const over = d.phase === 'succeeded'
  return (
    <div class="scroll">
      <table class="matrix">
        <caption class="hidden">How far each region is with each stage</caption>
        <thead><tr><th scope="col">Region</th><th scope="col">Replicated</th><th scope="col">Staged</th><th scope="col">Healthy</th></tr></thead>
        <tbody>
          {(d.regions ?? []).map((p) => {
            const t = d.times?.find((x) => x.region === p.name)
            const w = why.find((x) => x.name === p.name)
            const known = w?.heard === true
            const whole = over && !known
            return (
              <tr key={p.name}>
                <th scope="row">{p.name}{p.name === d.home && <span class="pill">home</span>}{w && known && w.silent_ms > 10_000 && <span class="pill warn">silent {span(w.silent_ms)}</span>}</th>
                <Stage cell={{ share: p.placed ? 1 : ratio(p.chunks_done, p.chunks_total), text: p.placed ? 'placed' : p.chunks_total > 0 ? `${percent(p.chunks_done, p.chunks_total).toFixed(0)} % of ${count(p.chunks_total)} chunks` : '–', at: t?.placed_ms }} />
                <Stage cell={{ share: whole ? 1 : known ? ratio(w.staged, w.target) : t?.all_staged_ms ? 1 : 0, text: known ? `${count(w.staged)} / ${count(w.target)}` : whole || t?.all_staged_ms ? 'all' : '–', at: t?.all_staged_ms ?? t?.staged_ms }} />
                <Stage cell={{ share: whole ? 1 : known ? ratio(w.healthy, w.target) : 0, text: known ? `${count(w.healthy)} / ${count(w.target)}${w.failed ? `, ✕ ${count(w.failed)}` : ''}` : whole ? 'all' : '–', at: undefined, kind: known && w.failed > 0 ? 'stage-bad' : '' }} />
              </tr>
            )
          })}
        </tbody>
      </table>
    </div>
  )
}
