package cell

import (
	"time"
)

// upstream is a member's way to the servers.
type upstream struct {
	polling bool
	direct  bool // it is no relay that is polling
	asked   time.Time
	at      time.Time // of the next poll
	fails   int       // in a row
	shift   int       // servers that were given up
	since   time.Time // of the first of fails
}

// relaying reports whether the member is to hold a connection to a server.
func (b *Brain) relaying() bool { return b.rank >= 0 || b.word.Muted }

func (b *Brain) pollAt() time.Time {
	if b.up.polling || !b.relaying() || len(b.servers) == 0 {
		return time.Time{}
	}
	if b.up.at.IsZero() {
		return b.now
	}
	return b.up.at
}

// poll asks a server for news, and waits there for them. One that stood back asks
// only whether a server can be reached.
func (b *Brain) poll() {
	u := &b.up
	if u.polling || !b.relaying() || b.now.Before(u.at) {
		return
	}
	if len(b.servers) == 0 { // the region did not know them when it gave the place: once more
		b.moved(backoffMin)
		return
	}
	u.polling, u.direct, u.asked = true, false, b.now
	have := b.cursor()
	if o := b.office; o != nil {
		have.Version = o.version
	}
	b.do(PollServer{Server: b.server(b.rank, u.shift), Have: have, Wait: b.rank >= 0 && !b.word.Muted})
}

func (b *Brain) serverSaid(ev ServerSaid) {
	u := &b.up
	u.polling = false
	if u.direct {
		u.direct, b.hear.asking = false, false
	}
	if fenced(ev.Err) {
		b.moved(backoffMin)
	}
	if ev.Err != nil {
		b.serverFailed()
		return
	}
	u.fails, u.since, b.word.Muted = 0, time.Time{}, false
	news := b.accept(ev.Feed, ev.Signed)
	if ev.Cell.Name == b.place.Cell {
		news = b.learnRoster(&ev.Cell) || news
	}
	if b.feed != nil && b.heard <= b.feed.Index {
		b.rest()
	}
	u.at = b.now
	if !news && b.now.Sub(u.asked) < backoffMin { // the server does not wait: spare it
		u.at = b.now.Add(backoffMin)
	}
}

// serverFailed tries the next server. A relay that reaches none for long stands
// back, so that another member relays, unless many have done so already.
func (b *Brain) serverFailed() {
	u := &b.up
	u.fails++
	u.shift++
	if u.since.IsZero() {
		u.since = b.now
	}
	u.at = b.now.Add(b.backoff(u.fails, backoffMax))
	if b.word.Muted {
		u.at = b.now.Add(probeEvery)
		return
	}
	if b.rank >= 0 && u.fails >= muteFailures && b.now.Sub(u.since) >= muteAfter && b.view.alive > 1 && b.view.muted < maxMuted {
		b.word.Muted = true
		u.at = b.now.Add(probeEvery)
	}
}
