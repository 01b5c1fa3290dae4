package history

import (
	"slices"

	"github.com/starlingdeploy/starling"
)

// step lists the states in which app may be after a call with an answer.
func step(app string, silent bool, s *state, c Call, a Answer) []any {
	if a.Verdict == Unknown {
		return []any{s.later(c)}
	}
	var out []any
	for _, now := range s.alone(silent) {
		for _, next := range now.after(app, c, a) {
			out = append(out, next)
		}
	}
	return out
}

// after lists the states after a call whose answer is known; none if it cannot be.
func (s *state) after(app string, c Call, a Answer) []*state {
	i := s.find(c.Key)
	switch c.Kind {
	case Submit, Rollback:
		return s.submitted(i, c, a)
	case Lease:
		return s.leased(app, c, a)
	case List:
		keys := make([]string, len(s.log))
		for i := range s.log {
			keys[len(keys)-1-i] = s.log[i].key
		}
		return s.only(slices.Equal(keys, a.Keys))
	case Goal:
		if a.Verdict == Missing {
			return s.only(s.gen == 0)
		}
		return s.only(a.Goal.Generation == generation(s.gen) && a.Goal.Artifact == s.what && a.GoalKey == s.key)
	}
	if i < 0 || a.Verdict == Missing {
		return s.only(i < 0 && a.Verdict == Missing)
	}
	switch c.Kind {
	case Show:
		return s.seen(i, a.Deployment)
	case Cancel:
		return s.cancelled(i, a)
	}
	return s.built(i, c, a)
}

func (s *state) only(ok bool) []*state {
	if ok {
		return []*state{s}
	}
	return nil
}

// submitted judges a submission: the same key never makes a second deployment.
func (s *state) submitted(i int, c Call, a Answer) []*state {
	target := s.target(c)
	switch {
	case a.Verdict == Refused:
		return s.only(i < 0 && c.Kind == Rollback && target == nil)
	case i >= 0:
		return s.seen(i, a.Deployment)
	case c.Kind == Rollback && target == nil:
		return nil
	}
	next := s.add(c, target)
	return next.seen(len(next.log)-1, a.Deployment)
}

// target returns the release that a rollback restores.
func (s *state) target(c Call) *entry {
	if c.Kind != Rollback {
		return nil
	}
	return s.release(func(e *entry) bool { return e.artifact != s.what })
}

func (s *state) add(c Call, target *entry) *state {
	e := entry{key: c.Key}
	if target != nil {
		e.urgent, e.artifact = true, target.artifact
	}
	next := *s
	next.log = append(slices.Clip(s.log), e)
	return &next
}

// leased judges a lease. A worker that asks holds nothing: what it had is lost, of
// whatever app. A call that brought nothing may not have reached the log.
func (s *state) leased(app string, c Call, a Answer) []*state {
	lost := s.lost(c.Worker)
	switch {
	case a.Key == "" && lost != s:
		return []*state{s, lost}
	case a.Key == "" || a.App != app:
		return []*state{lost}
	}
	next := lost.grant(c.Worker, a.Token)
	if next == nil {
		return nil
	}
	i := next.find(a.Key)
	return next.only(i >= 0 && next.log[i].phase == building && next.log[i].token == a.Token && next.log[i].attempt == a.Attempt)
}

// lost takes back all that a worker builds.
func (s *state) lost(worker string) *state {
	if i := s.underWay(); i >= 0 && s.log[i].phase == building && s.log[i].worker == worker {
		return s.with(i, lose)
	}
	return s
}

// grant leases the deployment that goes first; nil if it is not for building.
func (s *state) grant(worker string, token uint64) *state {
	i := s.next()
	if i < 0 || !s.log[i].artifact.IsZero() {
		return nil
	}
	return s.with(i, func(_ *state, e *entry) {
		e.phase, e.worker, e.token = building, worker, token
		e.attempt++
	})
}

// cancelled judges a cancellation and its proof.
func (s *state) cancelled(i int, a Answer) []*state {
	e := s.log[i]
	switch {
	case a.Verdict == Refused:
		return s.only(e.phase == succeeded || e.phase == failed)
	case e.phase == cancelled:
		return s.seen(i, a.Deployment)
	case e.phase == succeeded || e.phase == failed:
		return nil
	}
	next := s.with(i, func(s *state, e *entry) { end(s, e, cancelled) })
	return next.seen(i, a.Deployment)
}

// built judges a result: it counts under the lease in force only, and again without effect.
func (s *state) built(i int, c Call, a Answer) []*state {
	e := s.log[i]
	inForce := e.phase == building && e.token == c.Token
	again := c.Kind == Complete && e.token == c.Token && e.artifact == c.Artifact && !e.artifact.IsZero()
	switch {
	case a.Verdict == Fenced:
		return s.only(!inForce && !again)
	case a.Verdict != Done:
		return nil
	case again:
		return []*state{s}
	case !inForce:
		return nil
	}
	return []*state{s.with(i, func(s *state, e *entry) { result(s, e, c) })}
}

func result(s *state, e *entry, c Call) {
	if c.Kind == Fail {
		end(s, e, failed)
		return
	}
	e.artifact = c.Artifact
	begin(s, e)
}

// perhaps lists the states after a call that did happen though nobody was told. They are
// copies that share nothing but the log with s.
func (s *state) perhaps(c Call) []*state {
	i := s.find(c.Key)
	switch c.Kind {
	case Submit, Rollback:
		target := s.target(c)
		if i >= 0 || c.Kind == Rollback && target == nil {
			return nil
		}
		return []*state{s.add(c, target)}
	case Lease:
		if granted := s.lost(c.Worker).grant(c.Worker, 0); granted != nil {
			return []*state{granted}
		}
	case Cancel:
		if i >= 0 && s.log[i].phase < succeeded {
			return []*state{s.with(i, func(s *state, e *entry) { end(s, e, cancelled) })}
		}
	case Complete, Fail:
		if i >= 0 && s.log[i].phase == building && s.log[i].token == c.Token {
			return []*state{s.with(i, func(s *state, e *entry) { result(s, e, c) })}
		}
	}
	return nil
}

// seen compares an entry with what an answer shows of it. A lease that nobody was told of
// becomes known by it.
func (s *state) seen(i int, d *starling.Deployment) []*state {
	e := s.log[i]
	if d == nil || d.IdempotencyKey != e.key || phaseOf(d.Phase) != e.phase || d.Attempt != e.attempt ||
		d.Generation != generation(e.gen) || d.Artifact != e.artifact {
		return nil
	}
	if e.phase == failed || e.phase == cancelled {
		f := d.Fence
		if f == nil || f.Generation != e.fence.Generation || f.Goal != e.fence.Goal {
			return nil
		}
		// A lease that nobody was told of shows in the fence.
		return s.only(f.Lease == e.fence.Lease || e.fence.Lease == 0 && e.attempt > 0)
	}
	switch {
	case e.phase == building && e.token == 0 && d.Lease != 0 && d.Worker == e.worker:
		return []*state{s.with(i, func(_ *state, e *entry) { e.token = d.Lease })}
	case d.Lease != e.token || d.Worker != e.worker:
		return nil
	}
	return []*state{s}
}

func phaseOf(p starling.Phase) phase {
	switch p {
	case starling.PhaseQueued:
		return queued
	case starling.PhaseBuilding:
		return building
	case starling.PhaseSucceeded:
		return succeeded
	case starling.PhaseFailed:
		return failed
	case starling.PhaseCancelled:
		return cancelled
	}
	return moving
}
