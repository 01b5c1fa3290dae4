package chaos

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Result is what came of a run.
type Result struct {
	Counts
	LeaderlessSMax    float64 `json:"leaderless_s_max"`    // longest time without an answer of the leader of a region with a quorum
	LeaderlessSMedian float64 `json:"leaderless_s_median"` // of such times; those under resolution_s do not count
	Leaderless        int     `json:"leaderless"`          // how many there were
	ResolutionS       float64 `json:"resolution_s"`

	AckMS         Quantile `json:"ack_ms"`         // from the first try to the answer, faults or not
	ErrorsRetried int64    `json:"errors_retried"` // tries that a server answered with 5xx
	BrokenRetried int64    `json:"broken_retried"` // tries without an answer
	Astray        int      `json:"astray"`         // machines that do not run what their goals say, in the end
	WentBack      int      `json:"went_back"`      // times that a machine's own record went back to an older generation
	FellByItself  int      `json:"fell_by_itself"` // ends of processes that nobody killed

	Seed      uint64    `json:"seed"`
	DurationS float64   `json:"duration_s"`
	Coverage  Coverage  `json:"coverage"`
	ByFault   []ByFault `json:"by_fault"`
	Faults    []Strike  `json:"faults"` // in the order of time
	LeftOut   []string  `json:"left_out,omitempty"`
	Failures  []string  `json:"failures,omitempty"` // some deployments that failed, and why: none is a broken promise
	Falls     []string  `json:"falls,omitempty"`    // the last words of processes that ended by themselves
	Problems  []string  `json:"problems,omitempty"`
}

// Quantile is a distribution in a few figures.
type Quantile struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Coverage says which cells were struck: by kind and target, at each boundary how often.
type Coverage struct {
	Cells   int                         `json:"cells"`
	Struck  int                         `json:"struck"`
	Table   map[string]map[Boundary]int `json:"table"`
	Missing []string                    `json:"missing"` // cells that never were
	Missed  int                         `json:"missed"`  // tries at which a boundary was not reached
}

// ByFault sums up the faults of one kind on one target.
type ByFault struct {
	Kind           Kind    `json:"kind"`
	Target         Target  `json:"target"`
	Count          int     `json:"count"`
	LeaderlessSMax float64 `json:"leaderless_s_max"` // of the region, begun while one was on
}

// Verdict returns nil if every promise was kept.
func (r *Result) Verdict() error {
	err := r.Counts.Verdict()
	if r.Astray+r.WentBack > 0 {
		err = errors.Join(err, fmt.Errorf("astray %d, went back %d", r.Astray, r.WentBack))
	}
	return err
}

func coverage(cells []Cell, strikes []Strike, missed int) Coverage {
	c := Coverage{Cells: len(cells), Table: map[string]map[Boundary]int{}, Missing: []string{}, Missed: missed}
	struck := map[Cell]int{}
	for _, s := range strikes {
		struck[Cell{s.Kind, s.Target, s.Boundary}]++
	}
	for _, cell := range cells {
		row := string(cell.Kind) + " " + string(cell.Target)
		if c.Table[row] == nil {
			c.Table[row] = map[Boundary]int{}
		}
		c.Table[row][cell.Boundary] = struck[cell]
		if struck[cell] > 0 {
			c.Struck++
		} else {
			c.Missing = append(c.Missing, cell.String())
		}
	}
	return c
}

func byFault(strikes []Strike, gaps []gap) []ByFault {
	var out []ByFault
	for _, s := range strikes {
		i := slices.IndexFunc(out, func(f ByFault) bool { return f.Kind == s.Kind && f.Target == s.Target })
		if i < 0 {
			i = len(out)
			out = append(out, ByFault{Kind: s.Kind, Target: s.Target})
		}
		out[i].Count++
		for _, g := range gaps {
			if s.overlaps(g) {
				out[i].LeaderlessSMax = max(out[i].LeaderlessSMax, g.until.Sub(g.from).Seconds())
			}
		}
	}
	slices.SortFunc(out, func(a, b ByFault) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Target, b.Target)) })
	return out
}

func quantileMS(all []time.Duration) Quantile {
	if len(all) == 0 {
		return Quantile{}
	}
	sorted := slices.Sorted(slices.Values(all))
	at := func(q float64) float64 { return float64(sorted[int(q*float64(len(sorted)-1))].Microseconds()) / 1000 }
	return Quantile{at(0.5), at(0.99), at(1)}
}

// led returns the gaps during which there was a quorum: those that no fault of all servers overlaps.
func led(gaps []gap, strikes []Strike) []gap {
	return slices.DeleteFunc(slices.Clone(gaps), func(g gap) bool {
		return slices.ContainsFunc(strikes, func(s Strike) bool { return s.Target == Servers && s.overlaps(g) })
	})
}

func (s *Strike) overlaps(g gap) bool {
	return g.region == s.region && g.from.Before(s.end) && g.until.After(s.began)
}

// leaders fills in what is known of leaders.
func (r *Result) leaders(gaps []gap) {
	r.ResolutionS, r.Leaderless = leaderlessOver.Seconds(), len(gaps)
	var all []float64
	for _, g := range gaps {
		all = append(all, g.until.Sub(g.from).Seconds())
	}
	if len(all) > 0 {
		slices.Sort(all)
		r.LeaderlessSMax, r.LeaderlessSMedian = all[len(all)-1], all[(len(all)-1)/2]
	}
}
