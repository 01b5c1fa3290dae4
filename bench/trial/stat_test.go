package trial

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Tables A3 of Conover and binomial probabilities by hand.
func TestMedianRanks(t *testing.T) {
	for n, want := range map[int]struct {
		k        int
		coverage float64
	}{1: {0, 0}, 2: {1, 0.5}, 5: {1, 0.9375}, 6: {1, 0.96875}, 8: {1, 0.9921875}, 9: {2, 0.9609375}, 10: {2, 0.978515625}, 20: {6, 0.95861053}} {
		if k, coverage := medianRanks(n); k != want.k || math.Abs(coverage-want.coverage) > 1e-7 {
			t.Errorf("n = %d: ranks %d, coverage %v; want %+v", n, k, coverage, want)
		}
	}
}

// Critical values of U for two-sided tests at 5 % as books list them; k is one more.
func TestMannWhitneyRank(t *testing.T) {
	for sizes, critical := range map[[2]int]int{{4, 4}: 0, {5, 5}: 2, {6, 4}: 2, {8, 6}: 8, {6, 8}: 8, {10, 10}: 23, {20, 20}: 127} {
		if k := mannWhitneyRank(sizes[0], sizes[1]); k != critical+1 {
			t.Errorf("%v: k = %d, want %d", sizes, k, critical+1)
		}
	}
	for _, sizes := range [][2]int{{1, 1}, {3, 3}, {2, 7}, {1, 30}} {
		if k := mannWhitneyRank(sizes[0], sizes[1]); k != 0 {
			t.Errorf("%v: k = %d though these can show nothing", sizes, k)
		}
	}
}

// An interval of 95 % holds the truth in at least 95 % of experiments, whatever is measured.
func TestIntervalsCover(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	skewed := func() float64 { return math.Exp(random.NormFloat64()) } // median 1
	const experiments = 4000
	heldMedian, heldShift := 0, 0
	for range experiments {
		var a, b []float64
		for range 7 {
			a = append(a, skewed())
			b = append(b, 1.5*skewed())
		}
		if s := summarise(Metric{}, a); s.Low <= 1 && 1 <= s.High {
			heldMedian++
		}
		if _, low, high, ok := shift(logs(a), logs(b)); ok && low <= math.Log(1.5) && math.Log(1.5) <= high {
			heldShift++
		}
	}
	// Four standard deviations under what 7 repeats give: 98.4 % and 96.2 %.
	for what, c := range map[string]struct{ held, least int }{"median": {heldMedian, 3904}, "shift": {heldShift, 3798}} {
		if c.held < c.least {
			t.Errorf("%s: %d of %d intervals hold it, at least %d should", what, c.held, experiments, c.least)
		}
	}
}

func TestSummarise(t *testing.T) {
	s := summarise(Metric{Name: "x"}, []float64{5, 1, 4, 2, 6, 3})
	if s.N != 6 || s.Median != 3.5 || s.Min != 1 || s.Max != 6 || s.Low != 1 || s.High != 6 {
		t.Errorf("%+v", s)
	}
	if s := summarise(Metric{}, []float64{3}); s.Median != 3 || s.Coverage != 0 {
		t.Errorf("%+v", s)
	}
}
