package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/control"
	"github.com/starlingdeploy/starling/history"
	"github.com/starlingdeploy/starling/httpapi"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
)

// rig is a region's servers in this process: real Raft on real disks, real QUIC between
// them, real HTTP to them, and no gossip: they know each other. Their links can be cut, and
// they can be ended without grace and opened again on their disks. Caches are a map.
type rig struct {
	t       *testing.T
	region  string
	ca      *pki.CA
	net     *cuts
	members *rigMembers
	blobs   *rigBlobs
	servers []*rigServer
	timing  raftnode.Timing
}

type rigServer struct {
	rig         *rig
	name        string
	dir         string
	addr, http  string // stay the same
	credentials *pki.Credentials

	mu      sync.Mutex
	raft    *raftnode.Node // nil while it is down
	control *control.Server
	fsm     *raftfsm.FSM
	end     func() // without grace
}

// quick is a timing for tests that lose leaders often.
func quick() raftnode.Timing {
	return raftnode.Timing{
		Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond, LeaderLease: 200 * time.Millisecond,
		Commit: 10 * time.Millisecond, Reconcile: 100 * time.Millisecond,
	}
}

func newRig(t *testing.T, servers int, timing raftnode.Timing) *rig {
	t.Helper()
	ca, err := pki.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, region: "r1", ca: ca, net: newCuts(), members: newRigMembers(), blobs: newRigBlobs(), timing: timing}
	for i := range servers {
		s := &rigServer{rig: r, name: fmt.Sprintf("s%d", i+1), dir: t.TempDir()}
		s.credentials = r.issue(s.name, starling.RoleServer)
		s.addr, s.http = freeUDP(t), freeTCP(t)
		r.net.name(s.addr, s.name)
		r.servers = append(r.servers, s)
		r.members.add(starling.Node{Name: s.name, Region: r.region, Roles: []starling.Role{starling.RoleServer}, Addr: s.addr, HTTP: s.http, Alive: true})
	}
	t.Cleanup(func() {
		r.net.heal()
		for _, s := range r.servers {
			s.kill()
		}
	})
	for _, s := range r.servers {
		s.start()
	}
	return r
}

func (r *rig) issue(name string, roles ...starling.Role) *pki.Credentials {
	r.t.Helper()
	cert, key, err := r.ca.Issue(pki.Request{Name: name, Region: r.region, Roles: roles, TTL: time.Hour}, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := pki.Load(r.ca.CertPEM(), cert, key)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func freeUDP(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().String()
}

func freeTCP(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start opens the server on its disk, as a process that begins does.
func (s *rigServer) start() {
	s.rig.t.Helper()
	if err := s.reopen(); err != nil {
		s.rig.t.Fatalf("start %s: %v", s.name, err)
	}
}

// reopen tries for a while: another program may have borrowed a port.
func (s *rigServer) reopen() (err error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = s.open(); err == nil {
			return nil
		}
	}
	return err
}

func (s *rigServer) open() (err error) {
	r := s.rig
	endpoint, err := transport.Listen(transport.Config{Bind: s.addr, Credentials: s.credentials})
	if err != nil {
		return err
	}
	fsm := raftfsm.New(r.region)
	raft, err := raftnode.Open(raftnode.Config{
		Name: s.name, Region: r.region, DataDir: filepath.Join(s.dir, "raft"),
		Layer: cutLayer{endpoint.RaftLayer(), r.net, s.name}, FSM: fsm,
		Peers: r.members.raftPeers, Changed: r.members.Changed,
		SetTag:          func(k, v string) error { r.members.setTag(s.name, k, v); return nil },
		BootstrapExpect: len(r.servers), Timing: r.timing, Logger: slog.New(slog.DiscardHandler),
		Autopilot: raftnode.Autopilot{Stabilization: 100 * time.Millisecond, Look: 100 * time.Millisecond},
	})
	if err != nil {
		return errors.Join(err, endpoint.Close())
	}
	metrics := prometheus.NewRegistry()
	server, err := control.New(control.Config{
		Region: r.region, Name: s.name, Raft: raft, FSM: fsm, Members: r.members, Blobs: r.blobs,
		DialControl: func(ctx context.Context, addr string) (net.Conn, error) {
			return r.net.dial(s.name, addr, func() (net.Conn, error) { return endpoint.Dial(ctx, addr, transport.KindControl) })
		},
		Sign: r.blobs.sign, Settle: -1, Metrics: metrics,
	})
	if err != nil {
		return errors.Join(err, raft.Close(), endpoint.Close())
	}
	api := httpapi.New(httpapi.Config{Backend: server, Metrics: promhttp.HandlerFor(metrics, promhttp.HandlerOpts{})})
	public, err := net.Listen("tcp", s.http)
	if err != nil {
		return errors.Join(err, raft.Close(), endpoint.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	serve := func(l net.Listener, h http.Handler) *http.Server {
		srv := &http.Server{Handler: h, BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: identified}
		running.Go(func() { _ = srv.Serve(l) }) // ends with an error, always
		return srv
	}
	inner := serve(endpoint.Listener(transport.KindControl), internalHandler(server.RPC(), api))
	outer := serve(public, api)
	running.Go(func() {
		if err := server.Run(ctx); err != nil {
			r.t.Errorf("%s: %v", s.name, err)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raft, s.control, s.fsm = raft, server, fsm
	s.end = sync.OnceFunc(func() {
		_ = outer.Close() // connections break, as when a process is killed
		_ = endpoint.Close()
		cancel()
		_ = inner.Close()
		if err := raft.Close(); err != nil {
			r.t.Logf("close raft of %s: %v", s.name, err)
		}
		running.Wait()
	})
	return nil
}

func identified(ctx context.Context, c net.Conn) context.Context {
	if q, ok := c.(*transport.Conn); ok {
		return starling.WithIdentity(ctx, q.Peer())
	}
	return ctx
}

// kill ends the server without a word to the others; nothing does if it is down.
func (s *rigServer) kill() {
	s.mu.Lock()
	end := s.end
	s.raft, s.end = nil, nil
	s.mu.Unlock()
	if end != nil {
		end()
	}
}

// wipe removes the disk of a server that is down.
func (s *rigServer) wipe() {
	s.rig.t.Helper()
	if err := os.RemoveAll(filepath.Join(s.dir, "raft")); err != nil {
		s.rig.t.Fatal(err)
	}
}

// node returns its Raft, nil while it is down.
func (s *rigServer) node() *raftnode.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raft
}

func (s *rigServer) api() *client.Client {
	s.rig.t.Helper()
	c, err := client.New(client.Config{Addr: "http://" + s.http, HTTP: history.HTTPClient()})
	if err != nil {
		s.rig.t.Fatal(err)
	}
	return c
}

func (r *rig) apis() []*client.Client {
	var out []*client.Client
	for _, s := range r.servers {
		out = append(out, s.api())
	}
	return out
}

// leader waits for a server that leads and can commit.
func (r *rig) leader() *rigServer {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if l := r.leads(); l != nil {
			if n := l.node(); n != nil {
				ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Second)
				err := n.Barrier(ctx)
				cancel()
				if err == nil {
					return l
				}
			}
		}
	}
	for _, s := range r.servers {
		if n := s.node(); n != nil {
			peers, err := n.Peers()
			r.t.Logf("%s: %+v, configuration %+v, %v", s.name, n.Stats(), peers, err)
		}
	}
	r.t.Fatal("nobody leads within a minute")
	return nil
}

// leads returns the server that believes itself the leader in the newest term, nil if none does.
func (r *rig) leads() *rigServer {
	var found *rigServer
	var term uint64
	for _, s := range r.servers {
		if n := s.node(); n != nil && n.IsLeader() {
			if st := n.Stats(); st.Term >= term {
				found, term = s, st.Term
			}
		}
	}
	return found
}

// follower returns a server other than l that is up.
func (r *rig) follower(l *rigServer) *rigServer {
	for _, s := range r.servers {
		if s != l && s.node() != nil {
			return s
		}
	}
	return nil
}

// agent opens an endpoint with roles other than server's, and a client of all servers from there.
func (r *rig) agent(name string, roles ...starling.Role) *rpc.Client {
	r.t.Helper()
	endpoint, err := transport.Listen(transport.Config{Bind: "127.0.0.1:0", Credentials: r.issue(name, roles...)})
	if err != nil {
		r.t.Fatal(err)
	}
	any := &anyServer{region: r.region, suspects: map[string]time.Time{}, addrs: r.serverAddrs, base: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			c, err := endpoint.Dial(ctx, addr, transport.KindControl)
			if err != nil {
				return nil, errors.Join(errUndelivered, err) // no OpError: the request may have gone on to another server
			}
			return c, nil
		},
		MaxIdleConnsPerHost: 4,
	}}
	r.t.Cleanup(func() {
		any.base.CloseIdleConnections()
		if err := endpoint.Close(); err != nil {
			r.t.Error(err)
		}
	})
	r.members.add(starling.Node{Name: name, Region: r.region, Roles: roles, Addr: endpoint.Addr(), Alive: true, Tags: map[string]string{"role": "web"}})
	return &rpc.Client{HTTP: &http.Client{Transport: any}}
}

func (r *rig) serverAddrs() []string {
	var out []string
	for _, s := range r.servers {
		out = append(out, s.addr)
	}
	return out
}

// cache is a cache that holds at once what it is asked to hold, until ctx ends.
func (r *rig) cache(ctx context.Context, name string) {
	c := r.agent(name, starling.RoleCache)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	r.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		var index uint64
		for ctx.Err() == nil {
			call, cancel := context.WithTimeout(ctx, 3*time.Second)
			wants, err := c.Wants(call, index, time.Second)
			if err == nil {
				report := rpc.CacheReport{Name: name}
				for _, w := range wants.Wants {
					report.Holds = append(report.Holds, rpc.CacheHold{Artifact: w.Artifact, ChunksDone: 1, ChunksTotal: 1, Complete: true, Caches: []string{name}})
				}
				if err = c.ReportCache(call, report); err == nil {
					index = wants.Index
				}
			}
			cancel()
			if err != nil {
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	}()
}

// apply creates an app with a build, and no machine to run it unless targets names some.
func (r *rig) apply(names ...string) {
	r.t.Helper()
	for _, name := range names {
		a := starling.App{
			Name: name, Source: starling.SourceSpec{Git: "https://git.example/x.git"},
			Build:  &starling.BuildSpec{Command: []string{"make"}},
			Deploy: starling.DeploySpec{Targets: "role == nobody"},
		}
		a.SetDefaults()
		r.eventually("an app is applied", func() error {
			_, err := r.servers[0].api().ApplyApp(r.t.Context(), a, nil)
			return err
		})
	}
}

func (r *rig) eventually(what string, ok func() error) {
	r.t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	r.t.Fatalf("%s: not within a minute: %v", what, err)
}

// rigMembers is what gossip would tell.
type rigMembers struct {
	mu      sync.Mutex
	nodes   []starling.Node
	tags    map[string]map[string]string
	changed chan struct{}
}

func newRigMembers() *rigMembers {
	return &rigMembers{tags: map[string]map[string]string{}, changed: make(chan struct{})}
}

func (m *rigMembers) edit(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *rigMembers) add(n starling.Node) {
	m.edit(func() {
		m.nodes = append(slices.Clone(m.nodes), n)
		slices.SortFunc(m.nodes, func(a, b starling.Node) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
		m.tags[n.Name] = map[string]string{}
	})
}

func (m *rigMembers) setTag(name, k, v string) { m.edit(func() { m.tags[name][k] = v }) }

// fail is what gossip tells of a node that no longer answers.
func (m *rigMembers) fail(name string) {
	m.edit(func() {
		m.nodes = slices.Clone(m.nodes)
		for i := range m.nodes {
			m.nodes[i].Alive = m.nodes[i].Alive && m.nodes[i].Name != name
		}
	})
}

func (m *rigMembers) Members() []starling.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.nodes)
}

func (m *rigMembers) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *rigMembers) Join([]string) (int, error) { return 0, nil }
func (m *rigMembers) ForceLeave(string) error    { return nil }
func (m *rigMembers) Leave() error               { return nil }

func (m *rigMembers) raftPeers() []raftnode.Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []raftnode.Peer
	for _, n := range m.nodes {
		if n.Has(starling.RoleServer) {
			tags := map[string]string{}
			for k, v := range m.tags[n.Name] {
				tags[k] = v
			}
			out = append(out, raftnode.Peer{Name: n.Name, Addr: n.Addr, State: raftnode.PeerAlive, Tags: tags})
		}
	}
	return out
}

// rigBlobs is a region's caches as a map that no fault reaches.
type rigBlobs struct {
	mu        sync.Mutex
	chunks    map[starling.Digest][]byte
	manifests map[starling.Digest][]byte
}

func newRigBlobs() *rigBlobs {
	return &rigBlobs{chunks: map[starling.Digest][]byte{}, manifests: map[starling.Digest][]byte{}}
}

func (b *rigBlobs) sign(manifest []byte) ([]byte, error) {
	return json.Marshal(map[string][]byte{"payload": manifest})
}

// build stores a manifest that stands for a build's result.
func (b *rigBlobs) build(ctx context.Context, job *rpc.Job) (starling.Digest, error) {
	manifest := fmt.Appendf(nil, "%s under %d", job.SHA, job.Lease)
	envelope, err := b.sign(manifest)
	if err != nil {
		return starling.Digest{}, err
	}
	d := starling.DigestOf(manifest)
	return d, b.PutManifest(ctx, d, envelope)
}

func (b *rigBlobs) Missing(_ context.Context, ds []starling.Digest) ([]starling.Digest, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(ds), func(d starling.Digest) bool { return b.chunks[d] != nil }), nil
}

func (b *rigBlobs) Lacking(ctx context.Context, ds []starling.Digest) ([]starling.Digest, error) {
	return b.Missing(ctx, ds)
}

func (b *rigBlobs) Put(_ context.Context, d starling.Digest, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chunks[d] = slices.Clone(data)
	return nil
}

func (b *rigBlobs) Get(_ context.Context, d starling.Digest) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return found(b.chunks[d])
}

func (b *rigBlobs) PutManifest(_ context.Context, d starling.Digest, envelope []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.manifests[d] = envelope
	return nil
}

func (b *rigBlobs) Manifest(_ context.Context, d starling.Digest) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return found(b.manifests[d])
}

func found(b []byte) ([]byte, error) {
	if b == nil {
		return nil, starling.ErrNotFound
	}
	return b, nil
}
