import { useEffect, useState } from 'preact/hooks'
import { get, Problem } from './api/http'
import { refresh } from './store'

/** useRead reads a path now, whenever the store was read anew, and every so many milliseconds (0: no more). */
export function useRead<T>(path: string, everyMS: number, key: unknown = 0): { value: T | null; problem: Problem | null } {
  const [state, set] = useState<{ path: string; value: T | null; problem: Problem | null }>({ path, value: null, problem: null })
  const renewed = refresh.value
  useEffect(() => {
    const stop = new AbortController()
    const read = async (): Promise<void> => {
      while (!stop.signal.aborted) {
        try {
          const value = await get<T>(path, stop.signal)
          if (!stop.signal.aborted) set({ path, value, problem: null })
        } catch (err) {
          if (stop.signal.aborted) return
          if (err instanceof Problem) set((s) => ({ ...s, path, problem: err }))
        }
        if (everyMS <= 0) return
        await new Promise((r) => setTimeout(r, everyMS))
      }
    }
    void read()
    return () => stop.abort()
  }, [path, everyMS, renewed, key])
  return state.path === path ? state : { value: null, problem: null }
}
