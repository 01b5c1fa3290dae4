package raftfsm

import (
	"fmt"

	"github.com/starlingdeploy/starling"
)

func (t *tx) artifactRegister(p *ArtifactRegister) (Result, error) {
	a := p.Artifact
	a.BuildKey, a.Built = "", nil // only a worker with a lease says what a build gave
	if a.Actor == "" {
		a.Actor = t.actor
	}
	known := get[starling.Artifact](t.reader, tableArtifacts, byID, digKey(a.Digest)) != nil
	kept, err := t.register(a)
	if err != nil {
		return Result{}, err
	}
	return Result{Artifact: kept, Created: !known}, nil
}

// register records an artifact that this region stored. The first record of a digest
// is kept; a build key leads to it whoever stored it.
func (t *tx) register(a starling.Artifact) (*starling.Artifact, error) {
	if err := checkArtifact(&a); err != nil {
		return nil, err
	}
	kept := get[starling.Artifact](t.reader, tableArtifacts, byID, digKey(a.Digest))
	if kept == nil {
		a.Region, a.CreatedAt = t.region, t.now
		kept = t.putArtifact(nil, &a)
		t.emit(starling.Event{Type: EventArtifactRegistered, App: a.App, Detail: a.Digest.String()})
	}
	t.putBuild(a.BuildKey, a.Digest)
	return kept.rec, nil
}

func (t *tx) putArtifact(old *row[starling.Artifact], a *starling.Artifact) *row[starling.Artifact] {
	now := &row[starling.Artifact]{rec: a, mod: t.modOf(a.Region)}
	if old != nil {
		now.seq = old.seq
	} else {
		now.seq = t.nextSeq()
		t.count(a.Region, func(h *home) { h.Artifacts++ })
	}
	put(t, tableArtifacts, old, now)
	t.pruneArtifacts(a.Region, a.Digest)
	return now
}

// putBuild notes what a build key gave, the newest result winning.
func (t *tx) putBuild(buildKey string, d starling.Digest) {
	if buildKey == "" {
		return
	}
	old := get[build](t.reader, tableBuilds, byID, strKey(buildKey))
	if old == nil || old.rec.Artifact != d {
		put(t, tableBuilds, old, &row[build]{rec: &build{Key: buildKey, Artifact: d}})
	}
}

// pruneArtifacts drops the oldest records of a region beyond the bound that nothing
// uses, sparing keep.
func (t *tx) pruneArtifacts(region string, keep starling.Digest) {
	h, _ := t.home(region)
	excess := h.Artifacts - t.limits.artifacts
	if excess <= 0 {
		return
	}
	for r := range scan[starling.Artifact](t.reader, tableArtifacts, byRegion, strKey(region)) {
		d := r.rec.Digest
		if d == keep || t.inUse(d) {
			continue
		}
		drop(t, tableArtifacts, r)
		for b := range scan[build](t.reader, tableBuilds, byArtifact, digKey(d)) {
			drop(t, tableBuilds, b)
		}
		if pl := get[placed](t.reader, tablePlaced, byID, digKey(d)); pl != nil {
			drop(t, tablePlaced, pl)
		}
		t.count(region, func(h *home) { h.Artifacts-- })
		if excess--; excess == 0 {
			return
		}
	}
}

// inUse reports whether a goal, a kept release or a deployment under way names d.
func (r reader) inUse(d starling.Digest) bool {
	return get[starling.Goal](r, tableGoals, byArtifact, digKey(d)) != nil ||
		get[starling.Release](r, tableReleases, byArtifact, digKey(d)) != nil ||
		get[starling.Deployment](r, tableDeployments, byArtifact, digKey(d)) != nil
}

func (r reader) artifactByBuildKey(k string) (*starling.Artifact, bool) {
	b := get[build](r, tableBuilds, byID, strKey(k))
	if b == nil {
		return nil, false
	}
	a := get[starling.Artifact](r, tableArtifacts, byID, digKey(b.rec.Artifact))
	if a == nil {
		return nil, false
	}
	return a.rec, true
}

func (t *tx) artifactPlaced(p *ArtifactPlaced) (Result, error) {
	var res Result
	a := get[starling.Artifact](t.reader, tableArtifacts, byID, digKey(p.Artifact))
	if a != nil {
		res.Artifact = a.rec
	}
	old := get[placed](t.reader, tablePlaced, byID, digKey(p.Artifact))
	e := starling.Event{Type: EventArtifactPlaced, Detail: p.Artifact.String()}
	switch {
	case p.Artifact.IsZero():
		return Result{}, starling.Invalidf("artifact", "is missing")
	case p.Lost && old == nil, !p.Lost && old != nil:
		return res, nil
	case p.Lost:
		drop(t, tablePlaced, old)
		e.Type = EventArtifactLost
	case a == nil && !t.inUse(p.Artifact):
		// A goal may come from another region than its artifact's record: being in use is enough.
		return Result{}, fmt.Errorf("%w: there is no artifact %s", starling.ErrNotFound, p.Artifact)
	default:
		put(t, tablePlaced, nil, &row[placed]{rec: &placed{Artifact: p.Artifact}})
	}
	t.emit(e)
	return res, nil
}
