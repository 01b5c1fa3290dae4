import { signal } from '@preact/signals'

const tokenKey = 'starling.token'

/** The bearer token in use; it lives as long as this tab. */
export const token = signal(sessionStorage.getItem(tokenKey) ?? '')

export function setToken(secret: string): void {
  token.value = secret
  if (secret) sessionStorage.setItem(tokenKey, secret)
  else sessionStorage.removeItem(tokenKey)
}

/** True once a server has asked for a token, or for a better one. */
export const needsToken = signal(false)

/** A problem document (RFC 9457), or what stands for one where no server answered. */
export class Problem extends Error {
  constructor(readonly status: number, detail: string, readonly hint = '', readonly kind = '') {
    super(detail)
  }
}

async function problemOf(res: Response): Promise<Problem> {
  try {
    const p = await res.json()
    return new Problem(res.status, p.detail ?? res.statusText, p.hint, p.kind)
  } catch {
    return new Problem(res.status, res.statusText || `status ${res.status}`)
  }
}

/** open sends a request and returns the answer once its head is here; it throws a Problem. */
export async function open(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers)
  if (token.value) headers.set('Authorization', `Bearer ${token.value}`)
  let res: Response
  try {
    res = await fetch(path, { ...init, headers, cache: 'no-store' })
  } catch (err) {
    if (init.signal?.aborted) throw err
    throw new Problem(0, 'this server cannot be reached', 'is it running? the page goes on by itself')
  }
  if (res.ok) return res
  const problem = await problemOf(res)
  if (res.status === 401) needsToken.value = true
  throw problem
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await open(path, { signal: signal ?? null })).json()
}

export async function post<T>(path: string, body?: unknown): Promise<T> {
  const init: RequestInit = { method: 'POST' }
  if (body !== undefined) {
    init.body = JSON.stringify(body)
    init.headers = { 'Content-Type': 'application/json' }
  }
  const res = await open(path, init)
  return res.status === 204 ? (undefined as T) : res.json()
}
