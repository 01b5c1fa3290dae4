import type { Phase } from '../api/types'
import { words } from '../format'

/** Every phase has a shape beside its colour, so that nobody needs to tell colours apart. */
const shapes: Record<Phase, string> = {
  queued: 'M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM8 5v3.200l2.200 1.600',
  building: 'M3 13l6-6M8 4.5l3.5 3.5 2-2L10 2.5zM2.5 12.5l1 1',
  replicating: 'M2 5h9M8 2l3 3-3 3M14 11H5M8 8l-3 3 3 3',
  staging: 'M8 2v8M4.5 6.5L8 10l3.5-3.5M2.5 13.5h11',
  awaiting_approval: 'M5.5 3v10M10.5 3v10',
  rolling_out: 'M3 2.5l5 5.5-5 5.5M8 2.5l5 5.5-5 5.5',
  succeeded: 'M2.5 8.5l3.5 4 7.5-9',
  failed: 'M3 3l10 10M13 3L3 13',
  cancelled: 'M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM4.200 4.200l7.600 7.600',
}

export function PhaseIcon({ phase }: { phase: Phase }) {
  return (
    <svg class="phase-icon" viewBox="0 0 16 16" aria-hidden="true">
      <path d={shapes[phase] ?? shapes.queued} fill="none" stroke="currentColor" stroke-width="1.9" stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  )
}

export function PhaseBadge({ phase, paused = false, large = false }: { phase: Phase; paused?: boolean; large?: boolean }) {
  return (
    <span class={`phase phase-${phase}${large ? ' phase-large' : ''}`} data-phase={phase}>
      <PhaseIcon phase={phase} />
      {words(phase)}
      {paused && <span class="paused">paused</span>}
    </span>
  )
}
