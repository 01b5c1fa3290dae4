import { terminal, type Deployment } from '../api/types'
import { clock, count } from '../format'

/** One rise of the share of machines that may activate; regions: of its group, where the app orders them. */
export interface Step { index: number; share: string; regions: string }

/** steps lists the steps of a roll-out as Deployment.wave counts them: group by group of regions, wave by wave. */
export function steps(d: Deployment): Step[] {
  const { waves = ['100%'], regions = [] } = d.spec.deploy.strategy
  const present = (d.regions ?? []).map((p) => p.name)
  const named = regions.map((g) => g.filter((r) => present.includes(r)))
  const rest = present.filter((r) => !regions.flat().includes(r))
  const groups = regions.length === 0 ? [[]] : [...named, rest]
  return groups.flatMap((g, at) => (g.length === 0 && regions.length > 0 ? [] : waves.map((share, w) => ({ index: at * waves.length + w, share, regions: g.join(', ') }))))
}

export const nextStep = (d: Deployment): Step | undefined => steps(d).find((s) => s.index > d.wave)

/** The waves of the roll-out: which are over, which one is under way, and how it does. */
export function Waves({ d, now }: { d: Deployment; now: number }) {
  const s = d.spec.deploy.strategy
  const rolling = d.phase === 'rolling_out'
  const bake = rolling && d.wave_at ? now - Date.parse(d.wave_at) : 0
  return (
    <>
      <ol class="waves">
        {steps(d).map((step) => {
          const i = step.index
          const done = d.phase === 'succeeded' || (rolling && i < d.wave)
          const here = rolling && i === d.wave
          const broke = d.phase === 'failed' && i === d.wave && d.timings.rollout_ms > 0
          const c = d.machines
          return (
            <li key={i} class={done ? 'wave-done' : here ? 'wave-here' : broke ? 'wave-bad' : ''} aria-current={here ? 'step' : undefined}>
              <b class="num">{step.share}</b>
              {step.regions && <span class="wave-regions">{step.regions}</span>}
              <span>{done ? '✓ healthy' : here ? `${count(c.healthy)} of ${count(c.due)} healthy` : broke ? `✕ ${count(c.failed)} failed` : terminal(d.phase) ? 'not begun' : 'to come'}</span>
              {here && bake > 0 && <span class="dim num">for {clock(bake)}</span>}
            </li>
          )
        })}
      </ol>
      <dl class="facts">
        <div><dt>Gate</dt><dd>{s.gate.replaceAll('_', ' ')}</dd></div>
        <div><dt>Bake</dt><dd class="num">{s.bake}</dd></div>
        <div><dt>May fail</dt><dd class="num">{s.max_failed}</dd></div>
        <div><dt>Auto-revert</dt><dd>{s.auto_revert ? 'yes' : 'no'}</dd></div>
        <div><dt>Approval</dt><dd>{s.approval ? 'needed' : 'no'}</dd></div>
      </dl>
    </>
  )
}
