package trial

import (
	"math"
	"slices"
)

// Confidence of all intervals and verdicts.
const Confidence = 0.95

// Summary is a figure over repeats.
type Summary struct {
	Metric
	N      int     `json:"n"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	// Low and High bound the median of all that could have been measured with the
	// probability Coverage, whatever the distribution. With fewer than six repeats that is less
	// than Confidence, with one there is no interval and Coverage is 0.
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
	Coverage float64 `json:"coverage"`
}

func summarise(m Metric, values []float64) Summary {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	s := Summary{Metric: m, N: n, Median: median(v), Min: v[0], Max: v[n-1]}
	k, coverage := medianRanks(n)
	if s.Coverage = coverage; k > 0 {
		s.Low, s.High = v[k-1], v[n-k]
	} else {
		s.Low, s.High = s.Median, s.Median
	}
	return s
}

// median of sorted values.
func median(v []float64) float64 {
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// medianRanks returns k such that the k-th least and the k-th greatest of n values bound
// the median, with the probability of that: the narrowest that reaches Confidence, or the
// extremes. It needs no assumption but independence: as many values lie under the median as a fair
// coin shows heads (Conover, Practical Nonparametric Statistics, 3rd ed., §3.2).
func medianRanks(n int) (k int, coverage float64) {
	if n < 2 {
		return 0, 0
	}
	p := math.Pow(0.5, float64(n)) // of exactly k-1 heads
	tail := p
	k, coverage = 1, 1-2*tail
	for i := 1; i < n/2; i++ {
		p *= float64(n-i+1) / float64(i)
		if tail += p; 1-2*tail < Confidence {
			break
		}
		k, coverage = i+1, 1-2*tail
	}
	return k, coverage
}

// shift estimates by how much the values of b lie above those of a: the median of all
// differences (Hodges and Lehmann, 1963), and the interval that holds the true shift with
// Confidence, which excludes 0 exactly if the test of Mann and Whitney (1947) tells the
// two apart. ok is false if there are too few values to tell anything apart.
func shift(a, b []float64) (estimate, low, high float64, ok bool) {
	var d []float64
	for _, x := range a {
		for _, y := range b {
			d = append(d, y-x)
		}
	}
	slices.Sort(d)
	k := mannWhitneyRank(len(a), len(b))
	if k == 0 {
		return median(d), 0, 0, false
	}
	return median(d), d[k-1], d[len(d)-k], true
}

// mannWhitneyRank returns the greatest k for which U, the number of pairs in which one
// sample of n is over the other of m, is under k with at most half of what Confidence
// leaves, if the two do not differ; 0 if there is none. U is counted exactly, without ties, by
// Mann and Whitney's recurrence.
func mannWhitneyRank(n, m int) int {
	// ways[i][u] counts the arrangements of i of the one and j of the other with U = u.
	ways := make([][]float64, n+1)
	for i := range ways {
		ways[i] = make([]float64, n*m+1)
		ways[i][0] = 1
	}
	for j := 1; j <= m; j++ {
		for i := 1; i <= n; i++ {
			for u := i * j; u >= 0; u-- {
				with := 0.0 // the greatest is of the one: it is over all j of the other
				if u >= j {
					with = ways[i-1][u-j]
				}
				ways[i][u] += with
			}
		}
	}
	total, tail := 0.0, 0.0
	for _, w := range ways[n] {
		total += w
	}
	for u, w := range ways[n] {
		if tail += w / total; tail > (1-Confidence)/2 {
			return u
		}
	}
	return 0
}
