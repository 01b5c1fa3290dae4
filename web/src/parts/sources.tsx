import type { Bytes } from '../api/types'
import { bytes, percent } from '../format'

const kinds = (b: Bytes): [string, string, number][] => [
  ['local', 'held already (cloned from other releases)', b.local],
  ['rack', 'peers in the rack', b.peer_rack],
  ['zone', 'peers in the zone', b.peer_zone],
  ['region', 'peers in the region', b.peer_region],
  ['cache', 'caches', b.cache_out],
]

/** Where the machines' bytes came from, and what that cost the caches and the lines between regions. */
export function Sources({ b }: { b: Bytes }) {
  const all = kinds(b)
  const known = all.reduce((n, [, , v]) => n + v, 0)
  const other = Math.max(0, b.peer - b.peer_rack - b.peer_zone - b.peer_region)
  const total = known + other
  return (
    <div class="sources">
      <div class="sources-track" role="img" aria-label={all.map(([, what, v]) => `${what} ${bytes(v)}`).join(', ')}>
        {all.map(([key, what, v]) => v > 0 && <i key={key} class={`src-${key}`} style={{ width: `${percent(v, total)}%` }} title={`${what}: ${bytes(v)}`} />)}
      </div>
      <table>
        <tbody>
          {all.map(([key, what, v]) => <tr key={key}><td><i class={`swatch src-${key}`} /></td><th scope="row">{what}</th><td class="num">{bytes(v)}</td><td class="num dim">{total > 0 ? `${percent(v, total).toFixed(0)} %` : ''}</td></tr>)}
        </tbody>
      </table>
      <dl class="facts">
        <div><dt>Artifact</dt><dd class="num">{bytes(b.artifact)}</dd></div>
        <div><dt>New in it</dt><dd class="num">{bytes(b.new)}</dd></div>
        <div><dt>Between regions</dt><dd class="num">{bytes(b.wan)}</dd></div>
      </dl>
    </div>
  )
}
