package raftfsm

import (
	"fmt"

	"github.com/starlingdeploy/starling"
)

// firstWave lets the first share of machines activate.
func (t *tx) firstWave(d *starling.Deployment, g *row[starling.Goal]) error {
	steps := d.Steps()
	if len(steps) == 0 {
		return fmt.Errorf("%w: no region takes part in deployment %s", starling.ErrConflict, d.ID)
	}
	d.Wave, d.WaveAt = steps[0].Index, t.now
	d.Hooks = hooksDue(d, false)
	all, ahead, err := reach(d)
	if err != nil {
		return err
	}
	t.changeGoal(g, func(g *starling.Goal) { letGo(d, g, all, ahead) })
	return nil
}

// begin raises the cutoffs to those of a step. The caller puts d.
func (t *tx) begin(d *starling.Deployment, g *row[starling.Goal], step int) error {
	d.Wave, d.WaveAt = step, t.now
	all, ahead, err := reach(d)
	if err != nil {
		return err
	}
	t.changeGoal(g, func(g *starling.Goal) { g.Stage, g.Cutoff, g.Ahead = starling.StageActivate, all, ahead })
	return nil
}

// reach returns the cutoffs of the step under way.
func reach(d *starling.Deployment) (all starling.Cutoff, ahead map[string]starling.Cutoff, err error) {
	_, more := d.NextStep()
	return d.Spec.Deploy.Strategy.Reach(d.Wave, !more)
}

// rolling returns a deployment that may go from one step to another, with its goal.
func (t *tx) rolling(id string) (*row[starling.Deployment], *row[starling.Goal], error) {
	r, err := t.running(id)
	switch {
	case err != nil:
		return nil, nil, err
	case r.rec.Phase != starling.PhaseRollingOut:
		return nil, nil, fmt.Errorf("%w: deployment %s is %s, not %s", starling.ErrConflict, r.rec.ID, r.rec.Phase, starling.PhaseRollingOut)
	case r.rec.Paused:
		return nil, nil, errPaused(r.rec)
	case HooksAwaited(r.rec):
		return nil, nil, fmt.Errorf("%w: deployment %s: a hook before its machines has not ended", starling.ErrConflict, r.rec.ID)
	}
	g, err := t.goalOf(r.rec)
	return r, g, err
}

func (t *tx) wave(p *Wave) (Result, error) {
	r, g, err := t.rolling(p.ID)
	if err != nil {
		return Result{}, err
	}
	d := *r.rec
	want := d.Wave
	next, more := d.NextStep()
	if more {
		want = next.Index
	}
	if p.Wave != want || !more && g.rec.Cutoff == starling.CutoffAll {
		return Result{}, fmt.Errorf("%w: deployment %s is in %s: wave %d is not the next", starling.ErrConflict, d.ID, d.StepText(), p.Wave+1)
	}
	if err := t.begin(&d, g, want); err != nil {
		return Result{}, err
	}
	t.putDeployment(r, &d)
	t.emitFor(EventDeploymentWave, &d, d.StepText()+": "+d.Step().Share)
	return Result{Deployment: &d}, nil
}

func (t *tx) promote(p *Promote) (Result, error) {
	r, g, err := t.rolling(p.ID)
	if err != nil {
		return Result{}, err
	}
	d := *r.rec
	next, more := d.NextStep()
	switch {
	case p.From != d.Wave:
		return Result{}, fmt.Errorf("%w: deployment %s is in %s already: look again", starling.ErrConflict, d.ID, d.StepText())
	case !more:
		return Result{}, fmt.Errorf("%w: deployment %s is in %s, the last: there is nothing to promote it to", starling.ErrConflict, d.ID, d.StepText())
	case p.All:
		steps := d.Steps()
		next = steps[len(steps)-1]
	}
	was := d.StepText()
	if err := t.begin(&d, g, next.Index); err != nil {
		return Result{}, err
	}
	t.putDeployment(r, &d)
	t.emitFor(EventDeploymentPromoted, &d, fmt.Sprintf("from %s to %s: %s", was, d.StepText(), d.Step().Share))
	return Result{Deployment: &d}, nil
}

func (t *tx) ignoreFreeze(p *IgnoreFreeze) (Result, error) {
	r, err := t.running(p.ID)
	if err != nil {
		return Result{}, err
	}
	if r.rec.IgnoreFreeze != nil {
		return Result{Deployment: r.rec}, nil
	}
	d := *r.rec
	d.IgnoreFreeze = &starling.Override{By: t.actor, At: t.now}
	t.putDeployment(r, &d)
	t.emitFor(EventDeploymentUnfrozen, &d, "")
	return Result{Deployment: &d}, nil
}

func (t *tx) pause(p *Pause) (Result, error) {
	r, err := t.running(p.ID)
	if err != nil {
		return Result{}, err
	}
	if r.rec.Paused == p.Paused {
		return Result{Deployment: r.rec}, nil
	}
	d := *r.rec
	d.Paused, d.Hold = p.Paused, nil
	kind := EventDeploymentResumed
	if p.Paused {
		kind, d.Hold = EventDeploymentPaused, t.hold(&d)
	} else if err := t.letMachinesGo(&d); err != nil { // whom hooks held that ended meanwhile
		return Result{}, err
	}
	t.putDeployment(r, &d)
	t.emitFor(kind, &d, "")
	return Result{Deployment: &d}, nil
}

// hold says at which goal a deployment stands still.
func (t *tx) hold(d *starling.Deployment) *starling.Hold {
	h := &starling.Hold{Index: t.index, By: t.actor, At: t.now}
	if g, err := t.goalOf(d); err == nil {
		h.Generation, h.Revision, h.Cutoff, h.Ahead = g.rec.Generation, g.rec.Revision, g.rec.Cutoff, g.rec.Ahead
	}
	return h
}
