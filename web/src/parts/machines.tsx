import type { Counts } from '../api/types'
import { count, percent } from '../format'

/** Where the targeted machines stand: healthy, staged, failed, and the rest. */
export function MachineBar({ c }: { c: Counts }) {
  if (c.target === 0) return <span class="dim">–</span>
  const staged = Math.max(0, c.staged - c.healthy)
  const text = `${count(c.healthy)} of ${count(c.target)} healthy${staged ? `, ${count(staged)} staged` : ''}${c.failed ? `, ${count(c.failed)} failed` : ''}${c.absent ? `, ${count(c.absent)} absent` : ''}`
  return (
    <span class="machines" title={text}>
      <span class="machines-track" role="img" aria-label={text}>
        <i class="bar-healthy" style={{ width: `${percent(c.healthy, c.target)}%` }} />
        <i class="bar-failed" style={{ width: `${percent(c.failed, c.target)}%` }} />
        <i class="bar-staged" style={{ width: `${percent(staged, c.target)}%` }} />
      </span>
      <span class="num">{count(c.healthy)}<span class="dim">/{count(c.target)}</span>{c.failed > 0 && <b class="bad"> ✕{count(c.failed)}</b>}</span>
    </span>
  )
}
