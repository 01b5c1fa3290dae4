package raftfsm

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/starlingdeploy/starling"
)

// mirror keeps another region's records as read-only copies. A record that is not of
// the batch's home, is malformed, or would replace a record of this or a third region
// is passed over by itself: one bad record must not stop those after it.
func (t *tx) mirror(p *Mirror) (Result, error) {
	b := &p.Batch
	if err := starling.CheckName("batch.home", b.Home); err != nil {
		return Result{}, err
	}
	if b.Home == t.region {
		return Result{}, starling.Invalidf("batch.home", "%s is this region", b.Home)
	}
	n := len(b.Apps) + len(b.Deployments) + len(b.Goals) + len(b.Artifacts) + len(b.Releases) + len(b.Tokens) + len(b.Takeovers)
	if n > MaxMirrorRecordsApplied {
		return Result{}, starling.Invalidf("batch", "%d records, more than %d", n, MaxMirrorRecordsApplied)
	}
	h, _ := t.home(b.Home)
	if b.Index <= h.Mirror {
		return Result{}, fmt.Errorf("%w: the batch of %s up to index %d is not newer than %d", starling.ErrConflict, b.Home, b.Index, h.Mirror)
	}
	if b.Floor > h.Floor {
		t.forgetActive(b.Home)
	}
	t.count(b.Home, func(h *home) { h.Mirror, h.Floor = b.Index, max(h.Floor, b.Floor) })
	// What a takeover moves stands between its first stage and its last.
	each(b.Takeovers, b.Home, t.mirrorTakeover)
	each(b.Apps, b.Home, t.mirrorApp)
	each(b.Artifacts, b.Home, t.mirrorArtifact)
	each(b.Deployments, b.Home, t.mirrorDeployment)
	each(b.Goals, b.Home, t.mirrorGoal)
	each(b.Releases, b.Home, t.mirrorRelease)
	each(b.Tokens, b.Home, t.mirrorToken)
	each(b.Takeovers, b.Home, t.mirrorTaken)
	t.pruneEnded(b.Home)
	return Result{}, nil
}

// forgetActive drops the copies of what had not ended at a home that was restored: what
// it still knows it has ended, and sends again.
func (t *tx) forgetActive(name string) {
	for _, r := range collect(scan[starling.Deployment](t.reader, tableDeployments, byActive, newKey().byte(place(0)))) {
		if r.rec.Home == name {
			drop(t, tableDeployments, r)
			t.countDeployment(r, -1)
		}
	}
}

func each[T any](records []*T, home string, keep func(home string, r *T)) {
	for _, r := range records {
		if r == nil {
			continue
		}
		// A record that a snapshot could not hold must not get into the state.
		if b, err := json.Marshal(r); err == nil && len(b) <= MaxMirroredRecordBytes {
			keep(home, r)
		}
	}
}

func (t *tx) mirrorApp(from string, a *starling.App) {
	old := get[starling.App](t.reader, tableApps, byID, strKey(a.Name))
	if a.Home != from || checkApp(a) != nil {
		return
	}
	if old != nil && old.rec.Home != from {
		if a.CurrentEpoch() <= old.rec.CurrentEpoch() {
			return
		}
		t.leave(old, from)
	}
	put(t, tableApps, old, &row[starling.App]{rec: a})
}

func (t *tx) mirrorArtifact(from string, a *starling.Artifact) {
	old := get[starling.Artifact](t.reader, tableArtifacts, byID, digKey(a.Digest))
	if a.Region != from || checkArtifact(a) != nil || old != nil && old.rec.Region != from {
		return
	}
	t.putArtifact(old, a)
	t.putBuild(a.BuildKey, a.Digest)
}

func (t *tx) mirrorDeployment(from string, d *starling.Deployment) {
	old := t.deployment(d.ID)
	if d.Home != from || checkDeployment(d) != nil || !t.newer(old, d) {
		return
	}
	t.noteReplaced(old, d)
	if old == nil && d.Phase.Terminal() {
		if _, ok := t.archivedOf(strKey(d.Home), d.ID); ok {
			return
		}
	}
	t.putDeployment(old, d)
	if old != nil && old.rec.Phase == d.Phase {
		return
	}
	// What ended long ago is not news: a region that joins learns a whole history.
	if d.Phase.Terminal() && t.now.Sub(d.EndedAt) > mirrorFresh {
		return
	}
	t.emitFor(EventDeploymentPhase, d, d.Reason)
}

// newer reports whether a copy may be kept in place of old, which may be nil. A home
// changes only with a higher epoch, which also overrules an end that the new home had not
// seen. What the new home of an app did not see of the old one is not kept while it may
// still change: the old home will end it.
func (t *tx) newer(old *row[starling.Deployment], d *starling.Deployment) bool {
	if old == nil {
		a := get[starling.App](t.reader, tableApps, byID, strKey(d.App))
		return d.Phase.Terminal() || a == nil || a.rec.CurrentEpoch() <= d.CurrentEpoch()
	}
	switch c := cmp.Compare(d.CurrentEpoch(), old.rec.CurrentEpoch()); {
	case c != 0:
		return c > 0
	default:
		return old.rec.Home == d.Home && !old.rec.Phase.Terminal()
	}
}

func checkDeployment(d *starling.Deployment) error {
	if err := checkID("deployment.id", d.ID); err != nil {
		return err
	}
	if err := starling.CheckName("deployment.app", d.App); err != nil {
		return err
	}
	switch d.Phase {
	case starling.PhaseQueued, starling.PhaseBuilding, starling.PhaseReplicating, starling.PhaseStaging,
		starling.PhaseAwaitingApproval, starling.PhaseRollingOut,
		starling.PhaseSucceeded, starling.PhaseFailed, starling.PhaseCancelled:
	default:
		return starling.Invalidf("deployment.phase", "%.40q is not known", d.Phase)
	}
	if len(d.Reason) > starling.MaxReasonBytes || len(d.Regions) > MaxRegions {
		return starling.Invalidf("deployment", "is too large")
	}
	if err := checkTimes(d, d.Times); err != nil {
		return err
	}
	return checkCounts(&d.Machines)
}

func (t *tx) mirrorGoal(from string, g *starling.Goal) {
	old := get[starling.Goal](t.reader, tableGoals, byID, strKey(g.App))
	if g.Home != from || starling.CheckName("goal.app", g.App) != nil || t.foreign(from, g.App) ||
		!g.Stage.AtLeast(starling.StageFetch) || !cutoffsValid(g) ||
		old != nil && (!g.Supersedes(old.rec) || old.rec.Home != from && g.Generation.Epoch == old.rec.Generation.Epoch) {
		return
	}
	put(t, tableGoals, old, &row[starling.Goal]{rec: g})
}

func cutoffsValid(g *starling.Goal) bool {
	if g.Cutoff > starling.CutoffAll || len(g.Ahead) > starling.MaxStrategyRegions {
		return false
	}
	for _, c := range g.Ahead {
		if c > starling.CutoffAll {
			return false
		}
	}
	return true
}

// foreign reports whether an app is known to have another home than from.
func (t *tx) foreign(from, app string) bool {
	a := get[starling.App](t.reader, tableApps, byID, strKey(app))
	return a != nil && a.rec.Home != from
}

func (t *tx) mirrorRelease(from string, rel *starling.Release) {
	if rel.Home != from || starling.CheckName("release.app", rel.App) != nil || t.foreign(from, rel.App) {
		return
	}
	old := get[starling.Release](t.reader, tableReleases, byID, releaseKey(rel.App, rel.Generation))
	if old != nil {
		return // a release never changes
	}
	put(t, tableReleases, nil, &row[starling.Release]{rec: rel})
	t.pruneReleases(rel.App)
}

func (t *tx) mirrorToken(from string, k *starling.Token) {
	old := get[starling.Token](t.reader, tableTokens, byID, strKey(k.ID))
	same := get[starling.Token](t.reader, tableTokens, byHash, digKey(k.Hash))
	if k.Region != from || checkToken(k) != nil || old != nil && old.rec.Region != from || same != nil && same.rec.ID != k.ID {
		return
	}
	t.pruneTokens(from)
	t.putToken(old, k)
}

// ChangedSince returns the records homed here that changed after index, the oldest
// changes first: about MaxMirrorRecords or MaxMirrorBytes, but always all of one Raft
// index. Its Index is the last change in the batch, from which to go on; it equals
// index if there is nothing. Only this region is asked for its own: for another home
// the batch is empty.
func (v View) ChangedSince(home string, index uint64) starling.Mirror {
	m := starling.Mirror{Home: home, Index: index, Floor: v.meta.Floor}
	if home != v.region || index >= v.meta.Index {
		return m
	}
	sources := []*source{
		changes(v, tableApps, index, func(r *starling.App) { m.Apps = append(m.Apps, r) }),
		changes(v, tableArtifacts, index, func(r *starling.Artifact) { m.Artifacts = append(m.Artifacts, r) }),
		changes(v, tableDeployments, index, func(r *starling.Deployment) { m.Deployments = append(m.Deployments, r) }),
		changes(v, tableGoals, index, func(r *starling.Goal) { m.Goals = append(m.Goals, r) }),
		changes(v, tableReleases, index, func(r *starling.Release) { m.Releases = append(m.Releases, r) }),
		changes(v, tableTokens, index, func(r *starling.Token) { m.Tokens = append(m.Tokens, r) }),
		changes(v, tableTakeovers, index, func(r *starling.Takeover) { m.Takeovers = append(m.Takeovers, r) }),
	}
	defer func() {
		for _, s := range sources {
			s.stop()
		}
	}()
	for records, size := 0, 0; ; records++ {
		var first *source
		for _, s := range sources {
			if s.mod != 0 && (first == nil || s.mod < first.mod) {
				first = s
			}
		}
		if first == nil || first.mod != m.Index && (records >= MaxMirrorRecords || size >= MaxMirrorBytes) {
			return m
		}
		m.Index = first.mod
		size += first.take()
	}
}

// source is one table's changes in order.
type source struct {
	mod  uint64     // of the next record; 0: there is none
	take func() int // adds the next record to the batch and returns its size in bytes
	stop func()
}

func changes[T any](v View, table string, index uint64, add func(*T)) *source {
	next, stop := iter.Pull(scanFrom[T](v.reader, table, byMod, newKey().uint(index+1)))
	s := &source{stop: stop}
	var r *row[T]
	advance := func() {
		if n, ok := next(); ok {
			r, s.mod = n, n.mod
		} else {
			r, s.mod = nil, 0
		}
	}
	s.take = func() int {
		b, err := json.Marshal(r.rec)
		size := len(b)
		if err != nil {
			size = MaxMirrorBytes // cannot be: it came out of JSON
		}
		add(r.rec)
		advance()
		return size
	}
	advance()
	return s
}
