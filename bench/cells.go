package bench

import (
	"context"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

const (
	// benchQuiet keeps cells as they were formed while a measurement lasts.
	benchQuiet = "24h"
	// idleFor is how long idle agents are watched.
	idleFor = 20 * time.Second
)

// CellsResult tells of the cells that the machines formed, and what a machine's agent takes:
// that must follow the size of its cell, and not that of its region. Figures are over the machines.
type CellsResult struct {
	Size          int     `json:"size"` // machines of a cell at most
	Sizes         []int   `json:"sizes"`
	AgentRSSMB    Spread  `json:"agent_rss_mb"`              // resident memory, some time after the deployment
	AgentOwnMB    Spread  `json:"agent_own_mb"`              // of it what is no file's: the rest is the program, which all share
	AgentCPUS     float64 `json:"agent_cpu_s"`               // processor time of the median machine from its start to the deployment's end
	AgentIdleCPU  Spread  `json:"agent_idle_cpu"`            // share of a core while nothing is deployed
	AgentIdleSent *Spread `json:"agent_idle_sent,omitempty"` // bytes a second meanwhile, headers included; of hosts of their own
	ServerIdleCPU float64 `json:"server_idle_cpu"`           // share of a core, likewise
}

// measureCells looks at a world whose deployment is over.
func (c *SwarmConfig) measureCells(ctx context.Context, s *stand, w *world.World, api *client.Client) (*CellsResult, error) {
	cells, err := api.Cells(ctx)
	if err != nil {
		return nil, err
	}
	out := &CellsResult{Size: c.CellSize}
	for _, one := range cells {
		out.Sizes = append(out.Sizes, one.Machines)
	}
	machines := w.WithRole(starling.RoleMachine)
	worked, err := usageOfEach(machines)
	if err != nil {
		return nil, err
	}
	out.AgentCPUS = spreadOf(worked, func(u usage) float64 { return u.cpuS }).Median
	if err := pass(ctx, c.Rest, "letting the agents come to rest", c.Tell); err != nil {
		return nil, err
	}
	return out, out.watchIdle(ctx, s, w, machines, c.Tell)
}

// watchIdle measures what the agents take while nothing is deployed.
func (r *CellsResult) watchIdle(ctx context.Context, s *stand, w *world.World, machines []*world.Proc, tell trial.Progress) error {
	before, err := idleUsage(s, w, machines)
	if err != nil {
		return err
	}
	if err := pass(ctx, idleFor, "watching idle agents", tell); err != nil {
		return err
	}
	after, err := idleUsage(s, w, machines)
	if err != nil {
		return err
	}
	span := after.at.Sub(before.at).Seconds()
	shares, sent := make([]float64, len(machines)), make([]float64, len(after.sent))
	for i := range machines {
		shares[i] = (after.agents[i].cpuS - before.agents[i].cpuS) / span
	}
	for i := range sent {
		sent[i] = float64(after.sent[i]-before.sent[i]) / span
	}
	same := func(v float64) float64 { return v }
	r.AgentIdleCPU = spreadOf(shares, same)
	if len(sent) > 0 {
		over := spreadOf(sent, same)
		r.AgentIdleSent = &over
	}
	r.AgentRSSMB = spreadOf(after.agents, func(u usage) float64 { return u.rssMB })
	r.AgentOwnMB = spreadOf(after.agents, func(u usage) float64 { return u.ownMB })
	r.ServerIdleCPU = (after.server.cpuS - before.server.cpuS) / span
	return nil
}

// look is what a world had used by a time.
type look struct {
	at     time.Time
	agents []usage
	server usage   // the first one
	sent   []int64 // bytes, by machine; none without hosts of their own
}

func idleUsage(s *stand, w *world.World, machines []*world.Proc) (l look, err error) {
	l.at = time.Now()
	if l.agents, err = usageOfEach(machines); err != nil {
		return l, err
	}
	if l.server, err = usageOf([]int{w.WithRole(starling.RoleServer)[0].PID()}); err != nil || s == nil {
		return l, err
	}
	counted, err := s.lab.Counters()
	if err != nil {
		return l, err
	}
	for _, c := range counted[1+s.seeds:] {
		l.sent = append(l.sent, c.OutBytes)
	}
	return l, nil
}

// pass lets time pass, and tells of it.
func pass(ctx context.Context, d time.Duration, what string, tell trial.Progress) error {
	began := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for time.Since(began) < d {
		tell.Tell(what, time.Since(began).Round(time.Second).Seconds(), d.Seconds(), "s")
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func usageOfEach(procs []*world.Proc) ([]usage, error) {
	out := make([]usage, len(procs))
	for i, p := range procs {
		var err error
		if out[i], err = usageOf([]int{p.PID()}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// spreadOf sums up f over all; of an even number the lower median.
func spreadOf[T any](all []T, f func(T) float64) Spread {
	if len(all) == 0 {
		return Spread{}
	}
	v := make([]float64, len(all))
	for i, x := range all {
		v[i] = f(x)
	}
	slices.Sort(v)
	return Spread{Median: v[(len(v)-1)/2], Min: v[0], Max: v[len(v)-1]}
}
