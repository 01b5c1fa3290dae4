package control

import (
	"errors"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// built ends the build of a deployment with an artifact and what its commit brought.
func (b *bench) built(id string, artifact starling.Digest, commits *starling.CommitLog) {
	b.t.Helper()
	lease := b.must(raftfsm.TypeJobLease, raftfsm.JobLease{Worker: "w1/0", Deployment: id})
	b.must(raftfsm.TypeJobComplete, raftfsm.JobComplete{
		ID: id, Lease: lease.Index, Artifact: starling.Artifact{Digest: artifact, Bytes: 1000, Chunks: 10}, Commits: commits,
	})
}

// rollOut lets all machines of the bench run an app's goal.
func (b *bench) rollOut(t *term, id string, machines ...string) {
	b.t.Helper()
	b.look(t)
	b.place(t, b.deployment(id).Artifact)
	b.run(t, 5*second, second, func() bool { return b.deployment(id).Phase == starling.PhaseStaging })
	b.report(t, "web", starling.MachineStaged, machines...)
	b.look(t)
	b.clock.advance(second)
	b.report(t, "web", starling.MachineHealthy, machines...)
	b.run(t, 5*second, second, func() bool { return b.deployment(id).Phase.Terminal() })
	wantPhase(b.t, b.deployment(id), starling.PhaseSucceeded)
}

func TestHistoryTellsWhatEachDeploymentChanged(t *testing.T) {
	b := oneRegion(t, 2)
	b.usesNew()
	b.app("web", nil)
	term := b.elect()
	from := starling.Origin{Addr: "10.0.0.9", Agent: "curl/8\x1b[2J" + strings.Repeat("x", 400), Token: "tok-1"}
	first, _, err := b.server.Submit(t.Context(), "ann", starling.Submission{App: "web", SHA: strings.Repeat("a1", 20), From: from})
	if err != nil {
		t.Fatal(err)
	}
	b.built(first.ID, starling.DigestOf([]byte("v1")), nil)
	b.rollOut(term, first.ID, "m0", "m1")
	b.reapply(func(a *starling.App) { a.Deploy.Keep = 7 })
	second, _, err := b.server.Submit(t.Context(), "bob", starling.Submission{App: "web", SHA: strings.Repeat("b2", 20)})
	if err != nil {
		t.Fatal(err)
	}
	if j := jobOf(b.fsm.View(), second); j.Since != first.SHA {
		t.Errorf("the worker is to list commits since %q", j.Since)
	}
	b.built(second.ID, starling.DigestOf([]byte("v2")), &starling.CommitLog{Since: first.SHA, Commits: []starling.Commit{{SHA: "b2b2b2b2b2b2", Subject: "two"}, {SHA: "a3a3a3a3a3a3", Subject: "one"}}})
	b.rollOut(term, second.ID, "m0", "m1")

	all, err := b.server.History(starling.DeploymentFilter{App: "web", Limit: 10})
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	if e := all[0]; e.ID != second.ID || e.Actor != "bob" || len(e.Changes) != 1 || e.Changes[0].Field != "deploy.keep" || len(e.Commits.Commits) != 2 {
		t.Errorf("the second: %+v", e)
	}
	if e := all[1]; e.From == nil || e.From.Addr != from.Addr || e.From.Token != "tok-1" || strings.ContainsRune(e.From.Agent, 0x1b) || len(e.From.Agent) != starling.MaxOriginBytes {
		t.Errorf("the first: %+v, %+v", e, e.From)
	}
	if page, err := b.server.History(starling.DeploymentFilter{App: "web", Limit: 1}); err != nil || len(page) != 1 || len(page[0].Changes) != 1 {
		t.Errorf("a page of one: %+v, %v", page, err)
	}
	diff, err := b.server.Diff("web", first.ID, second.ID)
	if err != nil || len(diff.Changes) != 1 || len(diff.Commits) != 2 || len(diff.Gaps) != 0 {
		t.Errorf("%+v, %v", diff, err)
	}
	back, err := b.server.Diff("web", second.ID, first.ID)
	if err != nil || len(back.Changes) != 1 || back.Changes[0].Old != "7" || len(back.Commits) != 0 {
		t.Errorf("backwards: %+v, %v", back, err)
	}
	if _, err := b.server.Diff("api", first.ID, second.ID); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("of another app: %v", err)
	}
	p, err := b.server.Provenance(t.Context(), second.ID)
	if err != nil || p.Artifact.Built == nil || p.Artifact.Built.Worker != "w1/0" || p.Artifact.Built.Deployment != second.ID || p.Cached || p.Problem == "" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestReadinessIsTheShareThatHoldsARelease(t *testing.T) {
	b := oneRegion(t, 4)
	b.app("web", nil)
	term := b.elect()
	machines := []string{"m0", "m1", "m2", "m3"}
	v1, v2 := b.artifact("v1"), b.artifact("v2")
	b.submit("d1", "web", v1)
	b.rollOut(term, "d1", machines...)
	b.submit("d2", "web", v2)
	b.rollOut(term, "d2", machines...)
	g, _ := b.fsm.View().Goal("web")
	for _, m := range machines[:3] { // the fourth has removed it
		_, err := term.machines.record(g, starling.MachineReport{
			Node: m, App: "web", Generation: g.Generation, State: starling.MachineHealthy, Running: v2, Kept: []starling.Digest{v2, v1},
		}, b.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := b.server.Readiness(t.Context(), "web")
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	now, before := all[0].Readiness, all[1].Readiness
	if !now.Current || now.Held != 4 || now.Share != 1 || !now.Regions[0].Placed {
		t.Errorf("what runs: %+v", now)
	}
	if before.Current || before.Held != 3 || before.Machines != 4 || before.Share != 0.75 || before.RollbackMS <= 0 || !strings.Contains(before.Basis, "1 machines that lack it") {
		t.Errorf("the one before: %+v", before)
	}
	bad := rpc.ReadinessRequest{App: "web", Targets: "role ="}
	if _, err := term.readiness(b.fsm.View(), &bad, term.now()); !starling.IsInvalid(err) {
		t.Errorf("%+v: %v", bad, err)
	}
}

func TestReadinessOfARegionThatDoesNotAnswer(t *testing.T) {
	b := newBench(t, "us", func(c *Config) { c.Regions = map[string][]string{"eu": {"eu1:7471"}} }, machineNodes("us", 1)...)
	b.app("web", nil)
	term := b.elect()
	b.look(term)
	p, err := b.server.Plan(t.Context(), starling.PlanRequest{App: "web", SHA: strings.Repeat("ab", 20)})
	if err != nil || len(p.Regions) != 2 || p.Regions[0].Machines != -1 || p.Regions[1].Machines != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	told := false
	for _, w := range p.WaitsFor {
		told = told || w.Kind == starling.WaitRegion && strings.Contains(w.Text, "eu")
	}
	if !told {
		t.Errorf("waits for %+v", p.WaitsFor)
	}
}
