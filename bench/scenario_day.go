package bench

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/sim/day"
)

// DayResult is a day, and the same with more load.
type DayResult struct {
	*day.Result
	Loads         []*day.Result `json:"loads"`                    // further ones
	WorkersNeeded int           `json:"workers_needed,omitempty"` // with which the first day reaches the target; 0: not looked for, or more than four times as many
	BreaksFirst   string        `json:"breaks_first,omitempty"`   // when load grows; "": nothing does
}

func dayScenario(Env) *trial.Scenario {
	var c day.Config
	var more []string
	var find bool
	s := trial.New("day", "A day of deployments, simulated: queues, workers, links, what breaks first")
	s.About = `The state machine, the lease desk and the leader's decisions are the real ones; the clock,
builds, links and machines are not (package sim/day says what is assumed). All but wall_s is
the same for the same parameters and seed.`
	s.Params.IntVar(&c.Deployments, "deployments", 5000, "submissions in the day")
	s.Params.IntVar(&c.Workers, "workers", 50, "slots that build")
	s.Params.IntVar(&c.Apps, "apps", 1000, "apps")
	s.Params.IntVar(&c.Regions, "regions", 10, "regions with machines")
	s.Params.IntVar(&c.Machines, "machines", 10_000, "machines in each region")
	s.Params.DurationVar(&c.Span, "span", 0, "how long the day is (default 24h)")
	s.Params.StringSliceVar(&more, "loads", []string{"1.5", "2", "3"}, "further days with so many times the submissions")
	s.Params.Uint64Var(&c.Seed, "seed", 1, "of all chance")
	s.Params.BoolVar(&find, "find", false, "then find how many workers the first day needs")
	s.Limit = func() time.Duration { return time.Hour }
	s.Metrics = []trial.Metric{
		{Name: "in_time", Unit: "share", Better: trial.Higher, Exact: true, Help: "that came to its own end within 30 minutes"},
		{Name: "total_s.p50", Unit: "s", Better: trial.Lower, Exact: true, Help: "from submission to the end"},
		{Name: "total_s.p99", Unit: "s", Better: trial.Lower, Exact: true, Help: "of all but the slowest in a hundred"},
		{Name: "phases_s.queued.p99", Unit: "s", Better: trial.Lower, Exact: true, Help: "until a worker began"},
		{Name: "hotfix.total_s.p99", Unit: "s", Better: trial.Lower, Exact: true, Help: "of the most urgent"},
		{Name: "longest_queue", Unit: "deployments", Better: trial.Lower, Exact: true, Help: "that waited at once"},
		{Name: "most_under_way", Unit: "deployments", Exact: true, Help: "at once"},
		{Name: "use.workers.mean", Unit: "share", Exact: true, Help: "of the workers' time, that they build"},
		{Name: "use.workers.peak", Unit: "share", Exact: true, Help: "in the busiest hour"},
		{Name: "writes", Unit: "commands", Better: trial.Lower, Exact: true, Help: "in the log, for each deployment"},
		{Name: "state_mb", Unit: "MB", Better: trial.Lower, Exact: true, Help: "of the state's snapshot in the end"},
		{Name: "wall_s", Unit: "s", Better: trial.Lower, Help: "that simulating the first day took"},
	}
	loads := func() ([]float64, error) {
		out := []float64{1}
		for _, text := range more {
			x, err := strconv.ParseFloat(text, 64)
			if err != nil || !(x > 0 && x <= day.MaxLoad) {
				return nil, starling.Invalidf("loads", "%q: want numbers above 0, %d at most", text, day.MaxLoad)
			}
			out = append(out, x)
		}
		return out, nil
	}
	s.Check = func() error {
		all, err := loads()
		for _, load := range all {
			one := c
			if one.Load = load; err == nil {
				err = one.Check()
			}
		}
		return err
	}
	s.Run = func(ctx context.Context, tell trial.Progress) (*trial.Outcome, error) {
		c.Stopped = ctx.Err
		all, err := loads()
		if err != nil {
			return nil, err
		}
		tell.Tell("simulating", 0, float64(len(all)), "days")
		days, err := day.Loads(c, all, func(done int) { tell.Tell("simulating", float64(done), float64(len(all)), "days") })
		if err != nil {
			return nil, err
		}
		res := &DayResult{Result: days[0], Loads: days[1:], BreaksFirst: day.BreaksFirst(days)}
		if find {
			tell.Tell("finding how many workers are needed", 0, 0, "")
			if res.WorkersNeeded, err = day.WorkersFor(c, 4*c.Workers); err != nil {
				return nil, err
			}
		}
		out := &trial.Outcome{Result: res, Pictures: res.pictures()}
		if days[0].InTime < day.Target {
			out.Notes = append(out.Notes, fmt.Sprintf("%.2f %% came to their own end in time, less than %.1f %%", 100*days[0].InTime, 100*day.Target))
		}
		return out, nil
	}
	return s
}

// pictures draws the days' times beside each other.
func (r *DayResult) pictures() trial.Pictures {
	t := trial.Table{Title: "Days", Columns: []string{"load", "submitted", "in time %", "total p50 s", "p99 s", "queued p99 s", "hotfix p99 s", "workers' busiest hour %", "late for want of"}}
	for _, d := range append([]*day.Result{r.Result}, r.Loads...) {
		t.Rows = append(t.Rows, []string{
			fmt.Sprint(d.Load), fmt.Sprint(d.Deployments), fmt.Sprintf("%.2f", 100*d.InTime), fmt.Sprintf("%.0f", d.Total.P50), fmt.Sprintf("%.0f", d.Total.P99),
			fmt.Sprintf("%.0f", d.Phases["queued"].P99), fmt.Sprintf("%.0f", d.Hotfix.Total.P99), fmt.Sprintf("%.0f", 100*d.Use["workers"].Peak), wanted(d.LateIn),
		})
	}
	return trial.Pictures{Tables: []trial.Table{t}}
}

// wanted lists what late deployments waited for, and how many did.
func wanted(late map[string]int) string {
	var out []string
	for _, what := range slices.Sorted(maps.Keys(late)) {
		out = append(out, fmt.Sprintf("%s: %d", what, late[what]))
	}
	return cmp.Or(strings.Join(out, ", "), "–")
}
