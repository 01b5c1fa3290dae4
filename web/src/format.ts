const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']

/** bytes writes a size with three digits: 1.25 GB. */
export function bytes(n: number): string {
  let i = 0
  while (n >= 999.5 && i < units.length - 1) { n /= 1000; i++ }
  return `${i === 0 ? Math.round(n) : n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2)} ${units[i]}`
}

/** span writes a duration in milliseconds: 340 ms, 12.4 s, 3:07, 1:02:45. */
export function span(ms: number): string {
  if (ms < 0) return '−' + span(-ms)
  if (ms < 1000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`
  return clock(ms)
}

/** clock writes a duration as 3:07 or 1:02:45. */
export function clock(ms: number): string {
  if (ms < 0) return '−' + clock(-ms)
  const s = Math.floor(ms / 1000)
  const two = (n: number) => String(n).padStart(2, '0')
  const h = Math.floor(s / 3600)
  if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`
  return h > 0 ? `${h}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}` : `${Math.floor(s / 60)}:${two(s % 60)}`
}

export function ago(at: string, now: number): string {
  const s = Math.max(0, (now - Date.parse(at)) / 1000)
  if (s < 60) return `${Math.floor(s)} s ago`
  if (s < 3600) return `${Math.floor(s / 60)} min ago`
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ago`
  return `${Math.floor(s / 86400)} d ago`
}

export const time = (at: string): string => new Date(at).toLocaleTimeString(undefined, { hour12: false })
export const day = (at: string): string => new Date(at).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' })
export const count = (n: number): string => n.toLocaleString('en')
export const sha = (s: string): string => s.slice(0, 8)
export const digest = (s: string): string => s.replace('sha256:', '').slice(0, 12)
export const percent = (part: number, all: number): number => (all > 0 ? (100 * part) / all : 0)
export const words = (s: string): string => s.replaceAll('_', ' ')

// what names what a deployment brings: its commit, or how else it came about.
export function what(d: { sha?: string; rollback_of?: string }): string {
  return d.sha ? sha(d.sha) : d.rollback_of ? 'rollback' : 'artifact'
}

// who names an actor: a token by its name alone.
export function who(actor: string): string {
  return actor.replace(/^token:/, '')
}
