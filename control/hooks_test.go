package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

func withHooks(a *starling.App) {
	a.Build = nil
	a.Deploy.Run = []string{"./web"}
	a.Deploy.Hooks.Deployment = &starling.OnceHooks{Pre: []string{"./migrate"}, Post: []string{"./announce"}}
	a.Deploy.Hooks.Region = &starling.OnceHooks{Pre: []string{"./warm"}}
}

// untilHook brings a deployment to where its first hook waits, and returns a worker.
func untilHook(t *testing.T, change func(*starling.App)) (*bench, *term, *rpc.Client) {
	t.Helper()
	b := oneRegion(t, 2)
	term := toStaging(t, b, change)
	b.report(term, "web", starling.MachineStaged, "m0", "m1")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	return b, term, clientOf(b.server, node("us", "w1", starling.RoleWorker))
}

func takeHook(t *testing.T, w *rpc.Client, want string) *rpc.HookJob {
	t.Helper()
	job, err := w.HookLease(t.Context(), rpc.HookLeaseRequest{WaitMS: 30_000})
	if err != nil || job == nil || job.Run.Name() != want {
		t.Fatalf("leased %+v, %v, want %s", job, err, want)
	}
	return job
}

func endHook(t *testing.T, w *rpc.Client, job *rpc.HookJob, output string) {
	t.Helper()
	err := w.HookEnd(t.Context(), job.Deployment, rpc.HookEndRequest{
		HookCall: rpc.HookCall{Hook: job.Run.Name(), Lease: job.Run.Lease}, Output: []byte(output),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHooksRunBeforeAndAfterTheMachines(t *testing.T) {
	b, term, w := untilHook(t, withHooks)
	b.look(term)
	if g, _ := b.fsm.View().Goal("web"); g.Stage != starling.StageFetch {
		t.Fatalf("machines may activate before the hook: %+v", g)
	}
	job := takeHook(t, w, "pre.deployment")
	if err := w.HookHeartbeat(t.Context(), "d1", rpc.HookCall{Hook: job.Run.Name(), Lease: job.Run.Lease}); err != nil {
		t.Fatal(err)
	}
	endHook(t, w, job, "migrated\n")
	endHook(t, w, takeHook(t, w, "pre.region.us"), "warmed\n")
	b.look(term)
	if g, _ := b.fsm.View().Goal("web"); g.Stage != starling.StageActivate || g.Holds("us") {
		t.Fatalf("machines are held after their hooks: %+v", g)
	}
	b.report(term, "web", starling.MachineHealthy, "m0", "m1")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	endHook(t, w, takeHook(t, w, "post.deployment"), "told\n")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)

	// What they printed is the deployment's log, also for a leader that was not there.
	for range 2 {
		part, err := b.server.BuildLog(t.Context(), "d1", 0)
		text := string(part.Data)
		for err == nil && !part.Done {
			part, err = b.server.BuildLog(t.Context(), "d1", part.Next)
			text += string(part.Data)
		}
		if err != nil || text != "migrated\nwarmed\ntold\n" {
			t.Fatalf("log %q, %v", text, err)
		}
		b.depose()
		b.elect()
	}
}

func TestHookThatFailsEndsTheDeployment(t *testing.T) {
	b, term, w := untilHook(t, withHooks)
	job := takeHook(t, w, "pre.deployment")
	end := rpc.HookEndRequest{
		HookCall: rpc.HookCall{Hook: job.Run.Name(), Lease: job.Run.Lease},
		Failed:   true, Reason: "exit status 3\nno such table", Output: []byte("no such table\n"),
	}
	for range 2 { // an answer that is lost is asked for again
		if err := w.HookEnd(t.Context(), "d1", end); err != nil {
			t.Fatal(err)
		}
	}
	b.look(term)
	d := b.deployment("d1")
	wantPhase(t, d, starling.PhaseFailed)
	if !strings.Contains(d.Reason, "pre.deployment") || !strings.Contains(d.Reason, "no such table") {
		t.Errorf("reason %q", d.Reason)
	}
	if err := w.HookHeartbeat(t.Context(), "d1", end.HookCall); !errors.Is(err, starling.ErrFenced) {
		t.Errorf("heartbeat after the end: %v", err)
	}
}

func TestHookOfALostWorkerGoesToAnother(t *testing.T) {
	b, term, w := untilHook(t, withHooks)
	first := takeHook(t, w, "pre.deployment")
	call := rpc.HookCall{Hook: first.Run.Name(), Lease: first.Run.Lease}
	if n, err := w.HookLog(t.Context(), "d1", rpc.HookLogRequest{HookCall: call, Data: []byte("half\n")}); err != nil || n != 5 {
		t.Fatalf("%d, %v", n, err)
	}
	b.run(term, rpc.HookTTL+2*second, second, func() bool { return b.deployment("d1").Hooks[0].State == starling.HookWaiting })
	if err := w.HookHeartbeat(t.Context(), "d1", call); !errors.Is(err, starling.ErrFenced) {
		t.Errorf("the lost worker's heartbeat: %v", err)
	}
	second := takeHook(t, w, "pre.deployment")
	if second.Run.Attempt != 2 || second.Run.Lease <= first.Run.Lease {
		t.Errorf("second run %+v after %+v", second.Run, first.Run)
	}
	if err := w.HookEnd(t.Context(), "d1", rpc.HookEndRequest{HookCall: call}); !errors.Is(err, starling.ErrFenced) {
		t.Errorf("the lost worker's result: %v", err)
	}
	other := clientOf(b.server, node("us", "w2", starling.RoleWorker))
	if err := other.HookHeartbeat(t.Context(), "d1", rpc.HookCall{Hook: second.Run.Name(), Lease: second.Run.Lease}); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("a heartbeat of a worker that has no lease: %v", err)
	}
	part, err := b.server.BuildLog(t.Context(), "d1", 0)
	if err != nil || string(part.Data) != "half\n" || part.Done {
		t.Errorf("live output %q, done %v, %v", part.Data, part.Done, err)
	}
}

func TestWhyNamesAHookWithoutAWorker(t *testing.T) {
	b, term, _ := untilHook(t, withHooks)
	b.members.set(append(machineNodes("us", 2), node("us", "c1", starling.RoleCache), node("us", "s1", starling.RoleServer))...)
	b.look(term)
	why, err := b.server.Why(context.Background(), "d1", "", "")
	if err != nil || !strings.Contains(strings.Join(why.WaitsFor, "\n"), "hook pre.deployment waits for a worker: region us has none") {
		t.Errorf("%+v, %v", why, err)
	}
	b.clock.advance(time.Hour)
	b.look(term)
	d := b.deployment("d1")
	wantPhase(t, d, starling.PhaseFailed)
	if !strings.Contains(d.Reason, "waits for a worker") || d.Hooks[0].State != starling.HookDropped {
		t.Errorf("%q, %+v", d.Reason, d.Hooks)
	}
}

// Where regions go in an order, a region's hook is run when its turn comes, and holds up
// nothing before that.
func TestHookOfALaterRegionWaitsForItsTurn(t *testing.T) {
	b := oneRegion(t, 2)
	b.app("web", func(a *starling.App) {
		a.Deploy.Strategy.Regions = [][]string{{"eu"}, {"us"}}
		a.Deploy.Hooks.Region = &starling.OnceHooks{Pre: []string{"./warm"}}
	})
	art := b.artifact("v1")
	b.submit("d1", "web", art, "eu")
	term := b.elect()
	goal := func() *starling.Goal { g, _ := b.fsm.View().Goal("web"); return g }
	say := func() {
		r := foreign(goal(), "eu", 3)
		if r.Counts.Due = 0; goal().In("eu").Cutoff > 0 && !goal().Holds("eu") {
			r.Counts.Due = 3
		}
		r.Counts.Healthy = r.Counts.Due
		term.home.record(r, term.now())
	}
	waiting := func(region string) bool { return len(b.fsm.View().HooksWaiting(region, "w/hook")) > 0 }
	warm := func(region string) {
		t.Helper()
		name := "pre.region." + region
		b.must(raftfsm.TypeHookLease, raftfsm.HookLease{ID: "d1", Hook: name, Region: region, Worker: "w/hook"})
		b.must(raftfsm.TypeHookEnd, raftfsm.HookEnd{ID: "d1", Hook: name, Lease: b.deployment("d1").Hook(name).Lease})
	}
	b.look(term)
	b.place(term, art)
	b.run(term, 5*second, second, func() bool {
		say()
		b.report(term, "web", starling.MachineStaged, "m0", "m1")
		return b.deployment("d1").Phase == starling.PhaseRollingOut
	})
	if !waiting("eu") || waiting("us") {
		t.Fatalf("the hook of eu waits: %v, that of us: %v", waiting("eu"), waiting("us"))
	}
	warm("eu")
	if !b.run(term, 5*second, second, func() bool { say(); return goal().In("us").Cutoff > 0 }) {
		t.Fatalf("the hook of us held up the step of eu: %+v", b.deployment("d1"))
	}
	if !waiting("us") || !goal().Holds("us") {
		t.Fatalf("the turn of us: its hook waits: %v, its machines: %v", waiting("us"), goal().Holds("us"))
	}
	warm("us")
	b.report(term, "web", starling.MachineHealthy, "m0", "m1")
	b.run(term, 5*second, second, func() bool { say(); return b.deployment("d1").Phase.Terminal() })
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)
}
