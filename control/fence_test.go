package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// reached builds d1 up to a phase and returns the leader's term, the lease that its worker
// had, and what that leader would decide next, with everything there that it waits for.
func reached(b *bench, phase starling.Phase) (t *term, lease uint64, next []Decision) {
	b.t.Helper()
	b.app("web", func(a *starling.App) { a.Deploy.Strategy.Waves = []string{"50%", "100%"} })
	b.submit("d1", "web", starling.Digest{}, "us", "eu", "ap")
	t = b.elect()
	done := func() ([]Decision, bool) {
		t.setMembers()
		return t.Decide(b.fsm.View(), t.now()), b.deployment("d1").Phase == phase
	}
	if next, ok := done(); ok {
		return t, 0, next
	}
	lease = b.must(raftfsm.TypeJobLease, raftfsm.JobLease{Worker: "w1/0"}).Index
	if next, ok := done(); ok {
		return t, lease, next
	}
	d := b.blobs.built(b.deployment("d1").SHA)
	b.must(raftfsm.TypeJobComplete, raftfsm.JobComplete{ID: "d1", Lease: lease, Artifact: starling.Artifact{Digest: d, Bytes: 100, Chunks: 10}})
	for range 20 {
		b.look(t)
		b.place(t, d)
		state := starling.MachineStaged
		if g, ok := b.fsm.View().Goal("web"); ok && g.Stage.AtLeast(starling.StageActivate) {
			state = starling.MachineHealthy
		}
		b.report(t, "web", state, "m0", "m1", "m2", "m3")
		abroad(b, t, "eu", "ap")
		if next, ok := done(); ok && len(next) > 0 {
			return t, lease, next
		}
	}
	b.t.Fatalf("d1 is %s, not %s with something to decide", b.deployment("d1").Phase, phase)
	return nil, 0, nil
}

// abroad is what other regions say of the goal in force.
func abroad(b *bench, t *term, regions ...string) {
	if g, ok := b.fsm.View().Goal("web"); ok {
		for _, region := range regions {
			t.home.record(foreign(g, region, 3), t.now())
		}
	}
}

// foreign is a region's report on a goal, all well.
func foreign(g *starling.Goal, region string, staged int) starling.RegionReport {
	return starling.RegionReport{
		Region: region, App: "web", Generation: g.Generation, Revision: g.Revision,
		Placing: starling.Placing{Name: region, Placed: true, ChunksDone: 10, ChunksTotal: 10},
		Counts:  starling.Counts{Target: 3, Staged: staged, Due: 3, Healthy: 3},
	}
}

// Once cancel has returned, nothing that anybody still does in the deployment's name moves
// it or its goal: not its worker, caches, machines, other regions, a deposed leader's
// decisions that are on their way, nor the leader's own with all that it has heard.
func TestCancelFencesEverybody(t *testing.T) {
	for _, phase := range []starling.Phase{
		starling.PhaseQueued, starling.PhaseBuilding, starling.PhaseReplicating, starling.PhaseStaging, starling.PhaseRollingOut,
	} {
		t.Run(string(phase), func(t *testing.T) {
			b := oneRegion(t, 4)
			deposed, lease, late := reached(b, phase)
			had, _ := b.fsm.View().Goal("web")
			d, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionCancel, starling.ActionOptions{})
			if err != nil || d.Phase != starling.PhaseCancelled || d.Fence == nil || d.Fence.Index == 0 {
				t.Fatalf("%+v, %v", d, err)
			}
			if d.Fence.Lease != lease || !d.Generation.IsZero() && (d.Fence.Generation != d.Generation || d.Fence.Goal.Compare(d.Generation) <= 0) {
				t.Errorf("the proof %+v, the lease was %d, the generation %s", d.Fence, lease, d.Generation)
			}
			state := func() string {
				rec, _ := b.fsm.View().Deployment("d1")
				goal, _ := b.fsm.View().Goal("web")
				out, err := json.Marshal([]any{rec, goal})
				if err != nil {
					t.Fatal(err)
				}
				return string(out)
			}
			before := state()
			still := func(who string) {
				t.Helper()
				if now := state(); now != before {
					t.Fatalf("after %s:\n%s\nbefore:\n%s", who, now, before)
				}
			}
			staleWorker(t, b, lease)
			still("the worker")
			if err := deposed.proposeAll(context.Background(), late); err != nil {
				t.Fatal(err)
			}
			still(fmt.Sprintf("%d decisions of a deposed leader", len(late)))
			everyCommand(t, b, lease)
			still("every command there is")

			// The successor hears the caches, machines and regions that have not heard.
			b.depose()
			next := b.elect()
			next.setMembers()
			if had != nil {
				b.place(next, had.Artifact)
				next.home.record(foreign(had, "eu", 3), next.now())
				for _, m := range []string{"m0", "m1", "m2", "m3"} {
					g, _ := b.fsm.View().Goal("web")
					news, err := next.machines.record(g, starling.MachineReport{Node: m, App: "web", Generation: had.Generation, State: starling.MachineHealthy}, next.now())
					if err != nil || news {
						t.Errorf("a report on the old generation counts: %v, %v", news, err)
					}
				}
			}
			for range 5 {
				b.look(next)
				b.clock.advance(time.Second)
			}
			still("stale reports to the successor")
			if again, err := b.server.Act(t.Context(), "bob", "d1", starling.ActionCancel, starling.ActionOptions{}); err != nil || *again.Fence != *d.Fence {
				t.Errorf("cancelled again: %+v, %v", again, err)
			}
		})
	}
}

// staleWorker makes every call that a worker with a void lease can make.
func staleWorker(t *testing.T, b *bench, lease uint64) {
	t.Helper()
	w := clientOf(b.server, usWorker)
	built := b.blobs.built("other")
	for what, err := range map[string]error{
		"heartbeat": w.Heartbeat(t.Context(), "d1", rpc.HeartbeatRequest{Lease: lease, Draft: rpc.Draft{Head: built, Pages: 3}, UploadMS: 5}),
		"log": func() error {
			_, err := w.JobLog(t.Context(), "d1", rpc.LogRequest{Lease: lease, Data: []byte("x")})
			return err
		}(),
		"fail":     w.Fail(t.Context(), "d1", rpc.FailRequest{Lease: lease, Reason: "late"}),
		"complete": w.Complete(t.Context(), "d1", rpc.CompleteRequest{Lease: lease, Artifact: starling.Artifact{Digest: built, Bytes: 1, Chunks: 1}}),
	} {
		if !errors.Is(err, starling.ErrFenced) {
			t.Errorf("%s with a void lease: %v", what, err)
		}
	}
	if term, _ := b.server.leading(); term != nil {
		if drafts, _ := term.drafts.all(); len(drafts) > 0 {
			t.Errorf("a draft of a cancelled build is passed on: %+v", drafts)
		}
	}
}

// everyCommand puts into the log whatever names the deployment.
func everyCommand(t *testing.T, b *bench, lease uint64) {
	t.Helper()
	type cmd struct {
		kind    raftfsm.Type
		payload any
	}
	cmds := []cmd{
		{raftfsm.TypeStart, raftfsm.Start{ID: "d1"}},
		{raftfsm.TypePlaced, raftfsm.Placed{ID: "d1", Placing: starling.Placing{Name: "us", Placed: true}}},
		{raftfsm.TypeApprove, raftfsm.Approve{ID: "d1"}},
		{raftfsm.TypePause, raftfsm.Pause{ID: "d1", Paused: true}},
		{raftfsm.TypeCheckpoint, raftfsm.Checkpoint{ID: "d1", Counts: starling.Counts{Healthy: 4}}},
		{raftfsm.TypeFinish, raftfsm.Finish{ID: "d1", Phase: starling.PhaseFailed, Reason: "late"}},
		{raftfsm.TypeJobRequeue, raftfsm.JobRequeue{ID: "d1", Lease: lease, Reason: "late"}},
		{raftfsm.TypeJobComplete, raftfsm.JobComplete{ID: "d1", Lease: lease, Artifact: starling.Artifact{Digest: starling.DigestOf([]byte("late")), Bytes: 1}}},
		{raftfsm.TypeJobFail, raftfsm.JobFail{ID: "d1", Lease: lease, Reason: "late"}},
		{raftfsm.TypeWave, raftfsm.Wave{ID: "d1", Wave: 1}},
		{raftfsm.TypePromote, raftfsm.Promote{ID: "d1"}},
		{raftfsm.TypePromote, raftfsm.Promote{ID: "d1", All: true}},
	}
	phases := []starling.Phase{starling.PhaseQueued, starling.PhaseBuilding, starling.PhaseReplicating, starling.PhaseStaging,
		starling.PhaseAwaitingApproval, starling.PhaseRollingOut, starling.PhaseCancelled, starling.PhaseSucceeded}
	for _, from := range phases {
		for _, to := range phases {
			cmds = append(cmds, cmd{raftfsm.TypeAdvance, raftfsm.Advance{ID: "d1", From: from, To: to}})
		}
	}
	for _, c := range cmds {
		command, err := raftfsm.NewCommand(c.kind, b.clock.Now(), "late", c.payload)
		if err != nil {
			t.Fatal(err)
		}
		res, err := b.raft.Propose(t.Context(), command)
		if err != nil {
			t.Fatal(err)
		}
		if res[0].Err == nil {
			t.Errorf("%s of a cancelled deployment was accepted: %+v", c.kind, c.payload)
		}
	}
	if res := b.must(raftfsm.TypeJobLease, raftfsm.JobLease{Worker: "w9/0"}); res.Deployment != nil {
		t.Errorf("a cancelled deployment was leased: %+v", res.Deployment)
	}
}

// What regions report may be nonsense: sums that overflow must not keep a deployment from
// its end, nor from being cancelled.
func TestNonsenseInReportsDelaysNoEnd(t *testing.T) {
	most := starling.Bytes{Peer: 1<<63 - 1, PeerRack: 1<<63 - 1}
	for name, end := range map[string]func(*bench, *term){
		"deadline": func(b *bench, t *term) {
			b.clock.advance(31 * time.Minute)
			b.look(t)
			b.clock.advance(5 * time.Second)
			b.look(t)
		},
		"cancel": func(b *bench, _ *term) {
			if _, err := b.server.Act(context.Background(), "ann", "d1", starling.ActionCancel, starling.ActionOptions{}); err != nil {
				b.t.Errorf("cancel: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := oneRegion(t, 4)
			term, _, _ := reached(b, starling.PhaseStaging)
			g, _ := b.fsm.View().Goal("web")
			for _, region := range []string{"eu", "ap"} { // together more than an int64 holds
				r := foreign(g, region, 0)
				r.Bytes = most
				term.home.record(r, term.now())
			}
			end(b, term)
			if d := b.deployment("d1"); !d.Phase.Terminal() {
				t.Errorf("it is %s still", d.Phase)
			}
		})
	}
}
