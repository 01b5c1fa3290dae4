package control

import (
	"maps"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// Decision is one command that the leader should propose.
type Decision struct {
	Type    raftfsm.Type
	Payload any
}

// Report is a region's last word on an app, and when it came.
type Report struct {
	starling.RegionReport
	At time.Time
}

// Observations is what a leader knows beside the committed state.
type Observations struct {
	Now       time.Time
	Since     time.Time                            // when this leader's term began
	Heard     map[string]time.Time                 // last heartbeat of each deployment's build under its present lease
	HookHeard map[string]time.Time                 // last heartbeat of each hook under its present lease, by hookKey
	Reports   map[string]map[string]Report         // by app and region
	Workers   int                                  // live workers of this region
	Zone      func(string) (*time.Location, error) // finds a time zone
}

// Decider turns committed state and observations into decisions. It reads no clock
// and does no I/O: the same sequence of calls gives the same decisions. What it
// remembers (when a step was first seen complete, when machines last came further, when
// counts were last kept) may be lost at an election: a bake then begins anew.
type Decider struct {
	baked    map[string]bake
	advanced map[string]progress
	kept     map[string]time.Time // last checkpoint proposed, by deployment
}

// bake is the time for which a step has been complete.
type bake struct {
	wave  int
	since time.Time
}

// NewDecider returns a decider that remembers nothing.
func NewDecider() *Decider {
	return &Decider{baked: map[string]bake{}, advanced: map[string]progress{}, kept: map[string]time.Time{}}
}

// Decide returns what should be proposed now, oldest deployment first. Decisions
// are idempotent in effect: the state machine refuses one that came too late.
func (d *Decider) Decide(v raftfsm.View, o Observations) []Decision {
	active := v.Active()
	d.forget(active)
	var out []Decision
	for _, dep := range active {
		c := &deciding{decider: d, view: v, obs: &o, dep: dep, goal: goalOf(v, dep)}
		if !o.Now.Before(dep.Deadline) {
			c.finish(c.deadlineReason())
		} else {
			c.step()
		}
		out = append(out, c.out...)
	}
	// One that still needs a build waits for a worker, and those behind it wait too: an
	// app's deployments overtake each other by priority only.
	for _, dep := range v.Startable() {
		if o.Now.Before(dep.Deadline) {
			out = append(out, Decision{raftfsm.TypeStart, raftfsm.Start{ID: dep.ID}})
		}
	}
	return out
}

// forget drops what is remembered of deployments that have ended.
func (d *Decider) forget(active []*starling.Deployment) {
	if len(d.baked) == 0 && len(d.advanced) == 0 && len(d.kept) == 0 {
		return
	}
	ids := make(map[string]bool, len(active))
	for _, dep := range active {
		ids[dep.ID] = true
	}
	maps.DeleteFunc(d.baked, func(id string, _ bake) bool { return !ids[id] })
	maps.DeleteFunc(d.advanced, func(id string, _ progress) bool { return !ids[id] })
	maps.DeleteFunc(d.kept, func(id string, _ time.Time) bool { return !ids[id] })
}

// goalOf returns the goal that carries dep, nil while there is none.
func goalOf(v raftfsm.View, dep *starling.Deployment) *starling.Goal {
	if dep.Generation.IsZero() {
		return nil
	}
	g, ok := v.Goal(dep.App)
	if !ok || g.Deployment != dep.ID || g.Generation != dep.Generation {
		return nil
	}
	return g
}

// deciding is one look at one deployment.
type deciding struct {
	decider *Decider
	view    raftfsm.View
	obs     *Observations
	dep     *starling.Deployment
	goal    *starling.Goal
	out     []Decision
}

func (c *deciding) propose(t raftfsm.Type, payload any) {
	c.out = append(c.out, Decision{t, payload})
}

// step decides on a deployment whose deadline has not passed.
func (c *deciding) step() {
	switch c.dep.Phase {
	case starling.PhaseBuilding:
		c.building()
	case starling.PhaseReplicating:
		c.place()
		if gateOpen(c.dep) && !c.dep.Paused {
			c.advance(starling.PhaseStaging, c.tally())
		}
	case starling.PhaseStaging:
		c.place()
		c.staging()
	case starling.PhaseAwaitingApproval:
		c.place()
		c.checkpoint(c.tally())
	case starling.PhaseRollingOut:
		c.place()
		c.rollingOut()
	}
}

// building takes the job back from a worker that has been silent for a lease.
func (c *deciding) building() {
	if silent := c.obs.silence(c.dep.PhaseAt, c.obs.Heard[c.dep.ID]); silent > rpc.LeaseTTL {
		c.propose(raftfsm.TypeJobRequeue, raftfsm.JobRequeue{
			ID: c.dep.ID, Lease: c.dep.Lease,
			Reason: "worker " + c.dep.Worker + " was silent for " + silent.Truncate(time.Second).String(),
		})
	}
}

// place commits the regions that have come to hold the artifact.
func (c *deciding) place() {
	for _, p := range c.dep.Regions {
		r, ok := c.report(p.Name)
		if ok && r.Placing.Placed && !p.Placed {
			placing := r.Placing
			placing.Name = p.Name
			c.propose(raftfsm.TypePlaced, raftfsm.Placed{ID: c.dep.ID, Placing: placing})
		}
	}
}

// report returns the region's report on this deployment's generation.
func (c *deciding) report(region string) (Report, bool) {
	r, ok := c.obs.Reports[c.dep.App][region]
	return r, ok && r.Generation == c.dep.Generation
}

// gateOpen reports whether enough regions are committed as holding the artifact.
func gateOpen(dep *starling.Deployment) bool {
	placed := 0
	for _, p := range dep.Regions {
		if p.Placed {
			placed++
		}
	}
	switch dep.Spec.Deploy.Strategy.Gate {
	case starling.GateEach:
		return placed > 0
	case starling.GateQuorum:
		return placed > len(dep.Regions)/2
	default:
		return placed == len(dep.Regions)
	}
}

func (c *deciding) advance(to starling.Phase, t tally) {
	c.propose(raftfsm.TypeAdvance, raftfsm.Advance{
		ID: c.dep.ID, From: c.dep.Phase, To: to, Counts: t.counts, Bytes: t.bytes, Times: c.times(),
	})
}

func (c *deciding) finish(reason string) { c.finishCounts(reason, c.tally()) }

func (c *deciding) finishCounts(reason string, t tally) {
	c.propose(raftfsm.TypeFinish, raftfsm.Finish{
		ID: c.dep.ID, Phase: starling.PhaseFailed, Reason: clip(reason, starling.MaxReasonBytes),
		Counts: t.counts, Bytes: t.bytes, Times: c.times(),
	})
}

// checkpoint keeps the counts for readers of history: every 15 seconds at first,
// then ever more rarely, so that a deployment of any length costs some thirty of them.
func (c *deciding) checkpoint(t tally) {
	if !t.known || (sameCounts(t.counts, c.dep.Machines) && t.bytes == c.dep.Bytes) {
		return
	}
	last := c.decider.kept[c.dep.ID]
	for _, at := range []time.Time{c.dep.PhaseAt, c.dep.WaveAt, c.obs.Since} {
		if at.After(last) {
			last = at
		}
	}
	pause := max(checkpointEvery, c.obs.Now.Sub(c.dep.CreatedAt)/8)
	if c.obs.Now.Sub(last) < pause {
		return
	}
	c.decider.kept[c.dep.ID] = c.obs.Now
	c.propose(raftfsm.TypeCheckpoint, raftfsm.Checkpoint{ID: c.dep.ID, Counts: t.counts, Bytes: t.bytes, Times: c.times()})
}

func sameCounts(a, b starling.Counts) bool {
	return slices.Equal(a.Samples, b.Samples) && slices.Equal(a.Distrusted, b.Distrusted) && a.Target == b.Target && a.Staged == b.Staged &&
		a.Due == b.Due && a.Healthy == b.Healthy && a.Failed == b.Failed && a.Absent == b.Absent
}

// clip cuts s to n bytes without breaking a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const mark = "…"
	cut := n - len(mark)
	for cut > 0 && s[cut]&0xC0 == 0x80 {
		cut--
	}
	return s[:cut] + mark
}
