package raftfsm

import (
	"bytes"
	"testing"

	"github.com/starlingdeploy/starling"
)

// A command that is refused after it has written leaves no trace, and those before it
// in the entry stay.
func TestRollback(t *testing.T) {
	f := play(t, "deploy").fsms["east"]
	want := snapshotOf(t, f)
	tx := begin(f.db.Load(), f.region, f.limits, f.View().Index()+1)
	tx.now = tx.meta.Clock
	saved, n := tx.meta, tx.n

	old := tx.deployment("d1")
	d := *old.rec
	d.Reason = "changed"
	tx.putDeployment(old, &d)
	tx.putDeployment(nil, &starling.Deployment{ID: "new", App: "hello", Home: "east", Phase: starling.PhaseQueued})
	tx.emitFor(EventDeploymentQueued, &d, "")
	drop(tx, tableDeployments, tx.deployment("d1"))
	drop(tx, tableReleases, get[starling.Release](tx.reader, tableReleases, byID, nil))
	tx.count("elsewhere", func(h *home) { h.Ended++ })
	tx.count("elsewhere", func(h *home) { h.Ended++ })
	if tx.deployment("d1") != nil || tx.err != nil {
		t.Fatalf("the writes did not work: %v", tx.err)
	}
	tx.rollback()
	tx.meta, tx.n = saved, n
	tx.index-- // or the state would rightly differ by that
	if err := tx.commit(); err != nil {
		t.Fatal(err)
	}
	if got := snapshotOf(t, f); !bytes.Equal(want, got) {
		t.Errorf("it left a trace: %s", firstDiff(string(want), string(got)))
	}
	checkLanes := restored(t, f).View()
	if a, b := len(f.View().Startable()), len(checkLanes.Startable()); a != b {
		t.Errorf("%d lanes, %d after a restore", a, b)
	}
}

func TestFaultsOfTheDatabaseAreReported(t *testing.T) {
	f := New("east")
	tx := begin(f.db.Load(), f.region, f.limits, 1)
	put(tx, "no such table", nil, &row[home]{rec: &home{}})
	first := tx.err
	drop(tx, tableHomes, &row[home]{rec: &home{Name: "none"}})
	if first == nil || tx.err != first {
		t.Errorf("the first fault is %v, kept is %v", first, tx.err)
	}
	tx.txn.abort()
}

func TestViewOfOneApp(t *testing.T) {
	d := newDriver(t)
	d.must(d.cmd(TypeAppApply, AppApply{App: starling.App{Name: "a", Source: starling.SourceSpec{Git: "g"}, Build: &starling.BuildSpec{Command: []string{"make"}}}}))
	sha := "0123456789012345678901234567890123456789"
	lease := d.must(d.cmd(TypeSubmit, Submit{ID: "d1", App: "a", SHA: sha}), d.cmd(TypeJobLease, JobLease{Worker: "w"}))[1].Deployment.Lease
	art := starling.DigestOf([]byte("v1"))
	d.must(d.cmd(TypeJobComplete, JobComplete{ID: "d1", Lease: lease, Artifact: starling.Artifact{Digest: art}}),
		d.cmd(TypeSubmit, Submit{ID: "d2", App: "a", SHA: sha, Priority: 1}), d.cmd(TypeSubmit, Submit{ID: "d3", App: "a", SHA: sha, Priority: 2}))
	v := d.fsm.View()
	app, ok := v.App("a")
	if !ok || app.Revision != 1 {
		t.Fatalf("app %+v", app)
	}
	if a, ok := v.ArtifactByBuildKey(app.BuildKey(sha)); !ok || a.Digest != art || a.BuildKey != app.BuildKey(sha) {
		t.Errorf("artifact by build key %+v", a)
	}
	if next, ok := v.NextForApp("a"); !ok || next.ID != "d3" || !next.CacheHit {
		t.Errorf("next is %+v", next)
	}
	if now, ok := v.UnderWay("a"); !ok || now.ID != "d1" {
		t.Errorf("under way is %+v", now)
	}
	if len(v.Startable())+len(v.Buildable()) != 0 {
		t.Error("an app that is busy has something to start")
	}
	// The view stays as it is while the state moves on.
	d.must(d.cmd(TypeFinish, Finish{ID: "d1", Phase: starling.PhaseCancelled, Reason: "no"}))
	if now, ok := v.UnderWay("a"); !ok || now.Phase != starling.PhaseReplicating || v.Index() == d.fsm.View().Index() {
		t.Error("a view changed")
	}
	if s := d.fsm.View().Startable(); len(s) != 1 || s[0].ID != "d3" {
		t.Errorf("startable: %v", s)
	}
	if _, ok := v.App("b"); ok {
		t.Error("an app that is not there")
	}
}
