package raftfsm

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// MaxListed bounds a list of deployments.
const MaxListed = 1000

// View is one consistent state. It stays as it is for as long as it is held and may
// be read by many goroutines. What it returns is shared: read only.
type View struct {
	reader
	meta meta
}

// Edition tells views apart by some of their tables: while it is equal, none of the records
// there has changed. It keeps those of its view in memory.
type Edition struct{ goals, releases, artifacts *tree }

// Edition returns the edition of the goals, releases and artifacts.
func (v View) Edition() Edition {
	return Edition{v.table(tableGoals), v.table(tableReleases), v.table(tableArtifacts)}
}

// SameReleases reports whether the releases are the same in both.
func (e Edition) SameReleases(o Edition) bool { return e.releases == o.releases }

// PlacedEdition returns the edition of what PlacedAll returns.
func (v View) PlacedEdition() Edition { return Edition{artifacts: v.table(tablePlaced)} }

// table returns the tree of a table's records.
func (v View) table(name string) *tree { return v.txn.trees[v.txn.db.schema[name].first] }

// Region returns the region whose state this is.
func (v View) Region() string { return v.region }

// Index returns the Raft index of the last entry applied to this state.
func (v View) Index() uint64 { return v.meta.Index }

// Clock returns the latest time that a command was stamped with.
func (v View) Clock() time.Time { return v.meta.Clock }

// find turns a row into a result.
func find[T any](r *row[T]) (*T, bool) {
	if r == nil {
		return nil, false
	}
	return r.rec, true
}

// App returns an app of any home.
func (v View) App(name string) (*starling.App, bool) {
	return find(get[starling.App](v.reader, tableApps, byID, strKey(name)))
}

// Apps returns all apps, by name.
func (v View) Apps() []*starling.App {
	return records(scan[starling.App](v.reader, tableApps, byID, nil))
}

// Deployment returns a deployment of any home.
func (v View) Deployment(id string) (*starling.Deployment, bool) { return find(v.deployment(id)) }

// Deployments returns those that f chooses, newest first, MaxListed at most. With an
// unknown Before there are none.
func (v View) Deployments(f starling.DeploymentFilter) []*starling.Deployment {
	limit := listLimit(f.Limit)
	var before *row[starling.Deployment]
	if f.Before != "" {
		if before = v.deployment(f.Before); before == nil {
			if before = v.standIn(f.Before); before == nil {
				return nil
			}
		}
	}
	var out []*row[starling.Deployment]
	switch {
	case f.Active: // few, and not in order of age
		for r := range scan[starling.Deployment](v.reader, tableDeployments, byActive, nil) {
			if (f.App == "" || r.rec.App == f.App) && (before == nil || byAge(r, before) < 0) {
				out = append(out, r)
			}
		}
		slices.SortFunc(out, func(a, b *row[starling.Deployment]) int { return byAge(b, a) })
		out = out[:min(limit, len(out))]
	case f.App != "":
		out = v.older(byApp, newKey().str(f.App), before, limit)
	default:
		out = v.older(byCreated, newKey(), before, limit)
	}
	ds := make([]*starling.Deployment, len(out))
	for i, r := range out {
		ds[i] = r.rec
	}
	return ds
}

func listLimit(n int) int {
	if n <= 0 || n > MaxListed {
		return MaxListed
	}
	return n
}

// standIn returns a row of the age of an archived deployment, nil if there is none.
func (v View) standIn(id string) *row[starling.Deployment] {
	l, ok := v.archived(id)
	if !ok {
		return nil
	}
	return &row[starling.Deployment]{rec: &starling.Deployment{CreatedAt: time.UnixMicro(l.Head.At)}, seq: l.Head.Seq}
}

// older returns the newest deployments of a list that are older than before, which is
// nil for all.
func (v View) older(index string, prefix key, before *row[starling.Deployment], limit int) []*row[starling.Deployment] {
	list := scanBack[starling.Deployment](v.reader, tableDeployments, index, prefix)
	if before != nil {
		list = rows[starling.Deployment](v.txn.scanBackFrom(tableDeployments, index, createdKey(slices.Clone(prefix), before)))
	}
	var out []*row[starling.Deployment]
	for r := range list {
		if len(out) >= limit || index == byApp && !bytes.Equal(strKey(r.rec.App), prefix) {
			break // full, or the list goes on with another app
		}
		out = append(out, r)
	}
	return out
}

// byAge compares deployments in order of creation.
func byAge(a, b *row[starling.Deployment]) int {
	return cmp.Or(a.rec.CreatedAt.Compare(b.rec.CreatedAt), cmp.Compare(a.seq, b.seq))
}

// Active returns the deployments homed here that have not ended, oldest first.
func (v View) Active() []*starling.Deployment {
	return records(scan[starling.Deployment](v.reader, tableDeployments, byActive, newKey().byte(place(1))))
}

// Startable returns the deployments that may start now, most urgent first: each goes
// next in its app, has its artifact, and nothing of its app is under way.
func (v View) Startable() []*starling.Deployment {
	return v.next(byStart)
}

// Buildable returns the deployments that a worker may lease now, in the order in
// which they will be leased.
func (v View) Buildable() []*starling.Deployment {
	return v.next(byBuild)
}

// CountBuildable counts the deployments that a worker may lease now, most at most.
func (v View) CountBuildable(most int) int {
	n := 0
	for range scan[lane](v.reader, tableLanes, byBuild, nil) {
		if n >= most {
			break
		}
		n++
	}
	return n
}

// BuiltBy returns the deployments that are leased to a worker's slot.
func (v View) BuiltBy(worker string) []*starling.Deployment {
	return records(scan[starling.Deployment](v.reader, tableDeployments, byWorker, strKey(worker)))
}

func (v View) next(index string) []*starling.Deployment {
	var out []*starling.Deployment
	for l := range scan[lane](v.reader, tableLanes, index, nil) {
		if d := v.deployment(l.rec.next); d != nil {
			out = append(out, d.rec)
		}
	}
	return out
}

// NextForApp returns the queued deployment of an app homed here that goes before all
// others of the app, whether or not one is under way.
func (v View) NextForApp(app string) (*starling.Deployment, bool) {
	return find(v.firstInLane(app, laneQueued))
}

// UnderWay returns the deployment of an app homed here that is neither queued nor ended.
func (v View) UnderWay(app string) (*starling.Deployment, bool) {
	return find(v.firstInLane(app, laneUnderWay))
}

// Goal returns the goal in force for an app of any home. A goal without an artifact
// says that nothing is to run.
func (v View) Goal(app string) (*starling.Goal, bool) {
	return find(get[starling.Goal](v.reader, tableGoals, byID, strKey(app)))
}

// Goals returns all goals in force, by app.
func (v View) Goals() []*starling.Goal {
	return records(scan[starling.Goal](v.reader, tableGoals, byID, nil))
}

// Artifact returns an artifact of any region.
func (v View) Artifact(d starling.Digest) (*starling.Artifact, bool) {
	return find(get[starling.Artifact](v.reader, tableArtifacts, byID, digKey(d)))
}

// ArtifactByBuildKey returns what a build gave before.
func (v View) ArtifactByBuildKey(k string) (*starling.Artifact, bool) { return v.artifactByBuildKey(k) }

// Artifacts returns all artifacts, newest first.
func (v View) Artifacts() []*starling.Artifact {
	out := records(scan[starling.Artifact](v.reader, tableArtifacts, byID, nil))
	slices.SortStableFunc(out, func(a, b *starling.Artifact) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return out
}

// Placed reports whether this region's caches hold all of an artifact.
func (v View) Placed(d starling.Digest) bool {
	return get[placed](v.reader, tablePlaced, byID, digKey(d)) != nil
}

// PlacedAll returns the artifacts that this region's caches hold, by digest.
func (v View) PlacedAll() []starling.Digest {
	var out []starling.Digest
	for r := range scan[placed](v.reader, tablePlaced, byID, nil) {
		out = append(out, r.rec.Artifact)
	}
	return out
}

// Releases returns the kept releases of an app of any home, newest first.
func (v View) Releases(app string) []*starling.Release {
	return records(scanBack[starling.Release](v.reader, tableReleases, byID, strKey(app)))
}

// Release returns the newest release of an app of any home.
func (v View) Release(app string) (*starling.Release, bool) {
	r := v.release(app)
	return r, r != nil
}

// Regions returns the known regions, by name.
func (v View) Regions() []Region { return v.regions() }

// Directory returns this region's own record: where its servers and caches are. It is nil
// before the first leader has written it, and another one after each change.
func (v View) Directory() *Region {
	if r := get[Region](v.reader, tableRegions, byID, strKey(v.region)); r != nil {
		return r.rec
	}
	return nil
}

// MirrorIndex returns the Index of the last batch applied from a home; 0: none yet.
func (v View) MirrorIndex(name string) uint64 { return v.mirrored(name) }

func (r reader) mirrored(name string) uint64 {
	if h := get[home](r, tableHomes, byID, strKey(name)); h != nil {
		return h.rec.Mirror
	}
	return 0
}

// MirrorFloor returns the index at which a home was last restored, as far as is known here.
func (v View) MirrorFloor(name string) uint64 {
	if h := get[home](v.reader, tableHomes, byID, strKey(name)); h != nil {
		return h.rec.Floor
	}
	return 0
}

// Token returns a token of any region.
func (v View) Token(id string) (*starling.Token, bool) {
	return find(get[starling.Token](v.reader, tableTokens, byID, strKey(id)))
}

// TokenByHash returns the token whose secret has this SHA-256.
func (v View) TokenByHash(d starling.Digest) (*starling.Token, bool) {
	return find(get[starling.Token](v.reader, tableTokens, byHash, digKey(d)))
}

// Tokens returns all tokens, by ID.
func (v View) Tokens() []*starling.Token {
	return records(scan[starling.Token](v.reader, tableTokens, byID, nil))
}
