package swarm

import (
	"slices"
	"time"
)

// flush sends the news that have waited long enough.
func (p *Peer) flush() {
	if p.flushAt == 0 || p.now < p.flushAt {
		return
	}
	p.flushAt, p.flushedAt = 0, p.now
	for _, s := range p.sources {
		if !s.up {
			continue
		}
		for _, v := range s.views {
			switch {
			case len(v.news) == 0:
			case len(v.news) > maxAnnounceChunks:
				p.hello(s, v.d, false)
			default:
				p.emit(Announce{To: s.name, Artifact: v.d.artifact, Chunks: slices.Clone(v.news)})
				v.news = v.news[:0]
			}
		}
	}
}

// sleep asks for the next Tick, if it is needed before the pending one.
func (p *Peer) sleep() {
	next := time.Duration(0)
	at := func(t time.Duration) {
		if t > p.now && (next == 0 || t < next) {
			next = t
		}
	}
	at(p.flushAt)
	busy := false
	for _, d := range p.downloads {
		if d.seed || d.left == 0 {
			continue
		}
		busy = true
		at(d.phaseAt)
		for _, x := range d.deferred {
			at(x.until)
		}
	}
	for _, s := range p.sources {
		for _, f := range s.fetches {
			at(f.deadline)
		}
		if s.dialing || s.wanted && !s.up {
			at(s.dialAt)
		}
		if s.wanted || s.up || s.origin {
			if busy {
				at(s.pausedTo)
			}
		}
	}
	if p.inFlightBytes > 0 && slices.ContainsFunc(p.downloads, (*download).endgame) {
		at(p.hedgeAt)
	}
	if next > 0 && (p.wake == 0 || next < p.wake) {
		p.wake = next
		p.emit(WakeAt{At: next})
	}
}
