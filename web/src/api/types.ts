// What the page reads of the HTTP API (/openapi.json). Fields that newer servers add are optional here.

export type Phase =
  | 'queued' | 'building' | 'replicating' | 'staging' | 'awaiting_approval' | 'rolling_out'
  | 'succeeded' | 'failed' | 'cancelled'

export type Role = 'viewer' | 'deployer' | 'approver' | 'operator'

export interface Self { name: string; role: Role; tokens: boolean; expires_at?: string; region: string; version: string }

export interface Leader { region: string; name?: string; self: boolean; index: number }

export interface Region {
  name: string; local: boolean; leader?: string; servers: string[]; servers_alive?: number
  caches: number; workers: number; machines: number; seen: boolean; lost?: boolean
}

export interface Bytes {
  artifact: number; new: number; wan: number; cache_out: number; peer: number; local: number
  peer_rack: number; peer_zone: number; peer_region: number
}

export interface FailureSample { node: string; region: string; reason: string }
export interface SlowMachine { node: string; region: string; fetch_ms: number; bound: string }

export interface Counts {
  target: number; staged: number; due: number; healthy: number; failed: number; absent: number
  samples?: FailureSample[]; slowest?: SlowMachine[]
}

export interface Placing { name: string; placed: boolean; chunks_done: number; chunks_total: number }
export interface Moment { at_ms: number; region: string; event: string }
export interface Timings { queued_ms: number; build_ms: number; replicate_ms: number; stage_ms: number; rollout_ms: number; total_ms: number }
export interface RegionTimes {
  region: string; upload_ms?: number; first_byte_ms?: number; placed_ms?: number
  fetch_ms?: number; staged_ms?: number; all_staged_ms?: number
}
export interface Quantiles { p50: number; p90: number; p99: number }
export interface Generation { epoch: number; sequence: number }

export interface Strategy {
  gate: string; waves: string[]; regions?: string[][]; bake: string; max_failed: string; auto_revert: boolean; approval: boolean
}
export interface AppSpec {
  name: string; home: string; revision: number
  source: { git?: string; branch?: string }
  build?: { command: string[]; output: string; timeout: string } | null
  deploy: { targets: string; run?: string[]; deadline: string; keep: number; strategy: Strategy }
}

export interface Deployment {
  id: string; app: string; home: string; sha: string; artifact: string; rollback_of?: string
  priority: number; actor: string; spec: AppSpec; generation: Generation
  phase: Phase; reason: string; created_at: string; deadline: string; ended_at?: string; phase_at: string
  attempt: number; worker?: string; cache_hit: boolean; sandboxed: boolean; reverted_to?: string
  fence?: { index: number; lease?: number }
  wave: number; wave_at?: string; paused: boolean; superseded_by?: string
  hold?: { index: number; by?: string; at: string }; ignore_freeze?: { by: string; at: string }
  regions: Placing[]; timings: Timings; times?: RegionTimes[]; machines: Counts; bytes: Bytes
  fleet?: { region: string; progress: number[]; fetch_ms?: Quantiles }[]
  timeline: Moment[]
  ends_at?: string // when it will have ended, as its progress estimates
}

export interface RegionWhy extends Placing {
  heard: boolean; silent_ms: number; bytes: Bytes; target: number; staged: number; healthy: number; failed: number
}
export interface Why { phase_ms: number; waits_for: string[]; answer?: string[]; regions: RegionWhy[] }

export interface CellProgress {
  region: string; cell: string; zone?: string; machines: number; alive: number; silent_ms: number
  counts: Counts; progress?: number[]; fetch_ms?: Quantiles
}

/** How the machines' shares have grown: progress[i] counts those that hold i twentieths of the artifact. */
export interface CurvePoint { at_ms: number; progress: number[] }

export interface Release { app: string; home: string; generation: Generation; deployment: string; sha?: string; artifact: string; at: string }

export interface Node {
  name: string; region: string; zone?: string; rack?: string; roles: string[]; alive: boolean; addr: string; http?: string
  cell?: string; standing?: string; running?: Record<string, string>; problem?: string; tags?: Record<string, string>
}
export interface Cell { name: string; zone?: string; machines: number; racks: number; alive: number; silent_ms: number; speakers?: string[] }
export interface Cache {
  name: string; zone?: string; alive: boolean; used_bytes: number; max_bytes: number
  artifacts: number; pulling: number; out_bytes: number; problem?: string; heard: boolean
}
export interface RaftHealth {
  healthy: boolean; failure_tolerance: number
  servers: { name: string; status: string; leader: boolean; voter: boolean; healthy: boolean; last_contact_ms: number; last_term: number; last_index: number; stable_since: string }[]
}

/** One committed change, told by /v1/events. */
export interface Change {
  index: number; n: number; region: string; at: string; type: string
  app?: string; deployment?: string; phase?: Phase; actor?: string; detail?: string
}

/** How a deployment under way stands, told beside the changes. */
export interface Progress {
  deployment: string; app: string; phase: Phase; phase_at: string; attempt?: number; worker?: string
  wave: number; paused?: boolean; reason?: string; machines: Counts; bytes: Bytes; ends_at?: string; at: string
}

export const terminal = (p: Phase): boolean => p === 'succeeded' || p === 'failed' || p === 'cancelled'
