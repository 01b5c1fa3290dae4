package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// term is one reign of this server: all that a leader keeps in memory.
type term struct {
	s     *Server
	ctx   context.Context  // ends with the term; long polls end with it
	now   func() time.Time // steady for the whole term
	since time.Time

	jobs     *jobBoard
	drafts   *draftBoard
	machines *machineBoard
	caches   *cacheBoard
	marks    *markBoard
	home     *homeBoard
	dirs     *directories
	wants    *wantList
	decider  *Decider

	leasing chan struct{}        // holds one token: job leases are proposed one at a time
	kick    chan struct{}        // asks the decide loop for another look
	named   namedOnce            // sources that the log has called distrusted
	refused map[string]time.Time // decisions not to repeat before a time; decide loop only
}

func newTerm(ctx context.Context, s *Server) *term {
	now := steady(s.cfg.Now)
	t := &term{
		s: s, ctx: ctx, now: now, since: now(),
		jobs:     newJobBoard(),
		drafts:   newDraftBoard(),
		machines: newMachineBoard(s.cfg.Region),
		caches:   newCacheBoard(),
		marks:    newMarkBoard(),
		home:     newHomeBoard(),
		dirs:     newDirectories(),
		decider:  NewDecider(),
		leasing:  make(chan struct{}, 1),
		kick:     make(chan struct{}, 1),
		refused:  map[string]time.Time{},
	}
	t.wants = newWantList(t.since)
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
	g.Go(func() error { return t.watchMembers(ctx) })
	g.Go(func() error { return t.federate(ctx) })
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

func (t *term) setMembers() {
	all := t.s.cfg.Members.Members()
	t.machines.setMembers(all)
	t.caches.setMembers(all)
}

// decideLoop looks at the state at every change and at least every decideEvery, and
// proposes what is to be done. It rests after each look for as long as that took, so
// that it uses half a core at most however fast the log grows.
func (t *term) decideLoop(ctx context.Context) error {
	ticker := time.NewTicker(decideEvery)
	defer ticker.Stop()
	for {
		begin := t.now()
		v := t.s.cfg.FSM.View()
		decisions := t.decide(v)
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
		if err := sleep(ctx, min(max(cost, decideRestMin), decideEvery)); err != nil {
			return err
		}
	}
}

// decide is one look: the region's own affairs, then those of the apps homed here.
func (t *term) decide(v raftfsm.View) []Decision {
	now := t.now()
	goals := v.Goals()
	t.machines.keepApps(goals)
	t.caches.keepGoals(goals, v.Placed)
	t.marks.keepGoals(goals)
	t.wants.update(v, t.dirs, t.s.cfg.Region, min(t.s.cfg.Replicas, t.caches.count()))
	out := t.regional(v)
	obs := t.observe(v, now)
	return append(out, t.decider.Decide(v, obs)...)
}

// observe gathers what the decider needs, this region's own reports included.
func (t *term) observe(v raftfsm.View, now time.Time) Observations {
	active := v.Active()
	for _, d := range active {
		if d.Generation.IsZero() { // no goal yet
			continue
		}
		if r, ok := t.reportOn(v, d.App, now); ok && r.Generation == d.Generation {
			r.Marks.Now = now
			t.home.record(r, now)
		}
	}
	t.drafts.keep(active)
	return Observations{
		Now: now, Since: t.since,
		Heard:   t.jobs.lastHeard(active),
		Reports: t.home.keep(active),
		Workers: t.s.liveWorkers(),
	}
}

// liveWorkers counts the workers of this region.
func (s *Server) liveWorkers() int {
	workers := 0
	for _, n := range s.cfg.Members.Members() {
		if n.Alive && n.Has(starling.RoleWorker) {
			workers++
		}
	}
	return workers
}

// proposeAll commits decisions, but for those refused a moment ago: the state would
// change with every refusal and the loop would spin.
func (t *term) proposeAll(ctx context.Context, decisions []Decision) error {
	now := t.now()
	for key, until := range t.refused {
		if !now.Before(until) {
			delete(t.refused, key)
		}
	}
	var cmds []raftfsm.Command
	for _, d := range decisions {
		data, err := json.Marshal(d.Payload)
		if err != nil {
			return fmt.Errorf("command %s: %w", d.Type, err)
		}
		if _, ok := t.refused[string(d.Type)+string(data)]; !ok {
			cmds = append(cmds, raftfsm.Command{Type: d.Type, At: now, Actor: t.actor(), Data: data})
		}
	}
	for part := range slices.Chunk(cmds, raftfsm.MaxEntryCommands) {
		results, err := t.s.commit(ctx, part...)
		if err != nil {
			return err
		}
		for i := range results {
			if results[i].Err != nil {
				t.refused[string(part[i].Type)+string(part[i].Data)] = now.Add(refusedRetryAfter)
				t.s.cfg.Logger.Debug("decision refused", "type", part[i].Type, "err", results[i].Err)
			}
		}
	}
	return nil
}

// actor names this server in the records of what it decided.
func (t *term) actor() string { return "server:" + t.s.cfg.Name }
