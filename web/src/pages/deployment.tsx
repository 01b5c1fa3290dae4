import { useEffect, useState } from 'preact/hooks'
import { get, Problem } from '../api/http'
import { terminal, type CellProgress, type CurvePoint, type Deployment, type Moment, type Why } from '../api/types'
import { count, day, digest, sha, span, what, who, words } from '../format'
import { Actions } from '../parts/actions'
import { BudgetBar } from '../parts/budget'
import { Curve } from '../parts/curve'
import { Feed } from '../parts/feed'
import { HeatStrip } from '../parts/heat'
import { Log } from '../parts/log'
import { MachineBar } from '../parts/machines'
import { Matrix } from '../parts/matrix'
import { Empty, Panel } from '../parts/panel'
import { PhaseBadge } from '../parts/phase'
import { Sources } from '../parts/sources'
import { Waves } from '../parts/waves'
import { Link } from '../route'
import { deployments, now, put, touched } from '../store'
import { useRead } from '../use'
import { useActions } from './offered'

const liveMS = 1000 // between two looks at what the stream of events does not tell
const afterEndMS = 1500
const maxReasons = 4 // of why it waits

function useDeployment(id: string): { d: Deployment | undefined; problem: Problem | null } {
  const [problem, set] = useState<Problem | null>(null)
  const d = deployments.value.get(id)
  const changes = touched.value.deployment === id ? touched.value.n : 0
  const under = d ? !terminal(d.phase) : true
  useEffect(() => {
    const stop = new AbortController()
    const read = async (): Promise<void> => {
      for (; !stop.signal.aborted; await new Promise((r) => setTimeout(r, liveMS))) {
        try {
          put([await get<Deployment>(`/v1/deployments/${id}`, stop.signal)])
          set(null)
          if (!under) return
        } catch (err) {
          if (stop.signal.aborted) return
          if (err instanceof Problem) set(err)
          if (err instanceof Problem && err.status === 404) return
        }
      }
    }
    void read()
    return () => stop.abort()
  }, [id, under, changes])
  return { d, problem }
}

const moments: Record<string, string> = {
  build_began: 'build began', first_chunk_uploaded: 'first chunk uploaded', manifest_known: 'artifact known', first_byte: 'first byte from another region', placed: 'caches hold everything',
  first_fetch: 'first machine fetches', first_staged: 'first machine holds everything', all_staged: 'all machines hold everything', gate_open: 'gate open', rollout_began: 'roll-out began', ended: 'ended',
}

function Timeline({ list, home }: { list: Moment[]; home: string }) {
  if (list.length === 0) return <Empty>Nothing yet: it waits for a worker.</Empty>
  return (
    <ol class="timeline">
      {list.map((m, i) => (
        <li key={i} class={m.region === home ? 'at-home' : ''}>
          <span class="num">{span(m.at_ms)}</span><i aria-hidden="true" /><span>{moments[m.event] ?? words(m.event)} <span class="dim">{m.region}</span></span>
        </li>
      ))}
    </ol>
  )
}

/** A sentence in which commands stand between backquotes. */
function Sentence({ text }: { text: string }) {
  return <>{text.split('`').map((part, i) => (i % 2 === 1 ? <code key={i}>{part}</code> : part))}</>
}

/** Waits says why the deployment is not further yet, and what can change that. */
function Waits({ why, d }: { why: Why | null; d: Deployment }) {
  const answer = why?.answer ?? []
  const lines = answer.length > 0 ? answer : why?.waits_for ?? [] // servers of the version before have no sentences
  if (terminal(d.phase) || lines.length === 0) return null
  return (
    <div class="waits" role="status">
      {answer.length === 0 && <b>Waits for</b>}
      <ul>{lines.slice(0, maxReasons).map((w, i) => <li key={i}><Sentence text={w} /></li>)}{lines.length > maxReasons && <li class="dim">and {lines.length - maxReasons} more: <code>starling why {d.id}</code></li>}</ul>
    </div>
  )
}

function Facts({ d }: { d: Deployment }) {
  return (
    <dl class="facts facts-wide">
      <div><dt>Commit</dt><dd class="mono">{d.sha ? sha(d.sha) : '–'}</dd></div>
      <div><dt>Artifact</dt><dd class="mono">{d.artifact ? digest(d.artifact) : '–'}</dd></div>
      <div><dt>Release</dt><dd class="num">{d.generation.sequence ? `${d.generation.epoch}.${d.generation.sequence}` : '–'}</dd></div>
      <div><dt>By</dt><dd>{who(d.actor)}</dd></div>
      <div><dt>Submitted</dt><dd class="num">{day(d.created_at)}</dd></div>
      <div><dt>Home</dt><dd>{d.home}</dd></div>
      {d.worker && <div><dt>Worker</dt><dd class="mono">{d.worker}{d.attempt > 1 ? `, attempt ${d.attempt}` : ''}</dd></div>}
      {d.superseded_by && <div><dt>Superseded by</dt><dd><Link to={`/deployments/${d.superseded_by}`} class="mono">{d.superseded_by}</Link></dd></div>}
      {d.hold && <div><dt>Held</dt><dd>since log entry <span class="num">{d.hold.index}</span>{d.hold.by ? ` by ${who(d.hold.by)}` : ''}</dd></div>}
      {d.ignore_freeze && <div><dt>Freezes</dt><dd>passed over by {who(d.ignore_freeze.by)}</dd></div>}
      {d.cache_hit && <div><dt>Build</dt><dd>reused</dd></div>}
      {d.rollback_of && <div><dt>Rolls back to</dt><dd><Link to={`/deployments/${d.rollback_of}`} class="mono">{d.rollback_of}</Link></dd></div>}
    </dl>
  )
}

function Ending({ d }: { d: Deployment }) {
  if (d.phase !== 'failed' && d.phase !== 'cancelled') return null
  return (
    <div class={`ending ${d.phase === 'failed' ? 'problem' : ''}`} role="status">
      <b>{d.reason || `It was ${d.phase}.`}</b>
      <span>{d.reverted_to ? <>Machines went back to <code>{digest(d.reverted_to)}</code>. </> : null}{d.fence ? `Whatever still runs in its name is refused since log entry ${d.fence.index}.` : ''}</span>
    </div>
  )
}

function Failures({ d }: { d: Deployment }) {
  const samples = d.machines.samples ?? []
  const slow = d.machines.slowest ?? []
  return (
    <>
      <Panel title={`Failures${d.machines.failed ? ` (${count(d.machines.failed)})` : ''}`}>
        {samples.length === 0 ? <Empty>No machine has failed.</Empty> : (
          <ul class="samples">{samples.map((s) => <li key={s.region + s.node}><b class="mono"><span class="bad">✕</span> {s.region}/{s.node}</b><pre tabIndex={0}>{s.reason}</pre></li>)}</ul>
        )}
      </Panel>
      {slow.length > 0 && (
        <Panel title="Slowest to fetch">
          <table class="plain"><thead><tr><th scope="col">Machine</th><th scope="col">Took</th><th scope="col">Bounded by</th></tr></thead>
            <tbody>{slow.map((s) => <tr key={s.region + s.node}><td class="mono">{s.region}/{s.node}</td><td class="num">{span(s.fetch_ms)}</td><td>{words(s.bound)}</td></tr>)}</tbody>
          </table>
        </Panel>
      )}
    </>
  )
}

function Swarm({ d }: { d: Deployment }) {
  const under = !terminal(d.phase)
  const [settled, settle] = useState(!under)
  useEffect(() => { // one more look after the end
    if (under) { settle(false); return }
    const timer = setTimeout(() => settle(true), afterEndMS)
    return () => clearTimeout(timer)
  }, [under])
  const every = settled ? 0 : liveMS
  const cells = useRead<CellProgress[]>(`/v1/deployments/${d.id}/cells?stale`, d.artifact ? every : 0, d.artifact)
  const curve = useRead<CurvePoint[]>(`/v1/deployments/${d.id}/curve`, d.artifact ? every : 0, d.artifact)
  const [kept, keep] = useState<CellProgress[]>([])
  useEffect(() => { if (cells.value && cells.value.length > 0) keep(cells.value) }, [cells.value])
  const points = curve.value ?? []
  return (
    <Panel title="Swarm" aside={<span class="machines-aside"><MachineBar c={d.machines} /></span>}>
      {kept.length > 0 ? <HeatStrip cells={kept} /> : <Empty>{under ? 'No cell of machines has reported yet.' : 'Cells tell of what is under way only.'}</Empty>}
      {points.length > 1 ? <Curve points={points} target={d.machines.target} /> : !under && <Empty>How the artifact spread is remembered by the leader of its time, for a while.</Empty>}
    </Panel>
  )
}

export function DeploymentPage({ id }: { id: string }) {
  const { d, problem } = useDeployment(id)
  const under = d ? !terminal(d.phase) : true
  const why = useRead<Why>(`/v1/deployments/${id}/why`, under ? liveMS : 0, d?.phase)
  const offered = useActions()
  useEffect(() => { document.title = d ? `${d.app}: ${words(d.phase)} – Starling` : 'Starling' }, [d?.app, d?.phase])
  if (!d) return problem ? <p class="problem page" role="alert"><b>{problem.message}</b><span>{problem.hint}</span></p> : <Empty>Loading…</Empty>
  return (
    <div class="page deployment" data-deployment={d.id} data-phase={d.phase}>
      <header class="title">
        <div>
          <p class="crumbs"><Link to="/">Overview</Link> / <Link to={`/apps/${d.app}`}>{d.app}</Link> / <span class="mono">{d.id}</span></p>
          <h1>{d.app} <span class="mono title-sha">{what(d)}</span></h1>
        </div>
        <div class="title-right" aria-live="polite"><PhaseBadge phase={d.phase} paused={d.paused} large /></div>
        <Actions d={d} offered={offered} />
      </header>
      <section class="panel padded" aria-label="Time">
        <BudgetBar d={d} now={now.value} large />
        <Waits why={why.value} d={d} />
        <Ending d={d} />
        <Facts d={d} />
      </section>
      <div class="two">
        <div class="stack">
          <Panel title="Regions and stages"><Matrix d={d} why={why.value?.regions ?? []} /></Panel>
          <Swarm d={d} />
          <Panel title="Log">{d.attempt > 0 || d.sha ? <Log id={id} growing={!terminal(d.phase)} /> : <Empty>Nothing was built: the artifact was there.</Empty>}</Panel>
        </div>
        <div class="stack">
          <Panel title="Waves"><Waves d={d} now={now.value} /></Panel>
          <Panel title="Bytes by source"><Sources b={d.bytes} /></Panel>
          <Failures d={d} />
          <Panel title="Timeline"><Timeline list={d.timeline ?? []} home={d.home} /></Panel>
          <Panel title="Events"><Feed only={(i) => !('change' in i) || i.change.deployment === id} /></Panel>
        </div>
      </div>
    </div>
  )
}
