package starling

import (
	"math"
	"testing"
)

func TestSlots(t *testing.T) {
	var a, b Slots
	for _, i := range []int{0, 7, 8, MaxCellMachines - 1} {
		a.Set(i)
	}
	a.Set(-1)
	a.Set(MaxCellMachines)
	b.Set(9)
	if !a.Has(0) || !a.Has(7) || !a.Has(8) || !a.Has(MaxCellMachines-1) || a.Has(9) || a.Has(-1) || a.Has(MaxCellMachines) || len(a) != (MaxCellMachines+7)/8 {
		t.Errorf("a is %v", a)
	}
	if !a.Disjoint(b) || !b.Disjoint(a) {
		t.Error("they are said to overlap")
	}
	u := b.Union(a)
	if !u.Has(9) || !u.Has(0) || !u.Has(MaxCellMachines-1) || a.Has(9) || a.Disjoint(u) {
		t.Errorf("the union is %v", u)
	}
}

func TestProgress(t *testing.T) {
	var a, b Progress
	a.Count(0, 100)
	a.Count(99, 100)
	b.Count(100, 100)
	b.Count(0, 0)
	if s := a.Add(b); s[0] != 2 || s[19] != 1 || s[20] != 1 || a[0] != 1 {
		t.Errorf("together %v, a %v", s, a)
	}
	if s := a.Add(Progress{1}); len(s) != len(a) {
		t.Errorf("what a stranger says is taken in: %v", s)
	}
}

func TestDurations(t *testing.T) {
	var a, b Durations
	for ms := int64(1); ms <= 1000; ms++ {
		if ms%2 == 0 {
			a.Count(ms)
		} else {
			b.Count(ms)
		}
	}
	all := a.Add(b)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99} {
		want := q * 1000
		if got := float64(all.Quantile(q)); math.Abs(got-want) > 0.11*want+1 {
			t.Errorf("quantile %g is %g, want about %g", q, got, want)
		}
	}
	var far Durations
	far.Count(math.MaxInt64)
	far.Count(-1)
	if len(far) != durationBuckets || Durations(nil).Quantile(0.5) != 0 || far.Quantile(0) > 1 {
		t.Errorf("far %v", far)
	}
}
