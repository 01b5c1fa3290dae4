package sim

import (
	"slices"
	"time"
)

// port is a machine's or a cache's attachment to the network.
type port struct {
	w        *world
	up, down int64 // bytes a second
	zone     int
	rack     int
	dead     bool

	active   []*transfer // sent in turn, a quantum each
	queue    []*transfer // waiting for a slot
	turn     int
	sending  bool
	crashes  int           // what was under way before the last one is void
	wakeAt   time.Duration // a retry is due then, because all windows are full; 0: none
	downFree time.Duration // when the downlink will have taken in all that was sent
	sent     int64
}

// transfer is one chunk on its way.
type transfer struct {
	from, to  *port
	size      int64
	sent      int64
	acks      []ack // quanta under way, in order
	unacked   int64
	window    int64
	cancelled bool
	deliver   func()
	fail      func() // when the sender dies
}

type ack struct {
	at time.Duration
	n  int64
}

func (w *world) latency(a, b *port) time.Duration {
	switch {
	case a.zone != b.zone:
		return w.cfg.CellLatency
	case a.rack != b.rack:
		return w.cfg.ZoneLatency
	}
	return w.cfg.RackLatency
}

func span(n, rate int64) time.Duration {
	return time.Duration(float64(n) / float64(rate) * float64(time.Second))
}

// send queues a transfer; deliver runs when its last byte is in, or fail a while after
// the sender died.
func (p *port) send(to *port, size int64, deliver, fail func()) *transfer {
	rtt := 2 * p.w.latency(p, to)
	t := &transfer{from: p, to: to, size: size, deliver: deliver, fail: fail}
	t.window = 2*int64(p.w.cfg.QuantumBytes) + int64(1.5*rtt.Seconds()*float64(p.up))
	p.queue = append(p.queue, t)
	p.pump()
	return t
}

// crash ends all that is being sent; the receivers find out by and by.
func (p *port) crash() {
	p.dead, p.sending = true, false
	p.crashes++
	lost := slices.Concat(p.active, p.queue)
	p.active, p.queue = nil, nil
	for _, t := range lost {
		t.cancelled = true
		p.w.clock.after(p.w.cfg.DetectAfter, t.fail)
	}
}

// waiting is how many transfers have no slot yet.
func (p *port) waiting() int { return len(p.queue) }

// cancel stops a transfer; what was sent was in vain.
func (t *transfer) cancel() {
	if t.cancelled {
		return
	}
	t.cancelled = true
	t.from.remove(t)
	t.from.pump()
}

func (p *port) remove(t *transfer) {
	if i := slices.Index(p.active, t); i >= 0 {
		p.active = slices.Delete(p.active, i, i+1)
		if p.turn > i {
			p.turn--
		}
	} else if i := slices.Index(p.queue, t); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
	}
}

// pump sends the next quantum, if the uplink is free.
func (p *port) pump() {
	if p.sending || p.dead {
		return
	}
	for len(p.active) < p.w.cfg.UploadSlots && len(p.queue) > 0 {
		p.active = append(p.active, p.queue[0])
		p.queue = slices.Delete(p.queue, 0, 1)
	}
	t, wait := p.choose()
	if t == nil {
		if wait > 0 && (p.wakeAt == 0 || wait < p.wakeAt) {
			p.wakeAt = wait
			p.w.clock.at(wait, func() {
				if p.wakeAt == wait {
					p.wakeAt = 0
				}
				p.pump()
			})
		}
		return
	}
	n := min(int64(p.w.cfg.QuantumBytes), t.size-t.sent)
	t.sent += n
	t.unacked += n
	p.sending = true
	crashes := p.crashes
	p.w.clock.after(span(n, p.up), func() {
		if p.crashes != crashes {
			return
		}
		p.sending = false
		p.sent += n
		p.landed(t, n)
		p.pump()
	})
}

// choose returns the next transfer in turn whose window has room, or the earliest
// time when one will have.
func (p *port) choose() (*transfer, time.Duration) {
	var wait time.Duration
	for range p.active {
		if p.turn >= len(p.active) {
			p.turn = 0
		}
		t := p.active[p.turn]
		p.turn++
		for len(t.acks) > 0 && t.acks[0].at <= p.w.clock.now {
			t.unacked -= t.acks[0].n
			t.acks = t.acks[1:]
		}
		if t.unacked < t.window {
			return t, 0
		}
		if len(t.acks) > 0 && (wait == 0 || t.acks[0].at < wait) {
			wait = t.acks[0].at
		}
	}
	return nil, wait
}

// landed takes a sent quantum through the receiver's downlink.
func (p *port) landed(t *transfer, n int64) {
	lat := p.w.latency(p, t.to)
	in := max(p.w.clock.now+lat, t.to.downFree+span(n, t.to.down))
	t.to.downFree = in
	t.acks = append(t.acks, ack{in + lat, n})
	if t.sent < t.size {
		return
	}
	p.remove(t)
	if !t.cancelled {
		p.w.clock.at(in, func() {
			if !t.cancelled && !t.to.dead {
				t.deliver()
			}
		})
	}
}
