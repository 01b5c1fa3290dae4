package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
)

// testLeader gives goals and keeps reports.
type testLeader struct {
	mu      sync.Mutex
	down    bool
	index   uint64
	reign   string
	goals   map[string]*starling.Goal
	changed chan struct{}
	latest  map[[2]string]starling.MachineReport // by node and app
	history []starling.MachineReport
}

func newTestLeader() *testLeader {
	return &testLeader{index: 1, goals: map[string]*starling.Goal{}, changed: make(chan struct{}), latest: map[[2]string]starling.MachineReport{}}
}

func (l *testLeader) Goals(ctx context.Context, index uint64, reign string, wait time.Duration) (rpc.Goals, error) {
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		l.mu.Lock()
		out := rpc.Goals{Index: l.index, Reign: l.reign}
		for _, g := range l.goals {
			c := *g
			out.Goals = append(out.Goals, &c)
		}
		down, changed := l.down, l.changed
		l.mu.Unlock()
		if down {
			return rpc.Goals{}, starling.ErrUnavailable
		}
		if out.Index > index || out.Reign != reign {
			return out, nil
		}
		select {
		case <-changed:
		case <-t.C:
			return out, nil
		case <-ctx.Done():
			return rpc.Goals{}, ctx.Err()
		}
	}
}

func (l *testLeader) ReportMachine(_ context.Context, reports []starling.MachineReport) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return starling.ErrUnavailable
	}
	for _, r := range reports {
		l.latest[[2]string{r.Node, r.App}] = r
		l.history = append(l.history, r)
	}
	return nil
}

func (l *testLeader) setGoal(g starling.Goal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.goals[g.App] = &g
	l.bump()
}

// elect makes another leader, which knows of no machine.
func (l *testLeader) elect(reign string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reign = reign
	clear(l.latest)
	l.bump()
}

func (l *testLeader) setDown(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	l.bump()
}

func (l *testLeader) bump() {
	l.index++
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *testLeader) report(node, app string) starling.MachineReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest[[2]string{node, app}]
}

// states lists the states that a node reported for a generation, in order.
func (l *testLeader) states(node, app string, seq uint64) (out []starling.MachineState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.history {
		if r.Node == node && r.App == app && r.Generation.Sequence == seq && (len(out) == 0 || out[len(out)-1] != r.State) {
			out = append(out, r.State)
		}
	}
	return out
}

// region is a cache, a leader and machines in this process.
type region struct {
	t      testing.TB
	dir    string
	creds  *pki.Credentials
	roster *roster
	leader *testLeader
	store  *blobcache.MemStore
	cache  *blobcache.Server
	logs   slog.Handler
}

func newRegion(t testing.TB) *region {
	t.Helper()
	r := &region{t: t, dir: t.TempDir(), roster: newRoster(), leader: newTestLeader(), store: blobcache.NewMemStore(1 << 40)}
	r.logs = slog.DiscardHandler
	if testing.Verbose() {
		r.logs = slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})
	}
	ca, err := pki.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(pki.Request{Name: "worker", Region: "here", Roles: []starling.Role{starling.RoleWorker}, TTL: time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"ca.pem": ca.CertPEM(), "cert.pem": cert, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(r.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r.creds, err = pki.Load(ca.CertPEM(), cert, key); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *region) verify(envelope []byte, want starling.Digest) (*starling.Manifest, []byte, error) {
	return artifact.Verify(envelope, want, r.creds)
}

// serveBlobs runs a blob server of a node until the test ends, and makes the node a member.
func (r *region) serveBlobs(n starling.Node, src blobcache.Source) (*blobcache.Server, starling.Node) {
	r.t.Helper()
	e := newEndpoint(r.t, identityOf(n))
	n.Addr = e.addr()
	server := blobcache.NewServer(blobcache.ServerConfig{Region: "here", Source: src, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, blobcache.Accept(e.accept(testBlob))) }()
	r.t.Cleanup(func() {
		cancel()
		e.close()
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			r.t.Error("blob server:", err)
		}
	})
	r.roster.set(n)
	return server, n
}

func (r *region) startCache() starling.Node {
	r.t.Helper()
	n := starling.Node{Name: "cache-1", Region: "here", Zone: "a", Roles: []starling.Role{starling.RoleCache}, Alive: true}
	r.cache, n = r.serveBlobs(n, r.store)
	return n
}

// push packs files into the cache and returns the artifact.
func (r *region) push(files map[string][]byte) starling.Digest {
	r.t.Helper()
	dir := r.t.TempDir()
	for name, b := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	defer root.Close()
	ctx := context.Background()
	m, err := artifact.Pack(ctx, root, func(p artifact.Piece) error { return r.store.Put(ctx, p.Digest, p.Data) })
	if err != nil {
		r.t.Fatal(err)
	}
	payload, err := m.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	envelope, err := artifact.Sign(payload, r.creds)
	if err != nil {
		r.t.Fatal(err)
	}
	d := starling.DigestOf(payload)
	if err := r.store.PutManifest(ctx, d, envelope); err != nil {
		r.t.Fatal(err)
	}
	return d
}

// noise returns bytes that do not repeat, the same for a seed.
func noise(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		v := rng.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

// machine is one agent in this process.
type machine struct {
	r        *region
	node     starling.Node
	dir      string
	port     int
	conf     Config
	endpoint *endpoint
	agent    *Agent
	cancel   context.CancelFunc
	done     chan error
}

func (r *region) machine(name string, edit ...func(*Config)) *machine {
	r.t.Helper()
	m := &machine{r: r, node: machineNode(name), dir: filepath.Join(r.t.TempDir(), name), port: freePort(r.t)}
	m.conf = Config{DataDir: m.dir, Env: map[string]string{"PORT": strconv.Itoa(m.port), "PATH": os.Getenv("PATH")},
		Leader: r.leader, Members: r.roster, Verify: r.verify, Logger: slog.New(r.logs).With("node", name)}
	m.conf.Node = m.node
	for _, f := range edit {
		f(&m.conf)
	}
	m.node = m.conf.Node
	m.start()
	r.t.Cleanup(m.stop)
	return m
}

func (m *machine) start() {
	t := m.r.t
	t.Helper()
	var err error
	if m.endpoint, err = listenEndpoint(identityOf(m.node), "127.0.0.1:0"); err != nil { // closed by stop
		t.Fatal(err)
	}
	m.node.Addr = m.endpoint.addr()
	c := m.conf
	c.Node, c.DialBlob, c.DialSwarm = m.node, m.endpoint.dialBlob, m.endpoint.dialSwarm
	c.AcceptBlob, c.AcceptSwarm = m.endpoint.accept(testBlob), m.endpoint.accept(testSwarm)
	m.run(c)
}

func (m *machine) run(c Config) {
	t := m.r.t
	t.Helper()
	m.r.roster.set(c.Node)
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.agent, m.cancel, m.done = a, cancel, make(chan error, 1)
	go func() { m.done <- a.Run(ctx) }()
}

// stop ends the agent and waits for it. It may be started again.
func (m *machine) stop() {
	if m.cancel == nil {
		return
	}
	m.cancel()
	m.cancel = nil
	if err := <-m.done; err != nil {
		m.r.t.Errorf("%s: %v", m.node.Name, err)
	}
	if m.endpoint != nil {
		m.endpoint.close()
	}
}

func (m *machine) app(parts ...string) string {
	return filepath.Join(append([]string{m.dir, "apps", "hello"}, parts...)...)
}

func (m *machine) report() starling.MachineReport { return m.r.leader.report(m.node.Name, "hello") }

// await waits for a report of a state for a generation.
func (m *machine) await(seq uint64, state starling.MachineState) starling.MachineReport {
	m.r.t.Helper()
	var got starling.MachineReport
	deadline := time.Now().Add(40 * time.Second)
	for {
		got = m.report()
		if got.Generation.Sequence == seq && got.State == state {
			return got
		}
		if time.Now().After(deadline) {
			m.r.t.Fatalf("%s: want generation %d %s, last report is %+v", m.node.Name, seq, state, got)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// get asks the running release.
func (m *machine) get(path string) (string, error) {
	res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", m.port, path))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return strings.TrimSpace(string(b)), err
}

// serves reports whether the running release says that it is of a version.
func (m *machine) serves(version string) bool {
	got, err := m.get("/healthz")
	return err == nil && got == version
}

// current reads a file of the current release.
func (m *machine) current(name string) string {
	return strings.TrimSpace(readFileOr(m.app("current", name), ""))
}

var ports atomic.Int64

// freePort returns a port below the range that the kernel gives to outgoing
// connections, so that it stays free.
func freePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 20000 + (os.Getpid()*97+int(ports.Add(1)))%10000
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// goal is a goal of app hello that every machine is to run at once.
func goal(seq uint64, d starling.Digest, edit ...func(*starling.Goal)) starling.Goal {
	app := starling.App{Name: "hello"}
	app.SetDefaults()
	g := starling.Goal{App: "hello", Home: "here", Generation: starling.Generation{Epoch: 1, Sequence: seq}, Revision: 1,
		Deployment: fmt.Sprintf("d%d", seq), Artifact: d, Origin: "here", Stage: starling.StageActivate, Cutoff: starling.CutoffAll, Deploy: app.Deploy}
	for _, f := range edit {
		f(&g)
	}
	return g
}

// running has the goal run the helper with an HTTP health check.
func running(t testing.TB) func(*starling.Goal) {
	path := exe(t)
	return func(g *starling.Goal) {
		g.Deploy.Run = []string{path, "helper-serve"}
		g.Deploy.Health = &starling.Health{HTTP: "http://127.0.0.1:$PORT/healthz", Interval: dur(20 * time.Millisecond),
			Timeout: dur(2 * time.Second), HealthyAfter: dur(60 * time.Millisecond), Deadline: dur(10 * time.Second)}
	}
}

func dur(d time.Duration) starling.Duration { return starling.Duration(d) }

// versionFiles is the tree of a release that serves a version.
func versionFiles(version, mode string) map[string][]byte {
	return map[string][]byte{"version": []byte(version), "mode": []byte(mode), "data/blob": noise(1, 1<<20)}
}
