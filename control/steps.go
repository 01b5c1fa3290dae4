package control

import (
	"fmt"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// staging goes on once every live target holds the artifact or has failed to get it.
func (c *deciding) staging() {
	t := c.tally()
	done := t.current && t.counts.Staged+t.counts.Failed >= t.counts.Target
	to := starling.PhaseRollingOut
	if c.dep.Spec.Deploy.Strategy.Approval {
		to = starling.PhaseAwaitingApproval
	}
	switch {
	case c.dep.Paused:
		c.checkpoint(t)
	case t.tooManyFailed():
		c.finishCounts(t.failedReason(), t)
	case c.stuck(&t, done):
		c.finishCounts(c.stuckReason(), t)
	case done && (to == starling.PhaseAwaitingApproval || c.frozen() == ""):
		c.advance(to, t)
	default:
		c.checkpoint(t)
	}
}

// rollingOut begins the next step, or ends, once the machines that are due have settled
// and, between steps, have stayed so for the bake time.
func (c *deciding) rollingOut() {
	t := c.tally()
	c.lostHooks()
	hooks := raftfsm.HooksAwaited(c.dep)
	settled, baked := t.settled() && !hooks, false
	mark, marked := c.decider.baked[c.dep.ID]
	if !settled {
		delete(c.decider.baked, c.dep.ID)
	} else {
		if !marked || mark.wave != c.dep.Wave {
			mark = bake{c.dep.Wave, c.obs.Now}
			c.decider.baked[c.dep.ID] = mark
		}
		baked = c.obs.Now.Sub(mark.since) >= c.dep.Spec.Deploy.Strategy.Bake.D()
	}
	next, more := c.dep.NextStep()
	last := !more && (c.goal == nil || c.goal.Cutoff == starling.CutoffAll)
	if !more { // the regions of the steps to come are gone: the last rise is left
		next.Index = c.dep.Wave
	}
	// The next group of regions waits for those of this one that still lack the artifact.
	early := more && next.Group != c.dep.Step().Group && t.behind > 0
	switch {
	case c.dep.Paused:
		c.checkpoint(t)
	case t.tooManyFailed():
		c.finishCounts(t.failedReason(), t)
	case c.stuck(&t, hooks || settled && !early && !(last && t.stragglers > 0)):
		c.finishCounts(c.stuckReason(), t)
	case settled && last && t.stragglers == 0 && raftfsm.HooksToCome(c.dep):
		c.propose(raftfsm.TypeHookBegin, raftfsm.HookBegin{ID: c.dep.ID})
	case settled && last && t.stragglers == 0:
		c.advance(starling.PhaseSucceeded, t)
	case settled && !last && baked && !early && c.frozen() == "":
		c.propose(raftfsm.TypeWave, raftfsm.Wave{ID: c.dep.ID, Wave: next.Index})
	default:
		c.checkpoint(t)
	}
}

// progress is how far the awaited machines of a deployment ever were in a step, and since
// when they have not come further. Numbers that fall and rise again are no progress.
type progress struct {
	phase   starling.Phase
	wave    int
	settled int   // in a roll-out
	staged  int   // while some are not
	bytes   int64 // received by machines, while some are not staged
	chunks  int   // of regions that the gate did not wait for
	since   time.Time
}

// further reports whether any number of p is above that of a, and returns the greater ones.
func (p progress) further(a progress) (progress, bool) {
	more := a.settled > p.settled || a.staged > p.staged || a.bytes > p.bytes || a.chunks > p.chunks
	p.settled, p.staged = max(p.settled, a.settled), max(p.staged, a.staged)
	p.bytes, p.chunks = max(p.bytes, a.bytes), max(p.chunks, a.chunks)
	return p, more
}

// stuck reports whether for the strategy's progress deadline no awaited machine has come
// further. idle: none is awaited, as during a bake, a hook or a freeze; then the clock stands still.
func (c *deciding) stuck(t *tally, idle bool) bool {
	limit := c.dep.Spec.Deploy.Strategy.ProgressDeadline.D()
	if limit == 0 {
		return false
	}
	now := progress{phase: c.dep.Phase, wave: c.dep.Wave, chunks: t.chunks, since: c.obs.Now}
	if c.dep.Phase == starling.PhaseRollingOut {
		now.settled = t.counts.Healthy + t.counts.Failed
	}
	if t.counts.Staged+t.counts.Failed < t.counts.Target {
		now.staged, now.bytes = t.counts.Staged+t.counts.Failed, t.bytes.CacheOut+t.bytes.Peer+t.bytes.Local
	}
	best, seen := c.decider.advanced[c.dep.ID]
	more := false
	if seen && best.phase == now.phase && best.wave == now.wave {
		best, more = best.further(now)
	} else {
		best, more = now, true
	}
	if more || idle {
		best.since = c.obs.Now
	}
	c.decider.advanced[c.dep.ID] = best
	return c.obs.Now.Sub(best.since) >= limit
}

func (c *deciding) stuckReason() string {
	limit := c.dep.Spec.Deploy.Strategy.ProgressDeadline
	return fmt.Sprintf("no machine came further for %s (progress_deadline) in phase %s: %s",
		brief(limit.D()), c.dep.Phase, strings.Join(c.missing(), "; "))
}
