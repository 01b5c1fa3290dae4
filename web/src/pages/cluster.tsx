import { useEffect } from 'preact/hooks'
import type { Cache, Cell, Deployment, Node, RaftHealth } from '../api/types'
import { bytes, clock, count, percent, span } from '../format'
import { may } from '../parts/actions'
import { Empty, Panel } from '../parts/panel'
import { RegionStrip } from '../parts/strip'
import { Link } from '../route'
import { active, now, regions } from '../store'
import { useRead } from '../use'

const everyMS = 2000
const maxMachines = 200 // listed here; all of them: starling node list

function Alive({ alive, word }: { alive: boolean; word?: string }) {
  return <span class={alive ? 'good' : 'bad'}>{alive ? '●' : '✕'} {word ?? (alive ? 'alive' : 'gone')}</span>
}

function Servers({ nodes, leader }: { nodes: Node[]; leader: string }) {
  const able = may('operator')
  const health = useRead<RaftHealth>('/v1/operator/autopilot/health', able ? everyMS : 0, able)
  const servers = nodes.filter((n) => n.roles.includes('server'))
  const h = health.value
  const most = Math.max(0, ...(h?.servers ?? []).map((s) => s.last_index))
  return (
    <Panel title="Servers and Raft" aside={h ? <span class={h.failure_tolerance > 0 ? 'good' : 'warn'}>{h.failure_tolerance > 0 ? `${h.failure_tolerance} may fail` : 'none may fail'}</span> : !able ? <span class="dim">Raft's state is shown to operators</span> : undefined}>
      <div class="scroll">
        <table class="plain">
          <thead><tr><th scope="col">Server</th><th scope="col">Part</th><th scope="col">In gossip</th>{h && <><th scope="col">Log</th><th scope="col">Term</th><th scope="col">Heard leader</th></>}</tr></thead>
          <tbody>
            {servers.map((n) => {
              const s = h?.servers.find((x) => x.name === n.name)
              const lags = s ? most - s.last_index : 0
              return (
                <tr key={n.name} data-server={n.name}>
                  <td class="mono strong">{n.name}</td>
                  <td>{n.name === leader ? <span class="leader">◆ leader</span> : s && !s.voter ? 'without a vote' : 'follower'}</td>
                  <td><Alive alive={n.alive} />{s && !s.healthy && n.alive && <span class="warn"> not healthy</span>}</td>
                  {h && <><td class="num">{s ? count(s.last_index) : '–'}{lags > 0 && <span class="dim"> −{count(lags)}</span>}</td><td class="num">{s?.last_term ?? '–'}</td><td class="num dim">{!s || s.last_contact_ms < 0 ? '–' : n.name === leader ? 'itself' : `${span(s.last_contact_ms)} ago`}</td></>}
                </tr>
              )
            })}
          </tbody>
        </table>
      </div>
    </Panel>
  )
}

function Caches() {
  const { value } = useRead<Cache[]>('/v1/caches', everyMS)
  return (
    <Panel title="Caches">
      {!value ? <Empty>Loading…</Empty> : value.length === 0 ? <Empty>This region has no cache: nothing can be built or deployed here.</Empty> : (
        <div class="scroll"><table class="plain">
          <thead><tr><th scope="col">Cache</th><th scope="col">Disk</th><th scope="col">Artifacts</th><th scope="col">Sent</th></tr></thead>
          <tbody>
            {value.map((c) => {
              const share = percent(c.used_bytes, c.max_bytes)
              return (
                <tr key={c.name} data-cache={c.name}>
                  <td><span class="mono strong">{c.name}</span> {!c.alive ? <Alive alive={false} /> : c.zone ? <span class="dim">zone {c.zone}</span> : null}{c.problem && <div class="bad small">{c.problem}</div>}</td>
                  <td class="disk">{c.heard ? <><span class="meter" role="img" aria-label={`${share.toFixed(0)} % full`}><i class={share > 90 ? 'meter-bad' : share > 75 ? 'meter-warn' : ''} style={{ width: `${Math.max(share, 0.5)}%` }} /></span><span class="num">{bytes(c.used_bytes)}{c.max_bytes > 0 && <span class="dim"> of {bytes(c.max_bytes)}</span>}</span></> : <span class="dim">not heard yet</span>}</td>
                  <td class="num">{count(c.artifacts)}{c.pulling > 0 && <span class="dim">, {c.pulling} coming</span>}</td>
                  <td class="num">{bytes(c.out_bytes)}</td>
                </tr>
              )
            })}
          </tbody>
        </table></div>
      )}
    </Panel>
  )
}

function Workers({ nodes }: { nodes: Node[] }) {
  const workers = nodes.filter((n) => n.roles.includes('worker'))
  const building = active.value.filter((d) => d.phase === 'building' && d.worker)
  const of = (n: Node): Deployment[] => building.filter((d) => d.worker!.startsWith(n.name + '/'))
  const queued = active.value.filter((d) => d.phase === 'queued').length
  return (
    <Panel title="Workers" aside={<span class="dim num">{queued} queued</span>}>
      {workers.length === 0 ? <Empty>This region has no worker: commits wait until one comes, artifacts can be deployed.</Empty> : (
        <table class="plain">
          <thead><tr><th scope="col">Worker</th><th scope="col">Builds</th></tr></thead>
          <tbody>
            {workers.map((n) => (
              <tr key={n.name} data-worker={n.name}>
                <td><span class="mono strong">{n.name}</span> {!n.alive && <Alive alive={false} />}</td>
                <td>{of(n).length === 0 ? <span class="dim">nothing</span> : of(n).map((d) => <div key={d.id}><Link to={`/deployments/${d.id}`}>{d.app}</Link> <span class="num dim">for {clock(now.value - Date.parse(d.phase_at))}{d.attempt > 1 ? `, attempt ${d.attempt}` : ''}</span></div>)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Panel>
  )
}

function Cells() {
  const { value } = useRead<Cell[]>('/v1/cells', everyMS)
  return (
    <Panel title="Cells" aside={value ? <span class="num dim">{count(value.reduce((n, c) => n + c.alive, 0))} of {count(value.reduce((n, c) => n + c.machines, 0))} machines alive</span> : undefined}>
      {!value ? <Empty>Loading…</Empty> : value.length === 0 ? <Empty>No machine has enrolled yet: <code>starling node token create</code></Empty> : (
        <div class="scroll"><table class="plain">
          <thead><tr><th scope="col">Cell</th><th scope="col">Zone</th><th scope="col">Alive</th><th scope="col">Speaks for it</th><th scope="col">Heard</th></tr></thead>
          <tbody>{value.map((c) => <tr key={c.name}><td class="mono strong">{c.name}</td><td>{c.zone || '–'}</td><td class="num"><span class={c.alive < c.machines ? 'warn' : ''}>{count(c.alive)}</span><span class="dim"> / {count(c.machines)}</span></td><td class="mono dim">{(c.speakers ?? []).join(', ') || '–'}</td><td class="num dim">{c.silent_ms < 0 ? 'not yet' : `${span(c.silent_ms)} ago`}</td></tr>)}</tbody>
        </table></div>
      )}
    </Panel>
  )
}

function Machines() {
  const { value } = useRead<Node[]>(`/v1/nodes?role=machine&limit=${maxMachines}`, everyMS * 2)
  return (
    <Panel title="Machines" aside={value && value.length === maxMachines ? <span class="dim">the first {maxMachines}; all: <code>starling node list</code></span> : undefined}>
      {!value ? <Empty>Loading…</Empty> : value.length === 0 ? <Empty>This region has no machine.</Empty> : (
        <ul class="members" aria-label="Machines">
          {value.map((n) => (
            <li key={n.name} class={n.alive ? '' : 'gone'} title={[n.zone && `zone ${n.zone}`, n.rack && `rack ${n.rack}`, n.cell && `cell ${n.cell}`, n.problem].filter(Boolean).join(', ')}>
              <Alive alive={n.alive} word="" /> <span class="mono">{n.name}</span>
              {n.standing && n.standing !== 'active' && <span class="pill warn">{n.standing}</span>}
              {n.problem && <span class="bad small">{n.problem}</span>}
            </li>
          ))}
        </ul>
      )}
    </Panel>
  )
}

export function ClusterPage() {
  useEffect(() => { document.title = 'Cluster – Starling' }, [])
  const here = regions.value.find((r) => r.local)
  const nodes = useRead<Node[]>('/v1/nodes?role=server', everyMS)
  const workers = useRead<Node[]>('/v1/nodes?role=worker', everyMS)
  return (
    <div class="page cluster">
      <h1>Cluster{here && <span class="dim h1-aside"> as region {here.name} sees it</span>}</h1>
      <RegionStrip regions={regions.value} active={active.value} />
      <div class="half">
        <Servers nodes={nodes.value ?? []} leader={here?.leader ?? ''} />
        <Workers nodes={workers.value ?? []} />
        <Caches />
        <Cells />
      </div>
      <Machines />
    </div>
  )
}
