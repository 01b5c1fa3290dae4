package cell

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

func slots(of ...int) starling.Slots {
	var s starling.Slots
	for _, i := range of {
		s.Set(i)
	}
	return s
}

func TestMergeCountsNobodyTwice(t *testing.T) {
	order := Rank("c1", []string{"a", "b", "c"}, 3)
	first, second, third := order[0], order[1], order[2]
	now := time.Unix(1000, 0)
	for name, tc := range map[string]struct {
		said []Said
		want []string
	}{
		"one":              {[]Said{{second, slots(0, 1, 2), now}}, []string{second}},
		"nobody":           {nil, nil},
		"silent for long":  {[]Said{{second, slots(0), now.Add(-rpc.CellSilentAfter)}}, nil},
		"two halves":       {[]Said{{second, slots(2, 3), now}, {first, slots(0, 1), now}}, []string{first, second}},
		"deposed, unaware": {[]Said{{second, slots(1, 2, 3), now}, {first, slots(0, 1, 2, 3), now}}, []string{first}},
		"dead, replaced":   {[]Said{{second, slots(1, 2, 3), now}, {first, slots(0, 1, 2, 3), now.Add(-4 * time.Second)}}, []string{second}},
		"slow, alone":      {[]Said{{first, slots(0, 1), now.Add(-4 * time.Second)}}, []string{first}},
		"halves and a stale word": {[]Said{
			{third, slots(4), now.Add(-6 * time.Second)}, {first, slots(0, 1), now}, {second, slots(2, 3), now},
		}, []string{first, second, third}},
	} {
		var got []string
		for _, i := range Merge("c1", tc.said, now) {
			got = append(got, tc.said[i].Relay)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestReportsBuildOnEachOther(t *testing.T) {
	app := func(name string, staged int) rpc.CellApp {
		return rpc.CellApp{App: name, Counts: starling.Counts{Target: 9, Staged: staged}}
	}
	text := func(r rpc.CellReport) (out string) {
		for _, a := range r.Apps {
			out += fmt.Sprintf("%s=%d ", a.App, a.Counts.Staged)
		}
		return out
	}
	r1, ok := Whole(nil, rpc.CellReport{Cell: "c", Seq: 1, Apps: []rpc.CellApp{app("c", 1), app("a", 1)}})
	if !ok || text(r1) != "a=1 c=1 " {
		t.Fatalf("%t %s", ok, text(r1))
	}
	r2, ok := Whole(&r1, rpc.CellReport{Cell: "c", Seq: 2, Base: 1, Apps: []rpc.CellApp{app("b", 2), app("a", 2)}, Gone: []string{"c"}})
	if !ok || text(r2) != "a=2 b=2 " || r2.Seq != 2 {
		t.Fatalf("%t %s", ok, text(r2))
	}
	if text(r1) != "a=1 c=1 " {
		t.Error("what was kept has changed")
	}
	for name, before := range map[string]*rpc.CellReport{"none": nil, "an older one": &r1} {
		if _, ok := Whole(before, rpc.CellReport{Cell: "c", Seq: 3, Base: 2}); ok {
			t.Errorf("built on %s", name)
		}
	}
}

func TestAddApps(t *testing.T) {
	a := rpc.CellApp{App: "web", Revision: 3, Counts: starling.Counts{Target: 2, Healthy: 1}, Unheard: 1,
		Bytes: starling.Bytes{Artifact: 10, Peer: 1}, Held: map[string]int{"x": 1}}
	b := rpc.CellApp{App: "web", Revision: 2, Counts: starling.Counts{Target: 3, Healthy: 3}, Bytes: starling.Bytes{Artifact: 10, Peer: 2}, Held: map[string]int{"x": 2, "y": 1}}
	a.Progress.Count(1, 2)
	b.Progress.Count(1, 2)
	sum := AddApps(a, b)
	if sum.Revision != 2 || sum.Counts.Target != 5 || sum.Counts.Healthy != 4 || sum.Unheard != 1 || sum.Bytes != (starling.Bytes{Artifact: 10, Peer: 3}) ||
		sum.Held["x"] != 3 || sum.Held["y"] != 1 || sum.Progress[10] != 2 || a.Held["x"] != 1 {
		t.Errorf("%+v", sum)
	}
}
