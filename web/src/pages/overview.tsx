import { useEffect, useMemo, useState } from 'preact/hooks'
import { terminal, type Deployment } from '../api/types'
import { ago, bytes, clock, count, span, what, who } from '../format'
import { BudgetBar } from '../parts/budget'
import { Feed } from '../parts/feed'
import { MachineBar } from '../parts/machines'
import { Empty, Panel } from '../parts/panel'
import { PhaseBadge } from '../parts/phase'
import { Spark } from '../parts/spark'
import { RegionStrip } from '../parts/strip'
import { VirtualList } from '../parts/virtual'
import { Link, navigate } from '../route'
import { active, list, loaded, now, rate, rates, regions } from '../store'

const maxInFlight = 12 // shown with large bars

function Numbers() {
  const flying = active.value
  const oldest = flying.length > 0 ? flying[flying.length - 1]! : null
  const dayAgo = new Date(now.value - 86_400_000).toISOString()
  const ended = list.value.filter((d) => terminal(d.phase) && (d.ended_at ?? '') > dayAgo)
  const good = ended.filter((d) => d.phase === 'succeeded').length
  const bad = ended.filter((d) => d.phase === 'failed').length
  const r = rate.value
  const waits = flying.filter((d) => d.phase === 'awaiting_approval').length
  const age = oldest ? Math.max(0, now.value - Date.parse(oldest.created_at)) : 0
  const budget = oldest ? Date.parse(oldest.deadline) - Date.parse(oldest.created_at) : 1
  return (
    <ul class="numbers" aria-label="Now">
      <li><span class="label">In flight</span><b class="num">{count(flying.length)}</b><span class="dim">{waits > 0 ? `${waits} wait${waits === 1 ? 's' : ''} for approval` : flying.filter((d) => d.phase === 'queued').length + ' queued'}</span></li>
      <li class={oldest && age > budget * 0.8 ? 'warn' : ''}><span class="label">Oldest not ended</span><b class="num">{oldest ? clock(age) : '–'}</b><span class="dim">{oldest ? <Link to={`/deployments/${oldest.id}`}>{oldest.app}, {clock(Math.max(0, budget - age))} left</Link> : 'nothing is under way'}</span></li>
      <li class="wide"><span class="label">Throughput now</span><b class="num">{bytes(r.wan + r.cache + r.peer)}/s</b><span class="dim num">peers {bytes(r.peer)} · caches {bytes(r.cache)} · WAN {bytes(r.wan)}</span><Spark values={rates.value.map((x) => x.total)} label="Throughput of the last minute" /></li>
      <li><span class="label">Ended in 24 h</span><b class="num">{count(ended.length)}</b><span class="dim num"><span class="good">✓ {count(good)}</span> · <span class={bad ? 'bad' : ''}>✕ {count(bad)}</span></span></li>
    </ul>
  )
}

function InFlight() {
  const flying = active.value
  if (flying.length === 0) return <Empty>{loaded.value ? 'Nothing is under way: every deployment has ended.' : 'Loading…'}</Empty>
  return (
    <ul class="flights">
      {flying.slice(0, maxInFlight).map((d) => (
        <li key={d.id} class="flight" data-deployment={d.id}>
          <div class="flight-what">
            <Link to={`/deployments/${d.id}`} class="flight-app">{d.app}</Link>
            <span class="mono dim">{what(d)}</span>
            <PhaseBadge phase={d.phase} paused={d.paused} />
          </div>
          <BudgetBar d={d} now={now.value} />
          <MachineBar c={d.machines} />
        </li>
      ))}
      {flying.length > maxInFlight && <li class="dim">and {count(flying.length - maxInFlight)} more, in the list below</li>}
    </ul>
  )
}

const filters = { all: () => true, active: (d: Deployment) => !terminal(d.phase), succeeded: (d: Deployment) => d.phase === 'succeeded', failed: (d: Deployment) => d.phase === 'failed', cancelled: (d: Deployment) => d.phase === 'cancelled' }
type Filter = keyof typeof filters

function useNarrow(): boolean {
  const query = useMemo(() => matchMedia('(max-width: 720px)'), [])
  const [narrow, set] = useState(query.matches)
  useEffect(() => {
    const look = (): void => set(query.matches)
    query.addEventListener('change', look)
    return () => query.removeEventListener('change', look)
  }, [query])
  return narrow
}

function Row({ d }: { d: Deployment }) {
  const total = Math.max(0, (d.ended_at ? Date.parse(d.ended_at) : now.value) - Date.parse(d.created_at)) // the page's clock ticks each second
  return (
    <>
      <span role="gridcell" class="c-phase"><PhaseBadge phase={d.phase} paused={d.paused} /></span>
      <span role="gridcell" class="c-app"><Link to={`/deployments/${d.id}`}>{d.app}</Link></span>
      <span role="gridcell" class="c-sha mono dim">{what(d)}</span>
      <span role="gridcell" class="c-machines"><MachineBar c={d.machines} /></span>
      <span role="gridcell" class="c-took num">{total < 60_000 ? span(total) : clock(total)}</span>
      <span role="gridcell" class="c-actor dim">{who(d.actor)}</span>
      <span role="gridcell" class="c-when num dim">{ago(d.created_at, now.value)}</span>
      <span role="gridcell" class="c-id mono dim">{d.id}</span>
    </>
  )
}

function List() {
  const [text, setText] = useState('')
  const [filter, setFilter] = useState<Filter>('all')
  const narrow = useNarrow()
  const want = text.trim().toLowerCase()
  const all = list.value
  const items = useMemo(() => all.filter((d) => filters[filter](d) && (want === '' || `${d.id} ${d.app} ${d.sha} ${d.actor} ${d.phase}`.toLowerCase().includes(want))), [all, filter, want])
  return (
    <Panel
      title="Deployments"
      aside={
        <>
          <div class="tabs" role="group" aria-label="Show">
            {(Object.keys(filters) as Filter[]).map((f) => <button key={f} type="button" aria-pressed={f === filter} onClick={() => setFilter(f)}>{f}</button>)}
          </div>
          <input id="filter" type="search" aria-label="Filter by app, commit, person or id" placeholder="filter  /" value={text} onInput={(e) => setText(e.currentTarget.value)} />
          <span class="num dim" role="status">{count(items.length)}</span>
        </>
      }
    >
      {items.length === 0 ? <Empty>{!loaded.value ? 'Loading…' : all.length === 0 ? <>Nothing was deployed yet. Begin with <code>starling app apply</code> and <code>starling deploy</code>.</> : 'No deployment is like that.'}</Empty> : (
        <VirtualList items={items} rowHeight={narrow ? 62 : 34} label="Deployments" keyOf={(d) => d.id} open={(d) => navigate(`/deployments/${d.id}`)} row={(d) => <Row d={d} />} />
      )}
    </Panel>
  )
}

export function Overview() {
  useEffect(() => { document.title = 'Starling' }, [])
  return (
    <div class="page overview">
      <h1 class="hidden">Overview</h1>
      <Numbers />
      <Panel title="Regions" class="panel-bare">{regions.value.length > 0 ? <RegionStrip regions={regions.value} active={active.value} /> : <Empty>Loading…</Empty>}</Panel>
      <div class="two">
        <Panel title="In flight"><InFlight /></Panel>
        <Panel title="Events"><Feed /></Panel>
      </div>
      <List />
    </div>
  )
}
