package control

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftnode"
)

func server(name string, alive bool) starling.Node {
	n := node("us", name, starling.RoleServer)
	n.Alive = alive
	return n
}

func TestServerMayNotLeaveWithTheQuorum(t *testing.T) {
	voter := func(names ...string) (out []starling.RaftPeer) {
		for _, n := range names {
			out = append(out, starling.RaftPeer{Name: n, Voter: true})
		}
		return out
	}
	for name, tc := range map[string]struct {
		others []starling.RaftPeer
		nodes  []starling.Node
		text   string
	}{
		"the last one":             {nil, nil, "the only server with a vote"},
		"the last one with a vote": {[]starling.RaftPeer{{Name: "s2"}}, []starling.Node{server("s2", true)}, "the only server with a vote"},
		"one of two others alive":  {voter("s2", "s3"), []starling.Node{server("s2", true), server("s3", false)}, "too few"},
		"one that nobody knows":    {voter("s2"), nil, "too few"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "us", func(c *Config) { c.Stop = func() { t.Error("it stops") } }, tc.nodes...)
			b.raft.others = tc.others
			err := b.server.LeaveServer(t.Context(), "ann")
			if !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), tc.text) || len(b.members.left) != 0 {
				t.Errorf("%v, left %v", err, b.members.left)
			}
		})
	}
	if err := newBench(t, "us", nil).server.LeaveServer(t.Context(), "ann"); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("without a way to stop: %v", err)
	}
}

// The leader hands over, leaves the gossip, and stops once it is out of Raft.
func TestServerLeaves(t *testing.T) {
	stopped := make(chan struct{})
	b := newBench(t, "us", func(c *Config) { c.Stop = func() { close(stopped) } }, server("s2", true), server("s3", true))
	b.raft.others = []starling.RaftPeer{{Name: "s2", Voter: true}, {Name: "s3", Voter: true}}
	done := make(chan error, 1)
	go func() { done <- b.server.LeaveServer(context.Background(), "ann") }()
	for b.raft.IsLeader() {
		time.Sleep(time.Millisecond)
	}
	b.raft.follow(false, raftnode.Peer{Name: "s2"})
	for {
		b.members.mu.Lock()
		left := len(b.members.left)
		b.members.mu.Unlock()
		if left == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	select {
	case <-stopped:
		t.Error("it stopped while its vote counts")
	default:
	}
	b.raft.mu.Lock()
	b.raft.left = true
	b.raft.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-stopped
}

// A snapshot that is restored at the leader is what all see, under a higher index; a
// broken one changes nothing.
func TestSaveAndRestore(t *testing.T) {
	b := newBench(t, "us", nil)
	b.app("kept", nil)
	var saved bytes.Buffer
	write, err := b.server.SaveSnapshot(t.Context())
	if err == nil {
		err = write(&saved)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.app("late", nil)
	before := b.fsm.View().Index()
	if _, err := b.server.RestoreSnapshot(t.Context(), "ann", bytes.NewReader(saved.Bytes()[:saved.Len()-1])); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("a snapshot without its last byte: %v", err)
	}
	if _, late := b.fsm.View().App("late"); !late || b.fsm.View().Index() != before {
		t.Error("a refused snapshot changed the state")
	}
	info, err := b.server.RestoreSnapshot(t.Context(), "ann", &saved)
	if err != nil || info.Region != "us" || info.Index <= before {
		t.Fatalf("%+v, %v", info, err)
	}
	if _, late := b.fsm.View().App("late"); late || b.fsm.View().Index() <= before {
		t.Errorf("the state is not what was restored, at index %d", b.fsm.View().Index())
	}
	b.app("new", nil)
	b.raft.lead(false)
	if _, err := b.server.RestoreSnapshot(t.Context(), "ann", &saved); !errors.Is(err, starling.ErrNotLeader) {
		t.Errorf("at a server that does not lead: %v", err)
	}
}
