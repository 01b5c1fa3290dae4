/** One server-sent event. */
export interface ServerEvent { id: string; name: string; data: string }

/**
 * A parser of text/event-stream (HTML Living Standard, 9.2.6) that is fed piece by piece. A line may be cut anywhere;
 * an event counts only once its empty line has come, so that a broken stream is resumed after the last whole one.
 */
export class EventParser {
  /** The id from which a broken stream is to be resumed: events without data move it too. */
  last = ''
  private rest = ''
  private id = ''
  private name = ''
  private data: string[] = []

  push(text: string): ServerEvent[] {
    const out: ServerEvent[] = []
    const lines = (this.rest + text).split('\n')
    this.rest = lines.pop()!
    for (const raw of lines) {
      const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw
      if (line === '') {
        if (this.data.length > 0) out.push({ id: this.id, name: this.name || 'message', data: this.data.join('\n') })
        this.last = this.id
        this.name = ''
        this.data = []
        continue
      }
      const colon = line.indexOf(':')
      if (colon === 0) continue // a comment
      const field = colon < 0 ? line : line.slice(0, colon)
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
      if (field === 'id') this.id = value
      else if (field === 'event') this.name = value
      else if (field === 'data') this.data.push(value)
    }
    return out
  }
}
