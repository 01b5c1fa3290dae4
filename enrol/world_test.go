package enrol_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/control"
	"github.com/starlingdeploy/starling/enrol"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const region = "r1"

// world is a region's servers in this process: real Raft, real QUIC.
type world struct {
	t       testing.TB
	ca      *pki.CA
	members *members
	servers []*server
	dialer  *transport.EnrolDialer
}

type server struct {
	*control.Server
	name     string
	endpoint *transport.Endpoint
	fsm      *raftfsm.FSM
	raft     *raftnode.Node
	revoked  *pki.Revocations
	now      func() time.Time
	stop     func()
}

// shape is what a test may have otherwise.
type shape struct {
	servers  int
	ttl      time.Duration       // of machines' certificates
	admit    transport.Enrolment // at each server
	closed   bool                // nobody enrols
	clockOff map[string]time.Duration
	timing   raftnode.Timing
}

func newWorld(t testing.TB, with shape) *world {
	t.Helper()
	ca, err := pki.NewCA("c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: ca, members: &members{changed: make(chan struct{})}}
	enrolCert, enrolKey, err := ca.IssueEnroller(region, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for i := range with.servers {
		w.listen(fmt.Sprintf("s%d", i+1), with)
	}
	for _, s := range w.servers {
		w.start(s, with, enrolCert, enrolKey)
	}
	if w.dialer, err = transport.NewEnrolDialer("127.0.0.1", nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.dialer.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// credentials are made by hand, with the CA's own key.
func (w *world) credentials(name string, roles ...starling.Role) *pki.Credentials {
	w.t.Helper()
	cert, key, err := w.ca.Issue(pki.Request{Name: name, Region: region, Roles: roles, TTL: time.Hour}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := pki.Load(w.ca.CertPEM(), cert, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) endpoint(c *pki.Credentials, enrolment *transport.Enrolment) *transport.Endpoint {
	w.t.Helper()
	e, err := transport.Listen(transport.Config{Bind: "127.0.0.1:0", Credentials: c, Enrolment: enrolment})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := e.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			w.t.Error(err)
		}
	})
	return e
}

func (w *world) listen(name string, with shape) {
	s := &server{name: name, fsm: raftfsm.New(region), revoked: pki.NewRevocations(region)}
	off := with.clockOff[name]
	s.now = func() time.Time { return time.Now().Add(off) }
	admit := &with.admit
	if with.closed {
		admit = nil
	}
	s.endpoint = w.endpoint(w.credentials(name, starling.RoleServer).WithRevocations(s.revoked), admit)
	w.servers = append(w.servers, s)
	w.members.add(starling.Node{Name: name, Region: region, Roles: []starling.Role{starling.RoleServer}, Addr: s.endpoint.Addr(), Alive: true})
}

// noBlobs are caches of which nobody asks anything.
type noBlobs struct{ control.Blobs }

func (w *world) start(s *server, with shape, enrolCert, enrolKey []byte) {
	w.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	var err error
	s.raft, err = raftnode.Open(raftnode.Config{
		Name: s.name, Region: region, DataDir: w.t.TempDir(), Layer: s.endpoint.RaftLayer(), FSM: s.fsm,
		Level: func() int { return s.fsm.View().Level() },
		Peers: w.members.peers, Changed: w.members.Changed, SetTag: func(k, v string) error { return w.members.tag(s.name, k, v) },
		BootstrapExpect: with.servers, Logger: quiet,
		Timing: with.timing,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	self := w.credentials(s.name, starling.RoleServer)
	cfg := control.Config{
		Region: region, Name: s.name, Raft: s.raft, FSM: s.fsm, Members: w.members, Blobs: noBlobs{}, Settle: -1, Now: s.now, Logger: quiet,
		DialControl: func(ctx context.Context, addr string) (net.Conn, error) {
			return s.endpoint.Dial(ctx, addr, transport.KindControl)
		},
		Sign:     func(b []byte) ([]byte, error) { return b, nil },
		SignFeed: func(f *rpc.Feed) (json.RawMessage, error) { return cell.SignFeed(f, self) },
		Revoked: func(names []string) {
			s.revoked.Set(names)
			s.endpoint.ExpelRevoked()
		},
	}
	if !with.closed {
		e, err := pki.LoadEnroller(self, enrolCert, enrolKey)
		if err != nil {
			w.t.Fatal(err)
		}
		cfg.Enrolment = &control.Enrolment{Sign: e.Sign, CA: w.ca.CertPEM(), TTL: with.ttl}
	}
	if s.Server, err = control.New(cfg); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		if err := s.Run(ctx); err != nil {
			w.t.Errorf("%s: %v", s.name, err)
		}
	})
	var https []*http.Server
	for kind, h := range map[transport.Kind]http.Handler{transport.KindControl: s.RPC(), transport.KindEnrol: s.EnrolHandler()} {
		srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(quiet.Handler(), slog.LevelDebug), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if q := c.(*transport.Conn); q.Kind() != transport.KindEnrol {
				return starling.WithIdentity(ctx, q.Peer())
			}
			return ctx
		}}
		https = append(https, srv)
		l := s.endpoint.Listener(kind)
		work.Go(func() { _ = srv.Serve(l) }) // ends with Close
	}
	s.stop = sync.OnceFunc(func() {
		for _, srv := range https {
			_ = srv.Close()
		}
		cancel()
		if err := s.raft.Close(); err != nil {
			w.t.Errorf("%s: %v", s.name, err)
		}
		if err := s.endpoint.Close(); err != nil {
			w.t.Error(err)
		}
		work.Wait()
	})
	w.t.Cleanup(s.stop)
}

// members is gossip among the servers.
type members struct {
	mu      sync.Mutex
	nodes   []starling.Node
	tags    map[string]map[string]string
	changed chan struct{}
}

func (m *members) add(n starling.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes = append(m.nodes, n)
}

func (m *members) tag(name, key, value string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tags == nil {
		m.tags = map[string]map[string]string{}
	}
	tags := map[string]string{key: value}
	for k, v := range m.tags[name] {
		if k != key {
			tags[k] = v
		}
	}
	m.tags[name] = tags
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

func (m *members) peers() []raftnode.Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []raftnode.Peer
	for _, n := range m.nodes {
		out = append(out, raftnode.Peer{Name: n.Name, Addr: n.Addr, State: raftnode.PeerAlive, Tags: m.tags[n.Name]})
	}
	return out
}

func (m *members) Members() []starling.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]starling.Node(nil), m.nodes...)
}

func (m *members) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (*members) Join([]string) (int, error) { return 0, nil }
func (*members) ForceLeave(string) error    { return nil }
func (*members) Leave() error               { return nil }

// propose commits a command at whoever leads.
func (w *world) propose(t raftfsm.Type, payload any) raftfsm.Result {
	w.t.Helper()
	var last error
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, s := range w.servers {
			if !s.raft.IsLeader() {
				continue
			}
			cmd, err := raftfsm.NewCommand(t, s.now(), "tester", payload)
			if err != nil {
				w.t.Fatal(err)
			}
			res, err := s.raft.Propose(context.Background(), cmd)
			if err == nil && res[0].Err == nil {
				return res[0]
			}
			if err == nil {
				err = res[0].Err
			}
			if last != nil && errors.Is(err, starling.ErrConflict) { // the first time has come through after all
				return raftfsm.Result{}
			}
			last = err
		}
	}
	w.t.Fatalf("%s: %v", t, last)
	return raftfsm.Result{}
}

// token makes a join token and returns its text.
func (w *world) token(change func(*starling.JoinToken)) string {
	w.t.Helper()
	text := starling.JoinTokenText{ID: fmt.Sprintf("t%d", time.Now().UnixNano()), CA: pki.Fingerprint(w.credentials("x", starling.RoleWorker).Root())}
	_, _ = rand.Read(text.Secret[:]) // never fails
	k := starling.JoinToken{ID: text.ID, Hash: text.Hash(), MaxUses: 1, ExpiresAt: time.Now().Add(time.Hour)}
	if change != nil {
		change(&k)
	}
	w.propose(raftfsm.TypeJoinTokenCreate, raftfsm.JoinTokenCreate{Token: k})
	return text.Text()
}

func (w *world) addrs() []string {
	var out []string
	for _, s := range w.servers {
		out = append(out, s.endpoint.Addr())
	}
	return out
}

func (w *world) dial(ctx context.Context, addr string, cas []starling.Digest) (enrol.Stream, error) {
	c, err := w.dialer.Dial(ctx, addr, cas)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// machine is one that is to enrol, with a folder of its own.
func (w *world) machine(name, token string) *enrol.Config {
	m := w.bare(name, token)
	m.Dir = w.t.TempDir()
	return m
}

func (w *world) bare(name, token string) *enrol.Config {
	return &enrol.Config{
		Region: region, Token: token, Servers: w.addrs, Dial: w.dial, Logger: slog.New(slog.DiscardHandler),
		Machine: rpc.RegisterRequest{Name: name, Zone: "a", Rack: "r1", Gossip: "127.0.0.1:7472"},
	}
}

func (w *world) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	w.t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

func wants(t *testing.T, what string, err, is error, says ...string) {
	t.Helper()
	for _, s := range says {
		if err == nil || !errors.Is(err, is) || !strings.Contains(err.Error(), s) {
			t.Errorf("%s: %v, want %v with %q", what, err, is, s)
		}
	}
}
