package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// A release that crashes again and again takes the fix like any other, and so does a machine
// that is just waiting for a bad release to become healthy.
func TestBrokenReleaseNeverBlocksTheFix(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "ok")), running(t)))
	m.await(1, starling.MachineHealthy)
	if err := os.WriteFile(filepath.Join(m.app("current"), "mode"), []byte("crash"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.get("/die"); err == nil {
		t.Fatal("it did not die")
	}
	eventually(t, 30*time.Second, "v1 crashes", func() bool { return m.report().Reason != "" })
	r.leader.setGoal(goal(2, r.push(versionFiles("v2", "ok")), running(t)))
	if rep := m.await(2, starling.MachineHealthy); rep.Reason != "" || !m.serves("v2") {
		t.Errorf("the fix runs, and the report is %+v", rep)
	}

	slow := func(g *starling.Goal) {
		running(t)(g)
		g.Deploy.Health.Deadline = dur(10 * time.Minute)
	}
	r.leader.setGoal(goal(3, r.push(versionFiles("v3", "sick")), slow))
	m.await(3, starling.MachineActivating)
	r.leader.setGoal(goal(4, r.push(versionFiles("v4", "ok")), running(t)))
	m.await(4, starling.MachineHealthy) // within its 40 s, not the bad one's 10 minutes
	if !m.serves("v4") {
		t.Error("v4 does not answer")
	}
}

// min_healthy_time counts where there is no health check, too.
func TestWithoutACheckAReleaseMustRunForMinHealthyTime(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	begun := time.Now()
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "ok")), func(g *starling.Goal) {
		running(t)(g)
		g.Deploy.Health = nil
		g.Deploy.Strategy.MinHealthyTime = dur(2 * time.Second)
	}))
	m.await(1, starling.MachineHealthy)
	if took := time.Since(begun); took < 2*time.Second {
		t.Errorf("healthy after %s", took)
	}
}
