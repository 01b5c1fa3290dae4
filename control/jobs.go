package control

import (
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// jobBoard holds the heartbeats of the builds under way. It lives in the leader's memory,
// for one term.
type jobBoard struct {
	mu    sync.Mutex
	heard map[string]beat
}

// beat is the last sign of life under one lease.
type beat struct {
	lease uint64
	at    time.Time
}

func newJobBoard() *jobBoard {
	return &jobBoard{heard: map[string]beat{}}
}

// beat notes a sign of life. An older lease never overwrites a newer one.
func (b *jobBoard) beat(id string, lease uint64, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.heard[id].lease <= lease {
		b.heard[id] = beat{lease, at}
	}
}

// lastHeard returns the sign of life under the present lease of each deployment,
// and forgets deployments that are not being built.
func (b *jobBoard) lastHeard(active []*starling.Deployment) map[string]time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.heard) == 0 {
		return nil
	}
	out := make(map[string]time.Time, len(b.heard))
	building := make(map[string]bool, len(b.heard))
	for _, d := range active {
		if d.Phase != starling.PhaseBuilding {
			continue
		}
		building[d.ID] = true
		if h, ok := b.heard[d.ID]; ok && h.lease == d.Lease {
			out[d.ID] = h.at
		}
	}
	for id := range b.heard {
		if !building[id] {
			delete(b.heard, id)
		}
	}
	return out
}
