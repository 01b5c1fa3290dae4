package raftfsm

import (
	"fmt"

	"github.com/starlingdeploy/starling"
)

// replicate makes the app's next goal from d, which has its artifact, and moves d to
// replicating. The caller puts d.
func (t *tx) replicate(d *starling.Deployment) error {
	old := get[starling.Goal](t.reader, tableGoals, byID, strKey(d.App))
	if old != nil && old.mod == 0 {
		return fmt.Errorf("%w: the goal of app %s is region %s's", starling.ErrConflict, d.App, old.rec.Home)
	}
	g := &starling.Goal{
		App: d.App, Home: t.region, Generation: starling.Generation{Epoch: d.CurrentEpoch(), Sequence: t.meta.Floor + 1}, Revision: 1,
		Deployment: d.ID, Artifact: d.Artifact, Origin: t.origin(d.Artifact),
		Stage: starling.StageFetch, Deploy: d.Spec.Deploy.ForMachines(), Priority: d.Priority, Deadline: d.Deadline,
	}
	if old != nil {
		g.Generation = old.rec.Generation.Next()
		g.Generation.Epoch = max(g.Generation.Epoch, d.CurrentEpoch())
	}
	if rel := t.release(d.App); rel != nil {
		g.Previous = rel.Artifact
	}
	d.Generation = g.Generation
	put(t, tableGoals, old, &row[starling.Goal]{rec: g, mod: t.index})
	return t.become(d, starling.PhaseReplicating, "")
}

// origin returns the region that held an artifact first.
func (t *tx) origin(d starling.Digest) string {
	if a := get[starling.Artifact](t.reader, tableArtifacts, byID, digKey(d)); a != nil {
		return a.rec.Region
	}
	return t.region
}

// goalOf returns the goal that d made, if it is still in force.
func (t *tx) goalOf(d *starling.Deployment) (*row[starling.Goal], error) {
	g := get[starling.Goal](t.reader, tableGoals, byID, strKey(d.App))
	if g == nil || d.Generation.IsZero() || g.rec.Generation != d.Generation || g.mod == 0 {
		return nil, fmt.Errorf("%w: the goal of deployment %s is not in force", starling.ErrConflict, d.ID)
	}
	return g, nil
}

// changeGoal stores a later revision of a goal.
func (t *tx) changeGoal(old *row[starling.Goal], f func(*starling.Goal)) {
	g := *old.rec
	f(&g)
	g.Revision++
	put(t, tableGoals, old, &row[starling.Goal]{rec: &g, mod: t.index})
}

// revert takes the goal of d back to the newest release, in full at once, under a new
// generation. Without any release the new goal names no artifact: nothing is to run,
// and machines stop and remove what they have. That holds even for a goal that no
// machine has seen: one rule, and a generation is never taken back.
func (t *tx) revert(d *starling.Deployment, old *row[starling.Goal]) starling.Generation {
	g := &starling.Goal{
		App: d.App, Home: t.region, Generation: old.rec.Generation.Next(), Revision: 1,
		Deployment: d.ID, Origin: t.region, Deploy: d.Spec.Deploy,
		Stage: starling.StageActivate, Cutoff: starling.CutoffAll, Priority: starling.MaxPriority,
	}
	if rel := t.release(d.App); rel != nil {
		g.Deployment, g.Artifact, g.Origin, g.Deploy = rel.Deployment, rel.Artifact, rel.Origin, rel.Deploy
		g.Previous = rel.Artifact
		d.RevertedTo = rel.Artifact
	}
	put(t, tableGoals, old, &row[starling.Goal]{rec: g, mod: t.index})
	return g.Generation
}

// release returns the newest release of an app, nil if there is none.
func (r reader) release(app string) *starling.Release {
	for rel := range scanBack[starling.Release](r, tableReleases, byID, strKey(app)) {
		return rel.rec
	}
	return nil
}

// addRelease records that the goal of d is what all machines run.
func (t *tx) addRelease(d *starling.Deployment, g *starling.Goal) {
	put(t, tableReleases, nil, &row[starling.Release]{mod: t.index, rec: &starling.Release{
		App: d.App, Home: t.region, Generation: d.Generation, Deployment: d.ID, SHA: d.SHA,
		Artifact: d.Artifact, Origin: g.Origin, Deploy: d.Spec.Deploy, At: t.now,
	}})
	t.pruneReleases(d.App)
}

// pruneReleases drops the oldest releases of an app beyond the bound.
func (t *tx) pruneReleases(app string) {
	n := 0
	for r := range scanBack[starling.Release](t.reader, tableReleases, byID, strKey(app)) {
		if n++; n > MaxReleasesPerApp {
			drop(t, tableReleases, r)
		}
	}
}
