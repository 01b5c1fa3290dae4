import { Link } from '../route'
import { time, words } from '../format'
import { feed, type FeedItem } from '../store'
import { PhaseIcon } from './phase'

const shownItems = 40

function Item({ item }: { item: FeedItem }) {
  if ('gap' in item) {
    return <li class="feed-gap" data-gap=""><span class="num">{time(item.at)}</span> some events between here and below are not known any more; everything was read anew</li>
  }
  const e = item.change
  return (
    <li>
      <span class="num dim">{time(e.at)}</span>
      {e.phase && e.type === 'deployment.phase' ? <span class={`phase-${e.phase} feed-mark`}><PhaseIcon phase={e.phase} /></span> : <span class="feed-mark dim">·</span>}
      <span class="feed-text">
        {e.deployment ? <Link to={`/deployments/${e.deployment}`}>{e.app}</Link> : e.app ? <Link to={`/apps/${e.app}`}>{e.app}</Link> : null}{' '}
        {e.type === 'deployment.phase' ? words(e.phase ?? '') : words(e.type.replace('.', ' '))}
        {e.detail && <span class="dim"> {e.detail.length > 90 ? e.detail.slice(0, 90) + '…' : e.detail}</span>}
      </span>
    </li>
  )
}

/** What has happened since the page was opened, newest first. */
export function Feed({ only }: { only?: (item: FeedItem) => boolean }) {
  const items = (only ? feed.value.filter(only) : feed.value).slice(0, shownItems)
  if (items.length === 0) return <p class="empty">Nothing has happened since this page was opened.</p>
  return <ol class="feed" aria-label="Events">{items.map((i) => <Item key={i.key} item={i} />)}</ol>
}
