package swarm

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// Caches may lack chunks still: they are being filled while machines fetch already.
// What the caches lacked is deferred and asked for again. So that a chunk flows on the
// moment it comes, one request is left standing at each cache: for the chunk of this
// machine's own share that should come next, and caches fill in the manifest's order.
// Nobody but its owner waits for a chunk, so that one copy leaves the cache.
const (
	parkWait  = 2 * time.Second  // that a cache keeps a request; nor is it asked to again before
	parkDefer = 4 * time.Second  // before a chunk that was waited for in vain is asked for elsewhere
	lackFor   = 10 * time.Second // that a cache's lack of a chunk explains why there is little news
)

// park leaves a request standing at a cache, if there is one to leave.
func (p *Peer) park(d *download) bool {
	if len(d.deferred) == 0 || !p.parkable(d) {
		return false
	}
	resting := newBitset(d.n)
	for _, x := range d.deferred {
		resting.set(x.chunk)
	}
	c := -1
	for _, own := range d.share {
		if i := int(own); (c < 0 || i < c) && resting.has(i) && d.level[0].has(i) {
			c = i
		}
	}
	if c < 0 {
		return false
	}
	for _, name := range starling.Rendezvous(d.chunks[c].Digest, p.originNames, 2) {
		if s := p.caches[name]; p.mayPark(s, d) {
			d.deferred = slices.DeleteFunc(d.deferred, func(x deferral) bool { return x.chunk == c })
			d.mine.set(c)
			s.parkAgain = p.now + parkWait
			p.reviewAt(s.parkAgain)
			p.askFor(s, d, c, parkWait)
			return true
		}
	}
	return false
}

// mayPark reports whether a request may be left standing at s.
func (p *Peer) mayPark(s *source, d *download) bool {
	return s.usable(p.now) && p.now >= s.parkAgain && s.room(d, 1) && !slices.ContainsFunc(s.fetches, func(f *fetch) bool { return f.wait > 0 })
}

func (p *Peer) parkable(d *download) bool {
	return slices.ContainsFunc(p.origins, func(s *source) bool { return p.mayPark(s, d) })
}

// lacked notes that a cache has not got a chunk yet. It reports whether the cache had
// been left time for it: then the chunk rests a little.
func (p *Peer) lacked(f *fetch) bool {
	f.d.lackedAt = p.now
	if f.wait == 0 {
		return false
	}
	f.d.mine.clear(f.chunk)
	f.d.deferred = append(f.d.deferred, deferral{f.chunk, p.now + parkDefer})
	p.reviewAt(p.now + parkDefer)
	return true
}

// filling reports whether the caches lacked something a moment ago: what is not there
// yet is no reason for others to ask for it as well.
func (d *download) filling(now time.Duration) bool {
	return d.lackedAt > 0 && now < d.lackedAt+lackFor
}
