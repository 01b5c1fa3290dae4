import type { ComponentChildren } from 'preact'
import { useId } from 'preact/hooks'

export function Panel({ title, aside, children, class: extra = '' }: { title: string; aside?: ComponentChildren; children: ComponentChildren; class?: string }) {
  const id = useId()
  return (
    <section class={`panel ${extra}`} aria-labelledby={id}>
      <header class="panel-head">
        <h2 id={id}>{title}</h2>
        {aside && <div class="panel-aside">{aside}</div>}
      </header>
      {children}
    </section>
  )
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>
}
