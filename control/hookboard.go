package control

import (
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// hookBoard holds the heartbeats of hooks that run for deployments homed here, and which
// hooks are being granted. It lives in the leader's memory, for one term.
type hookBoard struct {
	*beats
	mu       sync.Mutex
	granting map[string]bool // by hookKey
}

func newHookBoard() *hookBoard {
	return &hookBoard{beats: newBeats(), granting: map[string]bool{}}
}

// hookKey names a hook among those of all deployments.
func hookKey(id, hook string) string { return id + "/" + hook }

// claim lets one at a time ask for a hook; false: another does.
func (b *hookBoard) claim(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.granting[key] {
		return false
	}
	b.granting[key] = true
	return true
}

func (b *hookBoard) release(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.granting, key)
}

// hookLeases lists the leases of the hooks that run.
func hookLeases(active []*starling.Deployment) iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for _, d := range active {
			for i := range d.Hooks {
				if h := &d.Hooks[i]; h.State == starling.HookRunning && !yield(hookKey(d.ID, h.Name()), h.Lease) {
					return
				}
			}
		}
	}
}

// lostHooks takes hooks back from workers that have been silent for a lease.
func (c *deciding) lostHooks() {
	for i := range c.dep.Hooks {
		h := &c.dep.Hooks[i]
		if h.State != starling.HookRunning {
			continue
		}
		if silent := c.obs.silence(h.BeganAt, c.obs.HookHeard[hookKey(c.dep.ID, h.Name())]); silent > rpc.HookTTL {
			c.propose(raftfsm.TypeHookRequeue, raftfsm.HookRequeue{
				ID: c.dep.ID, Hook: h.Name(), Lease: h.Lease,
				Reason: fmt.Sprintf("worker %s was silent for %s", h.Worker, silent.Truncate(time.Second)),
			})
		}
	}
}

// missingHooks says which hooks a deployment waits for, and they for what.
func (c *deciding) missingHooks() []string {
	var out []string
	for i := range c.dep.Hooks {
		h := &c.dep.Hooks[i]
		switch {
		case h.State == starling.HookRunning:
			out = append(out, fmt.Sprintf("hook %s runs on worker %s of region %s for %s, attempt %d",
				h.Name(), h.Worker, h.Region, brief(c.obs.Now.Sub(h.BeganAt).Truncate(time.Second)), h.Attempt))
		case raftfsm.HookReady(c.dep, h) && h.Region == c.dep.Home && c.obs.Workers == 0:
			out = append(out, fmt.Sprintf("hook %s waits for a worker: region %s has none", h.Name(), h.Region))
		case raftfsm.HookReady(c.dep, h):
			out = append(out, fmt.Sprintf("hook %s waits for a worker of region %s: none has taken it", h.Name(), h.Region))
		}
	}
	return out
}
