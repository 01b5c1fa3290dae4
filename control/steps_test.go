package control

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// rolling brings a deployment with a strategy to its roll-out, in us alone.
func rolling(t testing.TB, b *bench, change func(*starling.Strategy)) *term {
	t.Helper()
	term := toStaging(t, b, func(a *starling.App) { change(&a.Deploy.Strategy) })
	b.report(term, "web", starling.MachineStaged, b.machines()...)
	b.look(term)
	return term
}

func (b *bench) machines() []string {
	var out []string
	for _, n := range b.members.Members() {
		if n.Has(starling.RoleMachine) {
			out = append(out, n.Name)
		}
	}
	slices.Sort(out)
	return out
}

// The first group's regions finish and bake before those of the next begin; a region that
// nobody named comes last. A silent region that is not due yet holds nobody up.
func TestRegionsRollOutInTheirOrder(t *testing.T) {
	b := oneRegion(t, 2)
	b.app("web", func(a *starling.App) {
		s := &a.Deploy.Strategy
		s.Regions, s.Bake = [][]string{{"eu"}, {"us"}}, starling.Duration(30*second)
	})
	art := b.artifact("v1")
	b.submit("d1", "web", art, "eu", "ap")
	term := b.elect()
	goal := func() *starling.Goal { g, _ := b.fsm.View().Goal("web"); return g }
	say := func(region string, healthy bool) {
		r := foreign(goal(), region, 3)
		if r.Counts.Due = 0; goal().In(region).Cutoff > 0 {
			r.Counts.Due = 3
		}
		if r.Counts.Healthy = 0; healthy {
			r.Counts.Healthy = r.Counts.Due
		}
		term.home.record(r, term.now())
	}
	cutoffs := func() [3]bool {
		return [3]bool{goal().In("eu").Cutoff > 0, goal().In("us").Cutoff > 0, goal().In("ap").Cutoff > 0}
	}
	want := func(when string, w [3]bool) {
		t.Helper()
		if got := cutoffs(); got != w {
			t.Fatalf("%s: begun in eu, us, ap: %v, want %v", when, got, w)
		}
	}
	b.look(term)
	b.place(term, art)
	b.run(term, 5*second, second, func() bool {
		say("eu", false)
		say("ap", false)
		b.report(term, "web", starling.MachineStaged, "m0", "m1")
		return b.deployment("d1").Phase == starling.PhaseRollingOut
	})
	want("at first", [3]bool{true, false, false})
	b.run(term, 60*second, second, func() bool { say("eu", false); return false })
	want("while eu is not healthy", [3]bool{true, false, false})
	b.run(term, 29*second, second, func() bool { say("eu", true); return false })
	want("while eu bakes", [3]bool{true, false, false})
	b.run(term, 3*second, second, func() bool { say("eu", true); return goal().In("us").Cutoff > 0 })
	want("after eu has baked", [3]bool{true, true, false})
	if text := b.deployment("d1").StepText(); text != "wave 1 of 1 in us" {
		t.Errorf("the step: %q", text)
	}
	b.report(term, "web", starling.MachineHealthy, "m0", "m1")
	b.run(term, 40*second, second, func() bool { say("eu", true); return goal().Cutoff > 0 })
	want("after us has baked", [3]bool{true, true, true})
	if g := goal(); g.Cutoff != starling.CutoffAll || len(g.Ahead) != 0 {
		t.Errorf("the last goal: %d %v", g.Cutoff, g.Ahead)
	}
	b.run(term, 40*second, second, func() bool {
		say("eu", true)
		say("ap", true)
		return b.deployment("d1").Phase.Terminal()
	})
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)
}

// A freeze holds the first wave and those after it, visibly; who lets it pass is recorded.
func TestFreezeHoldsEveryStep(t *testing.T) {
	b := oneRegion(t, 4)
	from := b.clock.Now().Add(-time.Hour)
	term := rolling(t, b, func(s *starling.Strategy) {
		s.Waves = []string{"50%", "100%"}
		s.Freeze = []starling.Freeze{{Name: "release", From: from.Format(time.RFC3339), Until: from.Add(70 * time.Minute).Format(time.RFC3339)}}
	})
	b.run(term, 5*time.Minute, 10*second, func() bool { return false })
	wantPhase(t, b.deployment("d1"), starling.PhaseStaging)
	d, _ := b.server.Deployment("d1")
	if !slices.ContainsFunc(d.WaitsFor, func(s string) bool { return strings.HasPrefix(s, "frozen by release until ") }) {
		t.Errorf("it waits for %q", d.WaitsFor)
	}
	b.run(term, 6*time.Minute, 10*second, func() bool { return b.deployment("d1").Phase == starling.PhaseRollingOut })
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
}

func TestFreezeIsIgnoredByOrder(t *testing.T) {
	b := oneRegion(t, 4)
	from := b.clock.Now().Add(-time.Hour)
	term := toStaging(t, b, func(a *starling.App) {
		a.Deploy.Strategy.Waves, a.Deploy.Strategy.Approval = []string{"50%", "100%"}, true
		a.Deploy.Strategy.Freeze = []starling.Freeze{{Name: "year-end", From: from.Format(time.RFC3339), Until: from.Add(99 * time.Hour).Format(time.RFC3339)}}
	})
	b.report(term, "web", starling.MachineStaged, b.machines()...)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseAwaitingApproval)
	act := func(a starling.Action, o starling.ActionOptions) error {
		_, err := b.server.Act(t.Context(), "ann", "d1", a, o)
		return err
	}
	if err := act(starling.ActionApprove, starling.ActionOptions{}); !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), "frozen by year-end until") {
		t.Fatalf("approved while frozen: %v", err)
	}
	if err := act(starling.ActionResume, starling.ActionOptions{IgnoreFreeze: true}); err != nil {
		t.Fatal(err)
	}
	if o := b.deployment("d1").IgnoreFreeze; o == nil || o.By != "ann" || o.At.IsZero() {
		t.Errorf("who let it pass: %+v", o)
	}
	if err := act(starling.ActionApprove, starling.ActionOptions{}); err != nil {
		t.Fatal(err)
	}
	b.report(term, "web", starling.MachineHealthy, b.machines()...)
	b.run(term, 10*second, second, func() bool { return b.deployment("d1").Phase.Terminal() })
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)
}

// Machines that come no further end a deployment long before its deadline; numbers that
// only go down and up again are no progress, and what people hold up is not counted.
func TestProgressDeadline(t *testing.T) {
	b := oneRegion(t, 4)
	term := rolling(t, b, func(s *starling.Strategy) { s.ProgressDeadline = starling.Duration(2 * time.Minute) })
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	b.report(term, "web", starling.MachineHealthy, "m0")
	b.run(term, 110*second, 10*second, func() bool { return false })
	b.report(term, "web", starling.MachineHealthy, "m1") // in time
	b.look(term)
	began := b.clock.Now()
	flapping := false
	b.run(term, 10*time.Minute, 10*second, func() bool {
		flapping = !flapping
		b.members.alive("m1", !flapping)
		return b.deployment("d1").Phase.Terminal()
	})
	d := b.deployment("d1")
	wantPhase(t, d, starling.PhaseFailed)
	if took := b.clock.Now().Sub(began); took < 2*time.Minute || took > 2*time.Minute+20*second {
		t.Errorf("it failed after %s", took)
	}
	if !strings.HasPrefix(d.Reason, "no machine came further for 2m (progress_deadline) in phase rolling_out: ") || d.Fence == nil {
		t.Errorf("reason %q, fence %+v", d.Reason, d.Fence)
	}
	if g, _ := b.fsm.View().Goal("web"); !g.Artifact.IsZero() {
		t.Errorf("not taken back: %+v", g)
	}
}

func TestProgressDeadlineStandsStillWhileHeld(t *testing.T) {
	b := oneRegion(t, 4)
	term := rolling(t, b, func(s *starling.Strategy) {
		s.Waves, s.Bake = []string{"1%", "100%"}, starling.Duration(10*time.Minute)
		s.ProgressDeadline = starling.Duration(time.Minute)
	})
	b.report(term, "web", starling.MachineHealthy, b.machines()...)
	if b.run(term, 9*time.Minute, 10*second, func() bool { return b.deployment("d1").Phase.Terminal() }) {
		t.Fatalf("failed in its bake: %s", b.deployment("d1").Reason)
	}
}

// A number of machines is judged at once; a share only when every region has spoken.
func TestMaxFailedAsANumber(t *testing.T) {
	for allowed, want := range map[string]starling.Phase{"1": starling.PhaseFailed, "2": starling.PhaseRollingOut, "50%": starling.PhaseRollingOut} {
		b := oneRegion(t, 4)
		term := rolling(t, b, func(s *starling.Strategy) { s.MaxFailed = allowed })
		b.report(term, "web", starling.MachineFailed, "m0", "m1")
		b.look(term)
		wantPhase(t, b.deployment("d1"), want)
	}
}

// Once pause has returned, no machine more may activate, whatever a deposed leader, its
// successor or anybody who promotes still asks for, until it is resumed.
func TestPauseHoldsEverybody(t *testing.T) {
	b := oneRegion(t, 4)
	deposed, _, late := reached(b, starling.PhaseRollingOut)
	d, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionPause, starling.ActionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before, _ := b.fsm.View().Goal("web")
	if h := d.Hold; h == nil || h.By != "ann" || h.Index == 0 || h.Generation != before.Generation || h.Revision != before.Revision || h.Cutoff != before.Cutoff {
		t.Fatalf("the proof %+v of goal %+v", d.Hold, before)
	}
	still := func(who string) {
		t.Helper()
		if now, _ := b.fsm.View().Goal("web"); now != before { // records are never changed in place
			t.Fatalf("after %s: %+v", who, now)
		}
	}
	if len(late) == 0 {
		t.Fatal("the leader had nothing to decide")
	}
	if err := deposed.proposeAll(context.Background(), late); err != nil {
		t.Fatal(err)
	}
	still("the decisions of a deposed leader")
	for _, o := range []starling.ActionOptions{{}, {All: true}, {IgnoreFreeze: true}} {
		if _, err := b.server.Act(t.Context(), "bob", "d1", starling.ActionPromote, o); !errors.Is(err, starling.ErrConflict) {
			t.Errorf("promoted while paused: %v", err)
		}
	}
	still("promotions")
	b.depose()
	next := b.elect()
	b.report(next, "web", starling.MachineHealthy, "m0", "m1", "m2", "m3")
	abroad(b, next, "eu", "ap")
	b.run(next, 30*second, second, func() bool { return false })
	still("all that the successor hears")
	if d, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionResume, starling.ActionOptions{}); err != nil || d.Hold != nil {
		t.Fatalf("resumed: %+v, %v", d, err)
	}
	b.run(next, 30*second, second, func() bool { g, _ := b.fsm.View().Goal("web"); return g != before })
	if now, _ := b.fsm.View().Goal("web"); now.Cutoff <= before.Cutoff {
		t.Errorf("it does not go on: %+v", now)
	}
}

// A promotion begins the next step without its machines or its bake; one that names the
// step it ends is safe to repeat.
func TestPromote(t *testing.T) {
	b := oneRegion(t, 4)
	term := rolling(t, b, func(s *starling.Strategy) {
		s.Waves, s.Bake = []string{"1%", "50%", "100%"}, starling.Duration(20*time.Minute)
	})
	wave := 0
	for range 2 { // the second is a retry
		d, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionPromote, starling.ActionOptions{Wave: &wave})
		if err == nil && d.Wave != 1 || err != nil && !errors.Is(err, starling.ErrConflict) {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	if w := b.deployment("d1").Wave; w != 1 {
		t.Fatalf("wave %d", w)
	}
	if _, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionPromote, starling.ActionOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	b.report(term, "web", starling.MachineHealthy, b.machines()...)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)
}

// Abort goes back, or stays, as the strategy says, and either way nothing more comes of it.
func TestAbortFencesEverybody(t *testing.T) {
	for name, revert := range map[string]bool{"back": true, "stay": false} {
		t.Run(name, func(t *testing.T) {
			b := oneRegion(t, 4)
			term := rolling(t, b, func(s *starling.Strategy) { s.Waves, s.AutoRevert = []string{"50%", "100%"}, revert })
			was, _ := b.fsm.View().Goal("web")
			d, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionAbort, starling.ActionOptions{Reason: "looks bad"})
			if err != nil || d.Phase != starling.PhaseFailed || d.Reason != "aborted by ann: looks bad" || d.Fence == nil || d.Fence.Index == 0 {
				t.Fatalf("%+v, %v", d, err)
			}
			goal := func() string {
				g, _ := b.fsm.View().Goal("web")
				out, err := json.Marshal(g)
				if err != nil {
					t.Fatal(err)
				}
				return string(out)
			}
			before := goal()
			if g, _ := b.fsm.View().Goal("web"); (g.Generation != was.Generation) != revert || !revert && g.Cutoff != was.Cutoff {
				t.Errorf("the goal went from %+v to %+v", was, g)
			}
			everyCommand(t, b, 0)
			b.report(term, "web", starling.MachineHealthy, b.machines()...)
			b.run(term, 10*second, second, func() bool { return false })
			if now := goal(); now != before {
				t.Errorf("after everything:\n%s\nbefore:\n%s", now, before)
			}
			if again, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionAbort, starling.ActionOptions{}); err != nil || *again.Fence != *d.Fence {
				t.Errorf("aborted again: %+v, %v", again, err)
			}
		})
	}
}

// A newer deployment takes the place of queued ones, where the app wants that, and says so.
func TestNewerSupersedesQueued(t *testing.T) {
	for queue, want := range map[starling.Queue]starling.Phase{starling.QueueLatest: starling.PhaseCancelled, "": starling.PhaseQueued, starling.QueueEvery: starling.PhaseQueued} {
		b := oneRegion(t, 1)
		b.app("web", func(a *starling.App) { a.Deploy.Strategy.Queue = queue })
		b.elect()
		b.must(raftfsm.TypeIgnoreFreeze, raftfsm.IgnoreFreeze{ID: b.submit("d0", "web", starling.Digest{}).ID}) // the level in use is 2
		sub := starling.Submission{App: "web", SHA: strings.Repeat("a", 40)}
		newer, _, err := b.server.Submit(t.Context(), "ann", sub)
		if err != nil {
			t.Fatal(err)
		}
		d := b.deployment("d0")
		wantPhase(t, d, want)
		if want == starling.PhaseCancelled && (d.SupersededBy != newer.ID || !strings.Contains(d.Reason, newer.ID)) {
			t.Errorf("superseded by %q: %s", d.SupersededBy, d.Reason)
		}
	}
}

// Machines whose present release is broken take the fix as all others do, and what they
// said of the release before does not count against it.
func TestBrokenReleaseNeverBlocksTheFix(t *testing.T) {
	b := oneRegion(t, 4)
	term := rolling(t, b, func(s *starling.Strategy) { s.AutoRevert = false })
	b.report(term, "web", starling.MachineFailed, b.machines()...) // the bad release stays, for there is no going back
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseFailed)

	fix := b.artifact("fix")
	b.submit("d2", "web", fix)
	b.look(term)
	b.place(term, fix)
	bad, _ := b.fsm.View().Goal("web")
	for _, m := range b.machines() { // late words on the bad release
		late := starling.MachineReport{Node: m, App: "web", Generation: b.deployment("d1").Generation, State: starling.MachineFailed, Reason: "crash loop"}
		if _, err := term.machines.record(bad, late, b.clock.Now()); err != nil {
			t.Fatal(err)
		}
	}
	b.run(term, 5*second, second, func() bool { return b.deployment("d2").Phase == starling.PhaseStaging })
	b.report(term, "web", starling.MachineStaged, b.machines()...)
	b.look(term)
	b.report(term, "web", starling.MachineHealthy, b.machines()...)
	b.look(term)
	d := b.deployment("d2")
	wantPhase(t, d, starling.PhaseSucceeded)
	if d.Machines.Failed != 0 || len(d.Machines.Samples) != 0 {
		t.Errorf("the old failures count: %+v", d.Machines)
	}
}
