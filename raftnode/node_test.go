package raftnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fsm keeps the payloads it has applied.
type fsm struct {
	mu      sync.Mutex
	applied []string
	entries int
	block   chan struct{} // when not nil, Apply waits for it
}

func (f *fsm) Apply(l *raft.Log) any {
	f.mu.Lock()
	block := f.block
	f.mu.Unlock()
	if block != nil {
		<-block
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var e raftfsm.Entry
	if err := json.Unmarshal(l.Data, &e); err != nil {
		return err
	}
	if e.Version != raftfsm.EntryVersion {
		return fmt.Errorf("version %d", e.Version)
	}
	f.entries++
	var out []raftfsm.Result
	for _, c := range e.Commands {
		f.applied = append(f.applied, string(c.Data))
		out = append(out, raftfsm.Result{Index: l.Index, App: &starling.App{Name: string(c.Data)}})
	}
	return out
}

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return snapshot(f.all()), nil }

func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = nil
	return json.NewDecoder(r).Decode(&f.applied)
}

func (f *fsm) all() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.applied)
}

type snapshot []string

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode([]string(s)); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (s snapshot) Release() {}

// gossip is a pool in memory: what every server sees at once.
type gossip struct {
	mu      sync.Mutex
	peers   map[string]Peer
	changed chan struct{}
}

func newGossip() *gossip {
	return &gossip{peers: make(map[string]Peer), changed: make(chan struct{})}
}

func (g *gossip) edit(f func(map[string]Peer)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g.peers)
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *gossip) set(name string, s PeerState) {
	g.edit(func(m map[string]Peer) {
		p := m[name]
		p.State = s
		m[name] = p
	})
}

func (g *gossip) all() []Peer {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Values(g.peers))
}

func (g *gossip) wait() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// tcpLayer is a raft.StreamLayer on loopback TCP.
type tcpLayer struct{ net.Listener }

func (l tcpLayer) Dial(a raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(a), timeout)
}

type server struct {
	*Node
	name string
	dir  string
	fsm  *fsm
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func testTiming() Timing {
	return Timing{
		Heartbeat: 400 * time.Millisecond, Election: 400 * time.Millisecond, LeaderLease: 300 * time.Millisecond,
		Commit: 10 * time.Millisecond, Reconcile: 100 * time.Millisecond,
	}
}

func testConfig(t *testing.T, g *gossip, name, dir string, expect int) Config {
	t.Helper()
	return testConfigAt(t, g, name, dir, expect, "127.0.0.1:0")
}

func testConfigAt(t *testing.T, g *gossip, name, dir string, expect int, addr string) Config {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	g.edit(func(m map[string]Peer) {
		m[name] = Peer{Name: name, Addr: ln.Addr().String(), State: PeerAlive, Tags: map[string]string{}}
	})
	return Config{
		Name: name, Region: "r1", DataDir: dir, Layer: tcpLayer{ln}, FSM: &fsm{},
		Peers: g.all, Changed: g.wait, BootstrapExpect: expect, Timing: testTiming(), Logger: quiet,
		Autopilot: Autopilot{Stabilization: 100 * time.Millisecond, Look: 50 * time.Millisecond},
		SetTag: func(k, v string) error {
			g.edit(func(m map[string]Peer) {
				p := m[name]
				p.Tags = maps.Clone(p.Tags)
				p.Tags[k] = v
				if v == "" {
					delete(p.Tags, k)
				}
				m[name] = p
			})
			return nil
		},
	}
}

func start(t *testing.T, g *gossip, name, dir string, expect int) *server {
	t.Helper()
	conf := testConfig(t, g, name, dir, expect)
	return open(t, conf)
}

// restart starts a server that was closed on a directory, at the address that it had.
func restart(t *testing.T, g *gossip, s *server, dir string) *server {
	t.Helper()
	return open(t, testConfigAt(t, g, s.name, dir, 3, string(s.directory.addr)))
}

func open(t *testing.T, conf Config) *server {
	t.Helper()
	n, err := Open(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return &server{Node: n, name: conf.Name, dir: conf.DataDir, fsm: conf.FSM.(*fsm)}
}

func cluster(t *testing.T, g *gossip, names ...string) []*server {
	t.Helper()
	var out []*server
	for _, name := range names {
		out = append(out, start(t, g, name, t.TempDir(), len(names)))
	}
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: never", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// leader waits until all of the servers know the same leader, one of them, which can commit.
func leader(t *testing.T, servers ...*server) *server {
	t.Helper()
	var found *server
	eventually(t, "one leader", func() bool {
		found = nil
		for _, s := range servers {
			p, ok := s.Leader()
			if !ok || (found != nil && found.name != p.Name) {
				return false
			}
			for _, l := range servers {
				if l.name == p.Name && l.IsLeader() {
					found = l
				}
			}
			if found == nil {
				return false
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return found.Barrier(ctx) == nil
	})
	return found
}

func command(t *testing.T, data any) raftfsm.Command {
	t.Helper()
	c, err := raftfsm.NewCommand(raftfsm.TypeAppApply, time.Unix(0, 0), "test", data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// propose retries on whoever leads until the command is committed.
func propose(t *testing.T, servers []*server, data any) *server {
	t.Helper()
	var by *server
	eventually(t, "commit", func() bool {
		for _, s := range servers {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			_, err := s.Propose(ctx, command(t, data))
			cancel()
			if err == nil {
				by = s
				return true
			}
		}
		return false
	})
	return by
}

func voters(t *testing.T, s *server) string {
	t.Helper()
	peers, err := s.Peers()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range peers {
		if p.Voter {
			out = append(out, p.Name)
		}
	}
	return strings.Join(out, " ")
}

func TestThreeServersElectAgain(t *testing.T) {
	g := newGossip()
	servers := cluster(t, g, "s1", "s2", "s3")
	first := leader(t, servers...)
	for _, s := range servers {
		if got := voters(t, s); got != "s1 s2 s3" {
			t.Errorf("%s: voters %q", s.name, got)
		}
		if s != first {
			if _, err := s.Propose(t.Context(), command(t, "x")); !errors.Is(err, starling.ErrNotLeader) {
				t.Errorf("follower: %v", err)
			}
			if err := s.VerifyLeader(t.Context()); !errors.Is(err, starling.ErrNotLeader) {
				t.Errorf("follower verifies: %v", err)
			}
			if err := s.Barrier(t.Context()); !errors.Is(err, starling.ErrNotLeader) {
				t.Errorf("follower's barrier: %v", err)
			}
		}
	}
	if err := first.VerifyLeader(t.Context()); err != nil {
		t.Error(err)
	}
	propose(t, servers, "one")

	var rest []*server
	for _, s := range servers {
		if s != first {
			rest = append(rest, s)
		}
	}
	changed := rest[0].Leadership()
	g.set(first.name, PeerFailed)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	<-changed
	second := leader(t, rest...)
	if second == first {
		t.Fatal("the dead server leads")
	}
	propose(t, rest, "two")
	if got := voters(t, second); got != "s1 s2 s3" {
		t.Errorf("a failed server lost its vote: %q", got)
	}

	if raceDetector {
		return
	}
	// It comes back on its data at another address, and follows.
	back := start(t, g, first.name, first.dir, 3)
	eventually(t, "the returned server catches up", func() bool {
		return slices.Equal(back.fsm.all(), []string{`"one"`, `"two"`})
	})
	eventually(t, "its new address is in the configuration", func() bool {
		peers, err := second.Peers()
		return err == nil && slices.ContainsFunc(peers, func(p starling.RaftPeer) bool {
			return p.Name == back.name && p.Addr == string(back.directory.addr)
		})
	})
}

func TestServersComeAndGo(t *testing.T) {
	g := newGossip()
	one := start(t, g, "s1", t.TempDir(), 1)
	leader(t, one)
	if err := one.TransferLeadership(t.Context()); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("transfer without another server: %v", err)
	}
	propose(t, []*server{one}, "early")
	// Later servers never begin a cluster of their own, whatever they expect.
	two := start(t, g, "s2", t.TempDir(), 1)
	three := start(t, g, "s3", t.TempDir(), 0)
	eventually(t, "three voters", func() bool { return voters(t, one) == "s1 s2 s3" && voters(t, three) == "s1 s2 s3" })
	eventually(t, "replication", func() bool { return len(three.fsm.all()) == 1 && len(two.fsm.all()) == 1 })
	if !two.Bootstrapped() {
		t.Error("a server with a configuration says it has none")
	}

	if err := one.RemovePeer(t.Context(), "s3"); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("removing a live server: %v", err)
	}
	if err := one.RemovePeer(t.Context(), "nobody"); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("removing a stranger: %v", err)
	}
	if err := one.TransferLeadership(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another leader", func() bool { p, ok := one.Leader(); return ok && p.Name != "s1" })
	now := leader(t, one, two, three)

	var gone *server
	for _, s := range []*server{one, two, three} {
		if s != now {
			gone = s
		}
	}
	g.set(gone.name, PeerLeft)
	eventually(t, "the server that left has no vote", func() bool {
		return !strings.Contains(voters(t, now), gone.name) && len(strings.Fields(voters(t, now))) == 2
	})
	g.set(gone.name, PeerAlive)
	eventually(t, "it is a voter again", func() bool { return voters(t, now) == "s1 s2 s3" })

	g.set(gone.name, PeerFailed)
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	if err := now.RemovePeer(t.Context(), gone.name); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(voters(t, now), gone.name) {
		t.Error("an operator's removal had no effect")
	}
}

func TestUnreachableServerGetsNoVote(t *testing.T) {
	g := newGossip()
	one := start(t, g, "s1", t.TempDir(), 1)
	leader(t, one)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	g.edit(func(m map[string]Peer) {
		m["s2"] = Peer{Name: "s2", Addr: ln.Addr().String(), State: PeerAlive}
	})
	if err := one.add(t.Context(), "s2", raft.ServerAddress(ln.Addr().String()), ""); err == nil {
		t.Error("added a server that nobody can reach")
	}
	propose(t, []*server{one}, "still leads")
	if got := members(t, one); got != "s1" {
		t.Errorf("members %q", got)
	}
}

func TestRestartFromSnapshotAndLog(t *testing.T) {
	g := newGossip()
	dir := t.TempDir()
	s := start(t, g, "s1", dir, 1)
	leader(t, s)
	if err := s.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	propose(t, []*server{s}, "in the snapshot")
	if err := s.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Snapshot(t.Context()); err != nil {
		t.Errorf("a snapshot of nothing new: %v", err)
	}
	propose(t, []*server{s}, "in the log")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Propose(t.Context(), command(t, "late")); err == nil {
		t.Error("proposed to a closed node")
	}
	files, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no snapshot on disk: %v, %v", files, err)
	}
	s = start(t, g, "s1", dir, 1)
	leader(t, s)
	if got := s.fsm.all(); !slices.Equal(got, []string{`"in the snapshot"`, `"in the log"`}) {
		t.Errorf("state after the restart: %q", got)
	}
	if st := s.Stats(); st.State != "Leader" || st.Voters != 1 || !st.Voter || !st.Bootstrapped || st.AppliedIndex == 0 || st.LastContact != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestDataDirectoryInUse(t *testing.T) {
	g := newGossip()
	dir := t.TempDir()
	start(t, g, "s1", dir, 1)
	conf := testConfig(t, g, "s2", dir, 1)
	defer conf.Layer.Close()
	_, err := Open(conf)
	if err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("second process on a data directory: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	tests := map[string]struct {
		change func(*Config)
		text   string
	}{
		"bad name":    {func(c *Config) { c.Name = "" }, "name"},
		"bad region":  {func(c *Config) { c.Region = "A" }, "region"},
		"expect many": {func(c *Config) { c.BootstrapExpect = 99 }, "bootstrap_expect"},
		"expect less": {func(c *Config) { c.BootstrapExpect = -1 }, "bootstrap_expect"},
		"no dir":      {func(c *Config) { c.DataDir = "" }, "data_dir"},
		"no fsm":      {func(c *Config) { c.FSM = nil }, "must be set"},
		"dir no dir":  {func(c *Config) { c.DataDir = "/dev/null/x" }, "data directory"},
		"bad timing":  {func(c *Config) { c.Timing.LeaderLease = time.Hour }, "start raft"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			conf := testConfig(t, newGossip(), "s1", t.TempDir(), 1)
			defer conf.Layer.Close()
			tc.change(&conf)
			n, err := Open(conf)
			if err == nil {
				n.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %q lacks %q", err, tc.text)
			}
		})
	}
}
