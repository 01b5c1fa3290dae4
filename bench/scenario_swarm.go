package bench

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
)

func swarmScenario(env Env) *trial.Scenario {
	var c SwarmConfig
	var faults, delta string
	var curves bool
	s := trial.New("swarm", "One artifact to many machines, each a process on a host of its own")
	s.About = "The hosts are network namespaces. Without root it is the loopback, and nothing is shaped."
	s.Hosts = trial.HostsIfPossible
	p := s.Params
	p.IntVar(&c.Machines, "machines", 8, "machines")
	trial.BytesVar(p, &c.Bytes, "bytes", 500_000_000, "of the artifact")
	p.IntVar(&c.RateMbit, "rate", 0, "`Mbit/s` of each link; 0: unshaped")
	p.IntVar(&c.CapMbit, "cap", 0, "`Mbit/s` that caches and machines are told not to exceed; 0: none")
	p.IntVar(&c.Caches, "caches", 1, "caches that hold the artifact at first")
	p.IntVar(&c.CellSize, "cell-size", 0, "machines of a cell at most, in a region of several; then watches the idle agents, too; 0: one cell")
	p.DurationVar(&c.Rest, "rest", 10*time.Second, "`time` that machines are given to come to rest, with --cell-size; they close what they do not use within four minutes")
	p.IntVar(&c.Rounds, "rounds", 1, "rounds of each system, in turns; medians are reported")
	p.StringSliceVar(&c.Compare, "compare", nil, "measure other `programs` beside it: "+strings.Join(Rivals(), ", "))
	p.StringVar(&faults, "faults", "", "a failure `script`, like \"kill 10% at 50%; slow 1 at 0%; kill cache at 3s; cut 50% at 30% for 30s\"")
	p.StringVar(&delta, "delta", "0%", "then deploy another artifact with this `share` of the bytes changed")
	p.BoolVar(&c.Simulate, "simulate", false, "then simulate the same, and tell how far the two are apart")
	p.Uint64Var(&c.Seed, "seed", 1, "of all randomness")
	p.BoolVar(&curves, "curves", false, "print what the links carried over time, too")
	folder(s, &c.Dir, env.Temp)
	starlingBinary(s, &c.Bin, env)
	trial.Place(p, "curves") // of what is printed, not of what is measured
	s.Metrics = swarmMetrics()
	s.Check = func() (err error) {
		if c.Faults, err = ParseFaults(faults); err != nil {
			return err
		}
		if c.Delta, err = starling.ParsePercent(delta); err != nil {
			return starling.Invalidf("--delta", "%s", err)
		}
		if c.Dir, err = filepath.Abs(c.Dir); err != nil {
			return err
		}
		return c.Check()
	}
	s.Run = func(ctx context.Context, tell trial.Progress) (*trial.Outcome, error) {
		c.Tell = tell
		res, err := c.Run(ctx)
		if err != nil {
			return nil, err
		}
		out := &trial.Outcome{Result: res, Notes: res.Notes, Pictures: res.pictures()}
		for _, r := range res.Rounds {
			if !curves {
				r.Samples = nil
			}
		}
		return out, nil
	}
	return s
}

func swarmMetrics() []trial.Metric {
	return []trial.Metric{
		{Name: "last_s", Unit: "s", Better: trial.Lower, Help: "until the last machine holds every byte, verified"},
		{Name: "median_s", Unit: "s", Better: trial.Lower, Help: "until half of the machines do"},
		{Name: "durable_s", Unit: "s", Better: trial.Lower, Help: "until the last has synced all to disk"},
		{Name: "bound_s", Unit: "s", Exact: true, Help: "the content's time over one link"},
		{Name: "mb_per_s", Unit: "MB/s", Better: trial.Higher, Help: "all machines together"},
		{Name: "cpu_s_per_gb", Unit: "CPU s/GB", Better: trial.Lower, Help: "of all processes, per 10^9 bytes delivered"},
		{Name: "cache_copies", Unit: "copies", Better: trial.Lower, Help: "of the content that left the caches"},
		{Name: "rss_mb_max", Unit: "MB", Better: trial.Lower, Help: "largest machine or cache"},
		{Name: "delta.last_s", Unit: "s", Better: trial.Lower, Help: "of the second artifact"},
		{Name: "delta.moved_ratio", Unit: "× changed", Better: trial.Lower, Help: "most that one machine fetched of it"},
		{Name: "delta.cache_ratio", Unit: "× changed", Better: trial.Lower, Help: "that left the caches of it"},
		{Name: "cells.agent_rss_mb.median", Unit: "MB", Better: trial.Lower, Help: "of a machine's agent, after the deployment"},
		{Name: "cells.agent_own_mb.median", Unit: "MB", Better: trial.Lower, Help: "of that what is not the program's file"},
		{Name: "cells.agent_idle_cpu.median", Unit: "cores", Better: trial.Lower, Help: "of a machine's agent while nothing is deployed"},
		{Name: "cells.agent_idle_sent.median", Unit: "B/s", Better: trial.Lower, Help: "likewise, headers included"},
		{Name: "cells.server_idle_cpu", Unit: "cores", Better: trial.Lower, Help: "of the server, likewise"},
		{Name: "cap.seed_up", Unit: "× cap", Better: trial.Lower, Help: "the busiest spell of the busiest cache"},
		{Name: "simulated.last_s", Unit: "s", Help: "of the same in the simulator"},
		{Name: "simulated.last_off", Unit: "× simulated", Help: "measured over simulated, less 1"},
		{Name: "simulated.median_off", Unit: "× simulated", Help: "likewise, until half of the machines hold every byte"},
		{Name: "peers.*.last_s", Unit: "s", Help: "of a rival"},
		{Name: "peers.*.median_s", Unit: "s", Help: "of a rival"},
		{Name: "peers.*.cpu_s_per_gb", Unit: "CPU s/GB", Help: "of a rival"},
	}
}
