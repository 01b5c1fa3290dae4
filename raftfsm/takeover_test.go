package raftfsm

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// follow applies to d's state all that changed in another.
func (d *driver) follow(region string, v View) {
	d.t.Helper()
	for {
		m := v.ChangedSince(region, d.fsm.View().MirrorIndex(region))
		if m.Index == d.fsm.View().MirrorIndex(region) {
			return
		}
		d.must(d.cmd(TypeMirror, Mirror{m}))
	}
}

// regionsOf makes states that know each other, by name.
func regionsOf(t testing.TB, names ...string) map[string]*driver {
	t.Helper()
	out := map[string]*driver{}
	for _, n := range names {
		d := &driver{t: t, fsm: New(n), clock: epoch}
		for _, other := range names {
			d.must(d.cmd(TypeRegionUpsert, RegionUpsert{Region{Name: other}}))
		}
		out[n] = d
	}
	return out
}

// checkState compares counters and lanes with the records, and a restored state with this one.
func (d *driver) checkState() {
	d.t.Helper()
	v := d.fsm.View()
	counts := map[string]home{}
	for r := range scan[starling.Deployment](v.reader, tableDeployments, byID, nil) {
		h := counts[r.rec.Home]
		if r.rec.Phase.Terminal() {
			h.Ended++
		} else {
			h.Active++
		}
		counts[r.rec.Home] = h
		if (r.mod != 0) != (r.rec.Home == d.fsm.region) {
			d.t.Fatalf("%s is homed at %s and has mod %d in %s", r.rec.ID, r.rec.Home, r.mod, d.fsm.region)
		}
	}
	for h := range scan[home](v.reader, tableHomes, byID, nil) {
		if c := counts[h.rec.Name]; c.Active != h.rec.Active || c.Ended != h.rec.Ended {
			d.t.Fatalf("counters of %s in %s are %+v, want %+v", h.rec.Name, d.fsm.region, *h.rec, c)
		}
	}
	again := New(d.fsm.region)
	if err := again.Restore(bytesOf(d.fsm)); err != nil {
		d.t.Fatal(err)
	}
	if !bytes.Equal(snapshotOf(d.t.(failer), d.fsm), snapshotOf(d.t.(failer), again)) {
		d.t.Fatal("a restored state differs")
	}
	if want, got := show(v, "buildable", "")+show(v, "startable", ""), show(again.View(), "buildable", "")+show(again.View(), "startable", ""); want != got {
		d.t.Fatalf("the queue is %s after a restore, was %s", got, want)
	}
}

// A takeover of many apps goes in steps of bounded size, each a batch for the others, who
// end with the same records whatever they had seen before.
func TestTakeoverInSteps(t *testing.T) {
	rs := regionsOf(t, "east", "west", "north", "south")
	east, west := rs["east"], rs["west"]
	west.fsm.limits.takeover = 7
	const apps, each = 12, 5
	for i := range apps {
		name := fmt.Sprintf("app%d", i)
		east.must(east.cmd(TypeAppApply, AppApply{App: starling.App{Name: name, Source: starling.SourceSpec{Git: "g"}, Build: &starling.BuildSpec{Command: []string{"make"}}}}))
		for j := range each {
			east.must(east.cmd(TypeSubmit, Submit{ID: fmt.Sprintf("%s-%d", name, j), App: name, SHA: fmt.Sprintf("%040x", i*each+j), IdempotencyKey: fmt.Sprint(j)}))
		}
		if i%2 == 0 {
			east.must(east.cmd(TypeJobLease, JobLease{Worker: fmt.Sprintf("w/%d", i)}))
		}
	}
	west.follow("east", east.fsm.View())
	rs["north"].follow("east", east.fsm.View())
	var steps int
	moved := west.fsm.View().NextEpoch("east")
	for stage := starling.TakeoverBegun; stage == starling.TakeoverBegun; steps++ {
		before := west.index
		tk := west.must(west.cmd(TypeTakeover, Takeover{From: "east", Epoch: moved}))[0].Takeover
		stage = tk.Stage
		m := west.fsm.View().ChangedSince("west", before)
		if n := len(m.Apps) + len(m.Goals) + len(m.Releases) + len(m.Deployments); n > 7+3 {
			t.Fatalf("step %d moves %d records", steps, n)
		}
		west.checkState()
		if steps == 3 { // north follows step by step, south all at once
			rs["north"].follow("west", west.fsm.View())
			rs["north"].checkState()
		}
	}
	if steps < apps*(each+1)/10 {
		t.Fatalf("only %d steps", steps)
	}
	if n := len(west.fsm.View().Active()); n != apps*each {
		t.Fatalf("west has %d deployments to go on with, want %d", n, apps*each)
	}
	for _, name := range []string{"north", "south", "east"} {
		rs[name].follow("west", west.fsm.View())
		rs[name].checkState()
		for i := range apps {
			if a, ok := rs[name].fsm.View().App(fmt.Sprintf("app%d", i)); !ok || a.Home != "west" || a.Epoch != moved {
				t.Errorf("%s has %+v", name, a)
			}
		}
		if ds := rs[name].fsm.View().Deployments(starling.DeploymentFilter{}); len(ds) != apps*each || ds[0].Home != "west" {
			t.Errorf("%s lists %d deployments, the newest of %s", name, len(ds), ds[0].Home)
		}
	}
	if n := len(east.fsm.View().Active()) + len(east.fsm.View().Unseen()); n != 0 {
		t.Errorf("east has %d deployments or unseen records left", n)
	}
}

// A retry finds its deployment in the new home, whether it had ended in the old one or not.
func TestIdempotencyKeySurvivesATakeover(t *testing.T) {
	rs := regionsOf(t, "east", "west")
	east, west := rs["east"], rs["west"]
	east.history(20)
	west.follow("east", east.fsm.View())
	west.must(west.cmd(TypeTakeover, Takeover{From: "east", Epoch: west.fsm.View().NextEpoch("east")}))
	for i := range 20 {
		r := west.must(west.cmd(TypeSubmit, Submit{ID: fmt.Sprintf("again%d", i), App: "old", SHA: fmt.Sprintf("%040x", 1), IdempotencyKey: fmt.Sprintf("old%d", i)}))[0]
		if r.Created || r.Deployment.ID != fmt.Sprintf("old%d", i) {
			t.Fatalf("the retry of old%d made %+v", i, r.Deployment)
		}
	}
	// What nobody else saw and what was submitted again with its key: the new home's counts.
	east.must(east.cmd(TypeSubmit, Submit{ID: "mine", App: "old", SHA: fmt.Sprintf("%040x", 2), IdempotencyKey: "k"}))
	west.must(west.cmd(TypeSubmit, Submit{ID: "yours", App: "old", SHA: fmt.Sprintf("%040x", 2), IdempotencyKey: "k"}))
	for range 2 {
		east.follow("west", west.fsm.View())
		west.follow("east", east.fsm.View())
	}
	for name, d := range rs {
		d.checkState()
		if x, _ := d.fsm.View().Deployment("mine"); x == nil || x.Phase != starling.PhaseFailed {
			t.Errorf("in %s mine is %+v", name, x)
		}
		if got, ok := d.fsm.View().submitted("old", "k"); !ok || got.id() != "yours" {
			t.Errorf("in %s the key stands for %+v", name, got)
		}
	}
}

// A long history is not touched: taking over costs what there is to take over.
func TestTakeoverDoesNotWalkHistory(t *testing.T) {
	rs := regionsOf(t, "east", "west")
	east, west := rs["east"], rs["west"]
	const ended = 9000
	east.history(ended)
	west.follow("east", east.fsm.View())
	cmd := west.cmd(TypeTakeover, Takeover{From: "east", Epoch: west.fsm.View().NextEpoch("east")})
	apply := west.timed(cmd)
	mirror := time.Duration(0)
	for range 5 { // what a command costs that does nothing
		mirror = max(mirror, west.timed(west.cmd(TypeRegionUpsert, RegionUpsert{Region{Name: "east"}})))
	}
	t.Logf("takeover with %d ended deployments: %s; a command that changes nothing: %s", ended, apply, mirror)
	if n := len(west.fsm.View().ChangedSince("west", west.index-6).Deployments); n != 0 {
		t.Errorf("%d ended deployments were changed", n)
	}
	if apply > 500*time.Millisecond {
		t.Errorf("taking over took %s", apply)
	}
}

func (d *driver) timed(c Command) time.Duration {
	d.t.Helper()
	b, err := Encode([]Command{c})
	if err != nil {
		d.t.Fatal(err)
	}
	d.index++
	begin := time.Now()
	r := d.fsm.Apply(&raft.Log{Index: d.index, Data: b}).([]Result)
	took := time.Since(begin)
	if r[0].Err != nil {
		d.t.Fatal(r[0].Err)
	}
	return took
}

// Batches that move homes are not for programs of level 1, which would refuse them.
func TestMovesNeedALevel(t *testing.T) {
	for _, m := range []starling.Mirror{
		{Takeovers: []*starling.Takeover{{}}},
		{Apps: []*starling.App{nil, {Epoch: 2}}},
		{Deployments: []*starling.Deployment{{Epoch: 2}}},
		{Goals: []*starling.Goal{{Generation: starling.Generation{Epoch: 2}}}},
	} {
		c, err := NewCommand(TypeMirror, epoch, "", Mirror{m})
		if err != nil || c.Needs() != levelMoves {
			t.Errorf("%+v needs level %d, %v", m, c.Needs(), err)
		}
	}
	c, err := NewCommand(TypeMirror, epoch, "", Mirror{starling.Mirror{Apps: []*starling.App{{Epoch: 1}}}})
	if err != nil || c.Needs() != 1 {
		t.Errorf("an ordinary batch needs level %d, %v", c.Needs(), err)
	}
}
