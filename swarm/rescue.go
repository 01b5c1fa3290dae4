package swarm

import (
	"slices"
	"time"
)

// fallBack opens more and more of the chunks that no peer holds to this machine's
// own requests to the caches, each time that too little new was seen for long enough.
func (p *Peer) fallBack() {
	for _, d := range p.downloads {
		if d.seed || d.left == 0 || len(p.origins) == 0 {
			continue
		}
		if p.now < d.newsAt+p.quiet(d) {
			continue
		}
		flowing := d.flowing(p.now)
		switch {
		case d.counts[0] == 0:
			d.phase = 0
			d.resetMine()
		case d.filling(p.now), p.plenty(d):
		case !flowing && p.cachesIdle() && d.pickMine(0, 0) < 0 && d.phase < maxPhase:
			d.open(p.cfg.Self, p.Links() == 0)
			d.phase++
		}
	}
}

// plenty reports whether peers hold so much of what is wanted that this machine's link is
// busy for longer than a chunk needs to come through the swarm. What nobody near holds may
// be on its way then, and is not missed: where caches are faster than machines, all of the
// artifact has left them long before most of it has come near.
func (p *Peer) plenty(d *download) bool {
	near := int64(d.wants-d.counts[0]) * d.mean
	return near > p.window(d) && float64(near) > plentyHops*float64(d.hops())*p.took.Seconds()*p.rate
}

// quiet is how long news are watched for before the fall-back may open further:
// longer than they take to come through the swarm, and than a cache takes to answer.
func (p *Peer) quiet(d *download) time.Duration {
	if p.took == 0 {
		return firstGuess
	}
	return max(minQuiet, quietGaps*d.gap, time.Duration(1+d.hops())*p.base)
}

// cachesIdle reports whether there is a cache to ask and none is being asked.
func (p *Peer) cachesIdle() bool {
	any := false
	for _, s := range p.origins {
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
	if p.now < p.hedgeAt || p.took == 0 || p.inFlightBytes == p.parkedBytes {
		return
	}
	if !slices.ContainsFunc(p.downloads, (*download).endgame) {
		return
	}
	p.hedgeAt = p.now + max(p.took/4, time.Millisecond)
	for _, s := range p.sources {
		for _, f := range s.fetches {
			if f.d.endgame() && f.wait == 0 {
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
		if o.origin || !o.usable(p.now) || !o.room(f.d, f.size) {
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
