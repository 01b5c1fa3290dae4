package control

import (
	"slices"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// abroad records what another region says of the present goal.
func (b *bench) abroad(t *term, region string, placed bool, c starling.Counts, stale ...uint64) {
	b.t.Helper()
	g, ok := b.fsm.View().Goal("web")
	if !ok {
		b.t.Fatal("no goal")
	}
	revision := g.Revision
	if len(stale) > 0 {
		revision -= stale[0]
	}
	t.home.record(starling.RegionReport{
		Region: region, App: "web", Generation: g.Generation, Revision: revision,
		Placing: starling.Placing{Name: region, Placed: placed, ChunksDone: 3, ChunksTotal: 10}, Counts: c,
	}, t.now())
}

func TestGates(t *testing.T) {
	tests := []struct {
		gate   starling.Gate
		placed int // regions beside this one, of four
		opens  bool
	}{
		{starling.GateAllRegions, 3, false},
		{starling.GateAllRegions, 4, true},
		{starling.GateQuorum, 1, false},
		{starling.GateQuorum, 2, true},
		{starling.GateEach, 0, true},
	}
	for _, tt := range tests {
		b := oneRegion(t, 0)
		b.app("web", func(a *starling.App) { a.Deploy.Strategy.Gate = tt.gate })
		art := b.artifact("v1")
		others := []string{"a", "b", "c", "d"}
		b.submit("d1", "web", art, others...)
		term := b.elect()
		b.look(term)
		b.place(term, art)
		for i, r := range others {
			b.abroad(term, r, i < tt.placed, starling.Counts{Target: 1})
		}
		for range 4 {
			b.look(term)
		}
		if got := b.deployment("d1").Phase != starling.PhaseReplicating; got != tt.opens {
			t.Errorf("gate %s with %d of 5 regions: open %t, want %t", tt.gate, tt.placed+1, got, tt.opens)
		}
	}
}

func TestHomeWaitsForFreshReportsOfAllRegions(t *testing.T) {
	b := oneRegion(t, 1)
	term := toStaging(t, b, func(a *starling.App) { a.Deploy.Strategy.Waves = []string{"50%", "100%"} }, "eu")
	b.abroad(term, "eu", true, starling.Counts{Target: 2})
	b.look(term)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseStaging)
	b.report(term, "web", starling.MachineStaged, "m0")
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseStaging)
	b.abroad(term, "eu", true, starling.Counts{Target: 2, Staged: 2}, 1) // about the revision before
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseStaging)
	b.abroad(term, "eu", true, starling.Counts{Target: 2, Staged: 2})
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)

	b.report(term, "web", starling.MachineHealthy, "m0")
	b.look(term)
	if w := b.deployment("d1").Wave; w != 0 {
		t.Fatalf("wave %d began before eu spoke of wave 0", w)
	}
	b.abroad(term, "eu", true, starling.Counts{Target: 2, Staged: 2, Due: 1, Healthy: 1})
	b.look(term)
	if w := b.deployment("d1").Wave; w != 1 {
		t.Fatalf("wave %d, want 1", w)
	}
	b.look(term)
	b.abroad(term, "eu", true, starling.Counts{Target: 2, Staged: 2, Due: 2, Healthy: 2})
	b.look(term)
	d := b.deployment("d1")
	wantPhase(t, d, starling.PhaseSucceeded)
	if d.Machines.Target != 3 || d.Machines.Healthy != 3 {
		t.Errorf("merged counts: %+v", d.Machines)
	}
}

func TestEachSucceedsWithoutAnUnreachableRegionOnly(t *testing.T) {
	b := oneRegion(t, 1)
	term := toStaging(t, b, func(a *starling.App) { a.Deploy.Strategy.Gate = starling.GateEach }, "eu")
	b.report(term, "web", starling.MachineStaged, "m0")
	b.abroad(term, "eu", false, starling.Counts{Target: 1})
	b.look(term)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	b.report(term, "web", starling.MachineHealthy, "m0")
	for range 20 { // eu answers and is still placing
		b.abroad(term, "eu", false, starling.Counts{Target: 1})
		b.look(term)
		b.clock.advance(second)
	}
	wantPhase(t, b.deployment("d1"), starling.PhaseRollingOut)
	b.clock.advance(regionSeenWithin) // eu has fallen silent
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)
}

func TestSilentWorkerLosesItsJob(t *testing.T) {
	b := oneRegion(t, 0)
	b.app("web", nil)
	b.submit("d1", "web", starling.Digest{})
	term := b.elect()
	w1 := clientOf(b.server, node("us", "w1", starling.RoleWorker))
	job, err := w1.Lease(t.Context(), rpc.LeaseRequest{})
	if err != nil || job == nil {
		t.Fatalf("lease: %v, %v", job, err)
	}
	for range 30 {
		b.clock.advance(rpc.HeartbeatEvery)
		if err := w1.Heartbeat(t.Context(), "d1", rpc.HeartbeatRequest{Lease: job.Lease}); err != nil {
			t.Fatal(err)
		}
		b.look(term)
	}
	wantPhase(t, b.deployment("d1"), starling.PhaseBuilding)

	// A new leader has heard nobody: it grants a whole lease first.
	b.clock.advance(rpc.LeaseTTL)
	term = b.elect()
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseBuilding)
	b.clock.advance(rpc.LeaseTTL)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseBuilding)
	b.clock.advance(time.Millisecond)
	b.look(term)
	wantPhase(t, b.deployment("d1"), starling.PhaseQueued)

	for attempt := 2; attempt <= starling.MaxBuildAttempts; attempt++ {
		if job, err = w1.Lease(t.Context(), rpc.LeaseRequest{}); err != nil || job == nil || job.Attempt != attempt {
			t.Fatalf("lease: %+v, %v", job, err)
		}
		b.clock.advance(rpc.LeaseTTL + time.Millisecond)
		b.look(term)
	}
	wantPhase(t, b.deployment("d1"), starling.PhaseFailed)
}

func TestClockJumpsDoNotEndDeployments(t *testing.T) {
	// steady ignores jumps of a wall clock that comes with a monotonic reading.
	base := time.Now()
	readings := []time.Time{base, base.Add(time.Second)}
	now := steady(func() time.Time { r := readings[0]; readings = readings[1:]; return r }, time.Time{})
	if got := now(); got.Sub(base) != time.Second {
		t.Errorf("steady advanced by %s", got.Sub(base))
	}
	back := newFakeClock()
	now = steady(back.Now, time.Time{})
	before := now()
	back.advance(-time.Hour) // without a monotonic reading it can only follow
	if now().After(before) {
		t.Error("steady ran ahead")
	}
}

// A term does not begin before what the state was stamped with: a leader whose clock is
// behind would end deployments late. What it is ahead it gives up by going slower.
func TestTermsClockIsNotBehindTheStates(t *testing.T) {
	wall := newFakeClock()
	state := wall.Now().Add(time.Hour)
	now := steady(wall.Now, state)
	last := now()
	if !last.Equal(state) {
		t.Errorf("the term begins at %s, want %s", last, state)
	}
	for range 300 {
		wall.advance(time.Hour)
		at := now()
		if passed := at.Sub(last); passed > time.Hour || passed < time.Hour-time.Hour/clockGivesUp {
			t.Fatalf("an hour took %s", passed)
		}
		last = at
	}
	if !last.Equal(wall.Now()) {
		t.Errorf("after %d hours it is still ahead by %s", 300, last.Sub(wall.Now()))
	}
	if now := steady(wall.Now, state.Add(-48*time.Hour)); !now().Equal(wall.Now()) {
		t.Errorf("with an older state it begins at %s", now())
	}
}

// A wall clock that was put back does not keep a region silent.
func TestSettlingEndsWhateverTheWallClock(t *testing.T) {
	b := newBench(t, "us", func(c *Config) { c.Settle = 3 * time.Second }, node("us", "c1", starling.RoleCache))
	b.clock.advance(-time.Hour)
	if left := b.server.unsettled(); left != 3*time.Second {
		t.Errorf("an hour back, %s are left of 3s", left)
	}
	b.clock.advance(time.Hour + 2*time.Second)
	if left := b.server.unsettled(); left != time.Second {
		t.Errorf("after 2s, %s are left of 3s", left)
	}
	began := time.Now() // of the real clock: time.Time's monotonic reading must be kept
	b.server.started.Store(&began)
	b.server.cfg.Now = time.Now
	if left := b.server.unsettled(); left > 3*time.Second || left == 0 {
		t.Errorf("%s are left of 3s", left)
	}
}

func TestRefusedDecisionsAreNotRepeatedAtOnce(t *testing.T) {
	b := oneRegion(t, 0)
	term := b.elect()
	bad := []Decision{{raftfsm.TypeStart, raftfsm.Start{ID: "nothing"}}}
	for range 10 {
		if err := term.proposeAll(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.raft.written(raftfsm.TypeStart); n != 1 {
		t.Fatalf("proposed %d times, want 1", n)
	}
	b.clock.advance(refusedRetryAfter)
	if err := term.proposeAll(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	if n := b.raft.written(raftfsm.TypeStart); n != 2 {
		t.Fatalf("proposed %d times, want 2", n)
	}
}

// A deployment of the longest kind, with machines that trickle in, stays within about
// fifty Raft writes.
func TestRaftWritesPerDeployment(t *testing.T) {
	b := oneRegion(t, 400)
	term := toStaging(t, b, func(a *starling.App) { a.Deploy.Strategy.Waves = []string{"1%", "10%", "50%", "100%"} })
	all := names(machineNodes("us", 400))
	i := 0
	b.run(term, 15*time.Minute, 2*second, func() bool {
		if i < len(all) {
			b.report(term, "web", starling.MachineStaged, all[i])
			i++
		}
		return b.deployment("d1").Phase == starling.PhaseRollingOut
	})
	i = 0
	ended := b.run(term, 14*time.Minute+50*second, 2*second, func() bool {
		if i < len(all) {
			b.report(term, "web", starling.MachineHealthy, all[i])
			i++
		}
		return b.deployment("d1").Phase.Terminal()
	})
	wantPhase(t, b.deployment("d1"), starling.PhaseSucceeded)
	b.raft.mu.Lock()
	defer b.raft.mu.Unlock()
	if !ended || b.raft.index > 50 {
		t.Errorf("%d writes: %v", b.raft.index, b.raft.writes)
	}
	t.Logf("%d writes: %v", b.raft.index, b.raft.writes)
}

func TestPlacedFollowsTheCaches(t *testing.T) {
	nodes := []starling.Node{node("us", "c1", starling.RoleCache), node("us", "c2", starling.RoleCache)}
	b := newBench(t, "us", nil, nodes...)
	b.app("web", nil)
	art := b.artifact("v1")
	b.submit("d1", "web", art, "eu")
	term := b.elect()
	b.look(term)
	hold := func(cache string, complete bool, done int, caches ...string) {
		t.Helper()
		err := term.caches.record(rpc.CacheReport{Name: cache, Holds: []rpc.CacheHold{{
			Artifact: art, Complete: complete, ChunksDone: done, ChunksTotal: 10, Caches: caches,
		}}}, term.now())
		if err != nil {
			t.Fatal(err)
		}
		b.look(term)
	}
	placed := func(want bool) {
		t.Helper()
		if got := b.fsm.View().Placed(art); got != want {
			t.Fatalf("placed %t, want %t", got, want)
		}
	}
	hold("c1", true, 10, "c1", "c2")
	placed(false) // c2 has not spoken
	hold("c2", true, 10, "c2")
	placed(false) // c2 computed its share alone
	hold("c2", true, 10, "c1", "c2")
	placed(true)
	b.members.set(append(nodes, node("us", "c3", starling.RoleCache), node("us", "s1", starling.RoleServer))...)
	b.look(term)
	placed(true) // a cache more loses nothing
	for _, c := range []string{"c1", "c2", "c3"} {
		placed(true)
		hold(c, false, 0, "c1", "c2", "c3")
	}
	placed(false) // all disks are empty
	for _, c := range []string{"c1", "c2", "c3"} {
		hold(c, true, 10, "c1", "c2", "c3")
	}
	placed(true)

	// Once nobody wants it any more it may be evicted, and must not be promised.
	b.must(raftfsm.TypeFinish, raftfsm.Finish{ID: "d1", Phase: starling.PhaseCancelled})
	b.look(term)
	b.look(term)
	placed(false)
}

func TestWants(t *testing.T) {
	b := oneRegion(t, 0)
	b.app("web", nil)
	term := b.elect()
	first := term.wants.wait(t.Context(), 0, 0)
	b.look(term)
	second := term.wants.wait(t.Context(), first.Index, 0)
	if second.Index == first.Index || second.Replicas != 1 || len(second.Wants) != 0 {
		t.Fatalf("the first list: %+v", second)
	}
	art := b.artifact("v1")
	b.submit("d1", "web", art)
	b.look(term)
	w := term.wants.wait(t.Context(), second.Index, 0)
	if len(w.Wants) != 1 || w.Wants[0].Artifact != art || w.Wants[0].Priority < wantUnderWay || len(w.Wants[0].Sources) != 0 {
		t.Fatalf("wants: %+v", w)
	}
	if base := w.Wants[0].Base; !base.IsZero() {
		t.Errorf("the first release follows %s", base.Short())
	}
	next := b.artifact("v2")
	b.submit("d2", "web", next)
	b.look(term)
	w = term.wants.wait(t.Context(), w.Index, 0)
	if i := slices.IndexFunc(w.Wants, func(x rpc.Want) bool { return x.Artifact == next }); i < 0 || w.Wants[i].Base != art {
		t.Errorf("wants: %+v", w)
	}
	b.members.set(append(b.members.Members(), node("us", "c2", starling.RoleCache))...)
	b.look(term)
	if w := term.wants.wait(t.Context(), w.Index, 0); w.Replicas != 2 {
		t.Fatalf("replicas %d, want 2", w.Replicas)
	}
}

func TestSources(t *testing.T) {
	d := newDirectories()
	art := starling.DigestOf([]byte("v1"))
	learn := func(region string, rtt time.Duration, placed bool, alive bool) {
		c := node(region, "c1", starling.RoleCache)
		c.Alive = alive
		b := rpc.MirrorBatch{Directory: rpc.Directory{Region: region, Caches: []starling.Node{c}}}
		if placed {
			b.Placed = []starling.Digest{art}
		}
		d.learn(b, time.Time{})
		d.measured(region, "", rtt)
	}
	learn("far", 200*time.Millisecond, true, true)
	learn("near", 20*time.Millisecond, true, true)
	learn("dead", 10*time.Millisecond, true, false)
	learn("none", 5*time.Millisecond, false, true)
	learn("origin", 90*time.Millisecond, false, true)
	learn("self", 0, true, true)
	var got []string
	for _, s := range d.sources(art, "origin", "self") {
		got = append(got, s.Region)
	}
	if len(got) != 3 || got[0] != "near" || got[1] != "far" || got[2] != "origin" {
		t.Errorf("sources %v, want near, far, origin", got)
	}
	v := d.at()
	learn("near", 20*time.Millisecond, true, true)
	if d.at() != v {
		t.Error("the same directory again counts as a change")
	}
	learn("near", 20*time.Millisecond, false, true)
	if d.at() == v {
		t.Error("a lost artifact is no change")
	}
}
