package sim

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling/swarm"
)

// machine runs one brain.
type machine struct {
	port
	w     *world
	index int
	name  string
	peer  *swarm.Peer // nil: not begun, or dead
	life  int         // counts boots: what was under way before is void

	corrupts, claims, stalls bool

	held    swarm.Bitmap
	links   []*machine
	fetches map[swarm.Request]*pending
	done    time.Duration // 0: not yet

	fromPeers, fromCaches, steps int64
}

// pending is a Fetch without an answer.
type pending struct {
	at time.Duration
	t  *transfer // nil: the request is on its way, or waits for ever
}

func (m *machine) honest() bool { return !m.corrupts && !m.claims && !m.stalls }

func (m *machine) boot() {
	if m.dead {
		return
	}
	m.life++
	m.fetches = make(map[swarm.Request]*pending)
	m.peer = swarm.New(swarm.Config{Self: m.name, Seed: m.w.cfg.Seed})
	m.step(swarm.Origins{Names: m.w.originNames()})
	m.step(swarm.Begin{Artifact: m.w.artifact, Chunks: m.w.chunks, Have: slices.Clone(m.held)})
	m.step(swarm.Members{Artifact: m.w.artifact, Members: m.w.members})
}

func (m *machine) step(ev swarm.Event) {
	if m.peer == nil {
		return
	}
	w := m.w
	m.steps++
	effects := m.peer.Step(w.clock.now, ev)
	w.note(m, ev, effects)
	if len(effects) == 0 {
		return
	}
	// Step may run again before all are carried out: its result lives only so long.
	for _, e := range slices.Clone(effects) {
		m.do(e)
	}
}

// later runs f after d unless the machine has died since.
func (m *machine) later(d time.Duration, f func()) {
	life := m.life
	m.w.clock.after(d, func() {
		if m.life == life && m.peer != nil {
			f()
		}
	})
}

func (m *machine) do(e swarm.Effect) {
	switch e := e.(type) {
	case swarm.Connect:
		m.connect(m.w.byName[e.Peer])
	case swarm.Disconnect:
		m.unlink(m.w.byName[e.Peer], m.w.latency(&m.port, &m.w.byName[e.Peer].port))
	case swarm.Fetch:
		m.fetch(e.Request)
	case swarm.CancelFetch:
		if p := m.fetches[e.Request]; p != nil {
			delete(m.fetches, e.Request)
			if p.t != nil {
				m.w.wasted += p.t.sent
				m.later(m.w.latency(&m.port, p.t.from), p.t.cancel)
			}
		}
	case swarm.Announce:
		m.announce(e)
	case swarm.Done:
		if m.done == 0 && m.honest() {
			m.done = max(m.w.clock.now, 1)
			m.w.left--
		}
	case swarm.Distrust:
		if !e.Origin {
			o := m.w.byName[e.Peer]
			m.unlink(o, m.w.latency(&m.port, &o.port))
		}
	case swarm.WakeAt:
		m.later(e.At-m.w.clock.now, func() { m.step(swarm.Tick{}) })
	}
}

func (m *machine) connect(o *machine) {
	lat := m.w.latency(&m.port, &o.port)
	m.later(3*lat, func() { // a handshake
		switch {
		case slices.Contains(m.links, o): // they were first
		case o.dead || o.peer == nil:
			m.later(m.w.cfg.DetectAfter, func() {
				if !slices.Contains(m.links, o) {
					m.step(swarm.PeerDown{Peer: o.name})
				}
			})
		default:
			m.links = append(m.links, o)
			o.links = append(o.links, m)
			o.step(swarm.PeerUp{Peer: m.name})
			if slices.Contains(m.links, o) { // not refused
				m.step(swarm.PeerUp{Peer: o.name})
			} else {
				m.step(swarm.PeerDown{Peer: o.name})
			}
		}
	})
}

// unlink ends the link between two machines; the other side learns of it after a while.
func (m *machine) unlink(o *machine, after time.Duration) {
	i := slices.Index(m.links, o)
	if i < 0 {
		return
	}
	m.links = slices.Delete(m.links, i, i+1)
	o.links = slices.Delete(o.links, slices.Index(o.links, m), slices.Index(o.links, m)+1)
	o.later(after, func() {
		if !slices.Contains(o.links, m) {
			o.step(swarm.PeerDown{Peer: m.name})
		}
	})
}

func (m *machine) announce(e swarm.Announce) {
	o := m.w.byName[e.To]
	if !slices.Contains(m.links, o) {
		return
	}
	all := e.All
	if !m.honest() && all != nil {
		all = swarm.NewBitmap(len(m.w.chunks))
		for i := range m.w.chunks {
			all.Set(i)
		}
	}
	o.later(m.w.latency(&m.port, &o.port), func() {
		if slices.Contains(o.links, m) {
			o.step(swarm.PeerHas{Peer: m.name, Artifact: e.Artifact, Hello: e.Hello, All: all, Chunks: e.Chunks})
		}
	})
}

func (m *machine) fetch(r swarm.Request) {
	p := &pending{at: m.w.clock.now}
	m.fetches[r] = p
	if !m.honest() {
		return // liars are in it for the lying: they hold nothing and take nothing
	}
	var from *port
	var o *machine
	if r.Origin {
		from = &m.w.cacheNamed(r.From).port
	} else {
		o = m.w.byName[r.From]
		from = &o.port
	}
	m.later(m.w.latency(&m.port, from), func() { m.asked(r, p, from, o) })
}

// asked is a request's arrival at its source; o is nil for a cache.
func (m *machine) asked(r swarm.Request, p *pending, from *port, o *machine) {
	if m.fetches[r] != p {
		return // cancelled on the way
	}
	lat := m.w.latency(&m.port, from)
	switch {
	case from.dead || o != nil && o.peer == nil:
		m.fail(r, p, m.w.cfg.DetectAfter, swarm.ReasonGone)
	case o != nil && o.stalls:
	case o != nil && !o.corrupts && !o.held.Has(r.Chunk):
		m.fail(r, p, lat, swarm.ReasonMissing)
	case o != nil && from.waiting() >= m.w.cfg.UploadQueue:
		m.fail(r, p, lat, swarm.ReasonBusy)
	default:
		corrupt := o != nil && o.corrupts
		p.t = from.send(&m.port, int64(m.w.chunks[r.Chunk].Size),
			func() { m.arrived(r, p, corrupt) },
			func() { m.fail(r, p, 0, swarm.ReasonGone) })
	}
}

func (m *machine) fail(r swarm.Request, p *pending, after time.Duration, why swarm.Reason) {
	m.later(after, func() {
		if m.fetches[r] == p {
			delete(m.fetches, r)
			m.step(swarm.Failed{Request: r, Reason: why})
		}
	})
}

// arrived is the receipt of a whole chunk.
func (m *machine) arrived(r swarm.Request, p *pending, corrupt bool) {
	if m.peer == nil || m.fetches[r] != p {
		return
	}
	delete(m.fetches, r)
	size := int64(m.w.chunks[r.Chunk].Size)
	if corrupt {
		m.w.wasted += size
		m.step(swarm.Failed{Request: r, Reason: swarm.ReasonCorrupt})
		return
	}
	if m.held.Has(r.Chunk) {
		m.w.wasted += size
	} else if r.Origin {
		m.fromCaches += size
	} else {
		m.fromPeers += size
	}
	m.held.Set(r.Chunk)
	m.step(swarm.Got{Request: r, Took: m.w.clock.now - p.at})
}

// die takes the machine off the network at once; the others find out by and by.
func (m *machine) die() {
	if m.dead {
		return
	}
	m.peer = nil
	m.life++
	for _, p := range m.fetches {
		if p.t != nil {
			p.t.cancelled = true
			p.t.from.remove(p.t)
		}
	}
	m.fetches = nil
	m.crash()
	if m.honest() && m.done == 0 {
		m.w.left--
	}
	for _, o := range slices.Clone(m.links) {
		m.unlink(o, m.w.cfg.DetectAfter)
	}
	m.w.gossip()
}

// rise starts the machine again with what its disk holds.
func (m *machine) rise() {
	if !m.dead {
		return
	}
	m.dead = false
	if m.honest() && m.done == 0 {
		m.w.left++
	}
	m.boot()
	m.w.gossip()
}
