package swarm

import (
	"slices"
	"time"
)

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
		if len(p.origins) > 0 {
			at(d.newsAt + p.quiet(d))
		}
		at(d.readyAt)
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
