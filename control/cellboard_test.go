package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// fleet is a bench with cells, and a goal in force for app web.
type fleet struct {
	*bench
	term    *term
	tickets []rpc.Ticket
}

// newFleet has machines m0, m1, … in cells of so many; the first term knows them all.
func newFleet(t *testing.T, cellMax, machines int) *fleet {
	t.Helper()
	f := &fleet{bench: newBench(t, "us", withCells(cellMax), usCache)}
	f.look(f.elect())
	f.tickets = f.enlist(machines)
	f.app("web", nil)
	f.submit("d1", "web", f.artifact("v1"))
	f.term = f.elect()
	f.look(f.term)
	return f
}

// slotsOf lists the slots of machines.
func (f *fleet) slotsOf(machines ...int) []int {
	var out []int
	for _, i := range machines {
		out = append(out, f.tickets[i].Slot)
	}
	return out
}

// say lets a machine speak for some of its cell, all of which are in one state.
func (f *fleet) say(relay int, state starling.MachineState, machines ...int) rpc.CellReportResponse {
	f.t.Helper()
	g := f.goal()
	tally := cell.NewTally("us")
	var nodes []starling.Node
	for _, i := range machines {
		nodes = append(nodes, node("us", fmt.Sprintf("m%d", i), starling.RoleMachine))
	}
	slices.SortFunc(nodes, func(a, b starling.Node) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	tally.SetMembers(nodes)
	for _, n := range nodes {
		r := starling.MachineReport{Node: n.Name, App: g.App, Generation: g.Generation, State: state, ChunksDone: 1, ChunksTotal: 2, FetchMS: 100}
		if _, err := tally.Record(r, f.clock.Now()); err != nil {
			f.t.Fatal(err)
		}
	}
	app, _ := tally.Count(g, f.clock.Now())
	return f.cellReport(f.term, fmt.Sprintf("m%d", relay), f.tickets[relay].Cell, f.slotsOf(machines...), app)
}

func (f *fleet) goal() *starling.Goal {
	f.t.Helper()
	g, ok := f.fsm.View().Goal("web")
	if !ok {
		f.t.Fatal("no goal")
	}
	return g
}

// counts is what the region reports; ok is false while it does not know.
func (f *fleet) counts() (c starling.Counts, ok bool) {
	f.t.Helper()
	f.look(f.term)
	r, ok := f.term.reportOn(f.fsm.View(), "web", f.clock.Now())
	r.Counts.Samples, r.Counts.Slowest = nil, nil
	return r.Counts, ok
}

func (f *fleet) want(what string, want starling.Counts) {
	f.t.Helper()
	if c, ok := f.counts(); !ok || !sameCounts(c, want) {
		f.t.Errorf("%s: %+v (known: %t), want %+v", what, c, ok, want)
	}
}

func TestCellsAreCountedByTheirSpeakers(t *testing.T) {
	f := newFleet(t, 4, 6) // m0 to m3, and m4, m5
	if f.tickets[3].Cell != f.tickets[0].Cell || f.tickets[4].Cell == f.tickets[0].Cell {
		t.Fatalf("%+v", f.tickets)
	}
	if _, ok := f.counts(); ok {
		t.Error("a new leader reports before any cell has spoken")
	}
	f.say(0, starling.MachineStaged, 0, 1, 2, 3)
	if _, ok := f.counts(); ok {
		t.Error("a new leader reports before every cell has spoken")
	}
	f.say(4, starling.MachineFetching, 4, 5)
	f.want("all alive", starling.Counts{Target: 6, Staged: 4})
	r, _ := f.term.reportOn(f.fsm.View(), "web", f.clock.Now())
	if p := r.Progress; len(p) != 21 || p[20] != 4 || p[10] != 2 || r.Fetch.Quantile(0.5) == 0 || len(r.Counts.Slowest) != 5 {
		t.Errorf("progress %v, fetch %v, slowest %+v", p, r.Fetch, r.Counts.Slowest)
	}

	f.say(0, starling.MachineStaged, 0, 1, 2)
	f.want("one is gone", starling.Counts{Target: 5, Staged: 3, Absent: 1})
	f.must(raftfsm.TypeMachineStanding, raftfsm.MachineStanding{Name: "m3", Standing: starling.StandingDraining})
	f.want("and drained: it is nobody's target", starling.Counts{Target: 5, Staged: 3})

	for range 11 {
		f.clock.advance(time.Second)
		f.say(4, starling.MachineStaged, 4, 5)
	}
	f.want("a silent cell is awaited", starling.Counts{Target: 5, Staged: 2})
	for range 20 {
		f.clock.advance(time.Second)
		f.say(4, starling.MachineStaged, 4, 5)
	}
	f.want("a cell that stays silent", starling.Counts{Target: 2, Staged: 2, Absent: 3})
	f.say(1, starling.MachineStaged, 0, 1, 2)
	f.want("it speaks again", starling.Counts{Target: 5, Staged: 5})

	_, _, err := f.term.CellReport(f.fsm.View(), rpc.CellReport{Cell: f.tickets[0].Cell, Relay: node("us", "m4", starling.RoleMachine)}, f.clock.Now())
	if !errors.Is(err, starling.ErrFenced) {
		t.Errorf("a machine of another cell speaks: %v", err)
	}
}

func TestMetricsOfCells(t *testing.T) {
	registry := prometheus.NewRegistry()
	b := newBench(t, "us", func(c *Config) { withCells(4)(c); c.Metrics = registry })
	f := &fleet{bench: b, term: b.elect()}
	f.look(f.term)
	f.tickets = f.enlist(6)
	f.look(f.term)
	f.clock.advance(12 * time.Second)
	f.cellReport(f.term, "m0", f.tickets[0].Cell, f.slotsOf(0, 1))
	f.clock.advance(time.Second)
	for name, want := range map[string]string{
		"starling_cells":                `starling_cells{state="heard"} 1` + "\n" + `starling_cells{state="silent"} 1`,
		"starling_machines":             `starling_machines{state="alive"} 2` + "\n" + `starling_machines{state="missing"} 4`,
		"starling_cell_reports_total":   "starling_cell_reports_total 1",
		"starling_cell_silence_seconds": "starling_cell_silence_seconds 13",
	} {
		got := metricText(t, registry, name)
		if got != want {
			t.Errorf("%s\n%s\nwant\n%s", name, got, want)
		}
	}
}

// metricText is one metric as prometheus reads it, without its help.
func metricText(t *testing.T, g prometheus.Gatherer, name string) string {
	t.Helper()
	all, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range all {
		for _, m := range f.Metric {
			if f.GetName() != name {
				continue
			}
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if text := strings.Join(labels, ","); text != "" {
				lines = append(lines, fmt.Sprintf("%s{%s} %v", name, text, m.GetGauge().GetValue()+m.GetCounter().GetValue()))
			} else {
				lines = append(lines, fmt.Sprintf("%s %v", name, m.GetGauge().GetValue()+m.GetCounter().GetValue()))
			}
		}
	}
	return strings.Join(lines, "\n")
}

func TestACellThatStaysSilentIsAbsentInTheEnd(t *testing.T) {
	f := newFleet(t, 4, 6)
	f.say(0, starling.MachineStaged, 0, 1, 2, 3)
	f.clock.advance(rpc.CellSilentAfter - time.Second)
	f.say(0, starling.MachineStaged, 0, 1, 2, 3)
	if _, ok := f.counts(); ok {
		t.Error("known too soon")
	}
	f.clock.advance(2 * time.Second)
	f.want("never heard", starling.Counts{Target: 4, Staged: 4, Absent: 2})
}

// The speaker dies in the middle of a deployment: until another speaks, nobody has given up the cell.
func TestASilentCellDoesNotEndADeployment(t *testing.T) {
	f := newFleet(t, 4, 4)
	f.place(f.term, f.goal().Artifact)
	f.say(0, starling.MachineFetching, 0, 1, 2, 3)
	f.run(f.term, rpc.CellSilentAfter+10*time.Second, 500*time.Millisecond, func() bool { return f.deployment("d1").Phase.Terminal() })
	if d := f.deployment("d1"); d.Phase != starling.PhaseStaging || d.Machines.Absent != 0 {
		t.Fatalf("%s: %+v", d.Phase, d.Machines)
	}
	f.say(1, starling.MachineStaged, 1, 2, 3)
	if !f.run(f.term, 5*time.Second, 100*time.Millisecond, func() bool { return f.goal().Stage == starling.StageActivate }) {
		t.Fatalf("%+v", f.deployment("d1"))
	}
	f.say(1, starling.MachineHealthy, 1, 2, 3)
	f.look(f.term)
	if d := f.deployment("d1"); d.Phase != starling.PhaseSucceeded || d.Machines.Healthy != 3 || d.Machines.Absent != 1 {
		t.Errorf("%s: %+v", d.Phase, d.Machines)
	}
}

func TestAMachineThatIsNewInItsCellIsAwaited(t *testing.T) {
	f := newFleet(t, 4, 2)
	f.say(0, starling.MachineStaged, 0, 1)
	f.want("two", starling.Counts{Target: 2, Staged: 2})
	f.tickets = f.enlist(3)
	f.want("a third", starling.Counts{Target: 3, Staged: 2})
	for range 31 {
		f.clock.advance(time.Second)
		f.say(0, starling.MachineStaged, 0, 1)
	}
	f.want("it does not come", starling.Counts{Target: 2, Staged: 2, Absent: 1})
	f.tickets = f.enlist(4)
	f.want("a fourth", starling.Counts{Target: 3, Staged: 2, Absent: 1})
	f.say(0, starling.MachineStaged, 0, 1, 3)
	f.want("it comes", starling.Counts{Target: 3, Staged: 3, Absent: 1})
	f.say(0, starling.MachineStaged, 0, 1)
	f.want("and dies: it is not awaited again", starling.Counts{Target: 2, Staged: 2, Absent: 2})
}

// A cell that has not heard of the present wave is no reason to believe that it is done.
func TestACellThatLagsBehindItsGoal(t *testing.T) {
	f := newFleet(t, 4, 4)
	f.say(0, starling.MachineHealthy, 0, 1, 2, 3)
	f.want("before activation", starling.Counts{Target: 4, Staged: 4})
	f.place(f.term, f.goal().Artifact)
	if !f.run(f.term, 5*time.Second, 100*time.Millisecond, func() bool { return f.goal().Stage == starling.StageActivate }) {
		t.Fatalf("%+v", f.deployment("d1"))
	}
	f.want("activation is news to the cell", starling.Counts{Target: 4, Staged: 4, Due: 4})
	f.say(0, starling.MachineHealthy, 0, 1, 2, 3)
	if f.look(f.term); f.deployment("d1").Phase != starling.PhaseSucceeded {
		t.Errorf("%+v", f.deployment("d1"))
	}
}

func TestHalvesOfACellCountOnce(t *testing.T) {
	f := newFleet(t, 6, 6)
	first := cell.Rank(f.tickets[0].Cell, []string{"m0", "m1", "m2", "m3", "m4", "m5"}, 6)
	number := func(name string) (n int) {
		if _, err := fmt.Sscanf(name, "m%d", &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	var all, one, other []int
	for i, name := range first {
		all = append(all, number(name))
		if i%2 == 0 {
			one = append(one, number(name))
		} else {
			other = append(other, number(name))
		}
	}
	f.say(one[0], starling.MachineStaged, all...)
	f.want("whole", starling.Counts{Target: 6, Staged: 6})
	seeds := f.say(other[0], starling.MachineFetching, other...).Seeds
	if want := []string{fmt.Sprintf("m%d:7473", one[0])}; !slices.Equal(seeds, want) {
		t.Errorf("the other half is told of %v, want %v", seeds, want)
	}
	f.want("the first has not noticed", starling.Counts{Target: 6, Staged: 6})
	f.say(one[0], starling.MachineStaged, one...)
	f.want("two halves", starling.Counts{Target: 6, Staged: 3})
	f.say(one[0], starling.MachineStaged, all...)
	f.want("whole again, and the other has not noticed", starling.Counts{Target: 6, Staged: 6})
	for range 5 {
		f.clock.advance(time.Second)
		f.say(other[0], starling.MachineFetching, all...)
	}
	f.want("the first one died: it is late", starling.Counts{Target: 6})
}

func TestAReportThatBuildsOnAnotherNeedsThat(t *testing.T) {
	f := newFleet(t, 4, 2)
	g := f.goal()
	say := func(seq, base uint64, apps ...rpc.CellApp) rpc.CellReportResponse {
		t.Helper()
		r := rpc.CellReport{Cell: f.tickets[0].Cell, Relay: node("us", "m0", starling.RoleMachine), Seq: seq, Base: base, Apps: apps}
		r.Alive.Set(f.tickets[0].Slot)
		r.Alive.Set(f.tickets[1].Slot)
		res, _, err := f.term.CellReport(f.fsm.View(), r, f.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	app := rpc.CellApp{App: "web", Generation: g.Generation, Revision: g.Revision, Counts: starling.Counts{Target: 2, Staged: 1}}
	if !say(7, 6, app).Whole {
		t.Error("a new leader takes a part for the whole")
	}
	if say(8, 0, app).Whole {
		t.Error("the whole is asked for again")
	}
	if say(9, 8).Whole {
		t.Error("the base is not known")
	}
	f.want("what was said before", starling.Counts{Target: 2, Staged: 1})
}

func TestWhatCellsSayIsBounded(t *testing.T) {
	f := newFleet(t, 4, 2)
	g := f.goal()
	for what, change := range map[string]func(*rpc.CellApp){
		"negative":         func(a *rpc.CellApp) { a.Counts.Staged = -1 },
		"negative unheard": func(a *rpc.CellApp) { a.Unheard = -1 },
		"progress":         func(a *rpc.CellApp) { a.Progress = starling.Progress{-5} },
		"durations":        func(a *rpc.CellApp) { a.Fetch = make(starling.Durations, 10_000) },
	} {
		a := rpc.CellApp{App: "web", Generation: g.Generation}
		change(&a)
		_, _, err := f.term.CellReport(f.fsm.View(), rpc.CellReport{Cell: f.tickets[0].Cell, Relay: node("us", "m0"), Apps: []rpc.CellApp{a}}, f.clock.Now())
		if !starling.IsInvalid(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	a := rpc.CellApp{App: "web", Generation: g.Generation, Revision: g.Revision, Bytes: starling.Bytes{Peer: -1, WAN: 5}, Counts: starling.Counts{Target: 2, Absent: 7}}
	f.cellReport(f.term, "m0", f.tickets[0].Cell, f.slotsOf(0, 1), a)
	r, _ := f.term.reportOn(f.fsm.View(), "web", f.clock.Now())
	if r.Counts.Absent != 0 || r.Bytes != (starling.Bytes{}) {
		t.Errorf("%+v", r)
	}
	err := f.speakAs("m0", rpc.CellReport{Cell: f.tickets[0].Cell, Relay: node("us", "m1")})
	if !starling.IsInvalid(err) {
		t.Errorf("in another's name: %v", err)
	}
}

// speakAs posts a report in the name of a certificate.
func (f *fleet) speakAs(name string, r rpc.CellReport) error {
	_, err := clientOf(f.server, node("us", name, starling.RoleMachine)).ReportCell(context.Background(), r)
	return err
}
