package control

import (
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

const second = time.Second

// oneRegion is a bench with a cache, a worker and machines.
func oneRegion(t testing.TB, machines int) *bench {
	nodes := append(machineNodes("us", machines), node("us", "c1", starling.RoleCache), node("us", "w1", starling.RoleWorker))
	return newBench(t, "us", nil, nodes...)
}

func wantPhase(t testing.TB, d *starling.Deployment, p starling.Phase) {
	t.Helper()
	if d.Phase != p {
		t.Fatalf("deployment %s is %s (%s), want %s", d.ID, d.Phase, d.Reason, p)
	}
}

func TestDeploymentOfAnArtifact(t *testing.T) {
	b := oneRegion(t, 3)
	b.app("web", nil)
	art := b.artifact("v1")
	b.submit("d1", "web", art)
	term := b.elect()

	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseReplicating)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseReplicating) // nothing is placed yet

	b.place(term, art)
	b.look(term) // placed in the region
	b.look(term) // placed at the home
	b.look(term) // the gate opens
	wantPhase(t, b.deployment("d1"), starling.PhaseStaging)

	b.report(term, "web", starling.MachineStaged, "m0", "m1")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseStaging)
	b.report(term, "web", starling.MachineStaged, "m2")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	if n := b.deployment("d1").Machines; n.Staged != 3 || n.Target != 3 {
		t.Errorf("checkpoint at the phase change: %+v", n)
	}

	b.report(term, "web", starling.MachineHealthy, "m0", "m1")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	b.report(term, "web", starling.MachineHealthy, "m2")
	b.look(term)
	d := b.deployment("d1")
	wantPhase(t, d, starling.PhaseSucceeded)
	if d.Machines.Healthy != 3 {
		t.Errorf("machines at the end: %+v", d.Machines)
	}
}

// toStaging brings a fresh deployment of one artifact to staging.
func toStaging(t testing.TB, b *bench, change func(*starling.App), regions ...string) *term {
	t.Helper()
	b.app("web", change)
	art := b.artifact("v1")
	b.submit("d1", "web", art, regions...)
	term := b.elect()
	b.look(term)
	b.place(term, art)
	ok := b.run(term, 5*second, 100*time.Millisecond, func() bool { return b.deployment("d1").Phase == starling.PhaseStaging })
	if !ok && len(regions) == 0 {
		t.Fatalf("not staging: %+v", b.deployment("d1"))
	}
	return term
}

func TestZeroTargetsPassAtOnce(t *testing.T) {
	b := oneRegion(t, 3)
	term := toStaging(t, b, func(a *starling.App) { a.Deploy.Targets = "role == db" })
	b.look(term)
	b.look(term)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)
}

func TestWavesBakeAndRise(t *testing.T) {
	b := oneRegion(t, 40)
	term := toStaging(t, b, func(a *starling.App) {
		a.Deploy.Strategy.Waves = []string{"20%", "60%", "100%"}
		a.Deploy.Strategy.Bake = starling.Duration(30 * second)
	})
	all := names(machineNodes("us", 40))
	b.report(term, "web", starling.MachineStaged, all...)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	before := starling.Cutoff(0)
	for wave, cutoff := range []starling.Cutoff{200_000, 600_000, starling.CutoffAll} {
		d := b.deployment("d1")
		g, _ := b.fsm.View().Goal("web")
		if d.Wave != wave || g.Cutoff != cutoff {
			t.Fatalf("wave %d, cutoff %d; want %d, %d", d.Wave, g.Cutoff, wave, cutoff)
		}
		var due []string
		for _, m := range all {
			if cutoff.Selects(m, "d1") && !before.Selects(m, "d1") {
				due = append(due, m)
			}
		}
		before = cutoff
		b.report(term, "web", starling.MachineHealthy, due[1:]...)
		b.run(term, 60*second, second, func() bool { return false })
		if d := b.deployment("d1"); d.Wave != wave {
			t.Fatalf("wave %d went on without %s", wave, due[0])
		}
		b.report(term, "web", starling.MachineHealthy, due[0])
		if wave == 2 {
			break
		}
		b.run(term, 29*second, second, func() bool { return false })
		if d := b.deployment("d1"); d.Wave != wave {
			t.Fatalf("wave %d did not bake", wave)
		}
		if !b.run(term, 2*second, second, func() bool { return b.deployment("d1").Wave == wave+1 }) {
			t.Fatalf("wave %d did not end", wave)
		}
	}
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)
}

func names(nodes []starling.Node) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return out
}

func TestFailuresBeyondAllowanceFailAndRevert(t *testing.T) {
	b := oneRegion(t, 4)
	term := toStaging(t, b, nil)
	all := []string{"m0", "m1", "m2", "m3"}
	b.report(term, "web", starling.MachineStaged, all...)
	b.look(term)
	b.report(term, "web", starling.MachineHealthy, all...)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)
	v1, _ := b.fsm.View().Goal("web")

	v2 := b.artifact("v2")
	b.submit("d2", "web", v2)
	b.look(term)
	b.place(term, v2)
	b.run(term, second, 100*time.Millisecond, func() bool { return b.deployment("d2").Phase == starling.PhaseStaging })
	b.report(term, "web", starling.MachineStaged, all...)
	b.look(term)
	b.report(term, "web", starling.MachineFailed, "m2")
	b.look(term)
	d := b.deployment("d2")
	wantPhase(t, d, starling.PhaseFailed)
	for _, want := range []string{"1 of 4 machines failed in phase rolling_out", "0% allowed", "us/m2: because of m2"} {
		if !strings.Contains(d.Reason, want) {
			t.Errorf("reason %q lacks %q", d.Reason, want)
		}
	}
	g, _ := b.fsm.View().Goal("web")
	if g.Artifact != v1.Artifact || g.Generation.Compare(d.Generation) <= 0 {
		t.Errorf("the goal after the failure: %+v", g)
	}
}

func TestFailuresWithinAllowanceDoNotStop(t *testing.T) {
	b := oneRegion(t, 4)
	term := toStaging(t, b, func(a *starling.App) { a.Deploy.Strategy.MaxFailed = "25%" })
	b.report(term, "web", starling.MachineStaged, "m0", "m1", "m2")
	b.report(term, "web", starling.MachineFailed, "m3") // while staging
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	b.report(term, "web", starling.MachineHealthy, "m0", "m1", "m2")
	b.look(term)
	d := b.deployment("d1")
	wantPhase(t, d, starling.PhaseSucceeded)
	if d.Machines.Failed != 1 || len(d.Machines.Samples) != 1 {
		t.Errorf("counts: %+v", d.Machines)
	}
}

// A machine that failed while staging, and whose turn has not come, must not stand in
// for one of the wave that is still activating.
func TestFailureOutsideTheWaveDoesNotCompleteIt(t *testing.T) {
	b := oneRegion(t, 20)
	term := toStaging(t, b, func(a *starling.App) {
		a.Deploy.Strategy.MaxFailed = "50%"
		a.Deploy.Strategy.Waves = []string{"30%", "100%"}
	})
	var due, later []string
	for _, m := range names(machineNodes("us", 20)) {
		if starling.Cutoff(300_000).Selects(m, "d1") {
			due = append(due, m)
		} else {
			later = append(later, m)
		}
	}
	b.report(term, "web", starling.MachineFailed, later[0])
	b.report(term, "web", starling.MachineStaged, append(later[1:], due...)...)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	b.report(term, "web", starling.MachineHealthy, due[1:]...)
	b.look(term)
	b.look(term)
	if w := b.deployment("d1").Wave; w != 0 {
		t.Fatalf("wave %d began while %s was activating", w, due[0])
	}
	b.report(term, "web", starling.MachineHealthy, due[0])
	b.look(term)
	if w := b.deployment("d1").Wave; w != 1 {
		t.Fatalf("wave %d, want 1", w)
	}
}

func TestDeadMachineDoesNotBlock(t *testing.T) {
	b := oneRegion(t, 3)
	term := toStaging(t, b, nil)
	b.report(term, "web", starling.MachineStaged, "m0", "m1")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseStaging)
	b.members.alive("m2", false)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	b.members.alive("m1", false)
	b.report(term, "web", starling.MachineHealthy, "m0")
	b.look(term)
	d := b.deployment("d1")
	wantPhase(t, d, starling.PhaseSucceeded)
	if d.Machines.Absent != 2 || d.Machines.Target != 1 {
		t.Errorf("counts: %+v", d.Machines)
	}
}

func TestPauseStopsPhasesButNotTheDeadline(t *testing.T) {
	b := oneRegion(t, 1)
	term := toStaging(t, b, nil)
	b.must(raftfsm.TypePause, raftfsm.Pause{ID: "d1", Paused: true})
	b.report(term, "web", starling.MachineStaged, "m0")
	b.run(term, 10*second, second, func() bool { return false })
	wantPhase(t, b.deployment("d1"), starling.PhaseStaging)
	b.must(raftfsm.TypePause, raftfsm.Pause{ID: "d1"})
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	b.must(raftfsm.TypePause, raftfsm.Pause{ID: "d1", Paused: true})
	b.report(term, "web", starling.MachineFailed, "m0")
	b.run(term, 10*second, second, func() bool { return false })
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	b.clock.advance(30 * time.Minute)
	b.look(term)
	d := b.deployment("d1")
	wantPhase(t, d, starling.PhaseFailed)
	if !strings.Contains(d.Reason, "paused") {
		t.Errorf("reason %q does not say that it was paused", d.Reason)
	}
}

func TestApproval(t *testing.T) {
	b := oneRegion(t, 1)
	term := toStaging(t, b, func(a *starling.App) { a.Deploy.Strategy.Approval = true })
	b.report(term, "web", starling.MachineStaged, "m0")
	b.look(term)
	b.run(term, 60*second, second, func() bool { return false })
	wantPhase(t, b.deployment("d1"), starling.PhaseAwaitingApproval)
	if _, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionApprove, starling.ActionOptions{}); err != nil {
		t.Fatal(err)
	}
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
}

func TestDeadlineReasons(t *testing.T) {
	tests := []struct {
		name   string
		reach  func(t *testing.T, b *bench) *term
		reason string
	}{
		{"queued without workers", func(t *testing.T, b *bench) *term {
			b.members.alive("w1", false)
			b.app("web", nil)
			b.submit("d1", "web", starling.Digest{})
			return b.elect()
		}, "deadline of 30m passed in phase queued: no worker was there to build it"},
		{"queued behind another", func(t *testing.T, b *bench) *term {
			b.app("web", func(a *starling.App) { a.Deploy.Deadline = starling.Duration(2 * time.Hour) })
			art := b.artifact("v1")
			b.submit("d0", "web", art)
			b.app("web", nil)
			b.submit("d1", "web", art)
			return b.elect()
		}, "deadline of 30m passed in phase queued: deployment d0 of the same app was replicating"},
		{"replicating", func(t *testing.T, b *bench) *term {
			b.app("web", nil)
			art := b.artifact("v1")
			b.submit("d1", "web", art, "eu")
			term := b.elect()
			b.look(term)
			if err := term.caches.record(rpc.CacheReport{Name: "c1", Holds: []rpc.CacheHold{{
				Artifact: art, ChunksDone: 4, ChunksTotal: 10, Caches: []string{"c1"},
			}}}, term.now()); err != nil {
				t.Fatal(err)
			}
			return term
		}, "deadline of 30m passed in phase replicating: eu has not reported; 4 of 10 chunks placed in us"},
		{"staging", func(t *testing.T, b *bench) *term {
			term := toStaging(t, b, nil)
			b.report(term, "web", starling.MachineStaged, "m0")
			b.report(term, "web", starling.MachineFetching, "m1")
			return term
		}, "deadline of 30m passed in phase staging: 1 of 3 machines staged in us"},
		{"rolling out", func(t *testing.T, b *bench) *term {
			term := toStaging(t, b, nil)
			b.report(term, "web", starling.MachineStaged, "m0", "m1", "m2")
			b.look(term)
			b.report(term, "web", starling.MachineHealthy, "m0", "m1")
			return term
		}, "deadline of 30m passed in phase rolling_out: 2 of 3 machines of wave 1 healthy in us"},
		{"approval", func(t *testing.T, b *bench) *term {
			term := toStaging(t, b, func(a *starling.App) { a.Deploy.Strategy.Approval = true })
			b.report(term, "web", starling.MachineStaged, "m0", "m1", "m2")
			return term
		}, "deadline of 30m passed in phase awaiting_approval: nobody approved it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := oneRegion(t, 3)
			term := tt.reach(t, b)
			b.look(term)
			d := b.deployment("d1")
			b.clock.advance(d.Deadline.Sub(b.clock.Now()) - time.Millisecond)
			b.look(term)
			if d := b.deployment("d1"); d.Phase.Terminal() {
				t.Fatalf("ended %s before its deadline: %s", d.Phase, d.Reason)
			}
			b.clock.advance(time.Millisecond)
			b.look(term)
			d = b.deployment("d1")
			wantPhase(t, d, starling.PhaseFailed)
			if d.Reason != tt.reason {
				t.Errorf("reason:\n got %q\nwant %q", d.Reason, tt.reason)
			}
		})
	}
}
