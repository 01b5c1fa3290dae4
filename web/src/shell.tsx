import { useEffect } from 'preact/hooks'
import { needsToken, setToken } from './api/http'
import { position, retryAt, standing } from './live'
import { AppPage } from './pages/app'
import { ClusterPage } from './pages/cluster'
import { DeploymentPage } from './pages/deployment'
import { Overview } from './pages/overview'
import { SignIn } from './parts/signin'
import { Link, path } from './route'
import { active, gaps, now, regions, self } from './store'

function Logo() {
  return (
    <svg viewBox="0 0 32 32" class="logo" aria-hidden="true">
      <path d="M2 7c6 0 10 2.5 14 8 2-4.5 6.5-7.5 14-8-4 2.5-6.5 5-7.5 8.5C21 20.5 18.5 24 14 26c1.5-3 1.700-5.5 1-8C12.5 12.5 8 9 2 7z" />
    </svg>
  )
}

/** Whether what is shown is live, in shape, colour and words. */
function LiveMark() {
  const s = standing.value
  const waits = retryAt.value > 0 ? Math.max(0, Math.ceil((retryAt.value - now.value) / 1000)) : 0
  const text = s === 'live' ? 'live' : s === 'connecting' ? 'connecting' : waits > 0 ? `reconnecting in ${waits} s` : 'reconnecting'
  return (
    <span class={`live live-${s}`} role="status" data-standing={s} title={`events up to ${position.value || 'none yet'}`}>
      <i aria-hidden="true" />
      {text}
      {gaps.value > 0 && <span class="gapmark" title="Some events were gone when the page came back; everything was read anew">{gaps.value} gap{gaps.value > 1 ? 's' : ''}</span>}
    </span>
  )
}

function Who() {
  const me = self.value
  if (!me) return null
  return (
    <span class="who">
      <span title={me.tokens ? `token ${me.name}` : 'this server runs without tokens'}>{me.name} <span class="role">{me.role}</span></span>
      {me.tokens && <button type="button" class="button quiet" onClick={() => setToken('')}>Sign out</button>}
    </span>
  )
}

function Page() {
  const p = path.value
  if (needsToken.value && !self.value) return <SignIn />
  const [, kind, name] = p.split('/')
  if (kind === 'deployments' && name) return <DeploymentPage id={decodeURIComponent(name)} key={name} />
  if (kind === 'apps' && name) return <AppPage name={decodeURIComponent(name)} key={name} />
  if (kind === 'cluster') return <ClusterPage />
  if (!kind) return <Overview />
  return <p class="empty">There is no page {p}. <Link to="/">Go to the overview</Link>.</p>
}

const lookWithin = '#filter'

export function Shell() {
  useEffect(() => {
    const key = (e: KeyboardEvent): void => {
      if (e.ctrlKey || e.metaKey || e.altKey || (e.target as HTMLElement).closest('input, textarea, select, dialog')) return
      if (e.key === '/') {
        const field = document.querySelector<HTMLInputElement>(lookWithin)
        if (field) { field.focus(); e.preventDefault() }
      }
    }
    addEventListener('keydown', key)
    return () => removeEventListener('keydown', key)
  }, [])
  const p = path.value
  const here = regions.value.find((r) => r.local)?.name ?? self.value?.region ?? ''
  return (
    <>
      <a class="skip" href="#main">Skip to the content</a>
      <header class="top">
        <Link to="/" class="brand"><Logo /><span>Starling</span></Link>
        <nav aria-label="Pages">
          <Link to="/" current={p === '/'}>Overview{active.value.length > 0 && <span class="pill num">{active.value.length}</span>}</Link>
          <Link to="/cluster" current={p === '/cluster'}>Cluster{here && <span class="pill">{here}</span>}</Link>
        </nav>
        <div class="top-right">
          <LiveMark />
          <Who />
        </div>
      </header>
      {standing.value === 'broken' && <p class="broken" role="status">The server that this page comes from does not answer. What you see is as it was; the page goes on by itself where it stopped.</p>}
      <main id="main" tabIndex={-1}><Page /></main>
    </>
  )
}
