import { signal } from '@preact/signals'
import type { Change, Leader, Progress } from './api/types'
import { get, open, Problem } from './api/http'
import { EventParser, type ServerEvent } from './api/sse'

export type Standing = 'connecting' | 'live' | 'broken'

/** How the stream of events stands, for the header. */
export const standing = signal<Standing>('connecting')
/** Where the stream is: the id of the last event that was taken in. */
export const position = signal('')
/** When the stream will be tried again, in milliseconds since 1970; 0: it is not waiting. */
export const retryAt = signal(0)

const silentMS = 40_000 // a stream that says nothing for so long is dead: servers speak every 15 s
const firstRetryMS = 250
const lastRetryMS = 5_000

export interface Listener {
  change(e: Change): void
  progress(p: Progress): void
  gap(): void // some changes were lost: read everything anew
  opened(resumed: boolean): void
}

/** follow keeps one stream of events open until the signal says otherwise, resuming it exactly where it broke. */
export async function follow(listener: Listener, stop: AbortSignal): Promise<void> {
  let wait = firstRetryMS
  while (!stop.aborted) {
    const began = Date.now()
    try {
      await once(listener, stop)
    } catch (err) {
      if (stop.aborted) return
      if (err instanceof Problem && err.status === 401) return // a token is asked for; signing in begins anew
    }
    standing.value = 'broken'
    if (Date.now() - began > 10_000) wait = firstRetryMS
    const pause = wait * (0.75 + Math.random() / 2)
    retryAt.value = Date.now() + pause
    await sleep(pause, stop)
    retryAt.value = 0
    wait = Math.min(wait * 2, lastRetryMS)
  }
}

async function once(listener: Listener, stop: AbortSignal): Promise<void> {
  const resumed = position.value !== ''
  if (!resumed) position.value = `${(await get<Leader>('/v1/status/leader', stop)).index}.0`
  const dead = new AbortController()
  const either = AbortSignal.any([stop, dead.signal])
  let watchdog = setTimeout(() => dead.abort(), silentMS)
  try {
    const res = await open('/v1/events?progress=true', { headers: { 'Last-Event-ID': position.value }, signal: either })
    const reader = res.body!.pipeThrough(new TextDecoderStream()).getReader()
    const parser = new EventParser()
    standing.value = 'live'
    listener.opened(resumed)
    for (;;) {
      const { value, done } = await reader.read()
      if (done) return
      clearTimeout(watchdog)
      watchdog = setTimeout(() => dead.abort(), silentMS)
      for (const e of parser.push(value)) take(e, listener)
      if (parser.last) position.value = parser.last // only once all before it is taken in
    }
  } finally {
    clearTimeout(watchdog)
    dead.abort()
  }
}

function take(e: ServerEvent, listener: Listener): void {
  if (e.name === 'gap') listener.gap()
  else if (e.name === 'message') listener.change(JSON.parse(e.data) as Change)
  else if (e.name === 'progress') listener.progress(JSON.parse(e.data) as Progress)
}

function sleep(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms)
    stop.addEventListener('abort', () => { clearTimeout(timer); done() }, { once: true })
  })
}
