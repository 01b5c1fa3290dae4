package sim

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// fault is what is wrong with a machine.
type fault uint8

// In the order of Faults.shares.
const (
	sound fault = iota
	slow
	stalls
	lies
	corrupts
	freezes
	vanishes
	churns
	late
	muffled
	mute
)

var faultNames = [...]string{"", "slow", "stall", "lie", "corrupt", "freeze", "vanish", "churn", "late", "muffled", "mute"}

func (f fault) String() string { return faultNames[f] }

// pretends reports whether the machine announces everything and holds nothing.
func (f fault) pretends() bool { return f == stalls || f == lies || f == corrupts }

// finishes reports whether the machine wants the artifacts and can have them.
func (f fault) finishes() bool { return !f.pretends() && f != vanishes }

// spoil deals out the faults, to machines that the seed chooses.
func (w *world) spoil() {
	order := make([]int32, len(w.machines))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Compare(w.draw(5, uint64(a)), w.draw(5, uint64(b)))
	})
	for k, share := range w.cfg.Faults.shares() {
		n := int(math.Round(share * float64(len(w.machines))))
		if share > 0 {
			n = max(n, 1)
		}
		for _, i := range order[:min(n, len(order))] {
			w.machines[i].fault = fault(k + 1)
			if fault(k+1) == slow {
				p := &w.ports[i]
				p.up = max(1, int64(float64(p.up)*w.cfg.Faults.SlowFactor))
				p.down = max(1, int64(float64(p.down)*w.cfg.Faults.SlowFactor))
			}
		}
		order = order[min(n, len(order)):]
	}
	w.schedule()
}

// schedule enters the faults that have their moment.
func (w *world) schedule() {
	f := &w.cfg.Faults
	if f.To == 0 {
		b := w.bound()
		f.From, f.To = b/5, b*4/5
	}
	for i := range w.machines {
		m := &w.machines[i]
		at := f.From + time.Duration(w.draw(7, uint64(i))%uint64(f.To-f.From+1))
		switch m.fault {
		case freezes:
			w.clock.at(at, event{kind: freeze, a: int32(i)})
		case vanishes:
			w.clock.at(at, event{kind: death, a: int32(i)})
		case churns:
			w.outage(int32(i), at, f.Away)
		case late:
			w.ports[i].dead, m.known = true, false
			w.due++
			w.clock.at(at, event{kind: rise, a: int32(i)})
		}
	}
	for _, o := range w.cfg.Outages {
		w.outage(int32(o.Machine), o.At, o.For)
	}
	for _, o := range w.cfg.CacheDown {
		at := int32(len(w.machines) + o.Machine)
		w.clock.at(o.At, event{kind: cacheDeath, a: at})
		if o.For > 0 {
			w.clock.at(o.At+o.For, event{kind: cacheRise, a: at})
		}
	}
}

func (w *world) outage(m int32, at, length time.Duration) {
	w.clock.at(at, event{kind: death, a: m})
	if length > 0 {
		w.due++
		w.clock.at(at+length, event{kind: rise, a: m})
	}
}
