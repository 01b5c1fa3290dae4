package raftfsm

import (
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
)

func (t *tx) submit(p *Submit) (Result, error) {
	if err := p.check(); err != nil {
		return Result{}, err
	}
	app, err := t.app(p.App)
	if err != nil {
		return Result{}, err
	}
	if p.IdempotencyKey != "" {
		if l, ok := t.submitted(p.App, p.IdempotencyKey); ok && l.Deployment == nil {
			return Result{Archived: &l}, nil
		} else if ok {
			return Result{Deployment: l.Deployment}, nil
		}
	}
	if r := t.deployment(p.ID); r != nil {
		return Result{}, fmt.Errorf("%w: deployment %s exists already", starling.ErrConflict, p.ID)
	}
	if h, _ := t.home(t.region); h.Active >= MaxActiveDeployments {
		return Result{}, fmt.Errorf("%w: the queue is full: %d deployments have not ended", starling.ErrUnavailable, h.Active)
	}
	regions, err := t.placings(p.Regions)
	if err != nil {
		return Result{}, err
	}
	d := &starling.Deployment{
		ID: p.ID, App: p.App, Home: t.region, Epoch: app.Epoch, Priority: p.Priority, Actor: t.actor,
		IdempotencyKey: p.IdempotencyKey, Spec: *app,
		Phase: starling.PhaseQueued, CreatedAt: t.now, PhaseAt: t.now,
		// Not of the state's clock: if that ran ahead for a while, the deployment still ends in time.
		Deadline: t.at.Add(app.Deploy.Deadline.D()),
		Regions:  regions,
	}
	if from := p.From.Plain(); from != (starling.Origin{}) {
		d.From = &from
	}
	switch {
	case p.Rollback:
		err = t.submitRollback(d, p.RollbackTo)
	case p.SHA != "":
		err = t.submitCommit(d, p.SHA)
	default:
		err = t.submitArtifact(d, p.Artifact)
	}
	if err != nil {
		return Result{}, err
	}
	if p.IgnoreFreeze {
		d.IgnoreFreeze = &starling.Override{By: t.actor, At: t.now}
	}
	if p.Supersede {
		if err := t.supersede(d); err != nil {
			return Result{}, err
		}
	}
	t.putDeployment(nil, d)
	t.emitFor(EventDeploymentQueued, d, "")
	t.pruneEnded(t.region)
	return Result{Deployment: d, Created: true}, nil
}

// supersede gives up the app's queued deployments in favour of a newer one: all of them,
// those that are paused too, but for more urgent ones.
func (t *tx) supersede(d *starling.Deployment) error {
	for _, part := range []byte{laneQueued, laneHeld} {
		rows := collect(scan[starling.Deployment](t.reader, tableDeployments, byLane, newKey().str(d.App).byte(part)))
		for _, r := range rows {
			if r.rec.Priority > d.Priority {
				continue
			}
			old := *r.rec
			old.SupersededBy = d.ID
			if err := t.become(&old, starling.PhaseCancelled, "superseded by deployment "+d.ID+", which is newer"); err != nil {
				return err
			}
			t.putDeployment(r, &old)
		}
	}
	return nil
}

func (p *Submit) check() error {
	if err := checkID("id", p.ID); err != nil {
		return err
	}
	if err := starling.CheckName("app", p.App); err != nil {
		return err
	}
	if p.Priority < 0 || p.Priority > starling.MaxPriority {
		return starling.Invalidf("priority", "%d is not within 0 and %d", p.Priority, starling.MaxPriority)
	}
	if err := checkText("idempotency_key", p.IdempotencyKey, MaxIdempotencyKeyBytes); err != nil {
		return err
	}
	given := 0
	for _, set := range []bool{p.SHA != "", !p.Artifact.IsZero(), p.Rollback} {
		if set {
			given++
		}
	}
	if given != 1 {
		return starling.Invalidf("sha", "give exactly one of a commit SHA, an artifact and a rollback")
	}
	if p.SHA != "" {
		return starling.CheckSHA(p.SHA)
	}
	return nil
}

// placings returns the regions that take part: this one always, lost ones never.
func (t *tx) placings(names []string) ([]starling.Placing, error) {
	if len(names) > MaxRegions {
		return nil, starling.Invalidf("regions", "%d regions, more than %d", len(names), MaxRegions)
	}
	names = slices.DeleteFunc(slices.Clone(names), t.lost)
	names = append(names, t.region)
	slices.Sort(names)
	names = slices.Compact(names)
	out := make([]starling.Placing, len(names))
	for i, n := range names {
		if err := starling.CheckName("regions", n); err != nil {
			return nil, err
		}
		out[i].Name = n
	}
	return out, nil
}

func (t *tx) submitCommit(d *starling.Deployment, sha string) error {
	if d.Spec.Build == nil {
		return starling.Invalidf("sha", "app %s has no build block: deploy an artifact, or add one", d.App)
	}
	d.SHA = sha
	if a, ok := t.artifactByBuildKey(d.Spec.BuildKey(sha)); ok {
		d.Artifact, d.CacheHit, d.Sandboxed = a.Digest, true, a.Sandboxed
	}
	return nil
}

func (t *tx) submitArtifact(d *starling.Deployment, digest starling.Digest) error {
	a := get[starling.Artifact](t.reader, tableArtifacts, byID, digKey(digest))
	if a == nil {
		return fmt.Errorf("%w: there is no artifact %s: push it first", starling.ErrNotFound, digest)
	}
	d.Artifact, d.SHA, d.Sandboxed = digest, a.rec.SHA, a.rec.Sandboxed
	return nil
}

// submitRollback makes d restore an earlier release, urgently and in one wave.
func (t *tx) submitRollback(d *starling.Deployment, to uint64) error {
	rel, err := t.rollbackTarget(d.App, to)
	if err != nil {
		return err
	}
	d.SHA, d.Artifact, d.RollbackOf = rel.SHA, rel.Artifact, rel.Deployment
	if a := get[starling.Artifact](t.reader, tableArtifacts, byID, digKey(rel.Artifact)); a != nil {
		d.Sandboxed = a.rec.Sandboxed
	}
	d.Priority = starling.MaxPriority
	d.Spec.Deploy = rel.Deploy
	s := &d.Spec.Deploy.Strategy
	s.Waves, s.Regions, s.Bake, s.Approval = []string{"100%"}, nil, 0, false
	s.Freeze, s.MinHealthyTime = nil, 0 // nothing holds up the way back
	return nil
}

func (t *tx) rollbackTarget(app string, to uint64) (*starling.Release, error) {
	var current starling.Digest
	if g := get[starling.Goal](t.reader, tableGoals, byID, strKey(app)); g != nil {
		current = g.rec.Artifact
	}
	for r := range scanBack[starling.Release](t.reader, tableReleases, byID, strKey(app)) {
		if to == 0 && r.rec.Artifact != current || to != 0 && r.rec.Generation.Sequence == to {
			return r.rec, nil
		}
	}
	if to != 0 {
		return nil, fmt.Errorf("%w: app %s has no release %d among its last %d", starling.ErrNotFound, app, to, MaxReleasesPerApp)
	}
	return nil, fmt.Errorf("%w: app %s has no earlier release to go back to", starling.ErrConflict, app)
}

func (t *tx) start(p *Start) (Result, error) {
	r, err := t.homed(p.ID)
	if err != nil {
		return Result{}, err
	}
	d := *r.rec
	switch {
	case d.Phase != starling.PhaseQueued:
		return Result{}, conflictPhase(&d, starling.PhaseReplicating)
	case d.Artifact.IsZero():
		return Result{}, fmt.Errorf("%w: deployment %s has no artifact yet: it waits for a worker", starling.ErrConflict, d.ID)
	case d.Paused:
		return Result{}, errPaused(&d)
	}
	if first := t.firstInLane(d.App, laneUnderWay); first != nil {
		return Result{}, fmt.Errorf("%w: deployment %s of app %s is under way", starling.ErrConflict, first.rec.ID, d.App)
	}
	if first := t.firstInLane(d.App, laneQueued); first != nil && first.rec.ID != d.ID {
		return Result{}, fmt.Errorf("%w: deployment %s of app %s goes first", starling.ErrConflict, first.rec.ID, d.App)
	}
	if a := get[starling.Artifact](t.reader, tableArtifacts, byID, digKey(d.Artifact)); a != nil {
		d.Bytes.Artifact = a.rec.Bytes
	}
	if err := t.replicate(&d); err != nil {
		return Result{}, err
	}
	t.putDeployment(r, &d)
	return Result{Deployment: &d}, nil
}

// deployment returns a stored deployment, nil if there is none.
func (r reader) deployment(id string) *row[starling.Deployment] {
	return get[starling.Deployment](r, tableDeployments, byID, strKey(id))
}

// firstInLane returns the first deployment in one part of an app's lane.
func (r reader) firstInLane(app string, part byte) *row[starling.Deployment] {
	return get[starling.Deployment](r, tableDeployments, byLane, newKey().str(app).byte(part))
}

// homed returns a deployment that this region may change.
func (t *tx) homed(id string) (*row[starling.Deployment], error) {
	r := t.deployment(id)
	switch {
	case r == nil:
		if l, ok := t.archived(id); ok {
			return nil, fmt.Errorf("%w: deployment %s of app %s has ended and is in the archive", starling.ErrConflict, id, l.Head.App)
		}
		return nil, fmt.Errorf("%w: there is no deployment %.80q", starling.ErrNotFound, id)
	case r.mod == 0:
		return nil, fmt.Errorf("%w: the home of deployment %s is %s, not %s", starling.ErrConflict, id, r.rec.Home, t.region)
	}
	return r, nil
}

// running returns a deployment homed here that has not ended.
func (t *tx) running(id string) (*row[starling.Deployment], error) {
	r, err := t.homed(id)
	if err == nil && r.rec.Phase.Terminal() {
		return nil, fmt.Errorf("%w: deployment %s has ended: %s", starling.ErrConflict, id, r.rec.Phase)
	}
	return r, err
}

func conflictPhase(d *starling.Deployment, to starling.Phase) error {
	return fmt.Errorf("%w: deployment %s is %s and cannot become %s", starling.ErrConflict, d.ID, d.Phase, to)
}

func errPaused(d *starling.Deployment) error {
	return fmt.Errorf("%w: deployment %s is paused: resume it first", starling.ErrConflict, d.ID)
}

// become moves d to another phase if that is legal, with the stamps, timings and
// the event of it. The caller puts d.
func (t *tx) become(d *starling.Deployment, to starling.Phase, reason string) error {
	if !d.Phase.CanBecome(to) {
		return conflictPhase(d, to)
	}
	ms := t.now.Sub(d.PhaseAt).Milliseconds()
	switch d.Phase {
	case starling.PhaseQueued:
		d.Timings.QueuedMS += ms
	case starling.PhaseBuilding:
		d.Timings.BuildMS += ms
	case starling.PhaseReplicating:
		d.Timings.ReplicateMS += ms
	case starling.PhaseStaging:
		d.Timings.StageMS += ms
	case starling.PhaseRollingOut:
		d.Timings.RolloutMS += ms
	}
	d.Phase, d.PhaseAt = to, t.now
	reason = clip(reason, starling.MaxReasonBytes)
	if to.Terminal() {
		d.EndedAt, d.Reason, d.Paused, d.Hold = t.now, reason, false, nil
		dropHooks(d)
		d.Timings.TotalMS = t.now.Sub(d.CreatedAt).Milliseconds()
		if to != starling.PhaseSucceeded {
			d.Fence = &starling.Fence{Index: t.index, Lease: d.Lease}
			d.Lease = 0
		}
	}
	t.emitFor(EventDeploymentPhase, d, reason)
	return nil
}

// putDeployment stores d, changed or new, and keeps the counters and the lane of its app.
func (t *tx) putDeployment(old *row[starling.Deployment], d *starling.Deployment) {
	if old != nil {
		t.storeDeployment(old, d, old.seq)
	} else {
		t.storeDeployment(nil, d, t.nextSeq())
	}
}

// storeDeployment is putDeployment with a given place among the deployments.
func (t *tx) storeDeployment(old *row[starling.Deployment], d *starling.Deployment, seq uint64) {
	now := &row[starling.Deployment]{rec: d, mod: t.modOf(d.Home), seq: seq}
	put(t, tableDeployments, old, now)
	if old == nil || old.rec.Phase.Terminal() != d.Phase.Terminal() || old.rec.Home != d.Home {
		t.countDeployment(old, -1)
		t.countDeployment(now, 1)
	}
	had := old != nil && old.mod != 0
	if (now.mod != 0 || had) && (!had || now.mod == 0 || old.rec.Phase != d.Phase || old.rec.Paused != d.Paused || old.rec.Artifact != d.Artifact) {
		t.relane(d.App)
	}
}

// countDeployment adds n to the counter of what r, which may be nil, is.
func (t *tx) countDeployment(r *row[starling.Deployment], n int) {
	if r == nil {
		return
	}
	t.count(r.rec.Home, func(h *home) {
		if r.rec.Phase.Terminal() {
			h.Ended += n
		} else {
			h.Active += n
		}
	})
}

// relane brings the lane of an app up to date: it exists while the app is idle and
// has a queued deployment.
func (t *tx) relane(app string) {
	old := get[lane](t.reader, tableLanes, byID, strKey(app))
	first := t.firstInLane(app, laneQueued)
	if first == nil || t.firstInLane(app, laneUnderWay) != nil {
		if old != nil {
			drop(t, tableLanes, old)
		}
		return
	}
	d := first.rec
	l := lane{app: app, next: d.ID, priority: d.Priority, seq: first.seq, build: d.Artifact.IsZero()}
	if old == nil || *old.rec != l {
		put(t, tableLanes, old, &row[lane]{rec: &l})
	}
}

// pruneEnded drops the oldest ended deployments of a home beyond the bound.
func (t *tx) pruneEnded(name string) {
	h, _ := t.home(name)
	keep := t.limits.ended
	if t.meta.Level >= LevelOf(TypeHistoryArchive) {
		keep *= archiveSlack
	}
	for ; h.Ended > keep; h.Ended-- {
		r := get[starling.Deployment](t.reader, tableDeployments, byEnded, strKey(name))
		if r == nil {
			return
		}
		drop(t, tableDeployments, r)
		t.count(name, func(h *home) { h.Ended-- })
	}
}
