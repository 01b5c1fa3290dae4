package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

func TestReleaseIsFetchedActivatedAndReported(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	v1 := r.push(versionFiles("v1", "ok"))
	r.leader.setGoal(goal(1, v1, running(t)))
	rep := m.await(1, starling.MachineHealthy)
	if !m.serves("v1") {
		t.Error("v1 does not answer")
	}
	if rep.Running != v1 || rep.Bytes.CacheOut == 0 || rep.Bytes.CacheOut != rep.Bytes.Artifact || !slices.Contains(rep.Kept, v1) {
		t.Errorf("report %+v", rep)
	}
	env, err := m.get("/env")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"STARLING_APP=hello", "STARLING_NODE=m1", "STARLING_REGION=here", "STARLING_ZONE=a",
		"STARLING_ARTIFACT=" + v1.String(), "STARLING_GENERATION=1.1", "STARLING_TAG_ROLE=web"} {
		if !slices.Contains(strings.Split(env, "\n"), want) {
			t.Errorf("the release's environment lacks %s", want)
		}
	}
	states := r.leader.states("m1", "hello", 1)
	if states[len(states)-1] != starling.MachineHealthy || slices.Contains(states, starling.MachineFailed) {
		t.Errorf("states %v", states)
	}
}

func TestUpdateMovesOnlyWhatChangedAndRollbackNothing(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	files := versionFiles("v1", "ok")
	files["big"] = noise(2, 12<<20)
	v1 := r.push(files)
	files["version"] = []byte("v2")
	v2 := r.push(files)
	r.leader.setGoal(goal(1, v1, running(t)))
	m.await(1, starling.MachineHealthy)
	r.leader.setGoal(goal(2, v2, running(t)))
	rep := m.await(2, starling.MachineHealthy)
	if !m.serves("v2") {
		t.Error("v2 does not answer")
	}
	if moved := rep.Bytes.CacheOut + rep.Bytes.Peer; moved > rep.Bytes.Artifact/2 || rep.Bytes.Local == 0 || moved+rep.Bytes.Local != rep.Bytes.Artifact {
		t.Errorf("moved %d, cloned %d of %d bytes", moved, rep.Bytes.Local, rep.Bytes.Artifact)
	}
	r.leader.setGoal(goal(3, v1, running(t)))
	rep = m.await(3, starling.MachineHealthy)
	if !m.serves("v1") || m.current("version") != "v1" {
		t.Error("v1 does not answer again")
	}
	if rep.Bytes.CacheOut+rep.Bytes.Peer+rep.Bytes.Local != 0 {
		t.Errorf("the rollback moved bytes: %+v", rep.Bytes)
	}
	if !slices.Contains(rep.Kept, v1) || !slices.Contains(rep.Kept, v2) {
		t.Errorf("kept %v", rep.Kept)
	}
}

func TestMachineReportsToANewLeaderAtOnce(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	r.leader.elect("s1/1")
	m := r.machine("m1")
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "ok")), running(t)))
	m.await(1, starling.MachineHealthy)
	r.leader.elect("s2/2")
	begun := time.Now()
	m.await(1, starling.MachineHealthy)
	if took := time.Since(begun); took > reportRefresh/2 {
		t.Errorf("the new leader knew after %s", took)
	}
}

func TestFailedActivationsGoBack(t *testing.T) {
	t.Parallel()
	hook := func(args ...string) func(*starling.Goal, string) {
		return func(g *starling.Goal, exe string) { g.Deploy.Hooks.Pre = append([]string{exe, "helper-hook"}, args...) }
	}
	tests := []struct {
		name, mode string
		edit       func(*starling.Goal, string)
		reason     []string
		touched    bool // the old child was stopped meanwhile
	}{
		{"the health check fails", "sick", func(g *starling.Goal, _ string) { g.Deploy.Health.Deadline = dur(300 * time.Millisecond) },
			[]string{"not healthy within 300ms", "500", "not well", "starting v2"}, true},
		{"the process crashes", "crash", nil, []string{"exit status 3", "boom: the configuration is missing"}, true},
		{"the program is not there", "ok", func(g *starling.Goal, _ string) { g.Deploy.Run = []string{"./nothing"} }, []string{"./nothing"}, true},
		{"the pre-hook fails", "ok", hook("fail=migration 7 is broken"), []string{"pre-hook", "exit status 1", "migration 7 is broken"}, false},
		{"the pre-hook hangs", "ok", func(g *starling.Goal, exe string) {
			hook("hang")(g, exe)
			g.Deploy.Hooks.Timeout = dur(150 * time.Millisecond)
		}, []string{"pre-hook", "has not ended in time"}, false},
		{"the post-hook fails", "ok", func(g *starling.Goal, exe string) {
			g.Deploy.Hooks.Post = []string{exe, "helper-hook", "fail=the load balancer says no"}
		}, []string{"post-hook", "the load balancer says no"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRegion(t)
			r.startCache()
			m := r.machine("m1")
			v1 := r.push(versionFiles("v1", "ok"))
			v2 := r.push(versionFiles("v2", tt.mode))
			r.leader.setGoal(goal(1, v1, running(t)))
			m.await(1, starling.MachineHealthy)
			before, err := m.get("/env")
			if err != nil {
				t.Fatal(err)
			}
			g := goal(2, v2, running(t))
			if tt.edit != nil {
				tt.edit(&g, exe(t))
			}
			r.leader.setGoal(g)
			rep := m.await(2, starling.MachineFailed)
			for _, want := range tt.reason {
				if !strings.Contains(rep.Reason, want) {
					t.Errorf("the reason lacks %q: %s", want, rep.Reason)
				}
			}
			if rep.Running != v1 || m.current("version") != "v1" || !m.serves("v1") {
				t.Errorf("v1 is not back: current %q, report %+v", m.current("version"), rep)
			}
			_ = before
			// It is not tried again, not even after a restart; and a newer goal is.
			m.stop()
			m.start()
			eventually(t, 30*time.Second, "v1 answers after the restart", func() bool { return m.serves("v1") })
			if got := m.await(2, starling.MachineFailed); !strings.Contains(got.Reason, tt.reason[0]) {
				t.Errorf("after the restart the reason is %q", got.Reason)
			}
			r.leader.setGoal(goal(3, v1, running(t)))
			m.await(3, starling.MachineHealthy)
		})
	}
}

func TestFirstReleaseThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "crash")), running(t)))
	rep := m.await(1, starling.MachineFailed)
	if _, err := os.Lstat(m.app("current")); !os.IsNotExist(err) {
		t.Errorf("current: %v", err)
	}
	if !rep.Running.IsZero() {
		t.Errorf("running %s", rep.Running)
	}
}

func TestHooksRunInOrderInTheNewRelease(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	g := goal(1, r.push(versionFiles("v1", "ok")), running(t))
	out := t.TempDir()
	g.Deploy.Hooks.Pre = []string{exe(t), "helper-hook", "want=version", "touch=" + filepath.Join(out, "pre")}
	g.Deploy.Hooks.Post = []string{exe(t), "helper-hook", "want=" + filepath.Join(out, "pre"), "touch=" + filepath.Join(out, "post")}
	r.leader.setGoal(g)
	m.await(1, starling.MachineHealthy)
	for _, name := range []string{"pre", "post"} {
		if got := readFileOr(filepath.Join(out, name), ""); got != "1.1" {
			t.Errorf("%s-hook left %q", name, got)
		}
	}
}

func TestGoalWithoutArtifactStopsTheApp(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	v1 := r.push(versionFiles("v1", "ok"))
	r.leader.setGoal(goal(1, v1, running(t)))
	m.await(1, starling.MachineHealthy)
	r.leader.setGoal(goal(2, starling.Digest{}, running(t)))
	rep := m.await(2, starling.MachineHealthy)
	if !rep.Running.IsZero() {
		t.Errorf("running %s", rep.Running)
	}
	if _, err := m.get("/healthz"); err == nil {
		t.Error("the app still answers")
	}
	if _, err := os.Lstat(m.app("current")); !os.IsNotExist(err) {
		t.Errorf("current: %v", err)
	}
	r.leader.setGoal(goal(3, v1, running(t)))
	if rep := m.await(3, starling.MachineHealthy); rep.Bytes.CacheOut != 0 {
		t.Errorf("fetched again: %+v", rep.Bytes)
	}
}

func TestCutoffAndStageHoldTheMachineBack(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	v1, v2 := r.push(versionFiles("v1", "ok")), r.push(versionFiles("v2", "ok"))
	r.leader.setGoal(goal(1, v1))
	m.await(1, starling.MachineHealthy)
	g := goal(2, v2)
	g.Stage, g.Cutoff = starling.StageFetch, 0
	r.leader.setGoal(g)
	m.await(2, starling.MachineStaged)
	g.Revision = 2 // the gate is open: to machines it says nothing new
	r.leader.setGoal(g)
	g.Revision, g.Stage = 3, starling.StageActivate
	r.leader.setGoal(g)
	eventually(t, 30*time.Second, "the machine knows revision 3", func() bool {
		rec, err := loadRecord(appDir(m.app()))
		return err == nil && rec.Goal != nil && rec.Goal.Revision == 3
	})
	if got := m.current("version"); got != "v1" {
		t.Errorf("current is %s before the cutoff", got)
	}
	g.Revision, g.Cutoff = 4, starling.CutoffAll
	r.leader.setGoal(g)
	m.await(2, starling.MachineHealthy)
	if got := m.current("version"); got != "v2" {
		t.Errorf("current is %s", got)
	}
}

func TestRunningArtifactIsAdoptedWithoutRestart(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	v1 := r.push(versionFiles("v1", "ok"))
	r.leader.setGoal(goal(1, v1, running(t)))
	m.await(1, starling.MachineHealthy)
	r.leader.setGoal(goal(2, v1, running(t)))
	m.await(2, starling.MachineHealthy)
	if env, err := m.get("/env"); err != nil || !strings.Contains(env, "STARLING_GENERATION=1.1") {
		t.Errorf("the child was restarted: %v", err)
	}
}

func TestOlderGenerationIsIgnoredAfterARestart(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	v1, v2 := r.push(versionFiles("v1", "ok")), r.push(versionFiles("v2", "ok"))
	r.leader.setGoal(goal(5, v2))
	m.await(5, starling.MachineHealthy)
	m.stop()
	r.leader.setGoal(goal(4, v1)) // a server that lags behind
	m.start()
	// A later app's goal comes in the same answer, so the old one was seen by then.
	other := goal(1, v1)
	other.App = "other"
	r.leader.setGoal(other)
	eventually(t, 20*time.Second, "the other app is healthy", func() bool {
		return r.leader.report("m1", "other").State == starling.MachineHealthy
	})
	if got := m.current("version"); got != "v2" {
		t.Errorf("current is %s", got)
	}
	// The other app's files were cloned, not fetched: v1 shares its data with v2.
	if b := r.leader.report("m1", "other").Bytes; b.Local == 0 {
		t.Errorf("nothing was cloned between apps: %+v", b)
	}
}

// A machine that goes from one server to another, which lags behind, sees older goals: they
// change nothing, whatever artifact, stage and cutoff they name.
func TestGoalsOfALaggingServerAreIgnored(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	v1, v2 := r.push(versionFiles("v1", "ok")), r.push(versionFiles("v2", "ok"))
	for gen := uint64(2); gen < 8; gen += 2 {
		r.leader.setGoal(goal(gen, v2))
		m.await(gen, starling.MachineHealthy)
		r.leader.setGoal(goal(gen-1, v1))
		marker := goal(gen, v1) // in the same answer: the old one was seen by then
		marker.App = "other"
		r.leader.setGoal(marker)
		eventually(t, 20*time.Second, "the other app has its goal", func() bool {
			rep := r.leader.report("m1", "other")
			return rep.State == starling.MachineHealthy && rep.Generation == marker.Generation
		})
		if got := m.current("version"); got != "v2" {
			t.Fatalf("current is %s after the goal of generation %d", got, gen-1)
		}
	}
}

func TestRestartGoesOnWithoutAnyServer(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "ok")), running(t)))
	m.await(1, starling.MachineHealthy)
	m.stop()
	if m.serves("v1") {
		t.Fatal("the child outlived the agent")
	}
	r.leader.setDown(true)
	m.start()
	eventually(t, 30*time.Second, "v1 answers without a server", func() bool { return m.serves("v1") })
}

func TestCrashedReleaseIsStartedAgain(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "ok")), running(t)))
	m.await(1, starling.MachineHealthy)
	_, _ = m.get("/die") // the answer breaks off
	rep := m.await(1, starling.MachineActivating)
	if !strings.Contains(rep.Reason, "exit status 7") || !strings.Contains(rep.Reason, "dying as asked") {
		t.Errorf("reason %q", rep.Reason)
	}
	m.await(1, starling.MachineHealthy)
	if !m.serves("v1") {
		t.Error("v1 does not answer again")
	}
	if log := readFileOr(m.app("output.log"), ""); strings.Count(log, "starting v1") != 2 {
		t.Errorf("output.log: %q", log)
	}
}

func TestNewerGoalInterruptsAnActivation(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	v1, v2 := r.push(versionFiles("v1", "ok")), r.push(versionFiles("v2", "sick"))
	r.leader.setGoal(goal(1, v1, running(t)))
	m.await(1, starling.MachineHealthy)
	g := goal(2, v2, running(t))
	g.Deploy.Health.Deadline = dur(time.Hour)
	r.leader.setGoal(g)
	m.await(2, starling.MachineActivating)
	r.leader.setGoal(goal(3, v1, running(t)))
	m.await(3, starling.MachineHealthy)
	if !m.serves("v1") {
		t.Error("v1 does not answer")
	}
}

func TestOldReleasesAreRemoved(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	var all []starling.Digest
	for i := range 5 {
		d := r.push(versionFiles("v"+string(rune('1'+i)), "ok"))
		all = append(all, d)
		g := goal(uint64(i+1), d)
		g.Deploy.Keep = 2
		r.leader.setGoal(g)
		m.await(uint64(i+1), starling.MachineHealthy)
	}
	eventually(t, 30*time.Second, "two releases are left", func() bool {
		entries, err := os.ReadDir(m.app("releases"))
		return err == nil && len(entries) == 2
	})
	eventually(t, 30*time.Second, "the report says so", func() bool {
		return slices.Equal(m.report().Kept, []starling.Digest{all[4], all[3]})
	})
	m.stop()
	// What nobody knows is swept at a start.
	stray := m.app("releases", "0123456789abcdef")
	if err := os.MkdirAll(stray, 0o755); err != nil {
		t.Fatal(err)
	}
	m.start()
	eventually(t, 30*time.Second, "the stray release is gone", func() bool { _, err := os.Stat(stray); return os.IsNotExist(err) })
}

func TestMachineThatIsNoLongerATargetStops(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	v1 := r.push(versionFiles("v1", "ok"))
	r.leader.setGoal(goal(1, v1, running(t)))
	m.await(1, starling.MachineHealthy)
	g := goal(2, v1, running(t))
	g.Deploy.Targets = "role == db"
	r.leader.setGoal(g)
	eventually(t, 30*time.Second, "the app is gone", func() bool { _, err := os.Lstat(m.app("current")); return os.IsNotExist(err) })
	if m.serves("v1") {
		t.Error("v1 still answers")
	}
}

func TestDataDirectoryInUse(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	m := r.machine("m1")
	r.startCache()
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "ok"))))
	m.await(1, starling.MachineHealthy) // so it holds the lock
	c := m.conf
	c.Node, c.DialBlob, c.DialSwarm = m.node, m.endpoint.dialBlob, m.endpoint.dialSwarm
	c.AcceptBlob, c.AcceptSwarm = m.endpoint.accept(testBlob), m.endpoint.accept(testSwarm)
	second, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in use by another agent") {
		t.Errorf("the second agent: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); !starling.IsInvalid(err) {
		t.Errorf("empty config: %v", err)
	}
}
