import { useState } from 'preact/hooks'
import { needsToken, setToken, token } from '../api/http'
import { begin } from '../store'

/** Asks for a token, which stays in this tab. */
export function SignIn() {
  const [text, setText] = useState('')
  const refused = token.value !== ''
  return (
    <form class="signin panel" onSubmit={(e) => { e.preventDefault(); if (text.trim() === token.value) void begin(); else setToken(text.trim()) }}>
      <h1>Sign in</h1>
      <p>This server asks for a token. It is kept in this tab only, and sent to this server only.</p>
      <label for="token">Token</label>
      <input id="token" type="password" autocomplete="off" spellcheck={false} placeholder="st_…" value={text} onInput={(e) => setText(e.currentTarget.value)} autofocus />
      {refused && needsToken.value && <p class="problem" role="alert">That token is not known here, has expired or was revoked.</p>}
      <button class="button primary" type="submit" disabled={!text.trim()}>Sign in</button>
      <p class="dim">An operator makes one: <code>starling acl token create</code></p>
    </form>
  )
}
