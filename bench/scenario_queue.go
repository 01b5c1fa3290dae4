package bench

import (
	"context"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
)

// queueSetUp bounds what a round takes beside its measurements.
const queueSetUp = 2 * time.Minute

func queueScenario(env Env) *trial.Scenario {
	var c QueueConfig
	var compare []string
	s := trial.New("queue", "Job cycles per second: submit, lease, end; beside PostgreSQL")
	s.Params.DurationVar(&c.Duration, "duration", 10*time.Second, "`time` of each measurement")
	s.Params.IntVar(&c.Servers, "servers", 3, "servers: 1, 3 or 5, each with its own disk log, fsync on")
	s.Params.IntSliceVar(&c.Clients, "clients", []int{1, 16, 64, 512}, "`numbers` of clients")
	s.Params.IntVar(&c.Rounds, "rounds", 1, "rounds of each system, in turns; medians are reported")
	s.Params.StringSliceVar(&compare, "compare", nil, "`systems` to measure beside it: postgres")
	folder(s, &c.Dir, env.Temp)
	starlingBinary(s, &c.Bin, env)
	const each = "results[clients]."
	s.Metrics = append([]trial.Metric{
		{Name: each + "cycles_per_s", Unit: "1/s", Better: trial.Higher, Help: "cycles, by the number of clients"},
		{Name: each + "postgres_cycles_per_s", Unit: "1/s", Help: "PostgreSQL's"},
		{Name: each + "cpu_ms_per_cycle", Unit: "ms", Better: trial.Lower, Help: "processor time of all servers"},
		{Name: each + "raft_entries_per_s", Unit: "1/s", Help: "Raft log entries"},
		{Name: each + "failures", Unit: "cycles", Better: trial.Lower, Help: "that a change of leader ended"},
	}, quantiles(each+"cycle_ms", "of a cycle")...)
	s.Check = func() error {
		c.Postgres = false
		for _, name := range compare {
			if name != "postgres" {
				return starling.Invalidf("--compare", "%.40q is not known, only postgres is", name)
			}
			c.Postgres = true
		}
		return c.Check()
	}
	s.Limit = func() time.Duration {
		return time.Duration(c.Rounds) * (queueSetUp + 2*time.Duration(len(c.Clients))*(c.Duration+10*time.Second))
	}
	s.Run = func(ctx context.Context, tell trial.Progress) (*trial.Outcome, error) {
		c.Tell = tell
		res, err := c.Run(ctx)
		if err != nil {
			return nil, err
		}
		return &trial.Outcome{Result: res, Pictures: res.pictures()}, nil
	}
	return s
}

// pictures draws the speeds by the number of clients.
func (r *QueueResult) pictures() trial.Pictures {
	curves := trial.Curves{Title: "cycles by clients", X: "clients", Y: "cycles/s"}
	curves.Lines = append(curves.Lines, trial.NewLine(ours, trial.Own, 2, len(r.Results), func(i int) (float64, float64) {
		return float64(r.Results[i].Clients), r.Results[i].Cycles
	}))
	if r.Postgres != "" {
		curves.Lines = append(curves.Lines, trial.NewLine("PostgreSQL "+r.Postgres, trial.Own, 2, len(r.Results), func(i int) (float64, float64) {
			var theirs float64
			if p := r.Results[i].PostgresCycles; p != nil {
				theirs = *p
			}
			return float64(r.Results[i].Clients), theirs
		}))
	}
	out := trial.Pictures{Curves: []trial.Curves{curves}}
	for _, l := range r.latencies {
		out.Histograms = append(out.Histograms, latencyHistogram(l.title, l.h))
	}
	return out
}
