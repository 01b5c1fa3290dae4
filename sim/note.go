package sim

import (
	"slices"

	"github.com/starlingdeploy/starling/swarm"
)

// note adds a step to the run's hash, and to the record if this machine's is kept.
func (w *world) note(m *machine, ev swarm.Event, effects []swarm.Effect) {
	w.mark(uint64(w.clock.now), uint64(m.index))
	switch ev := ev.(type) {
	case swarm.Got:
		w.mark(1, uint64(ev.Chunk))
	case swarm.Failed:
		w.mark(2, uint64(ev.Chunk)<<8|uint64(ev.Reason))
	case swarm.PeerHas:
		w.mark(3, uint64(len(ev.Chunks)))
	}
	for _, e := range effects {
		switch e := e.(type) {
		case swarm.Fetch:
			w.markRequest(4, e.Request)
		case swarm.CancelFetch:
			w.markRequest(5, e.Request)
		case swarm.Announce:
			w.mark(6, w.number(e.To))
			for _, c := range e.Chunks {
				w.mark(6, uint64(c))
			}
		case swarm.WakeAt:
			w.mark(7, uint64(e.At))
		case swarm.Connect:
			w.mark(8, w.number(e.Peer))
		case swarm.Disconnect:
			w.mark(9, w.number(e.Peer))
		case swarm.Distrust:
			w.mark(10, uint64(len(e.Reason)))
		case swarm.Done:
			w.mark(11, 0)
		}
	}
	if w.cfg.Record == m.index+1 {
		w.record = append(w.record, swarm.Record{At: w.clock.now, Event: ev, Effects: slices.Clone(effects)})
	}
}

func (w *world) mark(a, b uint64) { w.hash = w.draw(w.hash, a, b) }

func (w *world) markRequest(kind uint64, r swarm.Request) {
	n := uint64(0)
	if !r.Origin {
		n = w.number(r.From) + 1
	}
	w.mark(kind, n<<32|uint64(r.Chunk))
}

func (w *world) number(name string) uint64 { return uint64(w.byName[name].index) }
