package raftnode

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// stop ends a server as a crash does, as far as the others can tell.
func stop(t *testing.T, g *gossip, s *server) {
	t.Helper()
	g.set(s.name, PeerFailed)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// mustCommit commits on one server of a known cluster.
func mustCommit(t *testing.T, s *server, data string) {
	t.Helper()
	if _, err := s.Propose(t.Context(), command(t, data)); err != nil {
		t.Fatal(err)
	}
}

// A server whose data is gone is removed, added as a new one, and gets everything.
func TestServerWithoutItsDataJoinsAsNew(t *testing.T) {
	g := newGossip()
	servers := cluster(t, g, "s1", "s2", "s3")
	first := leader(t, servers...)
	mustCommit(t, first, "before")
	lost := without(servers, first)[0]
	stop(t, g, lost)
	mustCommit(t, first, "meanwhile")
	back := restart(t, g, lost, t.TempDir())
	eventually(t, "the server has everything again", func() bool {
		return slices.Equal(back.fsm.all(), []string{`"before"`, `"meanwhile"`})
	})
	eventually(t, "it votes again", func() bool { return voters(t, first) == "s1 s2 s3" && voters(t, back) == "s1 s2 s3" })
	if !letIn(g.all(), back.fresh) {
		t.Error("it takes part without having been admitted")
	}
	// It was not simply taken back: the log has a configuration without it.
	removed := false
	last, err := first.stores.logs.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= last; i++ {
		var l raft.Log
		if err := first.stores.logs.GetLog(i, &l); err != nil {
			t.Fatal(err)
		}
		if l.Type == raft.LogConfiguration && len(raft.DecodeConfiguration(l.Data).Servers) == 2 {
			removed = true
		}
	}
	if !removed {
		t.Error("a server that had forgotten its votes kept its vote")
	}
}

// The schedule in which a voter without memory loses an acknowledged entry: s1 and s3
// have it, s2 has not; s3 loses its disk; s1 is cut off. s2 and the new s3 are a majority
// of servers, and must not go on without the entry.
func TestNastySchedule(t *testing.T) {
	g := newGossip()
	servers := cluster(t, g, "s1", "s2", "s3")
	s1 := leader(t, servers...)
	rest := without(servers, s1)
	s2, s3 := rest[0], rest[1]
	mustCommit(t, s1, "known to all")
	eventually(t, "replication", func() bool { return len(s2.fsm.all()) == 1 && len(s3.fsm.all()) == 1 })
	stop(t, g, s2)
	mustCommit(t, s1, "acknowledged")
	stop(t, g, s3)
	stop(t, g, s1)
	if err := os.RemoveAll(s3.dir); err != nil {
		t.Fatal(err)
	}

	late := restart(t, g, s2, s2.dir)
	empty := restart(t, g, s3, t.TempDir())
	until := time.Now().Add(6 * testTiming().Election)
	for time.Now().Before(until) { // many elections
		for _, s := range []*server{late, empty} {
			if _, err := s.Propose(t.Context(), command(t, "usurped")); err == nil {
				t.Fatalf("%s leads without the acknowledged entry", s.name)
			} else if !errors.Is(err, starling.ErrNotLeader) && !errors.Is(err, starling.ErrUnavailable) {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	if empty.Bootstrapped() {
		t.Error("the server without data began a cluster of its own, or was taken back")
	}

	back := restart(t, g, s1, s1.dir)
	all := []*server{back, late, empty}
	propose(t, all, "after")
	for _, s := range all {
		eventually(t, "everything at "+s.name, func() bool {
			return slices.Equal(s.fsm.all(), []string{`"known to all"`, `"acknowledged"`, `"after"`})
		})
	}
	eventually(t, "three voters", func() bool { return voters(t, back) == "s1 s2 s3" })
}

// An old leader must not commit with the help of a server that has forgotten that it
// follows another: streams of servers that have not been told of its new life are closed.
func TestFreshServerTakesNoStreams(t *testing.T) {
	g := newGossip()
	conf := testConfig(t, g, "s9", t.TempDir(), 0)
	s := open(t, conf)
	conn, err := conf.Layer.Dial(raft.ServerAddress(conf.Layer.Addr().String()), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stream to a server that is not admitted stays open: %d, %v", n, err)
	}
	eventually(t, "it announces that it is fresh", func() bool {
		return slices.ContainsFunc(g.all(), func(p Peer) bool { return p.Name == "s9" && p.Tags[tagFresh] == s.fresh })
	})
	g.edit(func(m map[string]Peer) {
		m["s1"] = Peer{Name: "s1", Addr: "127.0.0.1:1", State: PeerAlive, Tags: map[string]string{tagAdmit: "0,1," + s.fresh}}
	})
	eventually(t, "it is admitted", func() bool {
		s.layer.mu.Lock()
		defer s.layer.mu.Unlock()
		return s.layer.opened
	})
}

// A server that has never been in the configuration is added when a configuration
// without it is committed, and not before.
func TestReadmitWaitsForTheRemoval(t *testing.T) {
	g := newGossip()
	servers := cluster(t, g, "s1", "s2", "s3")
	first := leader(t, servers...)
	rest := without(servers, first)
	stop(t, g, rest[0])
	stop(t, g, rest[1])
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := first.readmit(ctx, "s4", "f"); err == nil {
		t.Error("admitted a server without a quorum")
	}
	if letIn(g.all(), "f") {
		t.Error("announced so")
	}
}

func TestSilentServersAreWaitedFor(t *testing.T) {
	n := &Node{conf: Config{Name: "s1"}}
	peers := []Peer{
		{Name: "s1", State: PeerAlive},
		{Name: "s2", State: PeerAlive},
		{Name: "s3", State: PeerAlive, Tags: map[string]string{tagFresh: "x"}},
		{Name: "s4", State: PeerFailed},
	}
	now := time.Unix(0, 0)
	name := func(ps []Peer) (out []string) { return names(ps) }
	if got := name(n.spoken(peers, now)); !slices.Equal(got, []string{"s1", "s3", "s4"}) {
		t.Errorf("at first: %q", got)
	}
	if got := name(n.spoken(peers, now.Add(silentFor))); !slices.Equal(got, []string{"s1", "s2", "s3", "s4"}) {
		t.Errorf("later: %q", got)
	}
}
