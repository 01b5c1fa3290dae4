package control

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// awaiting brings a deployment of app web to awaiting_approval.
func awaiting(t *testing.T, change func(*starling.App)) (*bench, *term) {
	b := oneRegion(t, 2)
	term := toStaging(t, b, func(a *starling.App) {
		a.Deploy.Strategy.Approval = true
		if change != nil {
			change(a)
		}
	})
	b.report(term, "web", starling.MachineStaged, "m0", "m1")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseAwaitingApproval)
	return b, term
}

func (b *bench) planOf(id string) *starling.Plan {
	b.t.Helper()
	p, err := b.server.DeploymentPlan(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	if p.ID != p.Hash() {
		b.t.Fatalf("the hash in the plan is %s, of it %s", p.ID, p.Hash())
	}
	return p
}

// reapply changes the app's spec, to the same if change is nil.
func (b *bench) reapply(change func(*starling.App)) {
	b.t.Helper()
	app, _ := b.server.App("web")
	spec := *app
	if change != nil {
		change(&spec)
	}
	if _, err := b.server.ApplyApp(b.t.Context(), "bob", spec, nil); err != nil {
		b.t.Fatal(err)
	}
}

func wantStale(t *testing.T, err error, words ...string) {
	t.Helper()
	var stale *starling.StaleError
	if !errors.As(err, &stale) || !errors.Is(err, starling.ErrConflict) || stale.Field != "plan" || stale.Hint == "" {
		t.Fatalf("not refused as stale: %v", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestApprovalIsBoundToThePlanThatWasShown(t *testing.T) {
	b, term := awaiting(t, nil)
	shown := b.planOf("d1")
	if shown.Deployment != "d1" || !slices.ContainsFunc(shown.WaitsFor, func(w starling.PlanWait) bool { return w.Kind == starling.WaitApproval }) {
		t.Errorf("%+v", shown)
	}
	if len(shown.Regions) != 1 || shown.Regions[0].Machines != 2 || shown.Regions[0].Held != 2 || !shown.Regions[0].Placed {
		t.Errorf("regions %+v", shown.Regions)
	}
	b.reapply(func(a *starling.App) { a.Deploy.Keep = 7 })
	_, err := b.server.Approve(t.Context(), "ann", "d1", shown.ID)
	wantStale(t, err, "the spec of app web was changed")
	_, err = b.server.Approve(t.Context(), "ann", "d1", starling.Digest{})
	wantStale(t, err, "has changed since it was submitted")
	again := b.planOf("d1")
	if again.ID == shown.ID || again.Spec != shown.Spec || again.ChangedTo.IsZero() {
		t.Fatalf("the changed plan: %+v", again)
	}
	d, err := b.server.Approve(t.Context(), "ann", "d1", again.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d.Phase != starling.PhaseRollingOut || d.Approval == nil || d.Approval.By != "ann" || d.Approval.Plan != again.ID || d.Approval.At.IsZero() {
		t.Errorf("%s, approval %+v", d.Phase, d.Approval)
	}
	if v := b.fsm.View(); v.Level() < 2 {
		t.Errorf("level %d: a program of level 1 would not hold the plan against the state", v.Level())
	}
	b.report(term, "web", starling.MachineHealthy, "m0", "m1")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)
	if p := b.planOf("d1"); !p.Previous.Artifact.IsZero() || len(p.WaitsFor) != 0 {
		t.Errorf("after the end: %+v", p)
	}
}

// What changes between the leader's look and the commit is seen by the state machine.
func TestApprovalOfAPlanThatChangesMeanwhile(t *testing.T) {
	b, _ := awaiting(t, nil)
	shown := b.planOf("d1")
	for _, stale := range []raftfsm.Approve{
		{ID: "d1", Plan: shown.ID, Revision: shown.Revision + 1},
		{ID: "d1", Plan: shown.ID, Revision: shown.Revision, Previous: starling.Generation{Epoch: 1, Sequence: 9}},
	} {
		cmd, err := raftfsm.NewCommand(raftfsm.TypeApprove, b.clock.Now(), "ann", stale)
		if err != nil {
			t.Fatal(err)
		}
		results, err := b.raft.Propose(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		wantStale(t, results[0].Err, "another by now")
	}
	wantPhase(t, b.deployment("d1"), starling.PhaseAwaitingApproval)
	if _, err := b.server.Approve(t.Context(), "ann", "d1", shown.ID); err != nil {
		t.Fatal(err)
	}
}

func TestApprovalWithoutAPlan(t *testing.T) {
	b, _ := awaiting(t, func(a *starling.App) { a.Deploy.Strategy.ApprovalPlan = true })
	_, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionApprove, starling.ActionOptions{})
	wantStale(t, err, "must name the hash")
	if _, err := b.server.Approve(t.Context(), "ann", "d1", b.planOf("d1").ID); err != nil {
		t.Error(err)
	}
	b, _ = awaiting(t, nil)
	b.reapply(nil) // the same again is no change
	d, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionApprove, starling.ActionOptions{})
	if err != nil || d.Approval == nil || !d.Approval.Plan.IsZero() {
		t.Errorf("%v, %v", d, err)
	}
}

func TestPlanOfASubmission(t *testing.T) {
	b, term := awaiting(t, nil)
	if _, err := b.server.Approve(t.Context(), "ann", "d1", b.planOf("d1").ID); err != nil {
		t.Fatal(err)
	}
	busy, err := b.server.Plan(t.Context(), starling.PlanRequest{App: "web"})
	if err != nil || len(busy.WaitsFor) == 0 || busy.WaitsFor[0].Kind != starling.WaitDeployment || !busy.Change {
		t.Errorf("beside another deployment: %+v, %v", busy, err)
	}
	b.report(term, "web", starling.MachineHealthy, "m0", "m1")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)

	plan := func(req starling.PlanRequest) *starling.Plan {
		t.Helper()
		req.App = "web"
		p, err := b.server.Plan(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	same := plan(starling.PlanRequest{})
	if same.Change || len(same.Changes) != 0 || same.Artifact != b.deployment("d1").Artifact || same.Bytes.New != 0 || same.Regions[0].Held != 2 {
		t.Errorf("of what runs: %+v", same)
	}
	app, _ := b.server.App("web")
	spec := *app
	spec.Deploy.Targets = "name == m1"
	narrowed := plan(starling.PlanRequest{Spec: &spec})
	if !narrowed.Change || len(narrowed.Changes) != 1 || narrowed.Changes[0].Field != "deploy.targets" || narrowed.Regions[0].Machines != 1 || narrowed.ID == same.ID {
		t.Errorf("with another spec: %+v", narrowed)
	}
	sha := strings.Repeat("ab", 20)
	unbuilt := plan(starling.PlanRequest{SHA: sha})
	if !unbuilt.Change || !unbuilt.Artifact.IsZero() || !unbuilt.Bytes.Estimated || unbuilt.Bytes.Cached || unbuilt.Stages[1].Stage != starling.StageBuild {
		t.Errorf("of a commit: %+v", unbuilt)
	}
	waits := func(p *starling.Plan, kind string) bool {
		return slices.ContainsFunc(p.WaitsFor, func(w starling.PlanWait) bool { return w.Kind == kind })
	}
	if waits(unbuilt, starling.WaitWorker) || waits(unbuilt, starling.WaitQueue) || !waits(unbuilt, starling.WaitGate) {
		t.Errorf("with an idle worker: %+v", unbuilt.WaitsFor)
	}
	b.app("api", nil)
	b.submit("d2", "api", starling.Digest{})
	if p := plan(starling.PlanRequest{SHA: sha}); !waits(p, starling.WaitQueue) {
		t.Errorf("behind a build: %+v", p.WaitsFor)
	}
	b.members.alive("w1", false)
	b.look(term)
	if p := plan(starling.PlanRequest{SHA: sha}); !waits(p, starling.WaitWorker) {
		t.Errorf("without workers: %+v", p.WaitsFor)
	}
	for _, bad := range []starling.PlanRequest{{App: "none"}, {App: "web", Artifact: starling.DigestOf([]byte("none"))}} {
		if _, err := b.server.Plan(t.Context(), bad); !errors.Is(err, starling.ErrNotFound) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestPlanTellsOfRegionOrderAndFreezes(t *testing.T) {
	b := newBench(t, "us", func(c *Config) { c.Regions = map[string][]string{"ap": {"ap1:1"}, "eu": {"eu1:1"}} })
	term := b.elect()
	frozen := starling.Freeze{Name: "year-end", From: "00:00", To: "24:00"}
	b.app("web", func(a *starling.App) {
		a.Deploy.Strategy.Regions = [][]string{{"us"}, {"eu"}}
		a.Deploy.Strategy.Freeze = []starling.Freeze{frozen}
		a.Deploy.Strategy.Approval = true
	})
	b.look(term)
	p, err := b.server.Plan(t.Context(), starling.PlanRequest{App: "web", SHA: strings.Repeat("ab", 20)})
	if err != nil || len(p.Regions) != 3 || p.Regions[0].Name != "us" || p.Regions[1].Name != "eu" || p.Regions[2].Name != "ap" {
		t.Fatalf("%+v, %v", p, err)
	}
	if !slices.ContainsFunc(p.WaitsFor, func(w starling.PlanWait) bool {
		return w.Kind == starling.WaitFreeze && strings.Contains(w.Text, "year-end")
	}) {
		t.Errorf("waits for %+v", p.WaitsFor)
	}
}

// A plan in hand is no way around a freeze.
func TestApprovalByPlanWaitsForTheFreeze(t *testing.T) {
	b, _ := awaiting(t, func(a *starling.App) {
		a.Deploy.Strategy.Freeze = []starling.Freeze{{Name: "later", From: "2027-01-01T00:00:00Z", Until: "2028-01-01T00:00:00Z"}}
	})
	shown := b.planOf("d1")
	if _, err := b.server.Approve(t.Context(), "ann", "d1", shown.ID); err != nil {
		t.Errorf("outside the window: %v", err)
	}
	b, _ = awaiting(t, func(a *starling.App) {
		a.Deploy.Strategy.Freeze = []starling.Freeze{{Name: "now", From: "2000-01-01T00:00:00Z", Until: "2500-01-01T00:00:00Z"}}
	})
	if _, err := b.server.Approve(t.Context(), "ann", "d1", b.planOf("d1").ID); !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), "frozen by now") {
		t.Errorf("within it: %v", err)
	}
}

func TestEstimatesAreMediansOfWhatSucceeded(t *testing.T) {
	dep := func(app string, build, rollout int64) *starling.Deployment {
		d := &starling.Deployment{App: app, Phase: starling.PhaseSucceeded, Regions: []starling.Placing{{Name: "us"}}, Timings: starling.Timings{BuildMS: build, ReplicateMS: 5, RolloutMS: rollout}}
		d.Spec.Deploy.Strategy.Waves = []string{"10%", "100%"}
		d.Spec.Deploy.Strategy.Bake = starling.Duration(1e9)
		if build > 0 {
			d.Attempt = 1
		}
		return d
	}
	p := &past{
		own: []*starling.Deployment{dep("web", 100, 1200), dep("web", 300, 1400), dep("web", 200, 1600), dep("web", 0, 9000)},
		all: []*starling.Deployment{dep("api", 1000, 3000), dep("api", 3000, 3000), dep("api", 2000, 3000)},
	}
	next := &starling.Deployment{App: "web", Regions: []starling.Placing{{Name: "us"}}}
	next.Spec.Deploy.Strategy = starling.Strategy{Waves: []string{"1%", "10%", "100%"}, Bake: starling.Duration(2e9)}
	stages, total := p.stages(next)
	want := []starling.StageEstimate{
		{Stage: "queued", MS: 0, Of: 3, Basis: "app"}, {Stage: "build", MS: 200, Of: 3, Basis: "app"}, {Stage: "replicate", MS: 5, Of: 4, Basis: "app"},
		{Stage: "stage", MS: 0, Of: 4, Basis: "app"}, {Stage: "rollout", MS: 3*200 + 4000, Of: 4, Basis: "app"},
	}
	if !slices.Equal(stages, want) || total != 200+5+4600 {
		t.Errorf("got  %+v, %d\nwant %+v", stages, total, want)
	}
	p.own = p.own[:2]
	if ms, of, basis := p.median(func(d *starling.Deployment) (int64, bool) { return d.Timings.BuildMS, built(d) }); ms != 2000 || of != 3 || basis != "all" {
		t.Errorf("with too few of its own: %d of %d, %s", ms, of, basis)
	}
	none := &past{}
	if stages, total := none.stages(next); total != 4000 || stages[4].Basis != "spec" || stages[0].Basis != "none" {
		t.Errorf("without a past: %+v, %d", stages, total)
	}
}

// The end of a deployment is what is left of its phase and what the later stages used to take.
func TestEndIsEstimatedFromThePast(t *testing.T) {
	began := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	known := []starling.StageEstimate{
		{Stage: "queued", MS: 0, Basis: "app"}, {Stage: "build", MS: 60_000, Basis: "app"}, {Stage: "replicate", MS: 10_000, Basis: "all"},
		{Stage: "stage", MS: 20_000, Basis: "all"}, {Stage: "rollout", MS: 100_000, Basis: "spec"},
	}
	unknown := slices.Clone(known)
	unknown[3].Basis = "none"
	for name, tc := range map[string]struct {
		p      starling.DeploymentProgress
		stages []starling.StageEstimate
		want   time.Time
	}{
		"building":                  {starling.DeploymentProgress{Phase: starling.PhaseBuilding, At: at(50)}, known, at(60 + 130)},
		"by its present rate":       {starling.DeploymentProgress{Phase: starling.PhaseStaging, At: at(5), LeftMS: 40_000}, known, at(5 + 40 + 100)},
		"waves do not go on so":     {starling.DeploymentProgress{Phase: starling.PhaseRollingOut, At: at(5), LeftMS: 9_000_000}, known, at(100)},
		"it takes longer":           {starling.DeploymentProgress{Phase: starling.PhaseBuilding, At: at(61)}, known, time.Time{}},
		"longer, at a present rate": {starling.DeploymentProgress{Phase: starling.PhaseReplicating, At: at(61), LeftMS: 1000}, known, at(62 + 120)},
		"paused":                    {starling.DeploymentProgress{Phase: starling.PhaseRollingOut, At: at(5), Paused: true}, known, time.Time{}},
		"people are awaited":        {starling.DeploymentProgress{Phase: starling.PhaseAwaitingApproval, At: at(5)}, known, time.Time{}},
		"a later stage is unknown":  {starling.DeploymentProgress{Phase: starling.PhaseBuilding, At: at(5)}, unknown, time.Time{}},
		"after the unknown":         {starling.DeploymentProgress{Phase: starling.PhaseRollingOut, At: at(5)}, unknown, at(100)},
		"no estimate":               {starling.DeploymentProgress{Phase: starling.PhaseBuilding, At: at(5)}, nil, time.Time{}},
	} {
		tc.p.PhaseAt = began
		if got := endsAt(&tc.p, tc.stages); !got.Equal(tc.want) {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
