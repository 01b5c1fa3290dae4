package sim

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling/swarm"
)

// machine runs one brain.
type machine struct {
	w     *world
	index int32
	cell  int32
	life  uint32 // counts boots: what was under way before is void
	fault fault
	known bool // gossip knows it to live
	name  string
	peer  *swarm.Peer // nil: not begun, or dead

	held      []swarm.Bitmap // by job
	links     []int32
	open      []int32         // fetches without an answer
	done      []time.Duration // by job; 0: not yet
	whenFirst []float64       // see JobResult
	startsAt  time.Duration   // the jobs, at the earliest
	changedAt time.Duration   // its death or return

	fromPeers, fromCaches, steps int64
	accusers                     int
	accusedAt                    time.Duration
}

func (m *machine) boot() {
	w := m.w
	if w.ports[m.index].dead {
		return
	}
	m.life++
	m.peer = swarm.New(swarm.Config{Self: m.name, Seed: w.cfg.Seed})
	m.step(swarm.Origins{Names: w.origins})
	for j := range w.jobs {
		if at := max(w.jobs[j].at, m.startsAt); at > w.clock.now {
			m.later(at-w.clock.now, event{kind: jobDue, b: int32(j)})
		} else {
			m.begin(j)
		}
	}
}

// begin tells the brain of a job.
func (m *machine) begin(j int) {
	w := m.w
	have := slices.Clone(m.held[j])
	if m.fault.pretends() {
		for i := range w.jobs[j].chunks {
			have.Set(i)
		}
	}
	m.step(swarm.Begin{Artifact: w.jobs[j].artifact, Chunks: w.jobs[j].chunks, Have: have, Priority: w.jobs[j].priority})
	m.step(swarm.Members{Artifact: w.jobs[j].artifact, Members: w.cells[m.cell].members})
}

// step runs the brain and carries out what it wants. No effect leads to another step
// of the same machine at once, so that the result lives as long as it is used.
func (m *machine) step(ev swarm.Event) {
	if m.peer == nil {
		return
	}
	m.steps++
	effects := m.peer.Step(m.w.clock.now, ev)
	m.w.note(m, ev, effects)
	for i := range effects {
		m.do(effects[i])
	}
}

// later enters an event that is void if the machine dies first.
func (m *machine) later(d time.Duration, e event) {
	e.a, e.life = m.index, m.life
	m.w.clock.after(d, e)
}

func (m *machine) happen(e event) {
	switch e.kind {
	case tick:
		m.step(swarm.Tick{})
	case jobDue:
		m.begin(int(e.b))
	case handshake:
		m.shake(&m.w.machines[e.b])
	case dialFail, linkGone:
		if !slices.Contains(m.links, e.b) {
			m.step(swarm.PeerDown{Peer: m.w.machines[e.b].name})
		}
	}
}

func (m *machine) do(e swarm.Effect) {
	w := m.w
	switch e := e.(type) {
	case swarm.Connect:
		o := w.named(e.Peer)
		m.later(3*w.latency(m.index, o), event{kind: handshake, b: o})
	case swarm.Disconnect:
		m.unlink(w.named(e.Peer), 0)
	case swarm.Fetch:
		m.fetch(&e)
	case swarm.CancelFetch:
		if i := m.find(&e.Request); i >= 0 {
			f := &w.fetches[i]
			f.cancelled = true
			w.clock.after(w.latency(m.index, f.from), event{kind: cancel, a: i, life: f.gen})
		}
	case swarm.Announce:
		m.announce(e)
	case swarm.Done:
		m.complete(w.jobOf(e.Artifact))
	case swarm.Distrust:
		if !e.Origin {
			o := &w.machines[w.named(e.Peer)]
			if o.accusers++; o.accusers == 1 {
				o.accusedAt = w.clock.now
			}
			m.unlink(o.index, 0)
		}
	case swarm.WakeAt:
		m.later(e.At-w.clock.now, event{kind: tick})
	}
}

// complete notes that an artifact is whole.
func (m *machine) complete(j int) {
	if m.done[j] > 0 || m.fault.pretends() {
		return
	}
	m.done[j] = max(m.w.clock.now, 1)
	if m.whenFirst == nil {
		for k := range m.held {
			m.whenFirst = append(m.whenFirst, float64(m.held[k].Count())/float64(len(m.w.jobs[k].chunks)))
		}
	}
	if m.finished() && m.fault.finishes() {
		m.w.left--
	}
}

func (m *machine) finished() bool { return !slices.Contains(m.done, 0) }

// shake ends a handshake that m began.
func (m *machine) shake(o *machine) {
	switch {
	case slices.Contains(m.links, o.index): // they were first
	case m.w.ports[o.index].dead || o.peer == nil:
		m.later(m.w.cfg.DetectAfter, event{kind: dialFail, b: o.index})
	default:
		m.links = append(m.links, o.index)
		o.links = append(o.links, m.index)
		o.step(swarm.PeerUp{Peer: m.name})
		if slices.Contains(m.links, o.index) { // not refused
			m.step(swarm.PeerUp{Peer: o.name})
		} else {
			m.step(swarm.PeerDown{Peer: o.name})
		}
	}
}

// unlink ends the link between two machines; the other side learns of it after a
// while, at least the way there.
func (m *machine) unlink(other int32, after time.Duration) {
	i := slices.Index(m.links, other)
	if i < 0 {
		return
	}
	o := &m.w.machines[other]
	m.links = slices.Delete(m.links, i, i+1)
	k := slices.Index(o.links, m.index)
	o.links = slices.Delete(o.links, k, k+1)
	o.later(max(after, m.w.latency(m.index, other)), event{kind: linkGone, b: m.index})
}

func (m *machine) announce(e swarm.Announce) {
	w := m.w
	o := w.named(e.To)
	if m.fault == mute || !slices.Contains(m.links, o) {
		return
	}
	var i int32
	if n := len(w.unread); n > 0 {
		i = w.unread[n-1]
		w.unread = w.unread[:n-1]
	} else {
		i = int32(len(w.news))
		w.news = append(w.news, announcement{})
	}
	w.news[i] = announcement{from: m.index, to: o, say: e}
	w.clock.after(w.latency(m.index, o), event{kind: heard, a: i, life: w.machines[o].life})
}

func (m *machine) fetch(e *swarm.Fetch) {
	w, r := m.w, &e.Request
	i := w.newFetch()
	f := &w.fetches[i]
	f.m, f.from, f.job, f.chunk = m.index, w.port(r), int32(w.jobOf(r.Artifact)), int32(r.Chunk)
	f.peer, f.wait, f.at = !r.Origin, e.Wait, w.clock.now
	f.size = int64(w.jobs[f.job].chunks[f.chunk].Size)
	m.open = append(m.open, i)
	w.clock.after(w.latency(m.index, f.from), event{kind: asked, a: i, life: f.gen})
}

// find takes the fetch of a request out of the open ones and returns it, or -1.
func (m *machine) find(r *swarm.Request) int32 {
	from := m.w.port(r)
	for k, i := range m.open {
		f := &m.w.fetches[i]
		if f.from == from && f.chunk == int32(r.Chunk) && m.w.jobs[f.job].artifact == r.Artifact {
			m.open = slices.Delete(m.open, k, k+1)
			return i
		}
	}
	return -1
}

// fetchMoves takes a fetch on its way.
func (w *world) fetchMoves(e event) {
	f := &w.fetches[e.a]
	switch {
	case e.kind == asked:
		w.request(e.a)
	case e.kind == cancel, f.cancelled:
		w.remove(e.a)
		if !f.lost {
			w.wasted += f.sent
		}
		from := f.from
		w.release(e.a)
		w.pump(from)
	case e.kind == arrival:
		w.arrive(e.a)
	default:
		m, r := &w.machines[f.m], w.requestOf(f)
		m.drop(e.a)
		w.release(e.a)
		reason := map[kind]swarm.Reason{failMissing: swarm.ReasonMissing, failBusy: swarm.ReasonBusy, failGone: swarm.ReasonGone}[e.kind]
		m.step(swarm.Failed{Request: r, Reason: reason})
	}
}

func (m *machine) drop(i int32) {
	if k := slices.Index(m.open, i); k >= 0 {
		m.open = slices.Delete(m.open, k, k+1)
	}
}

func (w *world) requestOf(f *fetch) swarm.Request {
	r := swarm.Request{Artifact: w.jobs[f.job].artifact, Chunk: int(f.chunk), Origin: !f.peer}
	if f.peer {
		r.From = w.machines[f.from].name
	} else {
		r.From = w.origins[int(f.from)-len(w.machines)]
	}
	return r
}

// request is a request's arrival at its source.
func (w *world) request(i int32) {
	f := &w.fetches[i]
	if f.cancelled {
		return // the cancellation follows
	}
	p := &w.ports[f.from]
	answer := func(k kind, after time.Duration) { w.clock.after(after, event{kind: k, a: i, life: f.gen}) }
	var o *machine
	if f.peer {
		o = &w.machines[f.from]
	}
	back := w.latency(f.from, f.m)
	switch {
	case p.dead || o != nil && o.peer == nil:
		answer(failGone, w.cfg.DetectAfter)
	case o == nil:
		w.askCache(i)
	case o.fault == stalls:
	case o.fault != corrupts && !o.held[f.job].Has(int(f.chunk)):
		answer(failMissing, back)
	case len(p.queue) >= w.cfg.UploadQueue:
		answer(failBusy, back)
	default:
		f.corrupt = o.fault == corrupts
		f.lost = o.fault == muffled && w.draw(8, uint64(f.from), uint64(f.m))%2 == 0
		w.enqueue(i)
	}
}

// arrive is the receipt of a whole chunk.
func (w *world) arrive(i int32) {
	f := w.fetches[i]
	if int(f.m) >= w.cfg.Machines {
		w.release(i)
		w.pulled(&f)
		return
	}
	m, r := &w.machines[f.m], w.requestOf(&f)
	m.drop(i)
	w.release(i)
	held := m.held[f.job]
	switch {
	case f.corrupt:
		w.wasted += f.size
		m.step(swarm.Failed{Request: r, Reason: swarm.ReasonCorrupt})
		return
	case held.Has(r.Chunk):
		w.wasted += f.size
	case r.Origin:
		m.fromCaches += f.size
	default:
		m.fromPeers += f.size
	}
	held.Set(r.Chunk)
	w.progress()
	m.step(swarm.Got{Request: r, Took: w.clock.now - f.at})
}

// die takes the machine off the network at once; the others find out by and by.
func (m *machine) die() {
	w := m.w
	if w.ports[m.index].dead {
		return
	}
	m.peer = nil
	m.life++
	for _, i := range m.open { // what is being sent here is not acknowledged, until that is noticed
		f := &w.fetches[i]
		f.cancelled, f.lost = true, true
		w.clock.after(w.cfg.DetectAfter, event{kind: cancel, a: i, life: f.gen})
	}
	m.open = nil
	w.crash(m.index)
	if m.fault.finishes() && !m.finished() {
		w.left--
	}
	for _, o := range slices.Clone(m.links) {
		w.machines[m.index].unlink(o, w.cfg.DetectAfter)
	}
	w.ports[m.index].downFree = 0
	w.changed(m)
}

// rise starts the machine (again) with what its disk holds.
func (m *machine) rise() {
	p := &m.w.ports[m.index]
	if !p.dead {
		return
	}
	p.dead = false
	if m.fault.finishes() && !m.finished() {
		m.w.left++
	}
	m.boot()
	m.w.changed(m)
}
