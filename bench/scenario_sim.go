package bench

import (
	"context"

	"github.com/starlingdeploy/starling/bench/trial"
)

func simScenario(Env) *trial.Scenario {
	var c SimConfig
	s := trial.New("sim", "One artifact to very many machines, simulated")
	s.About = `The brains are the real ones; the clock and the links are not. All but wall_s is the same
for the same parameters and seed.`
	trial.BytesVar(s.Params, &c.Bytes, "bytes", 500_000_000, "of the artifact")
	s.Params.IntVar(&c.Machines, "machines", 1500, "machines")
	s.Params.IntVar(&c.RateMbit, "rate", 1000, "`Mbit/s` of each link")
	s.Params.Uint64Var(&c.Seed, "seed", 1, "of all randomness")
	s.Metrics = []trial.Metric{
		{Name: "last_s", Unit: "s", Better: trial.Lower, Exact: true, Help: "until the last sound machine holds every byte"},
		{Name: "median_s", Unit: "s", Better: trial.Lower, Exact: true, Help: "until half of the sound machines do"},
		{Name: "bound_s", Unit: "s", Exact: true, Help: "the least possible"},
		{Name: "cache_copies", Unit: "copies", Better: trial.Lower, Exact: true, Help: "of the artifact that left the caches"},
		{Name: "unfinished", Unit: "machines", Better: trial.Lower, Exact: true, Help: "that could finish and did not"},
		{Name: "steps", Unit: "steps", Exact: true, Help: "of all brains"},
		{Name: "wall_s", Unit: "s", Better: trial.Lower, Help: "that the simulation took"},
	}
	s.Run = func(ctx context.Context, tell trial.Progress) (*trial.Outcome, error) {
		tell.Tell("simulating", 0, 0, "")
		res, err := c.Run(ctx)
		return &trial.Outcome{Result: res}, err
	}
	return s
}
