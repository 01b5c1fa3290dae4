package raftfsm

import (
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
)

// minChunks is what a region reports of an artifact whose manifest it lacks.
const minChunks = -1

func (t *tx) placed(p *Placed) (Result, error) {
	r, err := t.running(p.ID)
	if err != nil {
		return Result{}, err
	}
	i := slices.IndexFunc(r.rec.Regions, func(pl starling.Placing) bool { return pl.Name == p.Placing.Name })
	switch {
	case i < 0:
		return Result{}, fmt.Errorf("%w: region %.80q takes no part in deployment %s", starling.ErrNotFound, p.Placing.Name, p.ID)
	case p.Placing.ChunksDone < 0 || p.Placing.ChunksTotal < minChunks:
		return Result{}, starling.Invalidf("placing", "chunk counts are negative")
	case r.rec.Regions[i] == p.Placing:
		return Result{Deployment: r.rec}, nil
	}
	d := *r.rec
	d.Regions = slices.Clone(d.Regions)
	was := d.Regions[i].Placed
	d.Regions[i] = p.Placing
	t.putDeployment(r, &d)
	if p.Placing.Placed && !was {
		t.emitFor(EventDeploymentPlaced, &d, p.Placing.Name)
	}
	return Result{Deployment: &d}, nil
}

func (t *tx) advance(p *Advance) (Result, error) {
	r, err := t.running(p.ID)
	if err != nil {
		return Result{}, err
	}
	d := *r.rec
	if d.Phase != p.From {
		return Result{}, fmt.Errorf("%w: deployment %s is %s, not %.40s", starling.ErrConflict, d.ID, d.Phase, p.From)
	}
	if d.Paused {
		return Result{}, errPaused(&d)
	}
	if err := check(&d, p.Counts, p.Bytes, p.Times); err != nil {
		return Result{}, err
	}
	g, err := t.goalOf(&d)
	if err != nil {
		return Result{}, err
	}
	want, err := t.nextPhase(&d, g.rec)
	if err != nil {
		return Result{}, err
	}
	if p.To != want {
		return Result{}, fmt.Errorf("%w: deployment %s goes from %s to %s, not to %.40q", starling.ErrConflict, d.ID, d.Phase, want, p.To)
	}
	switch want {
	case starling.PhaseRollingOut:
		err = t.firstWave(&d, g)
	case starling.PhaseSucceeded:
		t.addRelease(&d, g.rec)
	}
	if err != nil {
		return Result{}, err
	}
	if err := t.become(&d, want, ""); err != nil {
		return Result{}, err
	}
	t.putDeployment(r, &d)
	return Result{Deployment: &d}, nil
}

// nextPhase returns the phase that d advances to, or why it cannot yet.
func (t *tx) nextPhase(d *starling.Deployment, g *starling.Goal) (starling.Phase, error) {
	s := &d.Spec.Deploy.Strategy
	switch d.Phase {
	case starling.PhaseReplicating:
		if !gateOpen(s.Gate, d.Regions) {
			return "", fmt.Errorf("%w: deployment %s: the gate %s is not open: %s", starling.ErrConflict, d.ID, s.Gate, placedText(d.Regions))
		}
		return starling.PhaseStaging, nil
	case starling.PhaseStaging:
		if s.Approval {
			return starling.PhaseAwaitingApproval, nil
		}
		return starling.PhaseRollingOut, nil
	case starling.PhaseAwaitingApproval:
		return "", fmt.Errorf("%w: deployment %s waits for approval", starling.ErrConflict, d.ID)
	case starling.PhaseRollingOut:
		if g.Cutoff != starling.CutoffAll {
			return "", fmt.Errorf("%w: deployment %s is in %s: more are to come", starling.ErrConflict, d.ID, d.StepText())
		}
		if HooksPending(d) || HooksToCome(d) {
			return "", fmt.Errorf("%w: deployment %s: not all of its hooks have ended", starling.ErrConflict, d.ID)
		}
		return starling.PhaseSucceeded, nil
	}
	return "", fmt.Errorf("%w: deployment %s is %s: a worker or a start moves it on", starling.ErrConflict, d.ID, d.Phase)
}

// gateOpen reports whether enough regions hold the artifact for machines to begin.
func gateOpen(gate starling.Gate, regions []starling.Placing) bool {
	n := placedCount(regions)
	switch gate {
	case starling.GateEach:
		return n >= 1
	case starling.GateQuorum:
		return 2*n > len(regions)
	}
	return n == len(regions)
}

func placedCount(regions []starling.Placing) int {
	n := 0
	for _, p := range regions {
		if p.Placed {
			n++
		}
	}
	return n
}

func placedText(regions []starling.Placing) string {
	return fmt.Sprintf("%d of %d regions hold the artifact", placedCount(regions), len(regions))
}

func (t *tx) approve(p *Approve) (Result, error) {
	r, err := t.running(p.ID)
	if err != nil {
		return Result{}, err
	}
	d := *r.rec
	switch {
	case d.Phase != starling.PhaseAwaitingApproval:
		return Result{}, fmt.Errorf("%w: deployment %s is %s: there is nothing to approve", starling.ErrConflict, d.ID, d.Phase)
	case d.Paused:
		return Result{}, errPaused(&d)
	}
	detail := "" // as programs of level 1 leave it
	if !p.Plan.IsZero() {
		if err := t.samePlan(p, &d); err != nil {
			return Result{}, err
		}
		detail = "approved by plan " + p.Plan.String()
	}
	g, err := t.goalOf(&d)
	if err != nil {
		return Result{}, err
	}
	if err := t.firstWave(&d, g); err != nil {
		return Result{}, err
	}
	d.Approval = &starling.Approval{By: t.actor, At: t.now, Plan: p.Plan}
	if err := t.become(&d, starling.PhaseRollingOut, detail); err != nil {
		return Result{}, err
	}
	t.putDeployment(r, &d)
	return Result{Deployment: &d}, nil
}

// samePlan refuses an approval if what its plan was made of has changed since. All else that
// a plan's hash covers is in the deployment's record, and does not change.
func (t *tx) samePlan(p *Approve, d *starling.Deployment) error {
	stale := &starling.StaleError{Field: "plan", Hint: "read the deployment's plan again and approve its hash"}
	var previous starling.Generation
	if rel := t.release(d.App); rel != nil {
		previous = rel.Generation
	}
	app := get[starling.App](t.reader, tableApps, byID, strKey(d.App))
	switch {
	case app == nil || app.rec.Revision != p.Revision:
		stale.Detail = fmt.Sprintf("the plan of deployment %s is another by now: the spec of app %s was changed", d.ID, d.App)
	case previous != p.Previous:
		stale.Detail = fmt.Sprintf("the plan of deployment %s is another by now: release %s of app %s is current", d.ID, previous, d.App)
	default:
		return nil
	}
	return stale
}

func (t *tx) checkpoint(p *Checkpoint) (Result, error) {
	r, err := t.running(p.ID)
	if err != nil {
		return Result{}, err
	}
	d := *r.rec
	if err := check(&d, p.Counts, p.Bytes, p.Times); err != nil {
		return Result{}, err
	}
	t.putDeployment(r, &d)
	return Result{Deployment: &d}, nil
}

// check takes over counts, bytes and times from a leader's memory. The artifact's size
// and what its worker uploaded are the state's own, and times are never forgotten.
func check(d *starling.Deployment, c starling.Counts, b starling.Bytes, times []starling.RegionTimes) error {
	c.Samples = slices.Clone(c.Samples)
	if err := checkCounts(&c); err != nil {
		return err
	}
	if err := checkBytes(b); err != nil {
		return err
	}
	b.Artifact, b.New = d.Bytes.Artifact, d.Bytes.New
	if err := checkTimes(d, times); err != nil {
		return err
	}
	d.Machines, d.Bytes = c, b
	if len(times) > 0 {
		d.Times = slices.Clone(times)
	}
	return nil
}

func (t *tx) finish(p *Finish) (Result, error) {
	if p.Phase != starling.PhaseFailed && p.Phase != starling.PhaseCancelled {
		return Result{}, starling.Invalidf("phase", "%.40q: a deployment is finished as failed or cancelled", p.Phase)
	}
	r, err := t.running(p.ID)
	if err != nil {
		return Result{}, err
	}
	d := *r.rec
	if err := check(&d, p.Counts, p.Bytes, p.Times); err != nil {
		return Result{}, err
	}
	if err := t.end(&d, p.Phase, p.Reason); err != nil {
		return Result{}, err
	}
	t.putDeployment(r, &d)
	return Result{Deployment: &d}, nil
}

// end makes d failed or cancelled and takes its goal back where that is due.
func (t *tx) end(d *starling.Deployment, to starling.Phase, reason string) error {
	var goal starling.Generation // that replaces d's
	if g, err := t.goalOf(d); err == nil {
		s := &d.Spec.Deploy.Strategy
		if to == starling.PhaseCancelled || s.AutoRevert || !g.rec.Stage.AtLeast(starling.StageActivate) {
			goal = t.revert(d, g)
		}
	}
	if err := t.become(d, to, reason); err != nil {
		return err
	}
	if !goal.IsZero() {
		d.Fence.Generation, d.Fence.Goal = d.Generation, goal
	}
	return nil
}
