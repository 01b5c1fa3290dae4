package swarm

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

const (
	depthGain    = 2.0 // in flight to a source, in units of its bandwidth-delay product
	maxPause     = 30 * time.Second
	pauseFailed  = 250 * time.Millisecond
	pauseBusy    = 30 * time.Millisecond
	pauseCorrupt = 5 * time.Second // of a cache; a peer is distrusted
	pauseLocal   = 500 * time.Millisecond
	deferFirst   = 500 * time.Millisecond // a chunk that no cache gave
	minDeadline  = time.Second
	minQuiet     = 500 * time.Millisecond
	backups      = 3  // phases of the fall-back in which one more machine asks
	maxPhase     = 20 // by then everyone may ask
	maxPatience  = 2 * time.Minute
	cacheDraws   = 4 // chunks tried for one whose cache has room
)

// fill asks for as much as may be in flight.
func (p *Peer) fill() {
	for _, d := range p.order() {
		for p.inFlightBytes < p.cfg.MaxInFlightBytes &&
			(p.fillCache(d) || p.fromPeersBytes() < p.window(d) && p.fillPeer(d)) {
		}
	}
	p.hedge()
}

func (p *Peer) fromPeersBytes() int64 {
	n := p.inFlightBytes
	for _, name := range p.origins {
		n -= p.caches[name].inFlightBytes
	}
	return n
}

// window is how much may be in flight from all peers: enough that each source has a
// request waiting, and no more, since what waits in queues is not passed on. It grows
// with the bandwidth-delay product of the whole.
func (p *Peer) window(d *download) int64 {
	bdp := int64(depthGain * p.rate * p.minTook.Seconds())
	return min(max(minWindowChunks*d.mean, bdp), p.cfg.MaxInFlightBytes)
}

// fillCache asks a cache for one chunk that is ours to ask for.
func (p *Peer) fillCache(d *download) bool {
	if d.counts[0] == 0 || !p.cacheRoom(d) {
		return false
	}
	for range cacheDraws {
		c := d.pickMine(p.draw())
		if c < 0 {
			return false
		}
		s := p.cacheFor(d, c)
		if s.usable(p.now) && s.room(d.size(c)) {
			p.ask(s, d, c)
			return true
		}
		if s.strikes > 0 && p.now < s.pausedTo {
			d.tries[c]++ // the next cache, next time
		}
	}
	return false
}

func (p *Peer) cacheRoom(d *download) bool {
	for _, name := range p.origins {
		if s := p.caches[name]; s.usable(p.now) && s.room(1) {
			return true
		}
	}
	return false
}

// cacheFor returns the cache to ask for a chunk: the caches share chunks out among
// themselves by rendezvous, so the first of that order holds it, unless tried in vain.
func (p *Peer) cacheFor(d *download, c int) *source {
	if len(p.origins) == 1 {
		return p.caches[p.origins[0]]
	}
	order := starling.Rendezvous(d.chunks[c].Digest, p.origins, len(p.origins))
	return p.caches[order[d.tries[c]%len(order)]]
}

// fillPeer asks the peer that should finish first for the rarest chunk that it holds.
func (p *Peer) fillPeer(d *download) bool {
	if d.wants == 0 {
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
			if v == nil || v.dry || !s.room(d.mean) {
				continue
			}
			if t := s.finish(d.mean, p.pace); best == nil || t < soonest || t == soonest && p.before(s, best) {
				best, bestView, soonest = s, v, t
			}
		}
		if best == nil {
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

// before breaks ties between sources: the one with less in flight, then by a hash.
func (p *Peer) before(a, b *source) bool {
	if len(a.fetches) != len(b.fetches) {
		return len(a.fetches) < len(b.fetches)
	}
	return mix(p.hash^hashName(a.name)) < mix(p.hash^hashName(b.name))
}

// ask sends for a chunk.
func (p *Peer) ask(s *source, d *download, c int) {
	f := &fetch{d: d, chunk: c, size: d.size(c), at: p.now}
	f.ahead = s.inFlightBytes + f.size
	f.deadline = p.now + p.patience(s, f)
	s.fetches = append(s.fetches, f)
	s.inFlightBytes += f.size
	p.inFlightBytes += f.size
	if !s.doubted { // from a doubted source it is wanted still
		d.unwant(c)
	}
	p.emit(Fetch{request(s, f)})
}

func request(s *source, f *fetch) Request {
	return Request{Artifact: f.d.artifact, Chunk: f.chunk, From: s.name, Origin: s.origin}
}

// patience is how long a fetch may take before it is given up: several times what
// the source's pace, or failing that everybody's, makes likely.
func (p *Peer) patience(s *source, f *fetch) time.Duration {
	least := minDeadline
	if p.took == 0 || s.origin { // nothing is known yet; or a whole cell may queue there
		least = firstGuess
	}
	likely := (s.pace + 4*s.paceDev) * float64(f.ahead)
	t := max(least, 4*time.Duration(likely*float64(time.Second)), 8*p.took)
	return min(t<<min(s.strikes, 4), maxPatience)
}

// land takes a fetch off the books.
func (p *Peer) land(s *source, f *fetch) {
	s.forget(f)
	p.inFlightBytes -= f.size
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

func (p *Peer) failed(ev Failed) {
	s, d := p.find(ev.Request), p.download(ev.Artifact)
	if s == nil || d == nil {
		return
	}
	f := s.find(d, ev.Chunk)
	if f == nil {
		return // cancelled, and forgotten
	}
	p.land(s, f)
	p.blame(s, f, ev.Reason)
	p.rewant(d, ev.Chunk)
}

// blame draws the conclusions from a failed fetch.
func (p *Peer) blame(s *source, f *fetch, reason Reason) {
	switch reason {
	case ReasonCorrupt:
		p.distrust(s, "sent a chunk whose bytes do not match its digest")
		if s.origin {
			p.postpone(f)
			s.pause(p.now, pauseCorrupt, p.draw())
		}
	case ReasonMissing:
		if s.origin { // it may come: the chunk waits, not the cache
			p.postpone(f)
			return
		}
		if v := s.view(f.d); v != nil {
			p.unlearn(v, f.chunk)
		}
		if s.suspicions++; s.suspicions >= maxSuspicions {
			p.distrust(s, "announces chunks that it does not have")
		}
	case ReasonBusy:
		s.pause(p.now, pauseBusy, p.draw())
	case ReasonLocal:
		s.pause(p.now, pauseLocal, p.draw())
	case ReasonTimeout, ReasonGone:
		if s.origin {
			f.d.tries[f.chunk]++
		}
		s.doubt()
		for _, o := range s.fetches {
			p.rewant(o.d, o.chunk)
		}
		s.pause(p.now, max(pauseFailed, p.took), p.draw())
	}
}

// postpone lets a chunk rest when every cache was asked for it in vain.
func (p *Peer) postpone(f *fetch) {
	d, c, all := f.d, f.chunk, max(len(p.origins), 1)
	d.tries[c]++
	if n := d.tries[c]; n%all == 0 {
		wait := min(deferFirst<<min(n/all-1, 10), maxPause)
		d.mine.clear(c)
		d.deferred = append(d.deferred, deferral{c, p.now + wait})
	}
}

// expire ends what has lasted too long.
func (p *Peer) expire() {
	for _, s := range p.sources {
		for i := 0; i < len(s.fetches); {
			f := s.fetches[i]
			if p.now < f.deadline {
				i++
				continue
			}
			p.cancel(s, f)
			p.blame(s, f, ReasonTimeout)
			p.rewant(f.d, f.chunk)
		}
	}
	for _, d := range p.downloads {
		d.deferred = slices.DeleteFunc(d.deferred, func(x deferral) bool {
			if p.now >= x.until {
				d.mine.set(x.chunk)
			}
			return p.now >= x.until
		})
	}
}

// fallBack opens more and more of the chunks that no peer holds to this machine's
// own requests to the caches, each time that nothing new was seen for long enough.
func (p *Peer) fallBack() {
	for _, d := range p.downloads {
		if d.seed || d.left == 0 || len(p.origins) == 0 {
			continue
		}
		if d.phaseAt == 0 {
			d.phaseAt = p.now + p.quiet(d)
		}
		if p.now < d.phaseAt {
			continue
		}
		d.phaseAt = p.now + p.quiet(d)
		switch {
		case d.counts[0] == 0:
			d.phase = 0
			d.resetMine()
		case p.cachesIdle() && d.pickMine(0) < 0 && d.phase < maxPhase:
			d.open(p.cfg.Self, p.Links() == 0)
			d.phase++
		}
	}
}

// quiet is how long nothing new must be seen before the fall-back opens further:
// longer than news take to come through the swarm, and than a cache takes to answer.
func (p *Peer) quiet(d *download) time.Duration {
	if p.took == 0 {
		return firstGuess
	}
	t := max(minQuiet, 8*d.gap, 4*p.took)
	if d.phase > 0 && !d.endgame() {
		t *= 8 // there is other work, which slows the news: no hurry
	}
	return t
}

// cachesIdle reports whether there is a cache to ask and none is being asked.
func (p *Peer) cachesIdle() bool {
	any := false
	for _, name := range p.origins {
		s := p.caches[name]
		if len(s.fetches) > 0 {
			return false
		}
		any = any || s.usable(p.now)
	}
	return any
}

// hedge asks a second source for chunks that are overdue when there is nothing else
// to ask for.
func (p *Peer) hedge() {
	if p.now < p.hedgeAt || p.took == 0 || p.inFlightBytes == 0 {
		return
	}
	p.hedgeAt = p.now + max(p.took/4, time.Millisecond)
	for _, s := range p.sources {
		for _, f := range s.fetches {
			if f.d.endgame() {
				p.hedgeOne(s, f)
			}
		}
	}
}

func (p *Peer) hedgeOne(s *source, f *fetch) {
	pace := p.pace
	if s.samples > 0 {
		pace = s.pace
	}
	remaining := time.Duration(pace*float64(f.ahead)*float64(time.Second)) - (p.now - f.at)
	if remaining < 0 {
		remaining = -remaining // overdue: it may well take as long again
	}
	var best *source
	var least time.Duration
	flights := 0
	for _, o := range p.sources {
		if o.find(f.d, f.chunk) != nil {
			flights++
			continue
		}
		if o.origin || !o.usable(p.now) || !o.room(f.size) {
			continue
		}
		if v := o.view(f.d); v == nil || !v.has.has(f.chunk) {
			continue
		}
		if t := o.finish(f.size, p.pace); best == nil || t < least {
			best, least = o, t
		}
	}
	if best != nil && flights == 1 && 2*least < remaining && p.inFlightBytes+f.size <= p.cfg.MaxInFlightBytes {
		p.ask(best, f.d, f.chunk)
	}
}
