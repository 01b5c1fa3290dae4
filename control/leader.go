package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling/raftfsm"
)

// term is one reign of this server on wall time: what it knows and decides is the
// Reign's, when it looks and whom it asks is the term's.
type term struct {
	*Reign
	s   *Server
	ctx context.Context  // ends with the term; long polls end with it
	now func() time.Time // steady for the whole term

	asks  chan *LeaseAsk // of workers that want a job
	kick  chan struct{}  // asks the decide loop for another look
	named namedOnce      // sources that the log has called distrusted

	tellers tellers
}

func newTerm(ctx context.Context, s *Server) *term {
	now := steady(s.cfg.Now, s.cfg.FSM.View().Clock())
	since := now()
	t := &term{
		Reign: NewReign(ReignConfig{
			Region: s.cfg.Region, Regions: s.cfg.Regions, Replicas: s.cfg.Replicas, CellMax: s.cfg.CellMax, CellQuiet: s.cfg.CellQuiet, TakeoverAfter: s.cfg.TakeoverAfter,
			Term: fmt.Sprintf("%s/%d", s.cfg.Name, since.UnixNano()), Settled: since.Add(s.unsettled()),
		}, since),
		s: s, ctx: ctx, now: now,
		asks: make(chan *LeaseAsk, maxGrantEntries*raftfsm.MaxEntryCommands),
		kick: make(chan struct{}, 1),

		tellers: tellers{all: map[string]*teller{}},
	}
	t.setMembers()
	return t
}

// lead runs a term whenever this server is the leader.
func (s *Server) lead(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := s.cfg.Raft.Leadership()
		if s.cfg.Raft.IsLeader() {
			if err := s.reign(ctx, changed); err != nil && ctx.Err() == nil {
				s.cfg.Logger.Warn("term ended", "region", s.cfg.Region, "err", err)
				if err := sleep(ctx, retryMin); err != nil {
					return err
				}
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// reign runs one term from its barrier to the loss of the lead.
func (s *Server) reign(ctx context.Context, changed <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bctx, done := context.WithTimeout(ctx, barrierWithin)
	err := s.cfg.Raft.Barrier(bctx)
	done()
	if err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	t := newTerm(ctx, s)
	s.setTerm(t)
	defer s.setTerm(nil)
	s.cfg.Logger.Info("leading", "region", s.cfg.Region, "name", s.cfg.Name)
	defer s.cfg.Logger.Info("no longer leading", "region", s.cfg.Region, "name", s.cfg.Name)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.decideLoop(ctx) })
	g.Go(func() error { return t.grantLoop(ctx) })
	g.Go(func() error { return t.watchMembers(ctx) })
	g.Go(func() error { return t.federate(ctx) })
	g.Go(func() error { return t.succeed(ctx) })
	g.Go(func() error { return t.keepHistory(ctx) })
	g.Go(func() error { return t.keepLogs(ctx) })
	g.Go(func() error { return t.notify(ctx) })
	g.Go(func() error {
		defer cancel()
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
			changed = s.cfg.Raft.Leadership()
			if !s.cfg.Raft.IsLeader() {
				return nil
			}
		}
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// poke asks the decide loop for another look, without waiting.
func (t *term) poke() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// watchMembers keeps the boards' view of the membership.
func (t *term) watchMembers(ctx context.Context) error {
	for {
		changed := t.s.cfg.Members.Changed()
		t.setMembers()
		t.poke()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := sleep(ctx, decideEvery); err != nil { // a burst of joins is one change
			return err
		}
	}
}

func (t *term) setMembers() { t.SetMembers(t.s.cfg.Members.Members()) }

// decideLoop looks at the state at every change and at least every decideEvery, and
// proposes what is to be done. It rests after each look for four times as long as that
// took, so that it uses a fifth of a core at most however fast the log grows.
func (t *term) decideLoop(ctx context.Context) error {
	ticker := time.NewTicker(decideEvery)
	defer ticker.Stop()
	for {
		begin := t.now()
		v := t.s.cfg.FSM.View()
		decisions := t.Decide(v, begin)
		cost := t.now().Sub(begin)
		if err := t.proposeAll(ctx, decisions); err != nil && ctx.Err() == nil {
			t.s.cfg.Logger.Warn("cannot commit decisions", "err", err)
			if err := sleep(ctx, decideEvery); err != nil {
				return err
			}
		}
		select {
		case <-t.s.cfg.FSM.Changed(v.Index()):
		case <-t.kick:
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := sleep(ctx, min(max(4*cost, decideRestMin), decideEvery)); err != nil {
			return err
		}
	}
}

// proposeAll commits decisions, but for those refused a moment ago.
func (t *term) proposeAll(ctx context.Context, decisions []Decision) error {
	now := t.now()
	cmds, err := t.Commands(decisions, now, t.actor())
	if err != nil {
		return err
	}
	for part := range slices.Chunk(cmds, raftfsm.MaxEntryCommands) {
		results, err := t.s.commit(ctx, part...)
		if err != nil {
			return err
		}
		for i := range results {
			if results[i].Err != nil {
				t.Refused(part[i], now)
				t.s.cfg.Logger.Debug("decision refused", "type", part[i].Type, "err", results[i].Err)
			}
		}
	}
	return nil
}

// actor names this server in the records of what it decided.
func (t *term) actor() string { return "server:" + t.s.cfg.Name }
