import { terminal, type Deployment } from '../api/types'
import { clock, span, words } from '../format'

const slackMS = 500 // what timings do not cover is an approval's, unless it is this little

interface Part { phase: string; ms: number }

/** parts returns how long each phase took, or has taken until now, in order. */
export function parts(d: Deployment, now: number): Part[] {
  const t = d.timings
  const total = (d.ended_at ? Date.parse(d.ended_at) : Math.max(now, Date.parse(d.phase_at))) - Date.parse(d.created_at)
  const out: Part[] = []
  let sum = 0
  for (const [phase, ms] of [['queued', t.queued_ms], ['building', t.build_ms], ['replicating', t.replicate_ms], ['staging', t.stage_ms], ['rolling_out', t.rollout_ms]] as const) {
    const took = Math.min(ms, Math.max(0, total - sum))
    if (took <= 0) continue
    out.push({ phase, ms: took })
    sum += took
  }
  if (total > sum && !terminal(d.phase)) out.push({ phase: d.phase, ms: total - sum })
  else if (total > sum + slackMS) out.splice(Math.max(0, out.length - 1), 0, { phase: 'awaiting_approval', ms: total - sum })
  return out
}

/** The 30 minutes that a deployment has, or whatever its app says, and what they went into. */
export function BudgetBar({ d, now, large = false }: { d: Deployment; now: number; large?: boolean }) {
  const begin = Date.parse(d.created_at)
  const budget = Math.max(1, Date.parse(d.deadline) - begin)
  const all = parts(d, now)
  const used = all.reduce((n, p) => n + p.ms, 0)
  const left = budget - used
  const done = terminal(d.phase)
  const toGo = d.ends_at ? Date.parse(d.ends_at) - now : 0
  const label = done ? `took ${span(used)} of ${clock(budget)}` : left >= 0 ? `${clock(left)} left of ${clock(budget)}` : `${clock(-left)} over`
  const scale = done && large ? Math.max(used, 1) : Math.max(budget, used)
  return (
    <div class={`budget${large ? ' budget-large' : ''}`}>
      <div class="budget-track" role="img" aria-label={`${label}: ${all.map((p) => `${words(p.phase)} ${span(p.ms)}`).join(', ')}`}>
        {all.map((p, i) => (
          <span key={i} class={`budget-part fill-${p.phase}${!done && i === all.length - 1 ? ' budget-now' : ''}`} style={{ width: `${(100 * p.ms) / scale}%` }} title={`${words(p.phase)} ${span(p.ms)}`} />
        ))}
      </div>
      <span class={`budget-text${!done && left < budget / 6 ? ' warn' : ''}`}>{label}</span>
      {large && (
        <ul class="budget-legend">
          {all.map((p, i) => (
            <li key={i}><i class={`fill-${p.phase}`} />{words(p.phase)} <b>{span(p.ms)}</b></li>
          ))}
          {!done && toGo > 0 && <li>about {span(toGo)} to go</li>}
        </ul>
      )}
    </div>
  )
}
