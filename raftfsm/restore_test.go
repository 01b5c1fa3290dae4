package raftfsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// release deploys an artifact of an app from its submission up to a phase.
func (d *driver) release(app, id string, to starling.Phase) {
	d.t.Helper()
	digest := starling.DigestOf([]byte(id))
	steps := []Command{
		d.cmd(TypeArtifactRegister, ArtifactRegister{starling.Artifact{Digest: digest}}),
		d.cmd(TypeSubmit, Submit{ID: id, App: app, Artifact: digest}),
		d.cmd(TypeStart, Start{ID: id}),
		d.cmd(TypePlaced, Placed{ID: id, Placing: starling.Placing{Name: "east", Placed: true}}),
		d.cmd(TypeAdvance, Advance{ID: id, From: starling.PhaseReplicating, To: starling.PhaseStaging}),
		d.cmd(TypeAdvance, Advance{ID: id, From: starling.PhaseStaging, To: starling.PhaseRollingOut}),
		d.cmd(TypeAdvance, Advance{ID: id, From: starling.PhaseRollingOut, To: starling.PhaseSucceeded}),
	}
	n := map[starling.Phase]int{starling.PhaseQueued: 2, starling.PhaseRollingOut: 6, starling.PhaseSucceeded: 7}[to]
	for _, c := range steps[:n] {
		d.must(c)
	}
}

// pull has another region take over what has changed at d's, batch by batch.
func (d *driver) pull(west *driver) {
	d.t.Helper()
	for {
		m := d.fsm.View().ChangedSince("east", west.fsm.View().MirrorIndex("east"))
		if m.Index == west.fsm.View().MirrorIndex("east") {
			return
		}
		west.must(west.cmd(TypeMirror, Mirror{Batch: m}))
	}
}

// goOn replaces the state of a cluster, which is now, by a snapshot, and d's with it.
func (d *driver) goOn(snapshot []byte, now View) {
	d.t.Helper()
	v, err := now.Restored(bytes.NewReader(snapshot), d.clock.Add(time.Hour), "op")
	if err != nil {
		d.t.Fatal(err)
	}
	var b bytes.Buffer
	if err := v.WriteSnapshot(&b); err != nil {
		d.t.Fatal(err)
	}
	d.fsm = New("east")
	if err := d.fsm.Restore(io.NopCloser(&b)); err != nil {
		d.t.Fatal(err)
	}
	d.index = d.fsm.View().Index()
}

func goalOf(t *testing.T, d *driver, app string) *starling.Goal {
	t.Helper()
	g, ok := d.fsm.View().Goal(app)
	if !ok {
		t.Fatalf("no goal for %s", app)
	}
	return g
}

// A region loses everything since a snapshot, and goes on from that: on new machines,
// whose log is short, or in place. Neither its machines nor another region see
// anything go backwards, and both follow it.
func TestRestoredStateGoesOn(t *testing.T) {
	for _, place := range []string{"on new machines", "in place"} {
		t.Run(place, func(t *testing.T) {
			east, west := newDriver(t), newDriver(t)
			west.fsm = New("west")
			for _, app := range []string{"a", "b", "idle"} {
				east.must(east.cmd(TypeAppApply, AppApply{App: starling.App{Name: app, Deploy: starling.DeploySpec{Strategy: starling.Strategy{AutoRevert: true}}}}))
			}
			east.must(east.cmd(TypeTokenBootstrap, TokenBootstrap{starling.Token{ID: "t1", Name: "op", Role: starling.ACLOperator, Hash: starling.DigestOf([]byte("s"))}}))
			east.release("a", "a1", starling.PhaseSucceeded)
			east.release("b", "b1", starling.PhaseSucceeded)
			east.release("b", "b2", starling.PhaseRollingOut)
			east.release("idle", "i1", starling.PhaseQueued)
			taken := snapshotOf(t, east.fsm)

			// What the snapshot does not know, but machines and the other region do.
			east.release("a", "a2", starling.PhaseSucceeded)
			east.release("a", "a3", starling.PhaseSucceeded)
			east.must(east.cmd(TypeAdvance, Advance{ID: "b2", From: starling.PhaseRollingOut, To: starling.PhaseSucceeded}))
			east.must(east.cmd(TypeAppApply, AppApply{App: starling.App{Name: "late"}}), east.cmd(TypeTokenRevoke, TokenRevoke{ID: "t1"}))
			east.release("late", "l1", starling.PhaseSucceeded)
			east.release("late", "ghost", starling.PhaseRollingOut)
			east.pull(west)
			seen := map[string]*starling.Goal{}
			for _, g := range east.fsm.View().Goals() {
				seen[g.App] = g
			}
			cursor, lease := west.fsm.View().MirrorIndex("east"), east.index

			now := New("east").View()
			if place == "in place" {
				now = east.fsm.View()
			}
			east.goOn(taken, now)
			v := east.fsm.View()
			if v.Index() <= max(cursor, lease) {
				t.Errorf("index %d is not above what was", v.Index())
			}
			if n := len(v.Active()); n != 0 {
				t.Errorf("%d deployments are under way", n)
			}
			for _, id := range []string{"b2", "i1"} {
				d, ok := v.Deployment(id)
				if !ok || d.Phase != starling.PhaseFailed || !strings.Contains(d.Reason, "submit again") {
					t.Errorf("%s: %+v", id, d)
				}
			}
			for app, want := range map[string]string{"a": "a1", "b": "b1"} {
				g := goalOf(t, east, app)
				if !g.Supersedes(seen[app]) || g.Artifact != starling.DigestOf([]byte(want)) || g.Generation.Epoch != 1 || g.Stage != starling.StageActivate || g.Cutoff != starling.CutoffAll {
					t.Errorf("goal of %s: %+v, machines have seen %s", app, g, seen[app].Generation)
				}
			}
			east.must(east.cmd(TypeAppApply, AppApply{App: starling.App{Name: "late"}}))
			east.release("late", "l2", starling.PhaseSucceeded)
			if g := goalOf(t, east, "late"); !g.Supersedes(seen["late"]) {
				t.Errorf("an app that the snapshot lacks: %s is not above %s", g.Generation, seen["late"].Generation)
			}
			east.release("a", "a4", starling.PhaseSucceeded)

			east.pull(west)
			for _, g := range east.fsm.View().Goals() {
				if theirs := goalOf(t, west, g.App); theirs.Generation != g.Generation || theirs.Artifact != g.Artifact {
					t.Errorf("the other region has %s of %s, not %s", theirs.Generation, g.App, g.Generation)
				}
			}
			for _, id := range []string{"ghost", "i1"} {
				if d, ok := west.fsm.View().Deployment(id); ok == (id == "ghost") || ok && d.Phase != starling.PhaseFailed {
					t.Errorf("the other region has %s: %+v", id, d)
				}
			}
			if n := west.fsm.View().MirrorFloor("east"); n == 0 || n > v.Index() {
				t.Errorf("the other region knows of a restore at %d", n)
			}
			if k, ok := west.fsm.View().Token("t1"); !ok || k.Revoked {
				t.Errorf("the other region's token %+v", k)
			}
			if _, ok := west.fsm.View().Deployment("a4"); !ok {
				t.Error("the other region does not see new deployments")
			}
		})
	}
}

func TestManyRecordsAreRestoredInBatches(t *testing.T) {
	east, west := newDriver(t), newDriver(t)
	west.fsm = New("west")
	for i := range 2 * MaxMirrorRecords {
		east.must(east.cmd(TypeAppApply, AppApply{App: starling.App{Name: fmt.Sprintf("a%d", i)}}))
	}
	east.goOn(snapshotOf(t, east.fsm), east.fsm.View())
	east.pull(west)
	if n := len(west.fsm.View().Apps()); n != 2*MaxMirrorRecords {
		t.Errorf("the other region has %d apps", n)
	}
}

func TestInspect(t *testing.T) {
	d := newDriver(t)
	d.must(d.cmd(TypeAppApply, AppApply{App: starling.App{Name: "a"}}))
	d.release("a", "a1", starling.PhaseQueued)
	good := snapshotOf(t, d.fsm)
	info, err := Inspect(bytes.NewReader(good))
	if err != nil || info.Region != "east" || info.Index != d.index || info.Active != 1 || info.Records["apps"] != 1 || info.At.IsZero() {
		t.Errorf("%+v, %v", info, err)
	}
	for n := range good {
		if n%97 != 0 {
			continue
		}
		if _, err := Inspect(bytes.NewReader(good[:n])); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
		if _, err := d.fsm.View().Restored(bytes.NewReader(good[:n]), epoch, "op"); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("restored, cut to %d bytes: %v", n, err)
		}
	}
	if _, err := New("west").View().Restored(bytes.NewReader(good), epoch, "op"); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("into another region: %v", err)
	}
}

// The same snapshot, restored twice, gives the same bytes.
func TestRestoredIsDeterministic(t *testing.T) {
	f := play(t, "deploy").fsms["east"]
	var out [2]bytes.Buffer
	for i := range out {
		v, err := f.View().Restored(bytes.NewReader(snapshotOf(t, f)), epoch.Add(time.Hour), "op")
		if err != nil {
			t.Fatal(err)
		}
		if err := v.WriteSnapshot(&out[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(out[0].Bytes(), out[1].Bytes()) {
		t.Error("two states of one snapshot")
	}
}

// What a survivor goes on with is once more recovered; a snapshot that is restored later
// does not make it forget.
func TestRecoveriesAreCounted(t *testing.T) {
	d := newDriver(t)
	d.must(d.cmd(TypeAppApply, AppApply{App: starling.App{Name: "a"}}))
	before := snapshotOf(t, d.fsm)
	v := d.fsm.View()
	for i := range 2 {
		var err error
		if v, err = v.Recovered(epoch.Add(time.Hour), "op"); err != nil {
			t.Fatal(err)
		}
		if v.Recoveries() != i+1 || v.Index() < uint64(i+1)*IndexStep || len(v.Apps()) != 1 {
			t.Errorf("recovered %d times: %d, at index %d", i+1, v.Recoveries(), v.Index())
		}
	}
	if v, err := v.Restored(bytes.NewReader(before), epoch.Add(time.Hour), "op"); err != nil || v.Recoveries() != 2 {
		t.Errorf("after a restore: %d, %v", v.Recoveries(), err)
	}
}

// A region takes another's app over, deploys it, and then loses all of that by a restore:
// it takes the app over again, at the same epoch for all that it knows, and still above
// what machines have seen.
func TestTakeoverIsRepeatedAfterARestore(t *testing.T) {
	east, west := newDriver(t), newDriver(t)
	west.fsm = New("west")
	east.must(east.cmd(TypeAppApply, AppApply{App: starling.App{Name: "a"}}))
	east.release("a", "a1", starling.PhaseSucceeded)
	west.must(west.cmd(TypeRegionUpsert, RegionUpsert{Region{Name: "east"}}))
	east.pull(west)
	taken := snapshotOf(t, west.fsm)
	takeOver := func() {
		t.Helper()
		west.must(west.cmd(TypeTakeover, Takeover{From: "east", Epoch: west.fsm.View().NextEpoch("east")}))
	}
	takeOver()
	west.must(west.cmd(TypeArtifactRegister, ArtifactRegister{starling.Artifact{Digest: starling.DigestOf([]byte("a2"))}}),
		west.cmd(TypeSubmit, Submit{ID: "a2", App: "a", Artifact: starling.DigestOf([]byte("a2"))}), west.cmd(TypeStart, Start{ID: "a2"}))
	seen := goalOf(t, west, "a")

	v, err := west.fsm.View().Restored(bytes.NewReader(taken), west.clock.Add(time.Hour), "op")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := v.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	if err := west.fsm.Restore(io.NopCloser(&b)); err != nil {
		t.Fatal(err)
	}
	west.index = v.Index()
	takeOver()
	if g := goalOf(t, west, "a"); !g.Supersedes(seen) || g.Home != "west" || g.Generation.Epoch != seen.Generation.Epoch {
		t.Errorf("after the second takeover the goal is %s of %s, machines have seen %s", g.Generation, g.Home, seen.Generation)
	}
}
