import { computed, signal } from '@preact/signals'
import { get, needsToken, Problem, token } from './api/http'
import { follow, position } from './live'
import { terminal, type Change, type Deployment, type Progress, type Region, type Self } from './api/types'

/** What is shown of the feed of events: a change, or a mark where some were lost. */
export type FeedItem = { key: string; change: Change } | { key: string; gap: true; at: string }

const maxFeed = 200 // items
const maxSingles = 24 // deployments that are read one by one before the list is read instead
const listLimit = 1000
const tickMS = 1000

export const self = signal<Self | null>(null)
export const regions = signal<Region[]>([])
export const deployments = signal<ReadonlyMap<string, Deployment>>(new Map())
export const feed = signal<FeedItem[]>([])
export const gaps = signal(0)
export const now = signal(Date.now())
export const loaded = signal(false)
/** Grows whenever something outside of this store should be read again. */
export const refresh = signal(0)
/** The last changes of the deployment or app that a page shows, by its key. */
export const touched = signal<{ app?: string | undefined; deployment?: string | undefined; n: number }>({ n: 0 })

export const list = computed(() => [...deployments.value.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : a.created_at > b.created_at ? -1 : a.id < b.id ? 1 : -1)))
export const active = computed(() => list.value.filter((d) => !terminal(d.phase)))

/** Bytes moved per second at present, all deployments in flight together, by source. */
export interface Rate { wan: number; cache: number; peer: number; local: number }
export const rate = signal<Rate>({ wan: 0, cache: 0, peer: 0, local: 0 })
export const rates = signal<{ at: number; total: number }[]>([])

let stop = new AbortController()

/** begin signs in with the present token, loads what there is and stays live. */
export async function begin(): Promise<void> {
  stop.abort()
  stop = new AbortController()
  const mine = stop
  forget()
  try {
    self.value = await get<Self>('/v1/acl/self', mine.signal)
  } catch (err) {
    if (err instanceof Problem && (err.status === 401 || mine.signal.aborted)) {
      self.value = null
      return
    } // else the stream below tries until a server answers
  }
  void follow({ change, gap, progress, opened: (resumed) => { if (!resumed || !loaded.value) void reload(); else refresh.value++ } }, mine.signal)
  void tick(mine.signal)
}

// forget leaves nothing of what an earlier token showed.
function forget(): void {
  needsToken.value = false
  position.value = ''
  self.value = null
  loaded.value = false
  deployments.value = new Map()
  regions.value = []
  feed.value = []
  gaps.value = 0
}

token.subscribe((() => { let first = true; return () => { if (!first) void begin(); first = false } })())

async function tick(signal: AbortSignal): Promise<void> {
  for (let n = 0; !signal.aborted; n++) {
    await new Promise((r) => setTimeout(r, tickMS))
    now.value = Date.now()
    if (document.hidden && n % 10 > 0) continue
    try {
      if (!self.value && !needsToken.value) self.value = await get<Self>('/v1/acl/self', signal)
      if (n % 5 === 0) regions.value = await get<Region[]>('/v1/regions', signal)
      measure()
    } catch { /* the stream tells that the server is away */ }
  }
}

export async function reload(): Promise<void> {
  try {
    const [ds, rs] = await Promise.all([get<Deployment[]>(`/v1/deployments?limit=${listLimit}`, stop.signal), get<Region[]>('/v1/regions', stop.signal)])
    const next = new Map(ds.map((d) => [d.id, d]))
    deployments.value = next
    regions.value = rs
    loaded.value = true
    refresh.value++
  } catch (err) {
    if (!(err instanceof Problem) || err.status === 401) return
    setTimeout(() => { if (!loaded.value) void reload() }, 1000)
  }
}

function gap(): void {
  gaps.value++
  push({ key: `gap-${gaps.value}`, gap: true, at: new Date().toISOString() })
  void reload()
}

function push(item: FeedItem): void {
  feed.value = [item, ...feed.value].slice(0, maxFeed)
}

// progress shows how a deployment stands; what has changed of its record is read on its event.
function progress(p: Progress): void {
  const d = deployments.value.get(p.deployment)
  if (!d || terminal(d.phase)) return
  const { phase, phase_at, wave, machines, bytes, ends_at = '' } = p
  put([{ ...d, phase, phase_at, wave, machines, bytes, ends_at, paused: p.paused ?? false, reason: p.reason ?? d.reason, worker: p.worker ?? d.worker ?? '' }])
}

let pending = new Set<string>()

// change shows at once what the event itself says, and reads the rest a moment later, many changes at a time.
function change(e: Change): void {
  push({ key: `${e.index}.${e.n}`, change: e })
  touched.value = { app: e.app, deployment: e.deployment, n: touched.value.n + 1 }
  if (!e.deployment) {
    if (e.type.startsWith('region.') || e.type.startsWith('cell.') || e.type.startsWith('app.')) refresh.value++
    return
  }
  const d = deployments.value.get(e.deployment)
  if (d && e.phase && d.phase !== e.phase && !terminal(d.phase)) put([{ ...d, phase: e.phase, phase_at: e.at, reason: terminal(e.phase) ? (e.detail ?? '') : d.reason, ...(terminal(e.phase) ? { ended_at: e.at } : {}) }])
  if (pending.size === 0) setTimeout(() => { const ids = [...pending]; pending = new Set(); void readMany(ids) }, 60)
  pending.add(e.deployment)
}

async function readMany(ids: string[]): Promise<void> {
  if (ids.length > maxSingles) return reload()
  try {
    await readSome(ids, stop.signal)
  } catch { /* the next change or tick reads it */ }
}

async function readSome(ids: string[], signal: AbortSignal): Promise<void> {
  const got = await Promise.allSettled(ids.map((id) => get<Deployment>(`/v1/deployments/${id}`, signal)))
  put(got.flatMap((r) => (r.status === 'fulfilled' ? [r.value] : [])))
}

/** put takes records in, newest last to come; one that had ended stays so. */
export function put(ds: Deployment[]): void {
  if (ds.length === 0) return
  const next = new Map(deployments.value)
  for (const d of ds) {
    const old = next.get(d.id)
    if (old && terminal(old.phase) && !terminal(d.phase)) continue
    next.set(d.id, d)
  }
  deployments.value = next
}

let last: { at: number; by: Map<string, Deployment['bytes']> } = { at: 0, by: new Map() }

// measure compares the bytes of what is in flight with those of the tick before.
function measure(): void {
  const at = performance.now()
  const by = new Map(active.value.slice(0, maxSingles).map((d) => [d.id, d.bytes]))
  const sum: Rate = { wan: 0, cache: 0, peer: 0, local: 0 }
  const seconds = (at - last.at) / 1000
  for (const [id, b] of by) {
    const was = last.by.get(id)
    if (!was || seconds <= 0) continue
    sum.wan += Math.max(0, b.wan - was.wan) / seconds
    sum.cache += Math.max(0, b.cache_out - was.cache_out) / seconds
    sum.peer += Math.max(0, b.peer - was.peer) / seconds
    sum.local += Math.max(0, b.local - was.local) / seconds
  }
  last = { at, by }
  rate.value = sum
  rates.value = [...rates.value.slice(-59), { at: Date.now(), total: sum.wan + sum.cache + sum.peer }]
}
