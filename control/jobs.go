package control

import (
	"iter"
	"maps"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// beats holds the heartbeats of what runs under leases: of builds, by deployment, or of
// hooks, by hookKey. It lives in the leader's memory, for one term.
type beats struct {
	mu    sync.Mutex
	heard map[string]beat
}

// beat is the last sign of life under one lease.
type beat struct {
	lease uint64
	at    time.Time
}

func newBeats() *beats { return &beats{heard: map[string]beat{}} }

// beat notes a sign of life. An older lease never overwrites a newer one.
func (b *beats) beat(key string, lease uint64, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.heard[key].lease <= lease {
		b.heard[key] = beat{lease, at}
	}
}

// of returns the last sign of life under a lease; zero: none yet.
func (b *beats) of(key string, lease uint64) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if last := b.heard[key]; last.lease == lease {
		return last.at
	}
	return time.Time{}
}

// lastHeard returns the last sign of life under each of the present leases, and forgets
// what has none.
func (b *beats) lastHeard(leases iter.Seq2[string, uint64]) map[string]time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.heard) == 0 {
		return nil
	}
	out := make(map[string]time.Time, len(b.heard))
	leased := make(map[string]bool, len(b.heard))
	for key, lease := range leases {
		leased[key] = true
		if last, ok := b.heard[key]; ok && last.lease == lease {
			out[key] = last.at
		}
	}
	maps.DeleteFunc(b.heard, func(key string, _ beat) bool { return !leased[key] })
	return out
}

// buildLeases lists the leases of the deployments that are being built.
func buildLeases(active []*starling.Deployment) iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for _, d := range active {
			if d.Phase == starling.PhaseBuilding && !yield(d.ID, d.Lease) {
				return
			}
		}
	}
}

// silence is for how long a worker has shown no sign of life since it began something. A
// new leader gives every worker a fresh lease.
func (o *Observations) silence(began, heard time.Time) time.Duration {
	last := o.Since
	for _, at := range []time.Time{began, heard} {
		if at.After(last) && !at.After(o.Now) {
			last = at
		}
	}
	return o.Now.Sub(last)
}
