import type { ComponentChildren } from 'preact'
import { useState } from 'preact/hooks'
import { post } from '../api/http'
import { terminal, type Deployment, type Role } from '../api/types'
import { navigate } from '../route'
import { put, self } from '../store'
import { Confirm } from './dialog'

const order: Role[] = ['viewer', 'deployer', 'approver', 'operator']

/** may reports whether the token in use has a role, or one above it. */
export const may = (role: Role): boolean => self.value !== null && order.indexOf(self.value.role) >= order.indexOf(role)

interface Action { name: string; role: Role; fits(d: Deployment): boolean; danger?: boolean; primary?: boolean; title: string; text(d: Deployment): ComponentChildren }

const rolling = (d: Deployment): boolean => d.phase === 'rolling_out'

const actions: Action[] = [
  { name: 'approve', role: 'approver', primary: true, fits: (d) => d.phase === 'awaiting_approval', title: 'Approve this roll-out?', text: (d) => <p>All regions hold the artifact, and {d.machines.staged} of {d.machines.target} machines have it on disk. After your word the first wave begins: <b>{(d.spec.deploy.strategy.waves ?? [])[0] ?? '100%'}</b>.</p> },
  { name: 'resume', role: 'approver', primary: true, fits: (d) => d.paused && !terminal(d.phase), title: 'Resume the roll-out?', text: () => <p>It goes on where it stands.</p> },
  { name: 'pause', role: 'approver', fits: (d) => !d.paused && !terminal(d.phase), title: 'Pause this deployment?', text: () => <p>No further machine will activate until somebody resumes it. Its deadline still holds.</p> },
  { name: 'promote', role: 'approver', fits: (d) => rolling(d) && d.wave < (d.spec.deploy.strategy.waves ?? []).length - 1, title: 'Promote to the next wave now?', text: (d) => <p>The wave under way need not bake any longer: next are <b>{(d.spec.deploy.strategy.waves ?? [])[d.wave + 1]}</b> of the machines.</p> },
  { name: 'abort', role: 'deployer', danger: true, fits: (d) => rolling(d), title: 'Abort the roll-out?', text: (d) => <p>It fails now, and the machines go back to the release before{d.spec.deploy.strategy.auto_revert ? '' : ' only if its app says so'}.</p> },
  { name: 'cancel', role: 'deployer', danger: true, fits: (d) => !terminal(d.phase), title: 'Cancel this deployment?', text: () => <p>It ends as cancelled. What has been activated goes back to the release before; whatever still runs in its name is refused from then on.</p> },
]

/** What may be done with a deployment by the role of the token in use; everything asks first. */
export function Actions({ d, offered }: { d: Deployment; offered: ReadonlySet<string> }) {
  const [asked, setAsked] = useState<Action | null>(null)
  const [back, setBack] = useState(false)
  const able = actions.filter((a) => offered.has(a.name) && may(a.role) && a.fits(d))
  return (
    <div class="actions" role="group" aria-label="Actions">
      {able.map((a) => <button key={a.name} type="button" class={`button ${a.primary ? 'primary' : a.danger ? 'danger-quiet' : ''}`} data-action={a.name} onClick={() => setAsked(a)}>{a.name[0]!.toUpperCase() + a.name.slice(1)}</button>)}
      {terminal(d.phase) && may('deployer') && <button type="button" class="button" data-action="rollback" onClick={() => setBack(true)}>Roll back…</button>}
      {asked && (
        <Confirm title={asked.title} confirm={asked.name[0]!.toUpperCase() + asked.name.slice(1)} danger={asked.danger ?? false} close={() => setAsked(null)}
          act={async () => { put([await post<Deployment>(`/v1/deployments/${d.id}/${asked.name}`)]) }}>
          <p><b>{d.app}</b> <span class="mono">{d.id}</span></p>
          {asked.text(d)}
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
