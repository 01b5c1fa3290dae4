package swarm

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// fill asks for as much as may be in flight.
func (p *Peer) fill() {
	order := p.order()
	for _, d := range order {
		if d.priority < order[0].priority && p.hurries(order[0]) {
			break
		}
		for p.inFlightBytes < p.cfg.MaxInFlightBytes &&
			(p.fillCache(d) || p.park(d) || p.pressing(d) < p.window(d) && !p.narrow() && p.fillPeer(d)) {
		}
	}
	p.hedge()
}

// narrow reports whether peers must not be asked for more. Where many requests time out
// and nothing comes, they are too many for this machine's link: then it asks one peer for
// one chunk, and the caches.
func (p *Peer) narrow() bool {
	return p.vain >= vainTimeouts &&
		slices.ContainsFunc(p.sources, func(s *source) bool { return !s.origin && len(s.fetches) > 0 })
}

// count brings up to date what is in flight from peers that can be expected to deliver it.
func (p *Peer) count(s *source) {
	n := int64(0)
	if !s.origin && !s.doubted && s.samples > 0 {
		n = s.inFlightBytes
	}
	p.countedBytes += n - s.countedBytes
	s.countedBytes = n
}

// pressing is what counts against d's window: the bytes in flight, from peers that can
// be expected to deliver them, of downloads that are as urgent or more.
func (p *Peer) pressing(d *download) int64 {
	if !p.mixed {
		return p.countedBytes
	}
	n := int64(0)
	for _, s := range p.sources {
		if s.countedBytes == 0 {
			continue
		}
		for _, f := range s.fetches {
			if f.d.priority >= d.priority {
				n += f.size
			}
		}
	}
	return n
}

// window is how much may be in flight from all peers: enough that each source has a
// request waiting, and no more, since what waits in queues is not passed on. It grows
// with the bandwidth-delay product of the whole.
func (p *Peer) window(d *download) int64 {
	bdp := int64(windowGain * p.rate * p.base.Seconds())
	return min(max(minWindowChunks*d.mean, bdp), p.cfg.MaxInFlightBytes)
}

// fillCache asks a cache for one chunk that is ours to ask for.
func (p *Peer) fillCache(d *download) bool {
	if d.wants == 0 || d.spent && p.now < d.coverAt || !p.cacheRoom(d) || p.now < d.readyAt && !p.greeted(d) {
		return false
	}
	if d.spent = d.pickMine(topLevel, 0) < 0; d.spent && !p.cover(d) {
		return false
	}
	for range cacheDraws {
		c := d.pickMine(0, p.draw())
		if c < 0 {
			return false
		}
		s := p.cacheFor(d, c)
		if p.cacheFree(s, d) && s.room(d, d.size(c)) {
			p.ask(s, d, c)
			p.look(d)
			return true
		}
		if s.strikes > 0 && p.now < s.pausedTo {
			d.tries[c]++ // the next cache, next time
		}
	}
	return false
}

// greeted reports whether enough neighbours have said what they hold, so that what
// the swarm has already is not asked of the caches.
func (p *Peer) greeted(d *download) bool {
	links, told := 0, 0
	for _, s := range p.sources {
		if s.wanted {
			links++
		}
		if s.view(d) != nil {
			told++
		}
	}
	return told >= min(links, enoughGreetings)
}

// cacheRoom reports whether any cache may be asked for anything now.
func (p *Peer) cacheRoom(d *download) bool {
	for _, s := range p.origins {
		if p.cacheFree(s, d) {
			return true
		}
	}
	return false
}

// cacheFree reports whether a cache may be asked for one more chunk. All members queue
// there: where they are many, one chunk each keeps it busy, and more would only make
// everybody's wait longer.
func (p *Peer) cacheFree(s *source, d *download) bool {
	most := maxCacheChunks
	if len(d.members) >= cacheCrowd*len(p.origins) {
		most = 1
	}
	return s.usable(p.now) && s.requests(d) < most
}

// cacheFor returns the cache to ask for a chunk: the caches share chunks out among
// themselves by rendezvous, so the first of that order holds it, unless tried in vain.
func (p *Peer) cacheFor(d *download, c int) *source {
	if len(p.origins) == 1 {
		return p.origins[0]
	}
	order := starling.Rendezvous(d.chunks[c].Digest, p.originNames, len(p.originNames))
	return p.caches[order[d.tries[c]%len(order)]]
}

// unstick has peers looked at again.
func (p *Peer) unstick() {
	for _, d := range p.downloads {
		d.stuck = false
	}
}

// fillPeer asks the peer that should finish first for the rarest chunk that it holds.
func (p *Peer) fillPeer(d *download) bool {
	if d.wants == 0 || d.stuck {
		return false
	}
	for {
		var best *source
		var bestView *view
		var soonest time.Duration
		for _, s := range p.sources {
			if s.origin || !s.usable(p.now) {
				continue
			}
			v := s.view(d)
			if v == nil || v.dry || !s.room(d, d.mean) {
				continue
			}
			t := s.finish(d.mean, p.pace)
			if best == nil || s.failing() < best.failing() ||
				s.failing() == best.failing() && (t < soonest || t == soonest && s.before(best)) {
				best, bestView, soonest = s, v, t
			}
		}
		if best == nil {
			d.stuck = true
			return false
		}
		least := 1
		if best.doubted {
			least = 0 // nobody else counts
		}
		if c := d.pick(bestView.has, least, p.draw()); c >= 0 {
			p.ask(best, d, c)
			return true
		}
		bestView.dry = true
	}
}

// failing ranks the sources that are not counted on behind the others, and by how often
// they failed, so that none of them is asked again and again in place of the rest.
func (s *source) failing() int {
	if !s.doubted {
		return 0
	}
	return 1 + s.strikes
}

// before breaks ties between sources: the one with less in flight, then by a hash.
func (a *source) before(b *source) bool {
	if len(a.fetches) != len(b.fetches) {
		return len(a.fetches) < len(b.fetches)
	}
	return a.tie < b.tie
}

// ask sends for a chunk.
func (p *Peer) ask(s *source, d *download, c int) { p.askFor(s, d, c, 0) }

// askFor is ask of a source that may wait for the chunk itself.
func (p *Peer) askFor(s *source, d *download, c int, wait time.Duration) {
	f := &fetch{d: d, chunk: c, size: d.size(c), at: p.now, wait: wait}
	f.ahead = s.inFlightBytes + f.size
	f.deadline = p.now + wait + p.patience(s, f)
	s.fetches = append(s.fetches, f)
	s.inFlightBytes += f.size
	p.inFlightBytes += f.size
	if wait > 0 {
		p.parkedBytes += f.size
	}
	p.count(s)
	p.reviewAt(f.deadline)
	p.reviewAt(p.doubtAt(s))
	if d.asked.has(c) {
		d.askedAgain.set(c)
	}
	d.asked.set(c)
	if !s.doubted { // from a doubted source it is wanted still
		d.unwant(c)
	}
	p.emit(Fetch{Request: request(s, f), Wait: wait})
}

func request(s *source, f *fetch) Request {
	return Request{Artifact: f.d.artifact, Chunk: f.chunk, From: s.name, Origin: s.origin}
}

// land takes a fetch off the books.
func (p *Peer) land(s *source, f *fetch) {
	s.forget(f)
	p.inFlightBytes -= f.size
	if f.wait > 0 {
		p.parkedBytes -= f.size
	}
	p.count(s)
	p.unstick()
}

func (p *Peer) cancel(s *source, f *fetch) {
	p.land(s, f)
	p.emit(CancelFetch{request(s, f)})
}

// giveUp cancels a fetch and puts its chunk back among the wanted.
func (p *Peer) giveUp(s *source, f *fetch) {
	p.cancel(s, f)
	p.rewant(f.d, f.chunk)
}

// rewant makes a chunk wanted again, unless it is held or asked of a good source.
func (p *Peer) rewant(d *download, c int) {
	if d.held.has(c) {
		return
	}
	for _, s := range p.sources {
		if !s.doubted && s.find(d, c) != nil {
			return
		}
	}
	d.want(c)
	for _, s := range p.sources {
		if v := s.view(d); v != nil && v.has.has(c) {
			v.dry = false
		}
	}
}
