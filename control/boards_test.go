package control

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

func TestMachineBoardMergesReportsWithTheMembership(t *testing.T) {
	b := newMachineBoard("us")
	nodes := machineNodes("us", 6)
	nodes[4].Alive = false
	nodes[5].Tags = map[string]string{"role": "db"}
	b.setMembers(append(nodes, node("us", "c1", starling.RoleCache)))
	g := &starling.Goal{
		App: "web", Generation: starling.Generation{Epoch: 1, Sequence: 2}, Revision: 3, Deployment: "d1",
		Stage: starling.StageActivate, Cutoff: starling.CutoffAll, Deploy: starling.DeploySpec{Targets: "role == web"},
	}
	at := time.Unix(100, 0)
	say := func(name string, gen starling.Generation, s starling.MachineState) {
		t.Helper()
		_, err := b.record(g, starling.MachineReport{Node: name, App: "web", Generation: gen, State: s, Bytes: starling.Bytes{Peer: 5, WAN: 7}}, at)
		if err != nil {
			t.Fatal(err)
		}
	}
	say("m0", g.Generation, starling.MachineHealthy)
	say("m1", g.Generation, starling.MachineActivating)
	say("m2", g.Generation, starling.MachineFailed)
	say("m3", starling.Generation{Epoch: 1, Sequence: 1}, starling.MachineHealthy) // an old generation
	say("m4", g.Generation, starling.MachineHealthy)                               // dead
	say("m5", g.Generation, starling.MachineHealthy)                               // not a target
	want := starling.Counts{Target: 4, Staged: 2, Due: 4, Healthy: 1, Failed: 1, Absent: 1}
	merged := b.count(g, at)
	c, moved := merged.Counts, merged.Bytes
	if len(c.Samples) != 1 || c.Samples[0].Node != "m2" || c.Samples[0].Region != "us" {
		t.Errorf("samples %+v", c.Samples)
	}
	if c.Samples = nil; !sameCounts(c, want) {
		t.Errorf("counts %+v, want %+v", c, want)
	}
	if moved != (starling.Bytes{Peer: 15}) {
		t.Errorf("bytes %+v", moved)
	}
	if _, err := b.record(g, starling.MachineReport{Node: "stranger", Generation: g.Generation}, at); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("a stranger's report: %v", err)
	}

	// Before activation nothing is due but what has failed.
	g2 := *g
	g2.Revision, g2.Stage, g2.Cutoff = 4, starling.StageFetch, 0
	if c := b.count(&g2, at).Counts; c.Due != 1 || c.Healthy != 0 || c.Staged != 2 {
		t.Errorf("while staging: %+v", c)
	}
	b.keepApps(nil, at)
	if b.tally.Apps() != 0 {
		t.Error("an app without a goal is remembered")
	}
}

func TestWANBytesAreChargedToTheGoalThatMovedThem(t *testing.T) {
	b := newCacheBoard()
	b.setMembers([]starling.Node{node("us", "c1", starling.RoleCache)})
	art := starling.DigestOf([]byte("v1"))
	placed := false
	say := func(wan int64) {
		t.Helper()
		if err := b.record(rpc.CacheReport{Name: "c1", Holds: []rpc.CacheHold{{Artifact: art, WANBytes: wan}}}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	goal := func(seq uint64) *starling.Goal {
		g := &starling.Goal{App: "web", Artifact: art, Generation: starling.Generation{Epoch: 1, Sequence: seq}}
		b.keepGoals([]*starling.Goal{g}, func(starling.Digest) bool { return placed })
		return g
	}
	g1 := goal(1)
	say(70)
	say(100)
	if n := b.wanBytes(g1); n != 100 {
		t.Errorf("the first deployment moved %d bytes, want 100", n)
	}
	placed = true
	g2 := goal(2) // a rollback to what is here
	if n := b.wanBytes(g2); n != 0 {
		t.Errorf("the rollback moved %d bytes", n)
	}
	say(130)
	if n := b.wanBytes(g2); n != 30 {
		t.Errorf("30 bytes more make %d", n)
	}
	say(0) // the cache began anew
	if n := b.wanBytes(g2); n != 0 {
		t.Errorf("after a restart of the cache: %d", n)
	}
	if err := b.record(rpc.CacheReport{Name: "c2"}, time.Unix(1, 0)); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("a cache that gossip does not know: %v", err)
	}
}

func TestHomeBoardNeverGoesBack(t *testing.T) {
	b := newHomeBoard()
	at := time.Unix(100, 0)
	r := func(seq, revision uint64, staged int, peer int64) starling.RegionReport {
		return starling.RegionReport{
			Region: "eu", App: "web", Generation: starling.Generation{Epoch: 1, Sequence: seq}, Revision: revision,
			Counts: starling.Counts{Staged: staged}, Bytes: starling.Bytes{Peer: peer},
		}
	}
	b.record(r(2, 5, 1, 100), at)
	b.record(r(1, 9, 7, 0), at) // an older generation
	b.record(r(2, 4, 7, 0), at) // an older revision
	b.record(r(2, 5, 2, 40), at)
	got := b.of("web")["eu"]
	if got.Counts.Staged != 2 || got.Bytes.Peer != 100 || got.Revision != 5 {
		t.Errorf("%+v", got)
	}
	b.record(r(3, 1, 0, 0), at)
	if got = b.of("web")["eu"]; got.Generation.Sequence != 3 || got.Bytes.Peer != 0 {
		t.Errorf("a new generation: %+v", got)
	}
	b.keep(nil)
	if len(b.reports) != 0 {
		t.Error("an app without a deployment is remembered")
	}
}

func TestMirrorAnswers(t *testing.T) {
	b := oneRegion(t, 0)
	b.app("web", nil)
	term := b.elect()
	b.look(term)
	c := clientOf(b.server, euServer)
	m, err := c.Mirror(t.Context(), 0, 0, nil)
	if err != nil || m.Mirror.Home != "us" || len(m.Mirror.Apps) != 1 || m.Mirror.Index == 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	if len(m.Directory.Servers) != 1 || len(m.Directory.Caches) != 1 || m.Directory.Region != "us" {
		t.Errorf("directory %+v", m.Directory)
	}
	again, err := c.Mirror(t.Context(), m.Mirror.Index, 0, nil)
	if err != nil || !emptyMirror(&again.Mirror) {
		t.Errorf("nothing new: %+v, %v", again.Mirror, err)
	}
	got := make(chan rpc.MirrorBatch, 1)
	go func() {
		m, err := c.Mirror(t.Context(), m.Mirror.Index, 10*time.Second, nil)
		if err != nil {
			t.Error(err)
		}
		got <- m
	}()
	b.submit("d1", "web", b.artifact("v1"))
	if m := <-got; emptyMirror(&m.Mirror) {
		t.Error("the change did not come through")
	}
}

func TestLongPollsEndWithTheTerm(t *testing.T) {
	b := oneRegion(t, 0)
	term := b.elect()
	b.look(term)
	w := term.wants.wait(t.Context(), 0, 0)
	done := make(chan error, 2)
	go func() {
		_, err := clientOf(b.server, usCache).Wants(t.Context(), w.Index, rpc.MaxWait)
		done <- err
	}()
	go func() {
		_, err := clientOf(b.server, usWorker).Lease(t.Context(), rpc.LeaseRequest{WaitMS: rpc.MaxWait.Milliseconds()})
		done <- err
	}()
	b.depose()
	for range 2 {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a long poll outlives its term")
		}
	}
}

func TestUnsettledMembershipSaysNothing(t *testing.T) {
	b := newBench(t, "us", func(c *Config) { c.Settle = 3 * time.Second }, node("us", "c1", starling.RoleCache))
	b.app("web", nil)
	art := b.artifact("v1")
	b.submit("d1", "web", art)
	term := b.elect()
	b.look(term)
	b.place(term, art)
	b.run(term, 2900*time.Millisecond, 100*time.Millisecond, func() bool { return false })
	wantPhase(t, b.deployment("d1"), starling.PhaseReplicating) // "no machines" would have ended it
	if !b.run(term, time.Second, 100*time.Millisecond, func() bool { return b.deployment("d1").Phase.Terminal() }) {
		t.Errorf("not ended: %+v", b.deployment("d1"))
	}
}

func TestRegionsAreCommitted(t *testing.T) {
	b := newBench(t, "us", func(c *Config) { c.Regions = map[string][]string{"eu": {"eu1:7471"}} })
	term := b.elect()
	b.look(term) // the region begins
	b.look(term)
	term.dirs.learn(rpc.MirrorBatch{Directory: rpc.Directory{Region: "eu", Servers: []starling.Node{euServer}}}, b.clock.Now())
	b.look(term)
	b.look(term)
	v := b.fsm.View()
	rs := v.Regions()
	if len(rs) != 2 || rs[0].Servers[0] != euServer.Addr || rs[1].Name != "us" || len(rs[1].Servers) != 1 {
		t.Errorf("regions %+v", rs)
	}
	if n := b.raft.written(raftfsm.TypeRegionUpsert); n != 3 {
		t.Errorf("%d writes, want 3", n)
	}
	if got := b.server.serversOf("eu", nil); len(got) != 2 || got[0] != euServer.Addr {
		t.Errorf("a follower knows %v", got)
	}
}

func BenchmarkCount(b *testing.B) {
	const machines = 20_000
	board := newMachineBoard("us")
	board.setMembers(newMemberList(machineNodes("us", machines)...).Members())
	g := &starling.Goal{App: "web", Generation: starling.Generation{Epoch: 1, Sequence: 1}, Deployment: "d1", Stage: starling.StageActivate, Cutoff: starling.CutoffAll}
	at := time.Unix(100, 0)
	for i := range machines {
		if _, err := board.record(g, starling.MachineReport{Node: fmt.Sprintf("m%d", i), Generation: g.Generation, State: starling.MachineHealthy}, at); err != nil {
			b.Fatal(err)
		}
	}
	board.count(g, at)
	for b.Loop() {
		at = at.Add(time.Second)
		r := starling.MachineReport{Node: "m0", Generation: g.Generation, State: starling.MachineHealthy, FetchMS: at.Unix()}
		if _, err := board.record(g, r, at); err != nil {
			b.Fatal(err)
		}
		if c := board.count(g, at).Counts; c.Healthy != machines {
			b.Fatalf("%+v", c)
		}
	}
}

// A look costs by what is under way, not by what has ended.
func BenchmarkLook(b *testing.B) {
	for _, ended := range []int{0, 8000} {
		b.Run(fmt.Sprintf("ended=%d", ended), func(b *testing.B) {
			bench := oneRegion(b, 0)
			bench.past(ended)
			bench.app("web", nil)
			term := bench.elect()
			for i := range 1000 {
				bench.submit(fmt.Sprintf("d%d", i), "web", starling.Digest{})
			}
			bench.look(term)
			for b.Loop() {
				bench.look(term)
			}
		})
	}
}
