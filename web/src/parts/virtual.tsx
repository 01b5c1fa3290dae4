import { Component, type ComponentChildren } from 'preact'
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'

const spare = 10 // rows beyond each edge

interface Props<T> {
  items: T[]
  rowHeight: number
  label: string
  keyOf(item: T): string
  open(item: T): void
  row(item: T): ComponentChildren
}

interface RowProps<T> { id: string; at: number; height: number; selected: boolean; item: T; open(item: T): void; row(item: T): ComponentChildren }

/** One row, drawn again only when it is about something else than before, however often the list is. */
class Row<T> extends Component<RowProps<T>> {
  override shouldComponentUpdate(next: RowProps<T>): boolean {
    const p = this.props
    return next.item !== p.item || next.at !== p.at || next.selected !== p.selected || next.height !== p.height
  }

  override render() {
    const { id, at, height, selected, item, open, row } = this.props
    return (
      <div id={`row-${id}`} role="row" aria-rowindex={at + 1} aria-selected={selected} class={`grid-row${selected ? ' grid-at' : ''}`} style={{ height: `${height}px`, transform: `translateY(${at * height}px)` }} onClick={(e) => { if (!(e.target as HTMLElement).closest('a')) open(item) }}>
        {row(item)}
      </div>
    )
  }
}

/** A list of any length of which only the rows in sight are in the page. Arrow keys, Page, Home, End and Enter work. */
export function VirtualList<T>({ items, rowHeight, label, keyOf, open, row }: Props<T>) {
  const box = useRef<HTMLDivElement>(null)
  const [view, setView] = useState({ top: 0, height: 600 })
  const [at, setAt] = useState<string | null>(null)
  const look = useCallback(() => {
    const el = box.current
    if (!el) return
    const step = rowHeight * 4 // the rows change every few rows only, not with every pixel
    setView((v) => {
      const top = Math.floor(el.scrollTop / step) * step
      return v.top === top && v.height === el.clientHeight ? v : { top, height: el.clientHeight }
    })
  }, [rowHeight])
  useLayoutEffect(look)
  useEffect(() => {
    const observer = new ResizeObserver(look)
    observer.observe(box.current!)
    return () => observer.disconnect()
  }, [look])

  const first = Math.max(0, Math.floor(view.top / rowHeight) - spare)
  const last = Math.min(items.length, Math.ceil((view.top + view.height) / rowHeight) + spare + 4)
  const index = at === null ? -1 : items.findIndex((i) => keyOf(i) === at)
  const go = (to: number): void => {
    const n = Math.min(items.length - 1, Math.max(0, to))
    const el = box.current
    if (!el || n < 0) return
    setAt(keyOf(items[n]!))
    if (n * rowHeight < el.scrollTop) el.scrollTop = n * rowHeight
    else if ((n + 1) * rowHeight > el.scrollTop + el.clientHeight) el.scrollTop = (n + 1) * rowHeight - el.clientHeight
  }
  const key = (e: KeyboardEvent): void => {
    const page = Math.max(1, Math.floor(view.height / rowHeight) - 1)
    const moves: Record<string, number> = { ArrowDown: index + 1, j: index + 1, ArrowUp: Math.max(0, index - 1), k: Math.max(0, index - 1), PageDown: index + page, PageUp: index - page, Home: 0, End: items.length - 1 }
    if (e.ctrlKey || e.metaKey || e.altKey) return
    if (e.key in moves) go(moves[e.key]!)
    else if (e.key === 'Enter' && index >= 0) open(items[index]!)
    else return
    e.preventDefault()
  }
  return (
    <div class="grid" role="grid" aria-label={label} aria-rowcount={items.length} tabIndex={0} onKeyDown={key} aria-activedescendant={index >= first && index < last ? `row-${at}` : undefined}>
      <div class="grid-box" ref={box} onScroll={look} tabIndex={-1} style={{ maxHeight: `max(${rowHeight * 6}px, 62vh)` }}>
        <div role="rowgroup" style={{ height: `${items.length * rowHeight}px`, position: 'relative' }}>
          {items.slice(first, last).map((item, i) => {
            const k = keyOf(item)
            return <Row key={k} id={k} at={first + i} height={rowHeight} selected={k === at} item={item} open={open} row={row} />
          })}
        </div>
      </div>
    </div>
  )
}
