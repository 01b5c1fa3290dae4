package swarm

import (
	"slices"
	"time"
)

// patience is how long a fetch may take before it is given up: several times what
// the source's pace, or failing that everybody's, makes likely.
func (p *Peer) patience(s *source, f *fetch) time.Duration {
	least := minPatience
	if p.took == 0 || s.origin && s.samples == 0 { // nothing is known yet; or a whole cell may queue there
		least = firstGuess
	}
	likely := (s.pace + 4*s.paceDev) * float64(f.ahead)
	t := max(least, 4*time.Duration(likely*float64(time.Second)), 8*p.took)
	return min(t<<min(s.strikes, 4), maxPatience)
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
	if ev.Reason == ReasonBusy && ev.After > 0 { // it keeps to its cap, and says so: no fault
		s.rest(p.now, min(ev.After, maxPause), p.draw())
	} else {
		p.blame(s, f, ev.Reason)
	}
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
			if !p.lacked(f) {
				p.postpone(f)
			}
			return
		}
		if v := s.view(f.d); v != nil {
			p.unlearn(v, f.chunk)
		}
		if s.suspicions++; s.suspicions >= maxSuspicions {
			p.distrust(s, "announces chunks that it does not have")
		}
	case ReasonBusy:
		if s.strikes >= maxBusy { // as good as not there
			p.doubt(s)
		}
		s.pause(p.now, pauseBusy, p.draw())
	case ReasonLocal:
		s.pause(p.now, pauseLocal, p.draw())
	case ReasonTimeout, ReasonGone:
		if s.origin {
			f.d.tries[f.chunk]++
		}
		if reason == ReasonTimeout {
			p.vain++
		}
		p.doubt(s)
		s.pause(p.now, max(pauseFailed, p.took), p.draw())
	}
}

// doubt counts on a source no more until it gives something.
func (p *Peer) doubt(s *source) {
	s.doubt()
	p.count(s)
	for _, f := range s.fetches {
		p.rewant(f.d, f.chunk)
	}
}

// doubtAt is when a peer is no longer counted on if nothing comes from it: one that has
// never given anything soon, others when what is asked takes twice as long as is likely.
func (p *Peer) doubtAt(s *source) time.Duration {
	if s.origin || s.doubted || len(s.fetches) == 0 {
		return never
	}
	if s.samples == 0 {
		return s.fetches[0].at + max(firstDoubt, doubtTooks*p.took)
	}
	at := never
	for _, f := range s.fetches {
		likely := (s.pace + s.paceDev) * float64(f.ahead)
		at = min(at, f.at+max(minDoubt, doubtGain*time.Duration(likely*float64(time.Second))))
	}
	return at
}

// postpone lets a chunk rest when every cache was asked for it in vain.
func (p *Peer) postpone(f *fetch) {
	d, c, all := f.d, f.chunk, max(len(p.origins), 1)
	d.tries[c]++
	if n := d.tries[c]; n%all == 0 {
		wait := min(deferFirst<<min(n/all-1, 10), maxDefer)
		d.mine.clear(c)
		d.deferred = append(d.deferred, deferral{c, p.now + wait})
	}
}

// expire ends what has lasted too long.
func (p *Peer) expire() {
	for _, s := range p.sources {
		if p.now >= p.doubtAt(s) {
			p.doubt(s) // it may still deliver, but is no reason to leave the caches alone
		}
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
				d.spent = false
			}
			return p.now >= x.until
		})
	}
}
