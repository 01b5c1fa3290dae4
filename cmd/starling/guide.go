package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/agent"
	"github.com/starlingdeploy/starling/rpc"
)

// guide is whom a machine has its goals from: its cell or, where the servers know no cells,
// the servers themselves; nobody until it is known which. It implements agent.Leader.
type guide struct {
	mu      sync.Mutex
	now     agent.Leader  // nil: not known yet
	turn    int           // counts those that were followed
	asked   int           // turn of the last question for goals
	changed chan struct{} // closed when now changes
}

func newGuide() *guide { return &guide{changed: make(chan struct{})} }

// follow makes leader the one to ask. What is asked of the one before ends.
func (g *guide) follow(leader agent.Leader) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now == leader {
		return
	}
	g.now = leader
	g.turn++
	close(g.changed)
	g.changed = make(chan struct{})
}

// await returns whom to ask, or nil when ctx or wait ends; changed is closed when that is over.
func (g *guide) await(ctx context.Context, wait time.Duration) (leader agent.Leader, changed <-chan struct{}) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		g.mu.Lock()
		leader, changed = g.now, g.changed
		g.mu.Unlock()
		if leader != nil {
			return leader, changed
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, changed
		case <-ctx.Done():
			return nil, changed
		}
	}
}

// during returns a context that ends with ctx or when changed is closed.
func during(ctx context.Context, changed <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

var errNoGuide = fmt.Errorf("%w: this machine has no place in its region yet", starling.ErrUnavailable)

// Goals implements agent.Leader. Where goals come from is part of the reign: whoever is new
// there is told everything.
func (g *guide) Goals(ctx context.Context, index uint64, reign string, wait time.Duration) (rpc.Goals, error) {
	began := time.Now()
	leader, changed := g.await(ctx, wait)
	if leader == nil {
		return rpc.Goals{}, errNoGuide
	}
	g.mu.Lock()
	turn := g.turn
	if g.asked != turn {
		index, reign = 0, "" // of another's order
	}
	g.mu.Unlock()
	ctx, cancel := during(ctx, changed)
	defer cancel()
	goals, err := leader.Goals(ctx, index, strings.TrimPrefix(reign, fmt.Sprintf("%d/", turn)), max(0, wait-time.Since(began)))
	if err != nil {
		return rpc.Goals{}, err
	}
	g.mu.Lock()
	g.asked = turn
	g.mu.Unlock()
	goals.Reign = fmt.Sprintf("%d/%s", turn, goals.Reign)
	return goals, nil
}

// ReportMachine implements agent.Leader.
func (g *guide) ReportMachine(ctx context.Context, reports []starling.MachineReport) error {
	g.mu.Lock()
	leader := g.now
	g.mu.Unlock()
	if leader == nil {
		return errNoGuide
	}
	return leader.ReportMachine(ctx, reports)
}
