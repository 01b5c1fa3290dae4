package bench

import (
	"context"
	"runtime"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
)

func simScenario(Env) *trial.Scenario {
	var c SimConfig
	var slow, dying string
	s := trial.New("sim", "One artifact to very many machines, simulated")
	s.About = `Regions whose caches are filled from the home over links of their own, cells of machines that
are fed by their region's caches. The brains and the placement are the real ones; the clock and
the links are not. All but wall_s, cpu_s and rss_mb is the same for the same parameters and seed.

10 GB to 100,000 machines of ten regions takes many minutes of two cores; --sample 1 an eighth:
  starling-bench sim --bytes 10GB --machines 100000 --regions 10 --duration 1h`
	p := s.Params
	trial.BytesVar(p, &c.Bytes, "bytes", 500_000_000, "of the artifact")
	p.IntVar(&c.Machines, "machines", 1500, "machines of all regions")
	p.IntVar(&c.Regions, "regions", 1, "regions; the first is the home")
	p.IntVar(&c.CellSize, "cell-size", simDefaultCell, "machines in a cell, at most")
	p.IntVar(&c.Caches, "caches", simDefaultCache, "caches in each region")
	p.IntVar(&c.RateMbit, "rate", simDefaultMbit, "`Mbit/s` of each machine's link")
	p.IntVar(&c.CacheMbit, "cache-rate", 0, "`Mbit/s` of each cache's link; 0: ten times a machine's")
	p.IntVar(&c.WANMbit, "wan-rate", 0, "`Mbit/s` of each region's link to the home; 0: twice a machine's")
	p.DurationVar(&c.WANLatency, "wan-latency", 80*time.Millisecond, "one way, of the farthest region; the nearest has a quarter")
	p.IntVar(&c.RackSize, "rack-size", 40, "machines in a rack")
	p.IntVar(&c.RackMbit, "rack-rate", 0, "`Mbit/s` of a rack's link; 0: no bottleneck")
	p.StringVar(&slow, "slow", "0%", "`share` of machines with a tenth of the rate")
	p.StringVar(&dying, "dying", "0%", "`share` of machines that die in the middle")
	trial.BytesVar(p, &c.ChunkBytes, "chunk", 0, "mean of the chunks; 0: 1 MiB, up to 6 where there are very many")
	p.IntVar(&c.Sample, "sample", 0, "simulate so many cells of each region only, for a quick look; 0: all")
	p.BoolVar(&c.Together, "together", false, "simulate cells of a region in one world: slower by far, and hardly different")
	p.IntVar(&c.Parallelism, "parallel", runtime.GOMAXPROCS(0), "worlds simulated at once")
	p.Uint64Var(&c.Seed, "seed", 1, "of all randomness")
	trial.Place(p, "parallel") // changes no result
	s.Check = func() (err error) {
		if c.Faults.Slow, err = starling.ParsePercent(slow); err != nil {
			return starling.Invalidf("--slow", "%s", err)
		}
		if c.Faults.Vanish, err = starling.ParsePercent(dying); err != nil {
			return starling.Invalidf("--dying", "%s", err)
		}
		c.Faults.SlowFactor = 0.1
		return c.Check()
	}
	s.Metrics = []trial.Metric{
		{Name: "last_s", Unit: "s", Better: trial.Lower, Exact: true, Help: "until the last sound machine holds every byte"},
		{Name: "median_s", Unit: "s", Better: trial.Lower, Exact: true, Help: "until half of the sound machines do"},
		{Name: "bound_s", Unit: "s", Exact: true, Help: "the least possible"},
		{Name: "last_over_bound", Unit: "× bound", Better: trial.Lower, Exact: true, Help: "of the worst region"},
		{Name: "slow_last_s", Unit: "s", Better: trial.Lower, Exact: true, Help: "until the last slow machine does"},
		{Name: "wan_copies", Unit: "copies", Better: trial.Lower, Exact: true, Help: "of the artifact that crossed to a region, at most"},
		{Name: "cache_copies", Unit: "copies", Better: trial.Lower, Exact: true, Help: "that left a region's caches, per cell, at most"},
		{Name: "unfinished", Unit: "machines", Better: trial.Lower, Exact: true, Help: "that could finish and did not"},
		{Name: "steps", Unit: "steps", Exact: true, Help: "of all brains"},
		{Name: "wall_s", Unit: "s", Better: trial.Lower, Help: "that the simulation took"},
		{Name: "cpu_s", Unit: "CPU s", Better: trial.Lower, Help: "that the simulation took"},
		{Name: "rss_mb", Unit: "MB", Better: trial.Lower, Help: "memory, at most"},
	}
	s.Run = func(ctx context.Context, tell trial.Progress) (*trial.Outcome, error) {
		tell.Tell("simulating", 0, 0, "")
		c.Tell = tell
		res, err := c.Run(ctx)
		if err != nil {
			return nil, err
		}
		return &trial.Outcome{Result: res, Pictures: res.pictures()}, nil
	}
	return s
}
