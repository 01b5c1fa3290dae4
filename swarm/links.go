package swarm

import (
	"slices"
	"time"
)

// overlay computes anew whom to be linked to.
func (p *Peer) overlay() {
	for _, s := range p.sources {
		s.wanted = false
	}
	avoid := func(name string) bool {
		s := p.peers[name]
		return s != nil && (s.distrusted || !s.up && p.now < s.avoidTill)
	}
	for _, d := range p.downloads {
		self := Member{Name: p.cfg.Self}
		for i := range d.members {
			if d.members[i].Name == p.cfg.Self {
				self = d.members[i]
				break
			}
		}
		for _, name := range neighbours(self, d.members, avoid) {
			s := p.source(name, false)
			s.wanted = true
			if !s.up && !s.dialing && s.dialFails == 0 && s.dialAt == 0 {
				s.dialAt = p.now
				if name < p.cfg.Self {
					s.dialAt += dialPatience
				}
			}
		}
	}
	up := p.Links()
	for _, s := range p.sources {
		if s.up && s.dialled && !s.wanted && up > crowdedLinks {
			p.emit(Disconnect{Peer: s.name})
			p.peerDown(s)
			up--
		}
	}
	p.forgetSources()
}

// forgetSources bounds the records of machines that are gone for good.
func (p *Peer) forgetSources() {
	idle := 0
	for _, s := range p.sources {
		if s.idle() {
			idle++
		}
	}
	if idle <= maxIdlePeers {
		return
	}
	p.sources = slices.DeleteFunc(p.sources, func(s *source) bool {
		if idle <= maxIdlePeers || !s.idle() {
			return false
		}
		idle--
		delete(p.peers, s.name)
		return true
	})
}

// idle reports whether nothing would be lost by forgetting a peer.
func (s *source) idle() bool {
	return !s.origin && !s.up && !s.wanted && !s.dialing && !s.distrusted
}

// dial asks for the links that are wanted and due.
func (p *Peer) dial() {
	for _, s := range p.sources {
		if s.dialing && p.now >= s.dialAt {
			p.dialFailed(s)
		}
		if s.wanted && !s.up && !s.dialing && !s.distrusted && p.now >= s.dialAt {
			s.dialing, s.dialAt = true, p.now+dialTimeout
			p.emit(Connect{Peer: s.name})
		}
	}
}

func (p *Peer) dialFailed(s *source) {
	s.dialing = false
	wait := min(dialEvery<<min(s.dialFails, 10), maxDialWait)
	s.dialAt = p.now + wait + time.Duration(p.draw()%uint64(wait/2))
	s.dialFails++
	if s.dialFails%avoidAfter == 0 {
		s.avoidTill = p.now + avoidFor
		p.rewire = true
	}
}

func (p *Peer) peerUp(name string) {
	if name == p.cfg.Self {
		return
	}
	s := p.peers[name]
	if s != nil && s.up {
		p.peerDown(s) // a new link in place of the old one
	}
	if s != nil && s.distrusted || (s == nil || !s.wanted) && p.Links() >= MaxLinks {
		p.emit(Disconnect{Peer: name})
		return
	}
	s = p.source(name, false)
	s.up, s.dialled, s.dialing = true, s.dialing, false
	s.dialFails, s.avoidTill = 0, 0
	for _, d := range p.downloads {
		p.hello(s, d, true)
	}
}

// peerDown forgets what hung on a link, or counts a failed dial.
func (p *Peer) peerDown(s *source) {
	if !s.up {
		if s.dialing {
			p.dialFailed(s)
		}
		return
	}
	s.up = false
	s.dialAt = p.now + time.Duration(p.draw()%uint64(dialEvery))
	for _, f := range slices.Clone(s.fetches) {
		p.giveUp(s, f)
	}
	for _, v := range s.views {
		v.has.each(func(c int) { p.unlearn(v, c) })
	}
	s.views, s.doubted = nil, false
	p.count(s)
}

// distrust ends all dealings with a peer for this Peer's life, and with a cache for a while.
func (p *Peer) distrust(s *source, reason string) {
	p.emit(Distrust{Peer: s.name, Reason: reason, Origin: s.origin})
	if s.origin {
		return
	}
	s.distrusted = true
	p.peerDown(s)
	p.rewire = true
	p.reviewSoon()
}
