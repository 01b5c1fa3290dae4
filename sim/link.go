package sim

import (
	"math"
	"slices"
	"time"

	"github.com/starlingdeploy/starling/swarm"
)

// port is a machine's or a cache's attachment to the network.
type port struct {
	up, down int64 // bytes a second
	zone     int32
	rack     int32 // of all racks of the world; negative: a cache's own
	region   int32 // 0: this one
	slots    int
	dead     bool
	frozen   bool // sends nothing, though it seems alive
	sending  bool

	active   []int32 // fetches that are sent in turn, a quantum each
	queue    []int32 // fetches that wait for a slot
	turn     int
	now      int32         // the fetch whose quantum is being sent
	nowGen   uint32        // its generation
	nowBytes int64         // and the quantum's size
	crashes  uint32        // what was under way before the last one is void
	wakeAt   time.Duration // a retry is due then, because all windows are full; 0: none
	slotAt   time.Duration // a slot may be free then
	pace     swarm.SendPace
	downFree time.Duration // when the downlink will have taken in all that was sent
	sent     int64
}

// trunk is a link that many share, one of its two directions.
type trunk struct {
	rate int64         // 0: not a bottleneck
	free time.Duration // when it will have passed on all that was sent
}

// pass returns when n bytes that come in at a time are through.
func (t *trunk) pass(at time.Duration, n int64) time.Duration {
	if t.rate == 0 {
		return at
	}
	t.free = max(at, t.free+span(n, t.rate))
	return t.free
}

// fetch is one chunk asked of one source, from the request to its end. Records are
// used again; gen tells their lives apart.
type fetch struct {
	gen        uint32
	m          int32 // who asks
	from       int32 // the port that is asked
	job, chunk int32
	peer       bool          // from is a machine's
	corrupt    bool          // the bytes will be wrong
	lost       bool          // the bytes get nowhere, and nothing is acknowledged
	kept       bool          // by a cache, until it has the chunk
	cancelled  bool          // nobody waits for it any more
	wait       time.Duration // that a cache may keep the request
	at         time.Duration
	activeAt   time.Duration // when it got a slot
	size       int64
	sent       int64
	unacked    int64
	window     int64
	acks       []ack // quanta under way, in order
}

type ack struct {
	at time.Duration
	n  int64
}

func span(n, rate int64) time.Duration {
	return time.Duration(float64(n) / float64(rate) * float64(time.Second))
}

func (w *world) latency(a, b int32) time.Duration {
	p, q := &w.ports[a], &w.ports[b]
	switch {
	case p.region != q.region:
		return w.site.away[max(p.region, q.region)-1].latency
	case p.zone != q.zone:
		return w.cfg.CellLatency
	case p.rack != q.rack:
		return w.cfg.ZoneLatency
	}
	return w.cfg.RackLatency
}

// newFetch returns an empty record's number.
func (w *world) newFetch() int32 {
	if n := len(w.unused); n > 0 {
		i := w.unused[n-1]
		w.unused = w.unused[:n-1]
		return i
	}
	w.fetches = append(w.fetches, fetch{})
	return int32(len(w.fetches) - 1)
}

// release ends a fetch: what still refers to it is void.
func (w *world) release(i int32) {
	f := &w.fetches[i]
	*f = fetch{gen: f.gen + 1, acks: f.acks[:0]}
	w.unused = append(w.unused, i)
}

// enqueue has a port send a fetch's chunk.
func (w *world) enqueue(i int32) {
	f := &w.fetches[i]
	p := &w.ports[f.from]
	rtt := 2 * w.latency(f.from, f.m)
	rate := p.up
	if r := w.ports[f.m].region; r != p.region && w.site.wanRate > 0 { // a fair part of the link
		rate = w.site.wanRate / int64(w.cfg.Caches*w.site.pulling)
	}
	f.window = 2*int64(w.cfg.QuantumBytes) + int64(1.5*rtt.Seconds()*float64(rate))
	at := len(p.queue)
	if w.cfg.UrgentFirst {
		for at > 0 && w.jobs[w.fetches[p.queue[at-1]].job].priority < w.jobs[f.job].priority {
			at--
		}
	}
	p.queue = slices.Insert(p.queue, at, i)
	w.pump(f.from)
}

// crash ends all that a port is sending; the receivers find out by and by.
func (w *world) crash(at int32) {
	p := &w.ports[at]
	p.dead, p.sending = true, false
	p.crashes++
	for _, list := range [][]int32{p.active, p.queue} {
		for _, i := range list {
			if w.fetches[i].cancelled {
				w.release(i)
			} else {
				w.clock.after(w.cfg.DetectAfter, event{kind: failGone, a: i, life: w.fetches[i].gen})
			}
		}
	}
	p.active, p.queue = p.active[:0], p.queue[:0]
}

// remove takes a fetch off its port.
func (w *world) remove(i int32) {
	p := &w.ports[w.fetches[i].from]
	if k := slices.Index(p.active, i); k >= 0 {
		p.active = slices.Delete(p.active, k, k+1)
		if p.turn > k {
			p.turn--
		}
	} else if k := slices.Index(p.queue, i); k >= 0 {
		p.queue = slices.Delete(p.queue, k, k+1)
	}
}

// pump sends a port's next quantum, if its uplink is free.
func (w *world) pump(at int32) {
	p := &w.ports[at]
	if p.sending || p.dead || p.frozen {
		return
	}
	w.admit(at)
	i, wait := w.choose(p)
	if i < 0 {
		if wait > 0 && (p.wakeAt == 0 || wait < p.wakeAt) {
			p.wakeAt = wait
			w.clock.at(wait, event{kind: portWake, a: at})
		}
		return
	}
	f := &w.fetches[i]
	n := min(int64(w.cfg.QuantumBytes), f.size-f.sent)
	f.sent += n
	f.unacked += n
	p.sending, p.now, p.nowGen, p.nowBytes = true, i, f.gen, n
	w.clock.after(span(n, p.up), event{kind: quantumSent, a: at, life: p.crashes})
}

// admit gives free slots to those who wait for one.
func (w *world) admit(at int32) {
	p := &w.ports[at]
	if len(p.queue) == 0 {
		return
	}
	taken, first := 0, time.Duration(math.MaxInt64)
	for _, i := range p.active {
		f := &w.fetches[i]
		if until := f.activeAt + p.pace.Patience(f.size, f.sent); w.clock.now < until {
			taken++
			first = min(first, until)
		}
	}
	for ; taken < p.slots && len(p.queue) > 0; taken++ {
		f := &w.fetches[p.queue[0]]
		f.activeAt = w.clock.now
		first = min(first, w.clock.now+p.pace.Patience(f.size, 0))
		p.active = append(p.active, p.queue[0])
		p.queue = slices.Delete(p.queue, 0, 1)
	}
	if len(p.queue) > 0 && p.slotAt <= w.clock.now {
		p.slotAt = first
		w.clock.at(p.slotAt, event{kind: portWake, a: at})
	}
}

// choose returns the next fetch in turn whose window has room, or -1 and the earliest
// time when one will have.
func (w *world) choose(p *port) (int32, time.Duration) {
	var wait time.Duration
	for range p.active {
		if p.turn >= len(p.active) {
			p.turn = 0
		}
		i := p.active[p.turn]
		f := &w.fetches[i]
		p.turn++
		acked := 0
		for acked < len(f.acks) && f.acks[acked].at <= w.clock.now {
			f.unacked -= f.acks[acked].n
			acked++
		}
		f.acks = append(f.acks[:0], f.acks[acked:]...)
		if f.sent < f.size && f.unacked < f.window {
			return i, 0
		}
		if len(f.acks) > 0 && (wait == 0 || f.acks[0].at < wait) {
			wait = f.acks[0].at
		}
	}
	return -1, wait
}

// sent takes a quantum that has left a port to its receiver.
func (w *world) sent(at int32) {
	p := &w.ports[at]
	i, n := p.now, p.nowBytes
	p.sending = false
	p.sent += n
	f := &w.fetches[i]
	if int(at) >= w.cfg.Machines {
		w.haul(f, n)
	}
	switch {
	case f.gen != p.nowGen: // cancelled meanwhile
	case f.lost:
		w.wasted += n
	default:
		in := w.carry(at, f.m, n)
		f.acks = append(f.acks, ack{in + w.latency(at, f.m), n})
		if f.sent == f.size {
			p.pace.Sent(f.size, w.clock.now-f.activeAt)
			w.remove(i)
			w.clock.at(in, event{kind: arrival, a: i, life: f.gen})
		}
	}
	w.pump(at)
}

// carry takes a quantum through the trunks and the receiver's downlink, and returns
// when it is in.
func (w *world) carry(from, to int32, n int64) time.Duration {
	p, q := &w.ports[from], &w.ports[to]
	in := w.clock.now + w.latency(from, to)
	if p.region != q.region {
		in = w.wan[q.region-1].pass(in, n)
	} else if p.rack != q.rack || p.zone != q.zone {
		if p.rack >= 0 {
			in = w.rackUp[p.rack].pass(in, n)
		}
		if p.zone != q.zone {
			in = w.zoneUp[p.zone].pass(in, n)
			in = w.zoneDown[q.zone].pass(in, n)
		}
		if q.rack >= 0 {
			in = w.rackDown[q.rack].pass(in, n)
		}
	}
	q.downFree = max(in, q.downFree+span(n, q.down))
	return q.downFree
}
