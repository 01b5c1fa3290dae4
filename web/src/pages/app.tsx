import { useEffect, useState } from 'preact/hooks'
import { terminal, type AppSpec, type Release } from '../api/types'
import { ago, count, day, digest, percent, sha, span, what, who } from '../format'
import { may, RollBack } from '../parts/actions'
import { BudgetBar } from '../parts/budget'
import { MachineBar } from '../parts/machines'
import { Empty, Panel } from '../parts/panel'
import { PhaseBadge } from '../parts/phase'
import { Link } from '../route'
import { list, now, touched } from '../store'
import { useRead } from '../use'

const readinessMS = 5000

interface Goal { generation: { epoch: number; sequence: number }; artifact: string; deployment: string; stage: string }

/** How many machines still hold a release, and what going back to it would take; newer servers tell. */
interface Readiness { current?: boolean; held?: number; machines?: number; rollback_ms?: number; basis?: string }
type ReadyRelease = Release & { readiness?: Readiness }

function Held({ r }: { r: Readiness | undefined }) {
  if (!r || r.machines === undefined || r.held === undefined) return <span class="dim">–</span>
  const share = percent(r.held, r.machines)
  return (
    <span class="machines" title={`${count(r.held)} of ${count(r.machines)} machines hold it${r.basis ? `; ${r.basis}` : ''}`}>
      <span class="machines-track" aria-hidden="true"><i class="bar-healthy" style={{ width: `${share}%` }} /></span>
      <span class="num">{share === 100 ? '100 %' : `${share.toFixed(1)} %`}{r.rollback_ms ? <span class="dim"> ≈ {span(r.rollback_ms)}</span> : null}</span>
    </span>
  )
}

function Releases({ app, goal }: { app: string; goal: Goal | null }) {
  const [back, setBack] = useState<ReadyRelease | null>(null)
  const n = touched.value.app === app ? touched.value.n : 0
  const { value } = useRead<ReadyRelease[]>(`/v1/apps/${app}/releases?readiness=true`, readinessMS, n)
  if (!value) return <Empty>Loading…</Empty>
  if (value.length === 0) return <Empty>No release has run everywhere yet.</Empty>
  const present = value.find((r) => r.readiness?.current) ?? value.find((r) => r.artifact === goal?.artifact) // after a revert the goal is newer than the release that it went back to
  return (
    <div class="scroll">
      <table class="plain">
        <thead><tr><th scope="col">Release</th><th scope="col">Commit</th><th scope="col">Artifact</th><th scope="col">Held by machines</th><th scope="col">Since</th><th scope="col"><span class="hidden">Roll back</span></th></tr></thead>
        <tbody>
          {value.map((r) => {
            const here = r === present
            return (
              <tr key={`${r.generation.epoch}.${r.generation.sequence}`} class={here ? 'present' : ''}>
                <td class="num"><Link to={`/deployments/${r.deployment}`}>{r.generation.epoch}.{r.generation.sequence}</Link>{here && <span class="pill good">runs now</span>}</td>
                <td class="mono">{r.sha ? sha(r.sha) : '–'}</td>
                <td class="mono dim">{digest(r.artifact)}</td>
                <td class="held"><Held r={r.readiness} /></td>
                <td class="num dim" title={day(r.at)}>{ago(r.at, now.value)}</td>
                <td>{!here && may('deployer') && <button type="button" class="button quiet" aria-label={`Roll back to release ${r.generation.sequence}`} onClick={() => setBack(r)}>Roll back…</button>}</td>
              </tr>
            )
          })}
        </tbody>
      </table>
      {back && (
        <RollBack app={app} to={back.generation.sequence} close={() => setBack(null)}>
          {back.readiness?.machines ? <p>{count(back.readiness.held ?? 0)} of {count(back.readiness.machines)} machines hold it{back.readiness.rollback_ms ? `; it would take about ${span(back.readiness.rollback_ms)}` : ''}.</p> : null}
        </RollBack>
      )}
    </div>
  )
}

/** What a deployment changed, and from where it was submitted; newer servers tell. */
interface Entry {
  id: string; from?: { addr?: string; agent?: string }; approval?: { by: string }
  changes?: { field: string; old?: string; new?: string }[]; commits?: { commits?: { sha: string; author: string; subject: string }[]; omitted?: number }
}

const maxNews = 3 // commits and changes of one deployment that are shown

function News({ e }: { e: Entry | undefined }) {
  const commits = e?.commits?.commits ?? []
  const changes = e?.changes ?? []
  if (!e || commits.length + changes.length === 0) return null
  const more = commits.length + (e.commits?.omitted ?? 0) - maxNews
  return (
    <ul class="news">
      {commits.slice(0, maxNews).map((c) => <li key={c.sha}><span class="mono dim">{sha(c.sha)}</span> {c.subject} <span class="dim">{c.author}</span></li>)}
      {more > 0 && <li class="dim">and {more} commits more</li>}
      {changes.slice(0, maxNews).map((c) => <li key={c.field} class="mono">{c.field}: <del>{c.old || '–'}</del> <ins>{c.new || '–'}</ins></li>)}
    </ul>
  )
}

function History({ app }: { app: string }) {
  const n = touched.value.app === app ? touched.value.n : 0
  const told = useRead<Entry[]>(`/v1/apps/${app}/history`, 0, n)
  const entries = new Map((told.value ?? []).map((e) => [e.id, e]))
  const mine = list.value.filter((d) => d.app === app)
  if (mine.length === 0) return <Empty>It was not deployed yet: <code>starling deploy {app} --sha …</code></Empty>
  return (
    <div class="scroll">
      <table class="plain history">
        <thead><tr><th scope="col">Phase</th><th scope="col">Commit</th><th scope="col">Machines</th><th scope="col">Time</th><th scope="col">By</th><th scope="col">When</th></tr></thead>
        <tbody>
          {mine.slice(0, 50).map((d) => (
            <tr key={d.id}>
              <td><PhaseBadge phase={d.phase} paused={d.paused} /></td>
              <td class="mono"><Link to={`/deployments/${d.id}`}>{what(d)}</Link><News e={entries.get(d.id)} /></td>
              <td class="held"><MachineBar c={d.machines} /></td>
              <td class="history-budget">{terminal(d.phase) ? <span class="num">{span(d.timings.total_ms)}</span> : <BudgetBar d={d} now={now.value} />}</td>
              <td class="dim" title={[entries.get(d.id)?.from?.addr, entries.get(d.id)?.from?.agent].filter(Boolean).join(', ')}>{who(d.actor)}{entries.get(d.id)?.approval && <div class="small">✓ {who(entries.get(d.id)!.approval!.by)}</div>}</td>
              <td class="num dim" title={day(d.created_at)}>{ago(d.created_at, now.value)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}

/** What the spec says, without what it does not set. */
function Spec({ app }: { app: AppSpec }) {
  const rows: [string, string][] = []
  const walk = (prefix: string, v: unknown): void => {
    if (v === null || v === undefined || v === '') return
    if (typeof v === 'object' && !Array.isArray(v)) {
      for (const [k, x] of Object.entries(v)) walk(prefix ? `${prefix}.${k}` : k, x)
      return
    }
    rows.push([prefix, Array.isArray(v) ? v.map((x) => (typeof x === 'object' ? JSON.stringify(x) : String(x))).join(' ') : String(v)])
  }
  const { name: _name, revision: _revision, ...rest } = app
  walk('', rest)
  return <dl class="spec">{rows.map(([k, v]) => <div key={k}><dt class="mono">{k}</dt><dd class="mono">{v}</dd></div>)}</dl>
}

export function AppPage({ name }: { name: string }) {
  const n = touched.value.app === name ? touched.value.n : 0
  const app = useRead<AppSpec>(`/v1/apps/${name}`, 0, n)
  const goal = useRead<Goal>(`/v1/apps/${name}/goal`, 0, n)
  useEffect(() => { document.title = `${name} – Starling` }, [name])
  if (!app.value) return app.problem ? <p class="problem page" role="alert"><b>{app.problem.message}</b><span>{app.problem.hint}</span></p> : <Empty>Loading…</Empty>
  const flying = list.value.find((d) => d.app === name && !terminal(d.phase))
  return (
    <div class="page app-page" data-app={name}>
      <header class="title">
        <div>
          <p class="crumbs"><Link to="/">Overview</Link> / app</p>
          <h1>{name}</h1>
        </div>
        <dl class="facts title-facts">
          <div><dt>Home</dt><dd>{app.value.home}</dd></div>
          <div><dt>Targets</dt><dd class="mono">{app.value.deploy.targets || 'every machine'}</dd></div>
          <div><dt>Revision</dt><dd class="num">{app.value.revision}</dd></div>
        </dl>
      </header>
      {flying && (
        <section class="panel padded" aria-label="Under way">
          <div class="flight flight-one"><div class="flight-what"><Link to={`/deployments/${flying.id}`} class="flight-app">{flying.sha ? sha(flying.sha) : 'rollback'}</Link><span /><PhaseBadge phase={flying.phase} paused={flying.paused} /></div><BudgetBar d={flying} now={now.value} /><MachineBar c={flying.machines} /></div>
        </section>
      )}
      <div class="two">
        <div class="stack">
          <Panel title="Releases"><Releases app={name} goal={goal.value} /></Panel>
          <Panel title="History"><History app={name} /></Panel>
        </div>
        <Panel title="Spec"><Spec app={app.value} /></Panel>
      </div>
    </div>
  )
}
