import type { ComponentChildren } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { get, post } from '../api/http'
import { terminal, type Deployment, type Role } from '../api/types'
import { bytes, count, digest, span } from '../format'
import { navigate } from '../route'
import { put, self } from '../store'
import { Confirm } from './dialog'
import { nextStep } from './waves'

const order: Role[] = ['viewer', 'deployer', 'approver', 'operator']

/** may reports whether the token in use has a role, or one above it. */
export const may = (role: Role): boolean => self.value !== null && order.indexOf(self.value.role) >= order.indexOf(role)

interface Action { name: string; role: Role; fits(d: Deployment): boolean; danger?: boolean; primary?: boolean; title: string; text(d: Deployment): ComponentChildren }

const rolling = (d: Deployment): boolean => d.phase === 'rolling_out'

/** bodyOf says how an action is meant: an approval names its plan, a promotion the step that it ends, so that a retry cannot skip two. */
function bodyOf(name: string, d: Deployment, plan: Plan | null): unknown {
  if (name === 'approve') return plan ? { plan: plan.hash } : {}
  return name === 'promote' ? { wave: d.wave } : {}
}

const actions: Action[] = [
  { name: 'approve', role: 'approver', primary: true, fits: (d) => d.phase === 'awaiting_approval', title: 'Approve this roll-out?', text: (d) => <p>All regions hold the artifact, and {d.machines.staged} of {d.machines.target} machines have it on disk. After your word the first wave begins: <b>{(d.spec.deploy.strategy.waves ?? [])[0] ?? '100%'}</b>.</p> },
  { name: 'resume', role: 'approver', primary: true, fits: (d) => d.paused && !terminal(d.phase), title: 'Resume the roll-out?', text: () => <p>It goes on where it stands.</p> },
  { name: 'pause', role: 'approver', fits: (d) => !d.paused && !terminal(d.phase), title: 'Pause this deployment?', text: () => <p>No further machine will activate until somebody resumes it. Its deadline still holds.</p> },
  { name: 'promote', role: 'approver', fits: (d) => rolling(d) && nextStep(d) !== undefined, title: 'Promote to the next wave now?', text: (d) => <p>The wave under way need not settle or bake any longer: next are <b>{nextStep(d)?.share}</b> of the machines{nextStep(d)?.regions ? ` in ${nextStep(d)!.regions}` : ''}.</p> },
  { name: 'abort', role: 'deployer', danger: true, fits: (d) => rolling(d), title: 'Abort the roll-out?', text: (d) => <p>It fails now, {d.spec.deploy.strategy.auto_revert ? 'and the machines go back to the release before' : 'and the machines stay as they are, as its app says'}.</p> },
  { name: 'cancel', role: 'deployer', danger: true, fits: (d) => !terminal(d.phase), title: 'Cancel this deployment?', text: () => <p>It ends as cancelled. What has been activated goes back to the release before; whatever still runs in its name is refused from then on.</p> },
]

/** What a deployment is about to do, as its server planned it: an approval names the hash of what was shown. */
interface Plan {
  hash: string; regions: { name: string; machines: number; held: number }[]; total_ms: number
  bytes: { artifact: number; new: number; basis: string }; changes: { field: string; old?: string; new?: string }[]
}

function ShownPlan({ id, shown }: { id: string; shown(p: Plan): void }) {
  const [plan, set] = useState<Plan | null>(null)
  useEffect(() => {
    const stop = new AbortController()
    get<Plan>(`/v1/deployments/${id}/plan`, stop.signal).then((p) => { set(p); shown(p) }, () => {}) // without it the approval is of what was submitted
    return () => stop.abort()
  }, [id])
  if (!plan) return null
  return (
    <div class="plan">
      <ul>{plan.regions.map((r) => <li key={r.name}><b>{r.name}</b> <span class="num">{r.machines < 0 ? 'does not answer' : `${count(r.machines)} machines, ${count(r.held)} hold it`}</span></li>)}</ul>
      {plan.changes.length > 0 && <ul class="mono">{plan.changes.slice(0, 8).map((c) => <li key={c.field}>{c.field}: <del>{c.old || '–'}</del> <ins>{c.new || '–'}</ins></li>)}</ul>}
      <p class="num">{bytes(plan.bytes.artifact)}, new {bytes(plan.bytes.new)}{plan.total_ms > 0 && <>, about {span(plan.total_ms)} in all</>}. Plan <span class="mono">{digest(plan.hash)}</span>: the approval is for this one alone.</p>
    </div>
  )
}

/** What may be done with a deployment by the role of the token in use; everything asks first. */
export function Actions({ d, offered }: { d: Deployment; offered: ReadonlySet<string> }) {
  const [asked, setAsked] = useState<Action | null>(null)
  const [back, setBack] = useState(false)
  const [plan, setPlan] = useState<Plan | null>(null)
  const able = actions.filter((a) => offered.has(a.name) && may(a.role) && a.fits(d))
  return (
    <div class="actions" role="group" aria-label="Actions">
      {able.map((a) => <button key={a.name} type="button" class={`button ${a.primary ? 'primary' : a.danger ? 'danger-quiet' : ''}`} data-action={a.name} onClick={() => setAsked(a)}>{a.name[0]!.toUpperCase() + a.name.slice(1)}</button>)}
      {terminal(d.phase) && may('deployer') && <button type="button" class="button" data-action="rollback" onClick={() => setBack(true)}>Roll back…</button>}
      {asked && (
        <Confirm title={asked.title} confirm={asked.name[0]!.toUpperCase() + asked.name.slice(1)} danger={asked.danger ?? false} close={() => setAsked(null)}
          act={async () => { put([await post<Deployment>(`/v1/deployments/${d.id}/${asked.name}`, bodyOf(asked.name, d, plan))]) }}>
          <p><b>{d.app}</b> <span class="mono">{d.id}</span></p>
          {asked.text(d)}
          {asked.name === 'approve' && <ShownPlan id={d.id} shown={setPlan} />}
        </Confirm>
      )}
      {back && <RollBack app={d.app} close={() => setBack(false)} />}
    </div>
  )
}

/** Asks, and deploys an earlier release again; to is its sequence, the one before the present unless given. */
export function RollBack({ app, to, children, close }: { app: string; to?: number; children?: ComponentChildren; close(): void }) {
  return (
    <Confirm title={`Roll ${app} back?`} confirm="Roll back" danger close={close}
      act={async () => {
        const d = await post<Deployment>(`/v1/apps/${app}/rollback`, to ? { to } : {})
        put([d])
        navigate(`/deployments/${d.id}`)
      }}>
      <p>{to ? <>Release <b class="num">{to}</b> of <b>{app}</b> is deployed again.</> : <>The release of <b>{app}</b> before the present one is deployed again.</>} Machines that still hold it move no bytes.</p>
      {children}
    </Confirm>
  )
}
