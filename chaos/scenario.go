package chaos

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/starlingdeploy/starling/bench/trial"
)

// Env is what a run finds on this computer.
type Env struct {
	Bin  string // the starling binary
	Self string // the program that answers to ExecCommand
	Temp string // where data goes
	Log  *slog.Logger
}

// Scenario makes the bench's scenario of runs with faults.
func Scenario(env Env) *trial.Scenario {
	c := Config{Self: env.Self, Log: env.Log}
	kinds := ""
	s := trial.New("chaos", "Deployments while processes, disks, links and clocks fail")
	s.About = `Runs regions of real processes in network namespaces, harms one after the other when
deployments enter their phases, and compares in the end what was acknowledged with what
every server holds. Fails if anything was lost, duplicated or left open. Needs root.`
	s.Hosts = trial.HostsNeeded
	p := s.Params
	p.DurationVar(&c.Duration, "duration", 10*time.Minute, "`time` for which faults go on")
	p.IntVar(&c.Regions, "regions", 2, "regions")
	p.IntVar(&c.Servers, "servers", 3, "servers of each region: 3 or 5")
	p.IntVar(&c.Caches, "caches", 2, "caches of each region")
	p.IntVar(&c.Workers, "workers", 1, "workers of each region")
	p.IntVar(&c.Machines, "machines", 4, "machines, dealt to the regions in turn")
	p.StringVar(&kinds, "faults", "", "`kinds` of faults, with commas between them; all unless given")
	p.Uint64Var(&c.Seed, "seed", 1, "of all randomness")
	p.BoolVar(&c.Keep, "keep", false, "keep the processes' logs, as is done when a promise was broken")
	p.StringVar(&c.Dir, "dir", env.Temp, "the `folder` where the data goes")
	p.StringVar(&c.Bin, "starling", env.Bin, "the starling `binary`")
	trial.Place(p, "dir", "starling", "keep")
	s.Metrics = chaosMetrics()
	s.Check = func() (err error) {
		if c.Kinds, err = ParseKinds(kinds); err != nil {
			return err
		}
		for _, name := range []*string{&c.Bin, &c.Dir} {
			if *name, err = filepath.Abs(*name); err != nil {
				return err
			}
		}
		return c.Check()
	}
	s.Limit = func() time.Duration { return 0 } // it ends after its faults
	s.Run = func(ctx context.Context, tell trial.Progress) (*trial.Outcome, error) {
		c.Tell = tell
		res, err := c.Run(ctx)
		if err != nil {
			return nil, err
		}
		var table strings.Builder
		if err := res.WriteTable(&table); err != nil {
			return nil, err
		}
		return &trial.Outcome{Result: res, Notes: []string{strings.TrimRight(table.String(), "\n")}, Pictures: res.pictures(), Broken: res.Verdict()}, nil
	}
	return s
}

func chaosMetrics() []trial.Metric {
	return []trial.Metric{
		{Name: "lost", Unit: "deployments", Better: trial.Lower, Help: "acknowledged, and not there in the end"},
		{Name: "duplicated", Unit: "deployments", Better: trial.Lower, Help: "of one submission, beyond the first"},
		{Name: "leaderless_s_max", Unit: "s", Better: trial.Lower, Help: "longest time without a leader of a region with a quorum"},
		{Name: "leaderless_s_median", Unit: "s", Better: trial.Lower, Help: "of such times"},
		{Name: "submitted", Unit: "deployments", Help: "in all"},
		{Name: "acknowledged", Unit: "deployments", Help: "of them"},
		{Name: "ended", Unit: "deployments", Help: "of them"},
		{Name: "ack_ms.p50", Unit: "ms", Better: trial.Lower, Help: "from the first try to the answer, median"},
		{Name: "ack_ms.p99", Unit: "ms", Better: trial.Lower, Help: "the same, 99th percentile"},
		{Name: "astray", Unit: "machines", Better: trial.Lower, Help: "that do not run what their goals say, in the end"},
		{Name: "coverage.struck", Unit: "cells", Better: trial.Higher, Help: "of kind, target and boundary that were struck"},
	}
}

// pictures shows which faults were on when.
func (r *Result) pictures() trial.Pictures {
	t := trial.Timeline{Title: "faults, by whom they befell"}
	rows := map[string]int{}
	for _, f := range r.Faults {
		i, ok := rows[f.Victim]
		if !ok {
			i = len(t.Rows)
			rows[f.Victim] = i
			t.Rows = append(t.Rows, trial.Row{Name: f.Victim})
		}
		t.Rows[i].Spans = append(t.Rows[i].Spans, trial.Span{Name: string(f.Kind), FromS: f.AtS, ToS: f.AtS + f.HeldS})
	}
	return trial.Pictures{Timelines: []trial.Timeline{t}}
}
