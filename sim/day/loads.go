package day

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Target is the share of the deployments that should come to their own end in time.
const Target = 0.999

// Loads plays the same day with each load, as many at once as there are processors. told,
// which may be nil, hears from any of them how many are done.
func Loads(c Config, loads []float64, told func(done int)) ([]*Result, error) {
	out := make([]*Result, len(loads))
	var done atomic.Int64
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, load := range loads {
		g.Go(func() (err error) {
			c := c
			c.Load = load
			out[i], err = Run(c)
			if n := int(done.Add(1)); told != nil {
				told(n)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// BreaksFirst says at which of the loads, the least first, the target is missed, and for
// want of what; "" if it is nowhere.
func BreaksFirst(days []*Result) string {
	for _, r := range days {
		if r.InTime >= Target || len(r.LateIn) == 0 {
			continue
		}
		var causes []string
		for what := range r.LateIn {
			causes = append(causes, what)
		}
		slices.SortFunc(causes, func(a, b string) int { return cmp.Or(cmp.Compare(r.LateIn[b], r.LateIn[a]), cmp.Compare(a, b)) })
		return fmt.Sprintf("at %g times the load: most of the late waited for %s (%d of %d); workers were in use to %.0f %% in the busiest hour",
			r.Load, causes[0], r.LateIn[causes[0]], r.Late, 100*r.Use["workers"].Peak)
	}
	return ""
}

// WorkersFor returns the least number of workers, in steps of a tenth, with which the target
// is reached at c's load, most at most; 0: not even with those.
func WorkersFor(c Config, most int) (int, error) {
	c = c.withDefaults()
	for n := c.Workers; n <= most; n += max(1, c.Workers/10) {
		one := c
		one.Workers = n
		r, err := Run(one)
		if err != nil {
			return 0, err
		}
		if r.InTime >= Target {
			return n, nil
		}
	}
	return 0, nil
}
