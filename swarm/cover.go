package swarm

import (
	"math/bits"
	"time"

	"github.com/starlingdeploy/starling"
)

// owners is what a machine knows of how the others get on with their shares.
type owners struct {
	of      []int32         // by chunk: an index into the download's members
	shares  []int32         // chunks, by member, as all that follow
	unseen  []int32         // of those, held by nobody that counts, when last looked at
	heardAt []time.Duration // when one of them was last seen to have come
	late    []bool          // it lags behind; for good, since those who cover for it look like it
}

func newOwners(d *download) *owners {
	n := len(d.members)
	o := &owners{
		of: dealAll(d.seedOf(), d.members, d.chunks), shares: make([]int32, n), unseen: make([]int32, n),
		heardAt: make([]time.Duration, n), late: make([]bool, n),
	}
	for _, m := range o.of {
		o.shares[m]++
	}
	copy(o.unseen, o.shares)
	for i := range o.heardAt {
		o.heardAt[i] = d.begunAt
	}
	return o
}

// look notes whose shares come along: the caches serve everyone in turn, so when all of
// ours is asked for, the others should have seen to nearly all of theirs. Who has much
// more left than we have, and brought nothing for a while, lags behind. It costs a walk
// over the chunks that nobody holds, and is done once per chunk asked of a cache.
func (p *Peer) look(d *download) {
	if len(d.share) < laggardChunks { // nor has anybody else enough to lag behind with
		return
	}
	if d.owners == nil {
		d.owners = newOwners(d)
	}
	o := d.owners
	unseen := make([]int32, len(o.unseen))
	left := int32(0)
	d.level[0].each(func(c int) {
		unseen[o.of[c]]++
		if d.members[o.of[c]].Name == p.cfg.Self {
			left++
		}
	})
	before := p.now - p.silence(d)
	for i, n := range unseen {
		if n < o.unseen[i] {
			o.heardAt[i] = p.now
		}
		if n >= left+laggardChunks+o.shares[i]/laggardPart && o.heardAt[i] <= before && d.members[i].Name != p.cfg.Self {
			o.late[i] = true
		}
	}
	o.unseen = unseen
}

// cover takes over what members that lag behind were to ask the caches for, once all
// that was ours is asked for: it is dealt out anew among the rest. It reports whether
// there was anything.
func (p *Peer) cover(d *download) bool {
	if p.now < d.coverAt {
		return false
	}
	d.coverAt = p.now + coverEvery
	if d.counts[0] == 0 || len(d.share) < laggardChunks || d.filling(p.now) || p.plenty(d) {
		return false
	}
	p.reviewAt(d.coverAt)
	p.look(d)
	o := d.owners
	var rest []Member
	for i := range d.members {
		if !o.late[i] {
			rest = append(rest, d.members[i])
		}
	}
	if len(rest) == len(d.members) {
		return false
	}
	var chunks []starling.Chunk
	var which []int
	for c, m := range o.of {
		if o.late[m] {
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
	d.spent = d.pickMine(0, 0) < 0
	return !d.spent
}

// silence is for how long nothing of a member's share must have come before it lags
// behind: a few times what a chunk takes to come from a cache, which serves all in turn,
// and the time that news take to come here.
func (p *Peer) silence(d *download) time.Duration {
	if p.cacheTook == 0 { // the caches have not come round to us; why should they to others?
		return firstGuess
	}
	return laggardTakes*max(p.cacheTook, p.base) + 2*announceEvery + 2*time.Duration(d.hops())*p.took
}

// hops is how many machines news pass through, about, besides the one they come from.
func (d *download) hops() int { return bits.Len(uint(len(d.members) / (targetLinks + 1))) }
