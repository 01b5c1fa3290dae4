package cell

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// hearing is how a member comes to news through the others.
type hearing struct {
	at     time.Time // when the next one is asked
	asking bool
	tries  int    // members asked in vain since the last success
	fails  int    // rounds of members, or of members and a server, in vain
	talks  bool   // a member answered in this round
	moves  uint64 // roster in which members were missing, that was looked into
}

// hint takes in that goals of an index are to be had.
func (b *Brain) hint(index uint64) {
	if index <= b.heard {
		return
	}
	b.heard = index
	b.askWithin(fetchSpread)
}

// askWithin has news asked for at a random time within spread.
func (b *Brain) askWithin(spread time.Duration) {
	b.hear.at = sooner(b.hear.at, b.now.Add(b.within(spread)))
}

// rest returns to asking now and then, for what was not heard of.
func (b *Brain) rest() {
	b.hear.tries, b.hear.fails, b.hear.talks = 0, 0, false
	b.hear.at = b.now.Add(pollEvery*3/4 + b.within(pollEvery/2))
}

func (b *Brain) askAt() time.Time {
	if b.hear.asking {
		return time.Time{}
	}
	return b.hear.at
}

// ask asks a member for news, and a server if no member answers. Members that answer and have
// none yet, as when relays are changing over to another server, are asked again for a while:
// a cell must not fall upon its servers with what is on its way.
func (b *Brain) ask() {
	h := &b.hear
	if h.asking || h.at.IsZero() || b.now.Before(h.at) {
		return
	}
	if b.rank >= 0 && b.up.fails == 0 && b.feed != nil && b.heard <= b.feed.Index {
		b.rest() // a relay in touch with its server misses nothing
		return
	}
	if h.tries < peerTries {
		if peer := b.peer(); peer != nil {
			h.asking = true
			b.do(AskPeer{*peer, b.cursor()})
			return
		}
	}
	patient := h.talks && h.fails < patientRounds
	h.tries, h.talks = 0, false
	h.fails++
	if patient {
		h.at = b.now.Add(b.backoff(h.fails, patientMax))
		return
	}
	h.at = b.now.Add(b.backoff(h.fails, backoffMax))
	if b.rank < 0 && !b.up.polling && len(b.servers) > 0 { // a relay is asking anyway
		h.asking = true
		b.up.polling, b.up.direct, b.up.asked = true, true, b.now
		b.do(PollServer{Server: b.server(b.rng.IntN(len(b.servers)), 0), Have: b.cursor()})
	}
}

// peer returns the member to ask: first the relay that is this member's by its name, or for
// what was announced, by chance, any member, so that relays do not serve all; then others.
func (b *Brain) peer() *starling.Node {
	try := b.hear.tries
	if try == 2 || try == 0 && b.heard > b.index() && b.rng.IntN(2) == 0 {
		if n := b.anyone(); n != nil {
			return n
		}
	}
	relays := slices.DeleteFunc(slices.Clone(b.view.relays), func(name string) bool { return name == b.node.Name })
	if len(relays) == 0 {
		return b.anyone()
	}
	d := starling.DigestOf([]byte(b.node.Name))
	return b.view.living(relays[(int(d[0])+try)%len(relays)])
}

// anyone returns a living member by chance, or nil.
func (b *Brain) anyone() *starling.Node {
	const looks = 8
	for range looks {
		if len(b.view.nodes) == 0 {
			return nil
		}
		n := &b.view.nodes[b.rng.IntN(len(b.view.nodes))]
		if n.Alive && n.Name != b.node.Name {
			return n
		}
	}
	return nil
}

func (b *Brain) peerSaid(ev PeerSaid) {
	h := &b.hear
	h.asking = false
	b.accept(ev.Feed, ev.Response.Signed)
	if ev.Err == nil {
		h.talks = true
		if ev.Response.Moved {
			b.moved(backoffMin)
		}
		if ev.Response.Speaker == b.own.speaker {
			b.heardTerm(ev.Response.Term)
		}
	}
	if ev.Err == nil && b.feed != nil && b.feed.Index >= b.heard {
		b.rest()
		return
	}
	h.at = b.now.Add(retryFetch<<h.tries + b.within(retryFetch))
	h.tries++
}

// Answer is what this member tells another one, or a stranger, of news.
func (b *Brain) Answer(caller string, have rpc.FeedCursor) rpc.CellFeedResponse {
	r := rpc.CellFeedResponse{Speaker: b.own.speaker, Term: b.own.term}
	if b.feed != nil && b.feed.Edition().Compare(have.Edition()) > 0 {
		r.Signed = b.signed
	}
	if o := b.office; o != nil && have.Cell == b.place.Cell && o.slots != nil && o.version >= have.Version {
		_, belongs := o.slots[caller]
		r.Moved = !belongs
	}
	return r
}
