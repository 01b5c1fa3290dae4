package control

import (
	"context"
	"fmt"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
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
	began := b.clock.Now()
	s.started.Store(&began)
	b.server = s
	return b
}

// elect begins a new term on the bench.
func (b *bench) elect() *term {
	ctx, cancel := context.WithCancel(context.Background())
	b.depose = cancel
	t := newTerm(ctx, b.server)
	var desk sync.WaitGroup
	desk.Go(func() { _ = t.grantLoop(ctx) }) // it ends with ctx
	b.t.Cleanup(func() { cancel(); desk.Wait() })
	b.server.setTerm(t)
	return t
}

// look is one round of the decide loop.
func (b *bench) look(t *term) []Decision {
	b.t.Helper()
	t.setMembers()
	ds := t.Decide(b.fsm.View(), t.now())
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
		}}}, t.now())
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
