package cell

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Brain decides what one member of a cell does. It reads no clock and does no I/O: what
// happens comes with Step, what is to be done comes back from it. It is for one goroutine at a time.
type Brain struct {
	node  starling.Node
	rng   *rand.Rand
	place Place
	view  *View
	rank  int // among the relays; -1: it is none

	feed    *rpc.Feed // nil: none yet
	signed  json.RawMessage
	heard   uint64 // highest index that is said to be had
	servers []string

	hear   hearing
	up     upstream
	own    reporting
	office *office // of a relay
	seq    uint64  // of the last report of a cell that this member sent
	word   Word
	said   Word
	moveAt time.Time // when a new cell is asked for; zero: no need

	now time.Time
	out []Effect
}

// NewBrain returns one that has no cell yet. The seed and the node's name give its choices.
// A feed from an earlier life may be nil.
func NewBrain(node starling.Node, seed uint64, feed *rpc.Feed, signed json.RawMessage) *Brain {
	name := starling.DigestOf([]byte(node.Name))
	b := &Brain{
		node: node, rng: rand.New(rand.NewPCG(seed, binary.BigEndian.Uint64(name[:]))), rank: -1,
		view: NewView("", nil, nil, nil), own: reporting{apps: map[string]*ownReport{}},
	}
	if feed != nil {
		b.feed, b.signed, b.heard = feed, signed, feed.Index
		b.learnServers()
	}
	return b
}

// Step takes an event in and returns what is to be done.
func (b *Brain) Step(now time.Time, ev Event) []Effect {
	b.now, b.out = now, nil
	switch ev := ev.(type) {
	case Placed:
		b.enter(ev)
	case Viewed:
		b.look(ev.View)
	case Heard:
		b.hint(ev.Index)
	case Reported:
		b.ownReports(ev.Reports)
	case ServerSaid:
		b.serverSaid(ev)
	case PeerSaid:
		b.peerSaid(ev)
	case ReportsTaken:
		b.reportsTaken(ev)
	case CellTaken:
		b.cellTaken(ev)
	case Rotated:
		b.rotated(ev)
	}
	if b.place.Cell != "" {
		b.act()
	}
	return b.out
}

// act does what is due.
func (b *Brain) act() {
	b.poll()
	b.ask()
	b.speak()
	b.report()
	b.rotate()
	if !b.moveAt.IsZero() && !b.now.Before(b.moveAt) {
		b.moveAt = b.now.Add(moveAgain)
		b.do(Moved{})
	}
	if b.word != b.said {
		b.said = b.word
		b.do(Say{b.word})
	}
}

func (b *Brain) do(e Effect) { b.out = append(b.out, e) }

// Next returns when a Tick is due; zero: not before another event.
func (b *Brain) Next() time.Time {
	var next time.Time
	for _, at := range [...]time.Time{b.pollAt(), b.askAt(), b.reportAt(), b.speakAt(), b.rotateAt(), b.moveAt} {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// enter takes a place in a cell. What the member knows and has to report goes with it.
func (b *Brain) enter(ev Placed) {
	first, same := b.place.Cell == "", b.place.Cell == ev.Place.Cell
	b.place = ev.Place
	b.moveAt, b.said = time.Time{}, Word{}
	// What it knew may be of long ago, and all its servers gone; the next feed tells.
	b.servers = boundServers(slices.Concat(b.servers, ev.Place.Servers))
	if !same {
		b.word, b.rank, b.office = Word{}, -1, nil
		b.hear = hearing{asking: b.hear.asking}
		b.up = upstream{polling: b.up.polling, direct: b.up.direct, asked: b.up.asked}
		b.own.speaker = ""
		b.rest()
	}
	if first {
		b.askWithin(fetchSpread) // it was away
	}
	b.look(ev.View)
}

// look takes in the pool.
func (b *Brain) look(v *View) {
	b.view = v
	b.rank = slices.Index(v.relays, b.node.Name)
	switch {
	case b.rank < 0:
		b.office, b.word.Term, b.word.Moves = nil, 0, 0
	case b.office == nil:
		b.office = &office{}
		b.up.at = time.Time{} // at once
	}
	if o := b.office; o != nil {
		o.stale = true
		switch {
		case b.rank == 0 && !o.speaking:
			b.takeOffice()
		case b.rank > 0 && o.speaking:
			o.speaking, o.tally, b.word.Term = false, nil, 0
		}
	}
	if v.moves > b.hear.moves {
		b.hear.moves = v.moves
		if v.moves > b.place.Version {
			b.askWithin(moveSpread)
		}
	}
	b.chooseSpeaker()
}

// accept takes in a feed, unless it is no newer than the one that is had.
func (b *Brain) accept(feed *rpc.Feed, signed json.RawMessage) bool {
	if feed == nil || b.feed != nil && feed.Edition().Compare(b.feed.Edition()) <= 0 {
		return false
	}
	newReign := b.feed == nil || rpc.TermOf(feed.Reign) > rpc.TermOf(b.feed.Reign)
	b.feed, b.signed = feed, signed
	b.learnServers()
	if feed.Index > b.heard {
		b.heard = feed.Index
		if b.rank >= 0 {
			b.do(Announce{feed.Index})
		}
	}
	if feed.Index >= b.heard {
		b.rest()
	}
	b.forgetApps()
	if o := b.office; o != nil && o.speaking {
		o.stale = true
		if newReign && o.spoken { // who leads now knows nothing
			o.base, o.fails, o.at = 0, 0, b.now.Add(b.within(stateWithin))
		}
		b.speakWithin(stateWithin)
	}
	b.do(Accepted{feed, signed})
	return true
}

// index returns that of the feed, 0 without one.
func (b *Brain) index() uint64 {
	if b.feed == nil {
		return 0
	}
	return b.feed.Index
}

func (b *Brain) cursor() rpc.FeedCursor {
	c := rpc.FeedCursor{Index: b.index(), Cell: b.place.Cell, Version: b.place.Version}
	if b.feed != nil {
		c.Reign = b.feed.Reign
	}
	return c
}

// learnServers keeps the addresses of the servers that are alive, or all if none is.
func (b *Brain) learnServers() {
	var alive, all []string
	for i := range b.feed.Servers {
		all = append(all, b.feed.Servers[i].Addr)
		if b.feed.Servers[i].Alive {
			alive = append(alive, b.feed.Servers[i].Addr)
		}
	}
	if len(alive) == 0 {
		alive = all
	}
	if len(alive) > 0 {
		b.servers = boundServers(alive)
	}
}

func boundServers(addrs []string) []string {
	addrs = slices.Compact(slices.Sorted(slices.Values(addrs)))
	return addrs[:min(len(addrs), maxServers)]
}

// server returns the address of the server that a member of that rank asks after that
// many shifts: relays of one cell begin at different ones, and cells too.
func (b *Brain) server(rank, shift int) string {
	if len(b.servers) == 0 {
		return ""
	}
	d := starling.DigestOf([]byte(b.place.Cell))
	return b.servers[(int(d[0])+max(0, rank)+shift)%len(b.servers)]
}

// moved notes that this member is not of the cell any more.
func (b *Brain) moved(spread time.Duration) {
	if b.moveAt.IsZero() {
		b.moveAt = b.now.Add(b.within(spread))
	}
}

// within returns a random part of d.
func (b *Brain) within(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(b.rng.Int64N(int64(d)))
}

// backoff returns the pause after so many failures, a quarter of it by chance.
func (b *Brain) backoff(failures int, most time.Duration) time.Duration {
	d := min(backoffMin<<min(failures-1, 10), most)
	return d - b.within(d/4)
}

// fenced reports whether the far side does not know the member as one of the cell.
func fenced(err error) bool { return errors.Is(err, starling.ErrFenced) }

// sooner returns the earlier of two times, of which zero means never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
