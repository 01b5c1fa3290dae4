package swarm

import (
	"math/bits"
	"slices"
)

// take counts a chunk as held. from is the source whose fetch of it ended.
func (p *Peer) take(d *download, c int, from *source) {
	if d.held.has(c) {
		return
	}
	d.unwant(c)
	d.held.set(c)
	d.left--
	d.seen.set(c)
	delete(d.tries, c)
	if !d.askedAgain.has(c) && (from != nil || !d.asked.has(c)) {
		return
	}
	for _, s := range p.sources {
		if f := s.find(d, c); f != nil && s != from {
			p.cancel(s, f)
		}
	}
}

// drop is take undone.
func (p *Peer) drop(d *download, c int) {
	if d.held.has(c) {
		d.held.clear(c)
		d.left++
		d.done = false
		p.rewant(d, c)
	}
}

// hold takes a chunk and tells those who lack it.
func (p *Peer) hold(d *download, c int, from *source) {
	if d.held.has(c) {
		return
	}
	p.take(d, c, from)
	d.fresh = append(d.fresh, uint32(c))
	p.flushSoon()
	p.finished(d)
}

func (p *Peer) finished(d *download) {
	if d.left == 0 && !d.done {
		d.done = true
		p.emit(Done{Artifact: d.artifact})
	}
}

func (p *Peer) lost(ev Lost) {
	d := p.download(ev.Artifact)
	if d == nil {
		return
	}
	for _, c := range ev.Chunks {
		if int(c) < d.n {
			p.drop(d, int(c))
		}
	}
	for _, s := range p.sources {
		if s.up && s.view(d) != nil {
			p.hello(s, d, false)
		}
	}
}

// hello sends all that is held of d; ask wants an answer.
func (p *Peer) hello(s *source, d *download, ask bool) {
	if v := s.view(d); v != nil {
		v.owed = false
	}
	p.emit(Announce{To: s.name, Artifact: d.artifact, Hello: ask, All: d.held.bitmap(d.n)})
}

// peerHas takes in an announcement. Its sender may be hostile.
func (p *Peer) peerHas(ev PeerHas) {
	s, d := p.peers[ev.Peer], p.download(ev.Artifact)
	if s == nil || !s.up || d == nil {
		return
	}
	if ev.All != nil && !ev.All.Valid(d.n) {
		p.distrust(s, "announced a bitmap of the wrong form")
		return
	}
	for _, c := range ev.Chunks {
		if int(c) >= d.n {
			p.distrust(s, "announced a chunk that does not exist")
			return
		}
	}
	v := s.view(d)
	p.refill = v == nil
	if v == nil {
		v = &view{s: s, d: d, has: newBitset(d.n)}
		s.views = append(s.views, v)
	}
	if ev.All != nil {
		p.replace(v, ev.All)
	}
	for _, c := range ev.Chunks {
		p.learn(v, int(c))
	}
	if ev.Hello {
		v.owed = true // answered with the news, so that no peer can ask for more than its turn
		p.flushSoon()
	}
}

func (p *Peer) replace(v *view, all Bitmap) {
	for w := range v.has {
		var word uint64
		for i := range 8 {
			if at := w*8 + i; at < len(all) {
				word |= uint64(all[at]) << (8 * i)
			}
		}
		for x := word &^ v.has[w]; x != 0; x &= x - 1 {
			p.learn(v, w<<6+bits.TrailingZeros64(x))
		}
		for x := v.has[w] &^ word; x != 0; x &= x - 1 {
			p.unlearn(v, w<<6+bits.TrailingZeros64(x))
		}
	}
}

func (p *Peer) learn(v *view, c int) {
	if !v.has.has(c) {
		v.has.set(c)
		if !v.s.doubted {
			v.d.more(c)
			v.d.novelty(p.now, c)
		}
		if v.d.wanted(c) {
			v.dry, v.d.stuck, p.refill = false, false, true
		}
	}
}

// unlearn notes that a source does not hold c.
func (p *Peer) unlearn(v *view, c int) {
	if v.has.has(c) {
		v.has.clear(c)
		if !v.s.doubted {
			v.d.fewer(c)
			v.d.vanish(c)
		}
	}
}

// flushSoon has the news sent as soon as may be.
func (p *Peer) flushSoon() {
	if p.flushAt == 0 {
		p.flushAt = max(p.now, p.flushedAt+announceEvery)
	}
}

// flush sends the news that have waited long enough.
func (p *Peer) flush() {
	if p.flushAt == 0 || p.now < p.flushAt {
		return
	}
	p.flushAt, p.flushedAt = 0, p.now
	for _, d := range p.downloads {
		all := slices.Clone(d.fresh) // shared by those who lack all of it
		for _, s := range p.sources {
			if !s.up {
				continue
			}
			switch v := s.view(d); {
			case v == nil && s.wanted: // it has not said what it holds, but may hear
				p.tell(s, d, nil, all)
			case v == nil:
			case v.owed || len(d.fresh) > maxNewsChunks:
				p.hello(s, d, false)
			default:
				p.tell(s, d, v.has, all)
			}
		}
		d.fresh = d.fresh[:0]
	}
}

// tell announces to a peer the chunks of all that it lacks, as far as is known.
func (p *Peer) tell(s *source, d *download, has bitset, all []uint32) {
	lacks := func(c uint32) bool { return d.held.has(int(c)) && (has == nil || !has.has(int(c))) }
	n := 0
	for _, c := range all {
		if lacks(c) {
			n++
		}
	}
	if n == 0 {
		return
	}
	news := all
	if n < len(all) {
		news = make([]uint32, 0, n)
		for _, c := range all {
			if lacks(c) {
				news = append(news, c)
			}
		}
	}
	p.emit(Announce{To: s.name, Artifact: d.artifact, Chunks: news})
}
