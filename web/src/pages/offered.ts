import { useEffect, useState } from 'preact/hooks'
import { get } from '../api/http'

// What a server of any version can do with a deployment.
const always = ['approve', 'pause', 'resume', 'cancel']
const path = /^\/v1\/deployments\/\{id\}\/([a-z]+)$/

/** The actions that this server's API has, by its own description. */
export function useActions(): ReadonlySet<string> {
  const [offered, set] = useState<ReadonlySet<string>>(new Set(always))
  useEffect(() => {
    const stop = new AbortController()
    get<{ paths: Record<string, { post?: unknown }> }>('/openapi.json', stop.signal).then(
      (doc) => set(new Set<string>([...always, ...Object.entries(doc.paths).flatMap(([p, item]) => (item.post ? path.exec(p)?.[1] : undefined) ?? [])])),
      () => {}, // then those that are always there
    )
    return () => stop.abort()
  }, [])
  return offered
}
