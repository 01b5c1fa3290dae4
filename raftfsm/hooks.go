package raftfsm

import (
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
)

// The commands about hooks that workers run once.
const (
	TypeHookBegin   Type = "hook.begin"
	TypeHookLease   Type = "hook.lease"
	TypeHookRequeue Type = "hook.requeue"
	TypeHookEnd     Type = "hook.end"
)

const maxHookEventBytes = 200 // of a reason in an event

// HookBegin makes the hooks due that follow the machines. Refused unless every machine may
// activate; without such hooks, and again, it changes nothing.
type HookBegin struct {
	ID string `json:"id"`
}

// HookLease grants a worker of the hook's region the run of a hook that waits and whose
// turn it is: first the deployment's before the machines, then the regions' as they come in
// the roll-out, after the machines the other way round. A worker runs one hook at a time:
// one that is leased to it already it has lost, and it gets that again, as another attempt.
// The token is the Raft index. Result: Deployment.
type HookLease struct {
	ID     string `json:"id"`
	Hook   string `json:"hook"` // starling.HookRun.Name
	Region string `json:"region"`
	Worker string `json:"worker"`
}

// HookRequeue takes a hook back from a lost worker; after MaxHookAttempts runs the
// deployment fails.
type HookRequeue struct {
	ID     string `json:"id"`
	Hook   string `json:"hook"`
	Lease  uint64 `json:"lease"`
	Reason string `json:"reason"`
}

// HookEnd ends a hook. A failed one ends the deployment; a good one before the machines
// lets those of its region, or all, go on. Again with the same lease it changes nothing.
type HookEnd struct {
	ID        string          `json:"id"`
	Hook      string          `json:"hook"`
	Lease     uint64          `json:"lease"`
	Failed    bool            `json:"failed,omitempty"`
	Reason    string          `json:"reason,omitempty"` // of the failure, with the end of the output
	Log       starling.Digest `json:"log,omitzero"`
	LogBytes  int64           `json:"log_bytes,omitempty"`
	Sandboxed bool            `json:"sandboxed,omitempty"`
}

// hooksDue lists the runs of a deployment's hooks before or after its machines, in their order.
func hooksDue(d *starling.Deployment, post bool) []starling.HookRun {
	var out []starling.HookRun
	add := func(scope starling.HookScope, region string) {
		run := starling.HookRun{Scope: scope, Post: post, Region: region, State: starling.HookWaiting}
		if len(run.Command(&d.Spec.Deploy.Hooks)) > 0 {
			out = append(out, run)
		}
	}
	if !post {
		add(starling.HookDeployment, d.Home)
	}
	for _, p := range d.Regions {
		add(starling.HookRegion, p.Name)
	}
	if post {
		add(starling.HookDeployment, d.Home)
	}
	return out
}

// HookReady reports whether nothing has to end before a run that waits may begin.
func HookReady(d *starling.Deployment, run *starling.HookRun) bool {
	if run.State != starling.HookWaiting || d.Paused || d.Phase != starling.PhaseRollingOut || !d.HookDue(run) {
		return false
	}
	for i := range d.Hooks {
		o := &d.Hooks[i]
		if o.Name() == run.Name() {
			return true
		}
		if !o.Ended() && (o.Scope != run.Scope || o.Post != run.Post) {
			return false
		}
	}
	return false
}

// hookLost reports whether a worker that asks for a hook has lost one that is leased to it.
func hookLost(d *starling.Deployment, run *starling.HookRun, worker string) bool {
	return run.State == starling.HookRunning && run.Worker == worker && !d.Paused && run.Attempt < starling.MaxHookAttempts
}

// HooksPending reports whether hooks that are on a deployment's list have not ended.
func HooksPending(d *starling.Deployment) bool {
	return slices.ContainsFunc(d.Hooks, func(h starling.HookRun) bool { return !h.Ended() })
}

// HooksAwaited reports whether the step under way waits for hooks.
func HooksAwaited(d *starling.Deployment) bool {
	return slices.ContainsFunc(d.Hooks, func(h starling.HookRun) bool { return !h.Ended() && d.HookDue(&h) })
}

// HooksToCome reports whether there are hooks after the machines that are not due yet.
func HooksToCome(d *starling.Deployment) bool {
	return !slices.ContainsFunc(d.Hooks, func(h starling.HookRun) bool { return h.Post }) && len(hooksDue(d, true)) > 0
}

// letGo brings the goal in line with the hooks before the machines: nobody activates until
// the deployment's has run, and no machine of a region until that region's has.
func letGo(d *starling.Deployment, g *starling.Goal, all starling.Cutoff, ahead map[string]starling.Cutoff) {
	var held []string
	for i := range d.Hooks {
		h := &d.Hooks[i]
		switch {
		case h.Post || h.State == starling.HookDone:
		case h.Scope == starling.HookDeployment:
			return
		default:
			held = append(held, h.Region)
		}
	}
	g.Held = held
	if !g.Stage.AtLeast(starling.StageActivate) {
		g.Stage, g.Cutoff, g.Ahead = starling.StageActivate, all, ahead
	}
}

// hook returns a deployment that is rolling out, to be changed, and the place of one of its
// hooks.
func (t *tx) hook(id, name string) (*row[starling.Deployment], *starling.Deployment, *starling.HookRun, error) {
	r, err := t.running(id)
	if err != nil {
		return nil, nil, nil, err
	}
	d := *r.rec
	d.Hooks = slices.Clone(d.Hooks)
	h := d.Hook(name)
	if h == nil || d.Phase != starling.PhaseRollingOut {
		return nil, nil, nil, fmt.Errorf("%w: hook %.80q of deployment %s is not due", starling.ErrConflict, name, id)
	}
	return r, &d, h, nil
}

// leasedHook is hook for one that runs under a lease.
func (t *tx) leasedHook(id, name string, lease uint64) (*row[starling.Deployment], *starling.Deployment, *starling.HookRun, error) {
	r, d, h, err := t.hook(id, name)
	if err == nil && (lease == 0 || h.Lease != lease) {
		err = fmt.Errorf("%w: lease %d of hook %s of deployment %s is not in force: it is %s", starling.ErrFenced, lease, name, id, h.State)
	}
	return r, d, h, err
}

func (t *tx) hookBegin(p *HookBegin) (Result, error) {
	r, err := t.running(p.ID)
	if err != nil {
		return Result{}, err
	}
	d := *r.rec
	g, err := t.goalOf(&d)
	switch {
	case err != nil:
		return Result{}, err
	case !HooksToCome(&d):
		return Result{Deployment: r.rec}, nil
	case d.Phase != starling.PhaseRollingOut || d.Paused || HooksPending(&d) || g.rec.Cutoff != starling.CutoffAll:
		return Result{}, fmt.Errorf("%w: deployment %s: not every machine may activate yet", starling.ErrConflict, d.ID)
	}
	d.Hooks = slices.Concat(d.Hooks, hooksDue(&d, true))
	t.putDeployment(r, &d)
	return Result{Deployment: &d}, nil
}

func (t *tx) hookLease(p *HookLease) (Result, error) {
	if err := checkText("worker", p.Worker, MaxWorkerBytes); err != nil {
		return Result{}, err
	}
	r, d, h, err := t.hook(p.ID, p.Hook)
	if err != nil {
		return Result{}, err
	}
	token := d.ID + "/" + p.Hook
	switch {
	case p.Worker == "" || p.Region != h.Region:
		return Result{}, starling.Invalidf("worker", "%q of region %.80q: hook %s is for a worker of %s", p.Worker, p.Region, p.Hook, h.Region)
	case !HookReady(d, h) && !hookLost(d, h, p.Worker) || t.leased[token]: // else its token would be the same again
		return Result{}, fmt.Errorf("%w: hook %s of deployment %s is %s and cannot begin now", starling.ErrConflict, p.Hook, d.ID, h.State)
	}
	if t.leased == nil {
		t.leased = make(map[string]bool)
	}
	t.leased[token] = true
	h.State, h.Worker, h.Lease, h.BeganAt = starling.HookRunning, p.Worker, t.index, t.now
	if h.Attempt++; h.First == 0 {
		h.First = t.index
	}
	t.putDeployment(r, d)
	t.emitFor(EventDeploymentHook, d, fmt.Sprintf("%s running on %s", p.Hook, p.Worker))
	return Result{Deployment: d}, nil
}

func (t *tx) hookRequeue(p *HookRequeue) (Result, error) {
	r, d, h, err := t.leasedHook(p.ID, p.Hook, p.Lease)
	if err != nil {
		return Result{}, err
	}
	if h.State != starling.HookRunning {
		return Result{Deployment: r.rec}, nil
	}
	if h.Attempt >= starling.MaxHookAttempts {
		h.State, h.EndedAt = starling.HookFailed, t.now
		err = t.end(d, starling.PhaseFailed, fmt.Sprintf("hook %s: worker %s was lost; %d attempts made", p.Hook, h.Worker, h.Attempt))
	} else {
		t.emitFor(EventDeploymentHook, d, fmt.Sprintf("%s waiting: %s", p.Hook, clip(p.Reason, maxHookEventBytes)))
		h.State, h.Worker, h.Lease = starling.HookWaiting, "", 0
	}
	if err != nil {
		return Result{}, err
	}
	t.putDeployment(r, d)
	return Result{Deployment: d}, nil
}

func (t *tx) hookEnd(p *HookEnd) (Result, error) {
	if known := t.deployment(p.ID); known != nil && p.Lease != 0 {
		h := known.rec.Hook(p.Hook)
		if h != nil && h.Lease == p.Lease && (h.State == starling.HookDone && !p.Failed || h.State == starling.HookFailed && p.Failed) {
			return Result{Deployment: known.rec}, nil // a retry
		}
	}
	r, d, h, err := t.leasedHook(p.ID, p.Hook, p.Lease)
	switch {
	case err != nil:
		return Result{}, err
	case h.State != starling.HookRunning:
		return Result{}, fmt.Errorf("%w: hook %s of deployment %s is %s", starling.ErrFenced, p.Hook, d.ID, h.State)
	case p.LogBytes < 0 || p.LogBytes > 2*starling.MaxHookLogBytes:
		return Result{}, starling.Invalidf("log_bytes", "%d is out of bounds", p.LogBytes)
	}
	h.State, h.EndedAt, h.Log, h.LogBytes, h.Sandboxed = starling.HookDone, t.now, p.Log, p.LogBytes, p.Sandboxed
	if p.Failed {
		h.State = starling.HookFailed
		err = t.end(d, starling.PhaseFailed, fmt.Sprintf("hook %s failed on worker %s: %s", p.Hook, h.Worker, p.Reason))
	} else if !h.Post {
		err = t.letMachinesGo(d)
	}
	if err != nil {
		return Result{}, err
	}
	t.putDeployment(r, d)
	t.emitFor(EventDeploymentHook, d, fmt.Sprintf("%s %s", p.Hook, h.State))
	return Result{Deployment: d}, nil
}

// letMachinesGo changes the goal where a hook was what held machines back; while d is
// paused it changes nothing.
func (t *tx) letMachinesGo(d *starling.Deployment) error {
	if d.Paused || d.Phase != starling.PhaseRollingOut {
		return nil
	}
	g, err := t.goalOf(d)
	if err != nil {
		return err
	}
	all, ahead, err := reach(d)
	if err != nil {
		return err
	}
	next := *g.rec
	letGo(d, &next, all, ahead)
	if next.Stage != g.rec.Stage || !slices.Equal(next.Held, g.rec.Held) {
		t.changeGoal(g, func(g *starling.Goal) {
			g.Stage, g.Cutoff, g.Ahead, g.Held = next.Stage, next.Cutoff, next.Ahead, next.Held
		})
	}
	return nil
}

// dropHooks ends the hooks that have not ended with their deployment.
func dropHooks(d *starling.Deployment) {
	if !HooksPending(d) {
		return
	}
	d.Hooks = slices.Clone(d.Hooks)
	for i := range d.Hooks {
		if !d.Hooks[i].Ended() {
			d.Hooks[i].State, d.Hooks[i].Lease = starling.HookDropped, 0
		}
	}
}

// adoptHooks makes a deployment's hooks those of a new home, this region: what ran under a
// lease of the old one waits again. A hook of the lost region is given up, and its machines
// stay held; what was to run once in all runs here.
func (t *tx) adoptHooks(d *starling.Deployment, lost string) {
	if !HooksPending(d) {
		return
	}
	d.Hooks = slices.Clone(d.Hooks)
	for i := range d.Hooks {
		h := &d.Hooks[i]
		switch {
		case h.Ended():
			continue
		case h.Scope == starling.HookRegion && h.Region == lost && lost != t.region:
			h.State = starling.HookDropped
		default:
			h.State = starling.HookWaiting
		}
		if h.Scope == starling.HookDeployment {
			h.Region = t.region
		}
		h.Worker, h.Lease = "", 0
	}
}

// HooksWaiting lists the hooks that a worker of a region, which runs none, may begin now,
// wherever their deployments are homed.
func (v View) HooksWaiting(region, worker string) []WaitingHook {
	var out []WaitingHook
	for r := range scan[starling.Deployment](v.reader, tableDeployments, byHook, nil) {
		for i := range r.rec.Hooks {
			if h := &r.rec.Hooks[i]; h.Region == region && (HookReady(r.rec, h) || hookLost(r.rec, h, worker)) {
				out = append(out, WaitingHook{Deployment: r.rec, Run: h})
			}
		}
	}
	return out
}

// WaitingHook is a hook that waits for a worker.
type WaitingHook struct {
	Deployment *starling.Deployment
	Run        *starling.HookRun
}
