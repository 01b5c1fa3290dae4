package swarm

import (
	"math/bits"
	"time"

	"github.com/starlingdeploy/starling"
)

// owners is what a machine knows of how the others get on with their shares.
type owners struct {
	of      []int32         // by chunk: an index into the download's members
	shares  []int32         // chunks, by member, as the two that follow
	unseen  []int32         // of those, held by nobody that counts, when last looked at
	heardAt []time.Duration // when one of them was last seen to have come
}

// look notes whose shares come along. It costs a walk over the chunks that nobody
// holds, and is done once per chunk asked of a cache.
func (d *download) look(now time.Duration) {
	if len(d.share) < laggardChunks { // nor has anybody else enough to lag behind with
		return
	}
	o := d.owners
	if o == nil {
		o = &owners{
			of: dealAll(d.seedOf(), d.members, d.chunks), shares: make([]int32, len(d.members)),
			unseen: make([]int32, len(d.members)), heardAt: make([]time.Duration, len(d.members)),
		}
		for _, m := range o.of {
			o.shares[m]++
		}
		copy(o.unseen, o.shares)
		for i := range o.heardAt {
			o.heardAt[i] = d.begunAt
		}
		d.owners = o
	}
	unseen := make([]int32, len(o.unseen))
	d.level[0].each(func(c int) { unseen[o.of[c]]++ })
	for i, n := range unseen {
		if n < o.unseen[i] {
			o.heardAt[i] = now
		}
	}
	o.unseen = unseen
}

// cover takes over what members that lag behind were to ask the caches for, once all
// that was ours is asked for: the caches serve everyone in turn, so by then the others
// should have seen to nearly all of theirs. What laggards own is dealt out anew among
// the rest. It reports whether anything was.
func (p *Peer) cover(d *download) bool {
	if p.now < d.coverAt || d.counts[0] == 0 || len(d.share) < laggardChunks {
		return false
	}
	d.coverAt = p.now + coverEvery
	p.reviewAt(d.coverAt)
	d.look(p.now)
	o := d.owners
	before := p.now - p.silence(d)
	late := func(m int32) bool {
		return o.unseen[m] >= laggardChunks+o.shares[m]/laggardPart && o.heardAt[m] <= before
	}
	var rest []Member
	for i := range d.members {
		if !late(int32(i)) || d.members[i].Name == p.cfg.Self {
			rest = append(rest, d.members[i])
		}
	}
	if len(rest) == len(d.members) {
		return false
	}
	var chunks []starling.Chunk
	var which []int
	for c, m := range o.of {
		if late(m) {
			chunks, which = append(chunks, d.chunks[c]), append(which, c)
		}
	}
	for _, i := range share(mix(d.seedOf()), p.cfg.Self, rest, chunks) {
		if c := which[i]; d.level[0].has(c) {
			d.mine.set(c)
		}
	}
	for _, x := range d.deferred {
		d.mine.clear(x.chunk)
	}
	return d.pickMine(0, 0) >= 0
}

// silence is for how long nothing of a member's share must have come before it lags
// behind: a few times what a chunk takes to come from a cache, which serves all in turn,
// and the time that news take to come here.
func (p *Peer) silence(d *download) time.Duration {
	return laggardTakes*max(p.cacheTook, p.base) + 2*announceEvery + 2*time.Duration(d.hops())*p.took
}

// hops is how many machines news pass through, about, besides the one they come from.
func (d *download) hops() int { return bits.Len(uint(len(d.members) / (targetLinks + 1))) }
