import { useEffect, useRef, useState } from 'preact/hooks'
import { open, Problem } from '../api/http'

const keepBytes = 512 * 1024 // of the log's end
const pollMS = 700
const nearEnd = 40 // px

/** The build's log, live while it is being written. It stays at the end unless one scrolls up. */
export function Log({ id, growing }: { id: string; growing: boolean }) {
  const [text, setText] = useState('')
  const [cut, setCut] = useState(false)
  const [problem, setProblem] = useState('')
  const box = useRef<HTMLPreElement>(null)
  const atEnd = useRef(true)
  const more = useRef(growing)
  more.current = growing
  useEffect(() => {
    const stop = new AbortController()
    const read = async (): Promise<void> => {
      let offset = 0
      const decoder = new TextDecoder()
      while (!stop.signal.aborted) {
        const last = !more.current // what is read after the end is the end
        try {
          const part = new Uint8Array(await (await open(`/v1/deployments/${id}/logs?offset=${offset}`, { signal: stop.signal })).arrayBuffer())
          setProblem('')
          if (part.length > 0) {
            offset += part.length
            const piece = decoder.decode(part, { stream: true })
            setText((t) => { const all = t + piece; if (all.length > keepBytes) setCut(true); return all.slice(-keepBytes) })
          } else if (last) return
        } catch (err) {
          if (stop.signal.aborted) return
          setProblem(err instanceof Problem ? err.message : String(err))
          if (last && err instanceof Problem && err.status === 404) return
        }
        await new Promise((r) => setTimeout(r, pollMS))
      }
    }
    void read()
    return () => stop.abort()
  }, [id, growing])
  useEffect(() => {
    const el = box.current
    if (el && atEnd.current) el.scrollTop = el.scrollHeight
  }, [text])
  return (
    <>
      {cut && <p class="empty">Only the end of the log is shown; all of it: <code>starling logs {id}</code></p>}
      <pre class="log" ref={box} tabIndex={0} role="log" aria-label="Log" aria-live="off" onScroll={(e) => { const el = e.currentTarget; atEnd.current = el.scrollHeight - el.scrollTop - el.clientHeight < nearEnd }}>
        {text.replace(/\x1b\[[0-9;]*[A-Za-z]/g, '') || (growing ? 'nothing yet…' : problem || 'this build wrote nothing')}
      </pre>
    </>
  )
}
