package control

import (
	"fmt"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// hookBoard holds the heartbeats of hooks that run for deployments homed here, and which
// hooks are being granted. It lives in the leader's memory, for one term.
type hookBoard struct {
	mu       sync.Mutex
	heard    map[string]beat // by hookKey
	granting map[string]bool
}

func newHookBoard() *hookBoard {
	return &hookBoard{heard: map[string]beat{}, granting: map[string]bool{}}
}

// hookKey names a hook among those of all deployments.
func hookKey(id, hook string) string { return id + "/" + hook }

func (b *hookBoard) beat(key string, lease uint64, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.heard[key].lease <= lease {
		b.heard[key] = beat{lease, at}
	}
}

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

// lastHeard returns the last sign of life under the present lease of each hook that runs,
// and forgets the others.
func (b *hookBoard) lastHeard(active []*starling.Deployment) map[string]time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.heard) == 0 {
		return nil
	}
	out := map[string]time.Time{}
	running := map[string]bool{}
	for _, d := range active {
		for i := range d.Hooks {
			h := &d.Hooks[i]
			if h.State != starling.HookRunning {
				continue
			}
			key := hookKey(d.ID, h.Name())
			running[key] = true
			if last := b.heard[key]; last.lease == h.Lease {
				out[key] = last.at
			}
		}
	}
	for key := range b.heard {
		if !running[key] {
			delete(b.heard, key)
		}
	}
	return out
}

// lostHooks takes hooks back from workers that have been silent for a lease.
func (c *deciding) lostHooks() {
	for i := range c.dep.Hooks {
		h := &c.dep.Hooks[i]
		if h.State != starling.HookRunning {
			continue
		}
		last := c.obs.Since // a new leader gives every worker a fresh lease
		for _, at := range []time.Time{h.BeganAt, c.obs.HookHeard[hookKey(c.dep.ID, h.Name())]} {
			if at.After(last) && !at.After(c.obs.Now) {
				last = at
			}
		}
		if silent := c.obs.Now.Sub(last); silent > rpc.HookTTL {
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
