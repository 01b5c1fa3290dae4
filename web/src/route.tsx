import { signal } from '@preact/signals'
import type { ComponentChildren } from 'preact'

const base = '/ui'

const here = (): string => location.pathname.slice(base.length).replace(/\/+$/, '') || '/'

/** The path below /ui. */
export const path = signal(here())

export function navigate(to: string): void {
  if (to === path.value) return
  history.pushState(null, '', base + to)
  arrive()
}

function arrive(): void {
  path.value = here()
  scrollTo(0, 0)
  document.querySelector<HTMLElement>('main')?.focus({ preventScroll: true })
}

addEventListener('popstate', arrive)

export function Link(props: { to: string; class?: string; children: ComponentChildren; current?: boolean; title?: string }) {
  return (
    <a
      href={base + props.to}
      class={props.class}
      title={props.title}
      aria-current={props.current ? 'page' : undefined}
      onClick={(e) => {
        if (e.metaKey || e.ctrlKey || e.shiftKey || e.button !== 0) return
        e.preventDefault()
        navigate(props.to)
      }}
    >
      {props.children}
    </a>
  )
}
