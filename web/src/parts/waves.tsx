import { terminal, type Deployment } from '../api/types'
import { clock, count } from '../format'

/** The waves of the roll-out: which are over, which one is under way, and how it does. */
export function Waves({ d, now }: { d: Deployment; now: number }) {
  const s = d.spec.deploy.strategy
  const waves = s.waves ?? ['100%']
  const rolling = d.phase === 'rolling_out'
  const bake = rolling && d.wave_at ? now - Date.parse(d.wave_at) : 0
  return (
    <>
      <ol class="waves">
        {waves.map((w, i) => {
          const done = d.phase === 'succeeded' || (rolling && i < d.wave)
          const here = rolling && i === d.wave
          const broke = d.phase === 'failed' && i === d.wave && d.timings.rollout_ms > 0
          const c = d.machines
          return (
            <li key={i} class={done ? 'wave-done' : here ? 'wave-here' : broke ? 'wave-bad' : ''} aria-current={here ? 'step' : undefined}>
              <b class="num">{w}</b>
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
