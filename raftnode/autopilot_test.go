package raftnode

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// members lists the whole configuration, with or without a vote.
func members(t *testing.T, s *server) string {
	t.Helper()
	peers, err := s.Peers()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range peers {
		out = append(out, p.Name)
	}
	return strings.Join(out, " ")
}

// without returns the servers but for one.
func without(servers []*server, gone *server) []*server {
	var out []*server
	for _, s := range servers {
		if s != gone {
			out = append(out, s)
		}
	}
	return out
}

// follower returns a server that does not lead.
func follower(servers []*server, lead *server) *server { return without(servers, lead)[0] }

func votersAre(t *testing.T, want string, servers ...*server) {
	t.Helper()
	eventually(t, "voters "+want, func() bool {
		for _, s := range servers {
			if s.IsLeader() {
				return voters(t, s) == want
			}
		}
		return false
	})
}

// A region of three grows to five and shrinks to three again, its leader leaving
// too, and commits at every step.
func TestThreeFiveThree(t *testing.T) {
	g := newGossip()
	servers := cluster(t, g, "s1", "s2", "s3")
	leader(t, servers...)
	propose(t, servers, "three")
	servers = append(servers, start(t, g, "s4", t.TempDir(), 0), start(t, g, "s5", t.TempDir(), 0))
	votersAre(t, "s1 s2 s3 s4 s5", servers...)
	propose(t, servers, "five")

	for range 2 {
		var lead *server
		eventually(t, "another leader", func() bool {
			lead = leader(t, servers...)
			return lead.TransferLeadership(t.Context()) == nil
		})
		g.set(lead.name, PeerLeft)
		servers = without(servers, lead)
		eventually(t, lead.name+" is out", func() bool {
			now := leader(t, servers...)
			return !strings.Contains(members(t, now), lead.name)
		})
		if err := lead.Close(); err != nil {
			t.Fatal(err)
		}
		propose(t, servers, "without "+lead.name)
	}
	if got := voters(t, leader(t, servers...)); len(strings.Fields(got)) != 3 {
		t.Errorf("voters %q", got)
	}
	for _, s := range servers {
		eventually(t, s.name+" has everything", func() bool { return len(s.fsm.all()) == 4 })
	}
}

// A server dies for good. Nothing is removed until another has come in its place: with
// three voters expected, two would be no better than two of three.
func TestDeadServerIsReplaced(t *testing.T) {
	g := newGossip()
	confs := map[string]Config{}
	begin := func(name string, expect int) *server {
		conf := testConfig(t, g, name, t.TempDir(), expect)
		conf.Autopilot.DeadAfter = 300 * time.Millisecond
		confs[name] = conf
		return open(t, conf)
	}
	servers := []*server{begin("s1", 3), begin("s2", 3), begin("s3", 3)}
	lead := leader(t, servers...)
	propose(t, servers, "before")
	dead := follower(servers, lead)
	g.set(dead.name, PeerFailed)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	servers = without(servers, dead)
	eventually(t, "the leader counts it as gone", func() bool {
		now := leader(t, servers...)
		now.pilot.mu.Lock()
		defer now.pilot.mu.Unlock()
		for id, since := range now.pilot.gone {
			if string(id) == dead.name && time.Since(since) > 2*time.Second {
				return true
			}
		}
		return false
	})
	now := leader(t, servers...)
	if got := voters(t, now); got != "s1 s2 s3" {
		t.Errorf("below min_quorum a dead server was removed: %q", got)
	}
	if h, err := now.Health(); err != nil || h.Healthy || h.FailureTolerance != 0 || len(h.Servers) != 3 {
		t.Errorf("health with a dead server: %+v, %v", h, err)
	}

	servers = append(servers, begin("s4", 0))
	want := strings.Replace("s1 s2 s3 s4", dead.name+" ", "", 1)
	votersAre(t, want, servers...)
	propose(t, servers, "after")
	now = leader(t, servers...)
	eventually(t, "all is well", func() bool { h, err := now.Health(); return err == nil && h.Healthy && h.FailureTolerance == 1 })
	h, err := now.Health()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range h.Servers {
		if !s.Voter || !s.Healthy || s.Status != "alive" || s.LastIndex == 0 || s.LastTerm == 0 || s.StableSince.IsZero() || s.Leader != (s.Name == now.name) {
			t.Errorf("health of %s: %+v", s.Name, s)
		}
	}
	if _, err := follower(servers, now).Health(); !errors.Is(err, starling.ErrNotLeader) {
		t.Errorf("a follower tells the health: %v", err)
	}
}

// keep_dead_servers means it.
func TestDeadServerIsKept(t *testing.T) {
	g := newGossip()
	var servers []*server
	for _, name := range []string{"s1", "s2", "s3", "s4"} {
		conf := testConfig(t, g, name, t.TempDir(), 3)
		conf.Autopilot.DeadAfter, conf.Autopilot.KeepDeadServers = time.Millisecond, true
		servers = append(servers, open(t, conf))
	}
	votersAre(t, "s1 s2 s3 s4", servers...)
	lead := leader(t, servers...)
	dead := follower(servers, lead)
	g.set(dead.name, PeerFailed)
	eventually(t, "several looks at it", func() bool {
		h, err := lead.Health()
		if err != nil {
			return false
		}
		for _, s := range h.Servers {
			if s.Name == dead.name {
				return !s.Healthy && time.Since(s.StableSince) > time.Second
			}
		}
		return false
	})
	if got := voters(t, lead); got != "s1 s2 s3 s4" {
		t.Errorf("a failed server was removed: %q", got)
	}
}

// A new server follows without a vote until it has been healthy for long enough: one
// that lags or does not answer would count towards the quorum and not help it.
func TestNewServerVotesOnceHealthy(t *testing.T) {
	g := newGossip()
	conf := testConfig(t, g, "s1", t.TempDir(), 1)
	healthy := make(chan struct{})
	conf.Stats = func(_ context.Context, p Peer) (PeerStats, error) {
		select {
		case <-healthy:
			return PeerStats{LastIndex: 1 << 40}, nil // of an older program: no term
		default:
			return PeerStats{}, fmt.Errorf("%s does not answer", p.Name)
		}
	}
	one := open(t, conf)
	leader(t, one)
	two := start(t, g, "s2", t.TempDir(), 0)
	propose(t, []*server{one}, "x")
	eventually(t, "it follows", func() bool { return len(two.fsm.all()) == 1 })
	eventually(t, "it was looked at for long enough", func() bool {
		h, err := one.Health()
		return err == nil && len(h.Servers) == 2 && time.Since(h.Servers[1].StableSince) > time.Second
	})
	if got := voters(t, one); got != "s1" {
		t.Errorf("voters %q while the new server does not answer", got)
	}
	close(healthy)
	votersAre(t, "s1 s2", one, two)
}
