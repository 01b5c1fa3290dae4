package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
)

// soloRaft applies proposals to a state machine at once, as a Raft of one server
// without a disk would. Its lead can be given and taken.
type soloRaft struct {
	name, addr string
	fsm        *raftfsm.FSM

	mu      sync.Mutex
	index   uint64
	leads   bool
	term    uint64
	leader  raftnode.Peer
	changed chan struct{}
	removed []string
	others  []starling.RaftPeer // in the configuration, beside itself
	left    bool                // it is not in the configuration itself
	speaks  int                 // the level of the oldest of its servers; 0: the present one
	refuse  error               // what the next proposals are refused with, before they are committed; nil: they are not
	writes  map[raftfsm.Type]int
}

func newSoloRaft(name, addr string, fsm *raftfsm.FSM) *soloRaft {
	r := &soloRaft{name: name, addr: addr, fsm: fsm, changed: make(chan struct{}), writes: map[raftfsm.Type]int{}}
	r.lead(true)
	return r
}

func (r *soloRaft) lead(leads bool) { r.follow(leads, raftnode.Peer{Name: r.name, Addr: r.addr}) }

// follow makes this server the leader or the follower of leader.
func (r *soloRaft) follow(leads bool, leader raftnode.Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leads, r.leader = leads, leader
	r.term++
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *soloRaft) Propose(_ context.Context, cmds ...raftfsm.Command) ([]raftfsm.Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.leads {
		return nil, starling.ErrNotLeader
	}
	if r.refuse != nil {
		return slices.Repeat([]raftfsm.Result{{Err: r.refuse}}, len(cmds)), nil
	}
	if out, ok := r.tooNew(cmds); ok {
		return out, nil
	}
	b, err := raftfsm.Encode(cmds)
	if err != nil {
		return nil, err
	}
	r.index++
	for _, c := range cmds {
		r.writes[c.Type]++
	}
	return r.fsm.Apply(&raft.Log{Index: r.index, Data: b}).([]raftfsm.Result), nil
}

// tooNew refuses commands that one of the servers cannot follow, all of them if it does one.
func (r *soloRaft) tooNew(cmds []raftfsm.Command) (out []raftfsm.Result, refused bool) {
	for _, c := range cmds {
		if r.speaks > 0 && c.Needs() > r.speaks {
			err := fmt.Errorf("%w: %w", starling.ErrConflict, raftnode.ErrServerTooOld)
			return slices.Repeat([]raftfsm.Result{{Err: err}}, len(cmds)), true
		}
	}
	return nil, false
}

func (r *soloRaft) Term() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.term
}

func (r *soloRaft) Barrier(context.Context) error { return nil }

func (r *soloRaft) IsLeader() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leads
}

func (r *soloRaft) Leader() (raftnode.Peer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leader, r.leader.Name != "" && (r.leads || r.leader.Name != r.name)
}

func (r *soloRaft) Leadership() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *soloRaft) Bootstrapped() bool { return true }

func (r *soloRaft) Peers() ([]starling.RaftPeer, error) {
	leads := r.IsLeader()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.others)
	if !r.left {
		out = append(out, starling.RaftPeer{Name: r.name, Addr: r.addr, Voter: true, Leader: leads})
	}
	return out, nil
}

func (r *soloRaft) Health() (starling.RaftHealth, error) {
	if !r.IsLeader() {
		return starling.RaftHealth{}, starling.ErrNotLeader
	}
	return starling.RaftHealth{Healthy: true, FailureTolerance: 1}, nil
}

func (r *soloRaft) PeerStats() raftnode.PeerStats {
	return raftnode.PeerStats{LastTerm: 1, LastIndex: 7}
}

func (r *soloRaft) Restore(_ context.Context, index uint64, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index = index + 1
	return r.fsm.Restore(io.NopCloser(&b))
}

func (r *soloRaft) RemovePeer(_ context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed = append(r.removed, name)
	return nil
}

func (r *soloRaft) TransferLeadership(context.Context) error { r.lead(false); return nil }

func (r *soloRaft) written(t raftfsm.Type) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes[t]
}

// memberList is a membership that tests set.
type memberList struct {
	mu      sync.Mutex
	nodes   []starling.Node
	changed chan struct{}
	joined  []string
	left    []string
}

func newMemberList(nodes ...starling.Node) *memberList {
	m := &memberList{changed: make(chan struct{})}
	m.set(nodes...)
	return m
}

func (m *memberList) set(nodes ...starling.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes = slices.Clone(nodes)
	slices.SortFunc(m.nodes, func(a, b starling.Node) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memberList) alive(name string, alive bool) {
	nodes := m.Members()
	for i := range nodes {
		if nodes[i].Name == name {
			nodes[i].Alive = alive
		}
	}
	m.set(nodes...)
}

func (m *memberList) Members() []starling.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.nodes)
}

func (m *memberList) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *memberList) Join(addrs []string) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.joined = append(m.joined, addrs...)
	return len(addrs), nil
}

func (m *memberList) ForceLeave(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = append(m.left, name)
	return nil
}

func (m *memberList) Leave() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = append(m.left, "self")
	return nil
}

func node(region, name string, roles ...starling.Role) starling.Node {
	return starling.Node{
		Name: name, Region: region, Roles: roles, Alive: true,
		Addr: name + "." + region + ":7471", Tags: map[string]string{"role": "web"},
	}
}

func machineNodes(region string, n int) []starling.Node {
	var out []starling.Node
	for i := range n {
		out = append(out, node(region, fmt.Sprintf("m%d", i), starling.RoleMachine))
	}
	return out
}

// memBlobs is a region's caches in a map.
type memBlobs struct {
	mu        sync.Mutex
	chunks    map[starling.Digest][]byte
	manifests map[starling.Digest][]byte
	away      error // what Manifest answers, if not nil
}

func newMemBlobs() *memBlobs {
	return &memBlobs{chunks: map[starling.Digest][]byte{}, manifests: map[starling.Digest][]byte{}}
}

func (b *memBlobs) Missing(_ context.Context, ds []starling.Digest) ([]starling.Digest, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []starling.Digest
	for _, d := range ds {
		if _, ok := b.chunks[d]; !ok {
			out = append(out, d)
		}
	}
	return out, nil
}

func (b *memBlobs) Lacking(ctx context.Context, ds []starling.Digest) ([]starling.Digest, error) {
	return b.Missing(ctx, ds)
}

func (b *memBlobs) Put(_ context.Context, d starling.Digest, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chunks[d] = bytes.Clone(data)
	return nil
}

func (b *memBlobs) Get(_ context.Context, d starling.Digest) ([]byte, error) {
	return lookUp(b, b.chunks, d)
}

func (b *memBlobs) PutManifest(_ context.Context, d starling.Digest, envelope []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.manifests[d] = bytes.Clone(envelope)
	return nil
}

func (b *memBlobs) Manifest(_ context.Context, d starling.Digest) ([]byte, error) {
	b.mu.Lock()
	away := b.away
	b.mu.Unlock()
	if away != nil {
		return nil, away
	}
	return lookUp(b, b.manifests, d)
}

// built stores the manifest of an artifact as a worker does.
func (b *memBlobs) built(payload string) starling.Digest {
	env, err := envelope([]byte(payload))
	if err != nil {
		panic(err)
	}
	d := starling.DigestOf([]byte(payload))
	_ = b.PutManifest(context.Background(), d, env) // never fails
	return d
}

func lookUp(b *memBlobs, from map[starling.Digest][]byte, d starling.Digest) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := from[d]
	if !ok {
		return nil, fmt.Errorf("%s: %w", d, starling.ErrNotFound)
	}
	return data, nil
}

// envelope wraps a payload as a DSSE envelope without signatures.
func envelope(payload []byte) ([]byte, error) {
	return json.Marshal(map[string]any{"payload": payload, "payloadType": "test", "signatures": []string{}})
}

// wire is a network of control endpoints in memory. Who dials is what the server sees.
type wire struct {
	mu        sync.Mutex
	endpoints map[string]*endpoint
}

type endpoint struct {
	conns chan net.Conn
	stop  chan struct{}
	addr  string
	down  bool
	mute  atomic.Bool
	srv   *http.Server
	once  sync.Once
}

type identified struct {
	net.Conn
	id starling.Identity
	at *endpoint
}

// Write implements net.Conn. What a mute server says is lost.
func (c *identified) Write(b []byte) (int, error) {
	if c.at.mute.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func newWire() *wire { return &wire{endpoints: map[string]*endpoint{}} }

func (e *endpoint) Accept() (net.Conn, error) {
	select {
	case c := <-e.conns:
		return c, nil
	case <-e.stop:
		return nil, net.ErrClosed
	}
}

func (e *endpoint) Close() error   { e.once.Do(func() { close(e.stop) }); return nil }
func (e *endpoint) Addr() net.Addr { return &net.UnixAddr{Name: e.addr} }

// serve answers at addr until the test ends.
func (w *wire) serve(t testing.TB, addr string, h http.Handler) {
	e := &endpoint{conns: make(chan net.Conn), stop: make(chan struct{}), addr: addr}
	w.mu.Lock()
	w.endpoints[addr] = e
	w.mu.Unlock()
	srv := &http.Server{Handler: h, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return starling.WithIdentity(ctx, c.(*identified).id)
	}}
	e.srv = srv
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(e) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// cut makes an endpoint unreachable for good, open connections included.
func (w *wire) cut(addr string) {
	w.mu.Lock()
	e := w.endpoints[addr]
	e.down = true
	w.mu.Unlock()
	_ = e.srv.Close()
}

// hang makes an endpoint accept whatever comes and never answer.
func (w *wire) hang(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endpoints[addr].mute.Store(true)
}

// dialer returns DialControl for a node.
func (w *wire) dialer(id starling.Identity) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		w.mu.Lock()
		e := w.endpoints[addr]
		down := e == nil || e.down
		w.mu.Unlock()
		if down {
			return nil, fmt.Errorf("dial %s: refused", addr)
		}
		near, far := net.Pipe()
		select {
		case e.conns <- &identified{far, id, e}:
			return near, nil
		case <-e.stop:
		case <-ctx.Done():
		}
		return nil, fmt.Errorf("dial %s: closed", addr)
	}
}

func identity(n starling.Node) starling.Identity {
	return starling.Identity{Cluster: "test", Region: n.Region, Name: n.Name, Roles: n.Roles}
}
