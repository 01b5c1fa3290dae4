package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeClock is a wall clock that tests move by hand.
type fakeClock struct {
	mu sync.Mutex
	at time.Time
}

func newFakeClock() *fakeClock {
	return &fakeClock{at: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// soloRaft applies proposals to a state machine at once, as a Raft of one server
// without a disk would. Its lead can be given and taken.
type soloRaft struct {
	name, addr string
	fsm        *raftfsm.FSM

	mu      sync.Mutex
	index   uint64
	leads   bool
	leader  raftnode.Peer
	changed chan struct{}
	removed []string
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
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *soloRaft) Propose(_ context.Context, cmds ...raftfsm.Command) ([]raftfsm.Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.leads {
		return nil, starling.ErrNotLeader
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
	return []starling.RaftPeer{{Name: r.name, Addr: r.addr, Voter: true, Leader: r.IsLeader()}}, nil
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
	return lookUp(b, b.manifests, d)
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
	srv   *http.Server
	once  sync.Once
}

type identified struct {
	net.Conn
	id starling.Identity
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
		case e.conns <- &identified{far, id}:
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

// direct calls a handler in the name of a node, without a network.
type direct struct {
	h  http.Handler
	id starling.Identity
}

func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	in := req.Clone(starling.WithIdentity(req.Context(), d.id))
	if in.Body == nil {
		in.Body = http.NoBody
	}
	d.h.ServeHTTP(rec, in)
	return rec.Result(), nil
}

func clientOf(s *Server, n starling.Node) *rpc.Client {
	return &rpc.Client{HTTP: &http.Client{Transport: direct{s.RPC(), identity(n)}}}
}

// bench is a region of one server over soloRaft, not running: tests look and decide by hand.
type bench struct {
	t       testing.TB
	clock   *fakeClock
	fsm     *raftfsm.FSM
	raft    *soloRaft
	members *memberList
	blobs   *memBlobs
	server  *Server
	depose  func() // ends the term
}

func newBench(t testing.TB, region string, change func(*Config), nodes ...starling.Node) *bench {
	t.Helper()
	b := &bench{t: t, clock: newFakeClock(), fsm: raftfsm.New(region), blobs: newMemBlobs()}
	self := node(region, "s1", starling.RoleServer)
	b.raft = newSoloRaft(self.Name, self.Addr, b.fsm)
	b.members = newMemberList(append(nodes, self)...)
	cfg := Config{
		Region: region, Name: self.Name, Raft: b.raft, FSM: b.fsm, Members: b.members, Blobs: b.blobs,
		DialControl: func(context.Context, string) (net.Conn, error) { return nil, starling.ErrUnavailable },
		Sign:        envelope, Settle: -1, Now: b.clock.Now, Rand: rand.New(rand.NewSource(1)),
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.started.Store(b.clock.Now().UnixNano())
	b.server = s
	return b
}

// elect begins a new term on the bench.
func (b *bench) elect() *term {
	ctx, cancel := context.WithCancel(context.Background())
	b.t.Cleanup(cancel)
	b.depose = cancel
	t := newTerm(ctx, b.server)
	b.server.setTerm(t)
	return t
}

// look is one round of the decide loop.
func (b *bench) look(t *term) []Decision {
	b.t.Helper()
	t.setMembers()
	ds := t.decide(b.fsm.View())
	if err := t.proposeAll(context.Background(), ds); err != nil {
		b.t.Fatal(err)
	}
	return ds
}

// run advances the clock in steps and looks at each, until done or the time is over.
func (b *bench) run(t *term, d, step time.Duration, done func() bool) bool {
	b.t.Helper()
	for end := b.clock.Now().Add(d); ; b.clock.advance(step) {
		b.look(t)
		if done() {
			return true
		}
		if !b.clock.Now().Before(end) {
			return false
		}
	}
}

// must commits a command at the bench's time.
func (b *bench) must(t raftfsm.Type, payload any) raftfsm.Result {
	b.t.Helper()
	cmd, err := raftfsm.NewCommand(t, b.clock.Now(), "tester", payload)
	if err != nil {
		b.t.Fatal(err)
	}
	res, err := b.raft.Propose(context.Background(), cmd)
	if err != nil {
		b.t.Fatal(err)
	}
	if res[0].Err != nil {
		b.t.Fatalf("%s: %v", t, res[0].Err)
	}
	return res[0]
}

// app applies an app after change and returns it.
func (b *bench) app(name string, change func(*starling.App)) *starling.App {
	b.t.Helper()
	a := starling.App{Name: name, Source: starling.SourceSpec{Git: "https://git.example/" + name}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	a.Deploy.Strategy.AutoRevert = true
	if change != nil {
		change(&a)
	}
	a.SetDefaults()
	return b.must(raftfsm.TypeAppApply, raftfsm.AppApply{App: a}).App
}

// artifact registers an artifact and returns its digest.
func (b *bench) artifact(name string) starling.Digest {
	b.t.Helper()
	d := starling.DigestOf([]byte(name))
	b.must(raftfsm.TypeArtifactRegister, raftfsm.ArtifactRegister{Artifact: starling.Artifact{Digest: d, Bytes: 1000, Files: 1, Chunks: 10}})
	return d
}

func (b *bench) submit(id, app string, artifact starling.Digest, regions ...string) *starling.Deployment {
	b.t.Helper()
	s := raftfsm.Submit{ID: id, App: app, Artifact: artifact, Regions: regions}
	if artifact.IsZero() {
		s.SHA = fmt.Sprintf("%x", starling.DigestOf([]byte(id)))[:40]
	}
	return b.must(raftfsm.TypeSubmit, s).Deployment
}

func (b *bench) deployment(id string) *starling.Deployment {
	b.t.Helper()
	d, ok := b.fsm.View().Deployment(id)
	if !ok {
		b.t.Fatalf("deployment %s is gone", id)
	}
	return d
}

// place lets every live cache report that it holds its share of an artifact.
func (b *bench) place(t *term, artifact starling.Digest) {
	b.t.Helper()
	var live []string
	for _, n := range b.members.Members() {
		if n.Alive && n.Has(starling.RoleCache) {
			live = append(live, n.Name)
		}
	}
	slices.Sort(live)
	for _, name := range live {
		err := t.caches.record(rpc.CacheReport{Name: name, Holds: []rpc.CacheHold{{
			Artifact: artifact, ChunksDone: 10, ChunksTotal: 10, Complete: true, Caches: live,
		}}})
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

// report lets machines report a state on the goal of an app.
func (b *bench) report(t *term, app string, state starling.MachineState, machines ...string) {
	b.t.Helper()
	g, ok := b.fsm.View().Goal(app)
	if !ok {
		b.t.Fatalf("app %s has no goal", app)
	}
	for _, m := range machines {
		_, err := t.machines.record(g, starling.MachineReport{
			Node: m, App: app, Generation: g.Generation, State: state, Running: g.Artifact, Reason: "because of " + m,
		}, b.clock.Now())
		if err != nil {
			b.t.Fatal(err)
		}
	}
}
