package transport

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// tally is a state machine that counts what was applied to it.
type tally struct {
	mu      sync.Mutex
	applied int
}

func (f *tally) Apply(*raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied++
	return f.applied
}

func (f *tally) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applied
}

func (f *tally) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (f *tally) Restore(io.ReadCloser) error         { return errors.New("none") }

// A Raft cluster of three elects a leader, commits, and elects another when that one is cut off.
func TestRaftLayer(t *testing.T) {
	const servers, entries = 3, 100
	w := newWorld(t, "c")
	var (
		ends      [servers]*Endpoint
		rafts     [servers]*raft.Raft
		fsms      [servers]*tally
		bootstrap raft.Configuration
	)
	for i := range ends {
		name := fmt.Sprintf("s%d", i)
		ends[i] = w.listen(t, "r", name, starling.RoleServer)
		bootstrap.Servers = append(bootstrap.Servers, raft.Server{ID: raft.ServerID(name), Address: raft.ServerAddress(ends[i].Addr())})
	}
	for i := range ends {
		fsms[i] = new(tally)
		rafts[i] = startRaft(t, ends[i], bootstrap.Servers[i].ID, fsms[i], bootstrap)
	}
	for i := range entries {
		apply(t, rafts[:], fmt.Append(nil, i))
	}
	for _, f := range fsms {
		eventually(t, "all entries are applied everywhere", func() bool { return f.count() >= entries })
	}
	leader := waitLeader(t, rafts[:])
	if err := ends[leader].Close(); err != nil {
		t.Fatal(err)
	}
	others := append(append([]*raft.Raft(nil), rafts[:leader]...), rafts[leader+1:]...)
	apply(t, others, []byte("after"))
}

// apply commits an entry with whoever leads; on a slow machine that may change at any time.
func apply(t *testing.T, rafts []*raft.Raft, entry []byte) {
	t.Helper()
	eventually(t, "an entry is committed", func() bool {
		return rafts[waitLeader(t, rafts)].Apply(entry, 10*time.Second).Error() == nil
	})
}

func startRaft(t *testing.T, e *Endpoint, id raft.ServerID, fsm raft.FSM, bootstrap raft.Configuration) *raft.Raft {
	t.Helper()
	logger := hclog.NewNullLogger()
	network := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: e.RaftLayer(), MaxPool: 3, Timeout: 5 * time.Second, Logger: logger,
	})
	if got := network.LocalAddr(); string(got) != e.Addr() {
		t.Errorf("raft is at %s, not at %s", got, e.Addr())
	}
	conf := raft.DefaultConfig()
	conf.LocalID = id
	conf.Logger = logger
	conf.HeartbeatTimeout, conf.ElectionTimeout = 300*time.Millisecond, 300*time.Millisecond
	conf.LeaderLeaseTimeout = 300 * time.Millisecond
	store := raft.NewInmemStore()
	r, err := raft.NewRaft(conf, fsm, store, store, raft.NewInmemSnapshotStore(), network)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		done := r.Shutdown()
		if err := errors.Join(network.Close(), done.Error()); err != nil { // the first ends dials under way
			t.Error(err)
		}
	})
	if err := r.BootstrapCluster(bootstrap).Error(); err != nil {
		t.Fatal(err)
	}
	return r
}

func waitLeader(t *testing.T, rafts []*raft.Raft) (leader int) {
	t.Helper()
	eventually(t, "there is a leader", func() bool {
		for i, r := range rafts {
			if r.State() == raft.Leader {
				leader = i
				return true
			}
		}
		return false
	})
	return leader
}

func TestRaftLayerDial(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleServer)
	layer := a.RaftLayer()
	start := time.Now()
	if _, err := layer.Dial(raft.ServerAddress(blackHole(t)), 50*time.Millisecond); err == nil || time.Since(start) > 3*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
	if err := layer.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := layer.Accept(); err == nil {
		t.Error("accepts after Close")
	}
	if _, err := layer.Dial("127.0.0.1:1", 0); err == nil {
		t.Error("dials after Close")
	}
	if n, err := w.listen(t, "r", "b", starling.RoleServer).Dial(testContext(t), a.Addr(), KindControl); err != nil {
		t.Errorf("the endpoint itself must go on: %v", err)
	} else {
		closeAll(t, n)
	}
}
