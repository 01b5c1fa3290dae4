import type { Deployment, Region } from '../api/types'
import { terminal } from '../api/types'
import { count } from '../format'

// Where names of regions lie, as degrees of longitude; the longest match counts.
const places: [RegExp, number][] = [
  [/us-?west|us-?w|california|oregon/, -120], [/us-?central|us-?south|texas/, -98], [/us-?east|us-?e|virginia/, -77], [/ca-|canada/, -75],
  [/sa-|brazil|south-?america/, -47], [/eu-?west|uk|ireland|london/, -3], [/eu-?central|frankfurt|de-/, 9], [/eu-?north|stockholm/, 18], [/eu-?south/, 12],
  [/af-|africa/, 22], [/me-|middle-?east|il-/, 50], [/ap-?southeast-?2|au-|sydney/, 151], [/ap-?southeast|singapore/, 104], [/ap-?south|india|in-/, 77], [/ap-?north|ap-?east|tokyo|jp-/, 140],
]

const longitude = (name: string): number | undefined => places.find(([re]) => re.test(name))?.[1]

/** westToEast orders regions as on a map, as far as their names say where they are; the others follow by name. */
export function westToEast(rs: Region[]): Region[] {
  return [...rs].sort((a, b) => (longitude(a.name) ?? 1000) - (longitude(b.name) ?? 1000) || (a.name < b.name ? -1 : 1))
}

function Squares({ n, alive, shape }: { n: number; alive: number; shape: string }) {
  return (
    <span class={`squares ${shape}`} aria-hidden="true">
      {Array.from({ length: Math.min(n, 9) }, (_, i) => <i key={i} class={i < alive ? 'on' : 'off'} />)}
    </span>
  )
}

function standingOf(r: Region): { word: string; kind: string } {
  const alive = r.servers_alive ?? r.servers.length
  if (r.lost) return { word: 'lost: taken over', kind: 'bad' }
  if (!r.seen) return { word: r.local ? 'no leader' : 'not heard', kind: 'bad' }
  if (alive <= r.servers.length / 2) return { word: 'no quorum', kind: 'bad' }
  if (alive < r.servers.length) return { word: 'degraded', kind: 'warn' }
  return { word: 'quorum', kind: 'good' }
}

/** The regions from west to east, with lines from home to where artifacts are being replicated. */
export function RegionStrip({ regions, active }: { regions: Region[]; active: Deployment[] }) {
  const all = westToEast(regions)
  const x = new Map(all.map((r, i) => [r.name, (100 * (i + 0.5)) / all.length]))
  const flows = new Map<string, number>()
  for (const d of active) {
    if (d.phase === 'queued' || d.phase === 'building') continue
    for (const p of d.regions ?? []) {
      if (p.name !== d.home && !p.placed && !terminal(d.phase)) flows.set(`${d.home}>${p.name}`, (flows.get(`${d.home}>${p.name}`) ?? 0) + 1)
    }
  }
  return (
    <div class="strip" style={{ '--n': all.length }}>
      <svg class="strip-map" viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">
        <line x1="0" x2="100" y1="14" y2="14" class="strip-line" />
        {[...flows].map(([key]) => {
          const [a, b] = key.split('>').map((n) => x.get(n) ?? 0) as [number, number]
          return <path key={key} class="strip-flow" d={`M${a} 14 C${a} ${12 - Math.abs(a - b) / 6} ${b} ${12 - Math.abs(a - b) / 6} ${b} 14`} />
        })}
      </svg>
      <ul class="strip-regions">
        {all.map((r) => {
          const s = standingOf(r)
          const alive = r.servers_alive ?? r.servers.length
          const flying = active.filter((d) => (d.regions ?? []).some((p) => p.name === r.name)).length
          return (
            <li key={r.name} class={`region ${s.kind}`} data-region={r.name}>
              <span class="region-dot" aria-hidden="true" />
              <h3>{r.name}{r.local && <span class="pill">here</span>}</h3>
              <p class={`region-word ${s.kind}`}>{s.word}</p>
              <p class="region-machines"><b class="num">{r.machines < 0 ? '–' : count(r.machines)}</b> machine{r.machines === 1 ? '' : 's'}</p>
              <dl>
                <div><dt>Leader</dt><dd class="mono" title={r.leader}>{r.leader ? r.leader.replace(`${r.name}-`, '') : 'none'}</dd></div>
                <div><dt>Servers</dt><dd><Squares n={r.servers.length} alive={alive} shape="sq" /><span class="num">{alive}/{r.servers.length}</span></dd></div>
                <div><dt>Caches</dt><dd class="num">{r.caches}</dd></div>
                <div><dt>Workers</dt><dd class="num">{r.workers}</dd></div>
                <div><dt>In flight</dt><dd class="num">{flying}</dd></div>
              </dl>
            </li>
          )
        })}
      </ul>
    </div>
  )
}
