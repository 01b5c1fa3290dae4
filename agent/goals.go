package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Pace of asking for goals.
const (
	goalsWait       = 30 * time.Second // a server answers at once when there is news
	goalsBackoffMin = 250 * time.Millisecond
	goalsBackoffMax = 15 * time.Second
	maxGoals        = 10_000 // of a region; more are ignored
)

// pollGoals asks the region's servers for goals until ctx ends.
func (a *Agent) pollGoals(ctx context.Context) {
	var index uint64
	var reign string
	var backoff time.Duration
	for ctx.Err() == nil {
		asked := time.Now()
		goals, err := a.askGoals(ctx, index, reign)
		switch {
		case err == nil:
			if backoff > 0 {
				a.log.Info("goals are had again")
			}
			backoff = 0
			if goals.Index == index && time.Since(asked) < goalsBackoffMin {
				backoff = goalsBackoffMin // the server does not wait: spare it
			}
			index = goals.Index
			if goals.Reign != "" && goals.Reign != reign {
				reign = goals.Reign
				a.reports.recall()
			}
			a.run.post(goalsLearned{a: a, goals: goals.Goals})
		case ctx.Err() != nil:
			return
		default:
			if backoff == 0 {
				a.log.Warn("goals cannot be had; what runs goes on", "error", err)
			}
			backoff = min(max(2*backoff, goalsBackoffMin), goalsBackoffMax)
			backoff -= rand.N(backoff / 4) // so that a fleet does not ask in step
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		}
	}
}

func (a *Agent) askGoals(ctx context.Context, index uint64, reign string) (rpc.Goals, error) {
	ctx, cancel := context.WithTimeout(ctx, goalsWait+reportTimeout)
	defer cancel()
	return a.conf.Leader.Goals(ctx, index, reign, goalsWait)
}

// goalsLearned brings the region's goals.
type goalsLearned struct {
	light
	a     *Agent
	goals []*starling.Goal
}

func (e goalsLearned) apply() {
	for _, g := range e.goals[:min(len(e.goals), maxGoals)] {
		if g == nil || starling.CheckName("app", g.App) != nil {
			e.a.log.Error("a goal without a proper name is ignored")
			continue
		}
		p := e.a.apps[g.App]
		if p == nil {
			sel, err := starling.ParseSelector(g.Deploy.Targets)
			if err != nil || !sel.Matches(&e.a.conf.Node) {
				continue // not for this machine, and never was
			}
			p = e.a.app(g.App)
		}
		p.accept(g)
		p.reconcile()
	}
}
