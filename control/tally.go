package control

import (
	"fmt"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// tally is the merged word of the regions on one deployment.
type tally struct {
	dep    *starling.Deployment
	counts starling.Counts
	bytes  starling.Bytes
	// known: at least one region has reported on this generation. all: every region
	// that takes part has. current: those whose machines are awaited have, about the goal's
	// present revision.
	known, all, current bool
	// stragglers are regions that answer but do not hold the artifact yet, where the
	// gate let others go ahead. The deployment succeeds only with them. behind are those of
	// them whose turn has come: the next group waits for them.
	stragglers, behind int
	chunks             int // that stragglers hold
}

// tally merges the reports of the regions that take part: all of them under gate
// all_regions, else those committed as placed.
func (c *deciding) tally() tally {
	t := tally{dep: c.dep, known: false, all: true, current: c.goal != nil}
	t.counts = starling.Counts{}
	t.bytes = starling.Bytes{Artifact: c.dep.Bytes.Artifact, New: c.dep.Bytes.New}
	everyone, group := takesAll(c.dep), c.dep.Step().Group
	for _, p := range c.dep.Regions {
		r, ok := c.report(p.Name)
		if ok {
			t.known = true
			t.bytes = t.bytes.Add(r.Bytes)
		}
		if !everyone && !p.Placed {
			if ok && c.obs.Now.Sub(r.At) < regionSeenWithin {
				t.stragglers++
				t.chunks += r.Placing.ChunksDone
				if c.dep.Spec.Deploy.Strategy.GroupOf(p.Name) <= group {
					t.behind++
				}
			}
			continue
		}
		if !ok {
			t.all = false
			t.current = t.current && !c.awaits(p.Name)
			continue
		}
		t.counts = t.counts.Add(r.Counts)
		if c.goal != nil && r.Revision != c.goal.Revision && c.awaits(p.Name) {
			t.current = false
		}
	}
	if !t.known { // nothing better than the last checkpoint
		t.counts = c.dep.Machines
	}
	t.counts.Distrusted = starling.KeepAccused(t.counts.Distrusted, c.dep.Machines.Distrusted)
	t.bytes = t.bytes.Max(c.dep.Bytes) // sums do not fall when a reporter lost its memory
	return t
}

// awaits reports whether a region's machines must settle before the next step: in a
// roll-out only those of groups whose turn has come.
func (c *deciding) awaits(region string) bool {
	return c.dep.Phase != starling.PhaseRollingOut || c.goal == nil || c.goal.In(region).Cutoff > 0
}

// settled reports whether every awaited machine is healthy or has failed.
func (t *tally) settled() bool { return t.current && t.counts.Healthy+t.counts.Failed >= t.counts.Due }

func takesAll(dep *starling.Deployment) bool {
	g := dep.Spec.Deploy.Strategy.Gate
	return g != starling.GateEach && g != starling.GateQuorum
}

// tooManyFailed judges a share of the machines once every region has spoken: it means
// nothing before. A number of machines, none among them, is judged at once.
func (t *tally) tooManyFailed() bool {
	if !t.known || t.counts.Failed == 0 {
		return false
	}
	allowed, err := starling.ParseAllowance(t.dep.Spec.Deploy.Strategy.MaxFailed)
	if err != nil { // validated at submission
		allowed = starling.Allowance{}
	}
	return (t.all || allowed.Machines >= 0 || allowed.Share == 0) && allowed.Exceeded(t.counts.Failed, t.counts.Target)
}

func (t *tally) failedReason() string {
	s := &t.dep.Spec.Deploy.Strategy
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %s failed in phase %s, more than the %s allowed",
		t.counts.Failed, machines(t.counts.Target), t.dep.Phase, s.MaxFailed)
	for i, f := range t.counts.Samples {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s/%s: %s", sep, f.Region, f.Node, clip(f.Reason, 300))
	}
	return b.String()
}

// deadlineReason says in which phase the deadline passed and what was missing.
func (c *deciding) deadlineReason() string {
	span := c.dep.Spec.Deploy.Deadline
	if span == 0 {
		span = starling.Duration(c.dep.Deadline.Sub(c.dep.CreatedAt))
	}
	what := strings.Join(c.missing(), "; ")
	if c.dep.Paused {
		what = "paused; " + what
	}
	return fmt.Sprintf("deadline of %s passed in phase %s: %s", brief(span.D()), c.dep.Phase, strings.TrimSuffix(what, "; "))
}

// missing lists what the present phase was waiting for.
func (c *deciding) missing() []string {
	switch c.dep.Phase {
	case starling.PhaseQueued:
		if o, ok := c.view.UnderWay(c.dep.App); ok {
			return []string{fmt.Sprintf("deployment %s of the same app was %s", o.ID, o.Phase)}
		}
		if o, ok := c.view.NextForApp(c.dep.App); ok && o.ID != c.dep.ID {
			return []string{fmt.Sprintf("deployment %s of the same app goes first", o.ID)}
		}
		if c.dep.Artifact.IsZero() && c.obs.Workers == 0 {
			return []string{"no worker was there to build it"}
		}
		return []string{"no worker had a free slot"}
	case starling.PhaseBuilding:
		return []string{fmt.Sprintf("attempt %d was running on worker %s", c.dep.Attempt, c.dep.Worker)}
	case starling.PhaseAwaitingApproval:
		out := []string{"nobody approved it"}
		if s := c.frozen(); s != "" {
			out = append(out, s)
		}
		return out
	case starling.PhaseReplicating:
		return c.perRegion(c.missingChunks)
	default:
		return append(c.missingHooks(), c.perRegion(c.missingMachines)...)
	}
}

func (c *deciding) perRegion(missing func(p starling.Placing, r Report) string) []string {
	var out []string
	for _, p := range c.dep.Regions {
		r, ok := c.report(p.Name)
		switch {
		case !ok && c.dep.Phase == starling.PhaseReplicating && p.Placed:
		case !c.awaits(p.Name):
		case !ok:
			out = append(out, p.Name+" has not reported")
		default:
			s := missing(p, r)
			if s != "" && c.obs.Now.Sub(r.At) >= regionSeenWithin {
				s += fmt.Sprintf(" (last heard %s ago)", brief(c.obs.Now.Sub(r.At).Truncate(time.Second)))
			}
			if s != "" {
				out = append(out, s)
			}
		}
	}
	if _, more := c.dep.NextStep(); len(out) == 0 && c.dep.Phase == starling.PhaseRollingOut && more {
		out = append(out, c.dep.StepText()+" was baking")
	}
	if s := c.frozen(); s != "" {
		out = append(out, s)
	}
	return out
}

func (c *deciding) missingChunks(p starling.Placing, r Report) string {
	if p.Placed || r.Placing.Placed {
		return ""
	}
	return fmt.Sprintf("%d of %d chunks placed in %s", r.Placing.ChunksDone, r.Placing.ChunksTotal, p.Name)
}

func (c *deciding) missingMachines(p starling.Placing, r Report) string {
	n := r.Counts
	failed := ""
	if n.Failed > 0 {
		failed = fmt.Sprintf(", %d failed", n.Failed)
	}
	switch {
	case c.dep.Phase == starling.PhaseStaging && n.Staged+n.Failed < n.Target:
		return fmt.Sprintf("%d of %s staged in %s%s", n.Staged, machines(n.Target), p.Name, failed)
	case c.dep.Phase == starling.PhaseRollingOut && n.Healthy+n.Failed < n.Due:
		return fmt.Sprintf("%d of %s of wave %d healthy in %s%s", n.Healthy, machines(n.Due), c.dep.Step().Wave+1, p.Name, failed)
	case c.goal != nil && r.Revision != c.goal.Revision:
		return fmt.Sprintf("%s has not reported on the present wave", p.Name)
	}
	return ""
}

func machines(n int) string {
	if n == 1 {
		return "1 machine"
	}
	return fmt.Sprintf("%d machines", n)
}

// brief writes a duration without its zero parts: 30m, not 30m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
