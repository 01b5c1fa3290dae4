package chaos

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// The names that other programs rely on.
func TestResultNames(t *testing.T) {
	b, err := json.Marshal(Result{})
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"submitted", "acknowledged", "ended", "lost", "duplicated", "leaderless_s_max"} {
		if _, ok := fields[name]; !ok {
			t.Errorf("the result has no %s", name)
		}
	}
}

func TestCoverage(t *testing.T) {
	cells := []Cell{{Kill, Leader, Submit}, {Kill, Leader, Boundaries[1]}, {Stop, Worker, Submit}}
	c := coverage(cells, []Strike{{Kind: Kill, Target: Leader, Boundary: Submit}, {Kind: Kill, Target: Leader, Boundary: Submit}}, 4)
	if c.Cells != 3 || c.Struck != 1 || c.Missed != 4 || len(c.Missing) != 2 || c.Missing[1] != "stop worker at submit" || c.Table["kill leader"][Submit] != 2 {
		t.Errorf("%+v", c)
	}
}

// A pause counts for the faults that were on during it, in its region.
func TestLeaderless(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(100, 0).Add(time.Duration(s * float64(time.Second))) }
	b := newBoard(newLedger())
	for _, s := range []float64{0, 0.1, 0.4, 2.4, 2.5, 4} {
		b.leads("r1", "r1-server-1", at(s))
	}
	b.leads("r2", "r2-server-1", at(0))
	b.leads("r2", "r2-server-1", at(4))
	gaps := b.pauses(at(4.2))
	if len(gaps) != 3 {
		t.Fatalf("gaps %v", gaps)
	}
	if open := b.pauses(at(9)); len(open) != 5 {
		t.Errorf("with those that last: %v", open)
	}
	if name, _ := b.leader("r1"); name != "r1-server-1" {
		t.Errorf("leader %q", name)
	}
	var r Result
	if r.leaders(gaps); r.LeaderlessSMax != 4 || r.LeaderlessSMedian != 2 || r.Leaderless != 3 {
		t.Errorf("%+v", r)
	}
	outage := Strike{Kind: Kill, Target: Servers, region: "r2", began: at(1), end: at(2)}
	if kept := led(gaps, []Strike{outage, {Kind: Kill, Target: Leader, region: "r1", began: at(1), end: at(2)}}); len(kept) != 2 {
		t.Errorf("with a quorum: %v", kept)
	}
	sums := byFault([]Strike{
		{Kind: Stop, Target: Leader, region: "r1", began: at(0.5), end: at(1)},
		{Kind: Stop, Target: Leader, region: "r1", began: at(3), end: at(3.1)},
		{Kind: Kill, Target: Worker, region: "r1", began: at(2.41), end: at(2.45)},
	}, gaps)
	want := []ByFault{{Kill, Worker, 1, 0}, {Stop, Leader, 2, 2}}
	if len(sums) != 2 || sums[0] != want[0] || sums[1] != want[1] {
		t.Errorf("%+v, want %+v", sums, want)
	}
}

func TestWriteTable(t *testing.T) {
	r := Result{Problems: []string{"oh"}, ByFault: []ByFault{{Kill, Leader, 2, 1.25}},
		Coverage: coverage([]Cell{{Kill, Leader, Submit}}, []Strike{{Kind: Kill, Target: Leader, Boundary: Submit}}, 0)}
	r.Submitted, r.Lost = 7, 1
	var b strings.Builder
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kill leader  1 ", " 1.2\n", "7 submitted", "1 lost", "on 1 of 1 cells", "\noh\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, &b)
		}
	}
}

func TestQuantileMS(t *testing.T) {
	if q := quantileMS(nil); q != (Quantile{}) {
		t.Errorf("of none: %+v", q)
	}
	if q := quantileMS([]time.Duration{3e6, 1e6, 2e6}); q != (Quantile{P50: 2, P99: 2, Max: 3}) {
		t.Errorf("%+v", q)
	}
}

// Generations of a machine's app only grow; each step back counts.
func TestGenerations(t *testing.T) {
	g := newGenerations()
	for _, sequence := range []uint64{1, 1, 3, 2, 2, 3} {
		g.saw("m1", "web", "runs", starling.Generation{Epoch: 1, Sequence: sequence})
	}
	g.saw("m1", "web", "wants", starling.Generation{Epoch: 1, Sequence: 1})
	g.saw("m2", "web", "runs", starling.Generation{Epoch: 1, Sequence: 1})
	g.saw("m2", "web", "runs", starling.Generation{Epoch: 2, Sequence: 0})
	if g.back != 1 || len(g.words) != 1 {
		t.Errorf("%d steps back: %q", g.back, g.words)
	}
	if err := (&Result{WentBack: 1}).Verdict(); err == nil {
		t.Error("a step back breaks no promise")
	}
}
