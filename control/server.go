package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/notify"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Server is one server of a region.
type Server struct {
	cfg       Config
	transport *http.Transport // to the control endpoints of other servers
	toCells   *http.Transport // to the relays of cells; nil: machines cannot be asked
	goals     goalFeed
	feed      machineFeed
	hints     leaderHints
	suspects  suspects
	doubted   chan struct{} // a token for each machine that may be a copy of another
	metrics   *metrics
	confirms  confirmations
	rpc       http.Handler
	enrolling chan struct{} // holds a token for each enrolment under way
	poster    *notify.Poster
	pace      notifyPace

	started atomic.Pointer[time.Time] // when Run began, by cfg.Now with its monotonic reading; nil: not yet

	mu      sync.Mutex
	term    *term         // nil while this server does not lead
	changed chan struct{} // closed when term changes
}

// New returns a server that does nothing until Run. Its handlers answer from the
// moment it exists.
func New(cfg Config) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	s := &Server{cfg: cfg, changed: make(chan struct{}), enrolling: make(chan struct{}, maxEnrolling)}
	s.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return cfg.DialControl(ctx, addr)
		},
		MaxIdleConnsPerHost:    idleConnsPerServer,
		IdleConnTimeout:        idleConnFor,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
	if cfg.DialCell != nil {
		s.toCells = &http.Transport{
			DialContext:     func(ctx context.Context, _, addr string) (net.Conn, error) { return cfg.DialCell(ctx, addr) },
			IdleConnTimeout: idleConnFor, MaxIdleConnsPerHost: 1, MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		}
	}
	s.poster, s.pace = notify.NewPoster(cfg.NotifyLocal), defaultNotifyPace()
	s.goals.init()
	s.feed.changed = make(chan struct{})
	s.doubted = make(chan struct{}, maxDoubted)
	s.confirms.token = make(chan struct{}, 1)
	s.rpc = s.routes()
	m, err := newMetrics(s, cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	s.metrics = m
	return s, nil
}

// Run leads whenever Raft says so, until ctx ends. It owns every goroutine of the
// server.
func (s *Server) Run(ctx context.Context) error {
	began := s.cfg.Now()
	s.started.CompareAndSwap(nil, &began)
	defer s.metrics.close()
	defer s.transport.CloseIdleConnections()
	defer s.poster.Close()
	if s.toCells != nil {
		defer s.toCells.CloseIdleConnections()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.feedGoals(ctx) })
	g.Go(func() error { return s.lead(ctx) })
	if s.cfg.Revoked != nil {
		g.Go(func() error { return s.watchRevoked(ctx) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}

// RPC returns the handler of the internal protocol. It wants starling.IdentityFrom
// in the request's context.
func (s *Server) RPC() http.Handler { return s.rpc }

// leading returns the present term, or nil, and a channel that is closed when that changes.
func (s *Server) leading() (*term, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.term, s.changed
}

func (s *Server) setTerm(t *term) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.term = t
	close(s.changed)
	s.changed = make(chan struct{})
}

// unsettled is how much longer the membership is not yet trusted to be complete.
func (s *Server) unsettled() time.Duration {
	return max(0, s.cfg.Settle-max(0, s.cfg.Now().Sub(*s.started.Load())))
}

// propose commits one command of a person or a peer and returns its result. While
// nobody leads it waits for a leader; if that is another server, it is for the
// caller to go there.
func (s *Server) propose(ctx context.Context, actor string, t raftfsm.Type, payload any) (raftfsm.Result, error) {
	lead, _, err := s.place(ctx, leaderWait)
	if err != nil {
		return raftfsm.Result{}, fmt.Errorf("%s: %w", t, err)
	}
	if lead == nil {
		return raftfsm.Result{}, fmt.Errorf("%s: %w", t, starling.ErrNotLeader)
	}
	cmd, err := raftfsm.NewCommand(t, lead.now(), actor, payload)
	if err != nil {
		return raftfsm.Result{}, err
	}
	if err := s.supported(ctx, lead, t); err != nil {
		return raftfsm.Result{}, fmt.Errorf("%s: %w", t, err)
	}
	results, err := s.commit(ctx, cmd)
	if err != nil {
		return raftfsm.Result{}, fmt.Errorf("%s: %w", t, err)
	}
	// Committing may have taken long: only now it is certain that nobody else was the home.
	if err := lead.Supported(s.cfg.FSM.View(), lead.now()); err != nil && OfHome(t) {
		return raftfsm.Result{}, fmt.Errorf("%s: what became of it is not certain: %w", t, err)
	}
	return results[0], results[0].Err
}

// commit puts commands in the log and returns one result for each.
func (s *Server) commit(ctx context.Context, cmds ...raftfsm.Command) ([]raftfsm.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeWithin)
	defer cancel()
	results, err := s.cfg.Raft.Propose(ctx, cmds...)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, starling.ErrUnavailable) {
			err = fmt.Errorf("%w: no answer within %s: %w", starling.ErrUnavailable, proposeWithin, err)
		}
		return nil, err
	}
	if len(results) != len(cmds) {
		return nil, fmt.Errorf("raft answered %d of %d commands", len(results), len(cmds))
	}
	for i := range results {
		s.metrics.committed(&cmds[i], &results[i])
	}
	return results, nil
}

// waitView calls found with newer and newer views until it returns true or wait has passed.
func (s *Server) waitView(ctx context.Context, wait time.Duration, found func(raftfsm.View) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		v := s.cfg.FSM.View()
		if found(v) {
			return true
		}
		select {
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-ctx.Done():
			return found(s.cfg.FSM.View())
		}
	}
}
