package control

import (
	"bytes"
	"cmp"
	"context"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// Priorities of what the caches are to hold. A deployment's own is added to the first two.
const (
	wantUnderWay = 1000
	wantDraft    = 800 // and its deployment's own
	wantGoal     = 500
	wantPrevious = 400
	wantKept     = 0
)

// wantList is what the region's caches are to hold, for long-polling caches. It
// lives in the leader's memory, for one term.
type wantList struct {
	mu      sync.Mutex
	wants   rpc.Wants
	changed chan struct{} // closed at the next change

	fsm, dirs uint64 // the state and directories it was made from
	made      bool
}

// newWantList returns an empty list. Versions begin at the term's time, so that they
// grow from leader to leader; readers only compare for difference.
func newWantList(reign string, since time.Time) *wantList {
	return &wantList{
		wants:   rpc.Wants{Index: uint64(max(since.UnixMilli(), 1)), Replicas: 1, Wants: []rpc.Want{}, Reign: reign},
		changed: make(chan struct{}),
	}
}

// update makes the list anew if the state or the directories have changed.
func (w *wantList) update(v raftfsm.View, dirs *directories, self string, replicas int) {
	version := dirs.at()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.made && w.fsm == v.Index() && w.dirs == version && w.wants.Replicas == replicas {
		return
	}
	wants, drafts := wantsOf(v, dirs, self), dirs.draftsOf(v)
	w.fsm, w.dirs = v.Index(), version
	if w.made && w.wants.Replicas == replicas && reflect.DeepEqual(wants, w.wants.Wants) && reflect.DeepEqual(drafts, w.wants.Drafts) {
		return
	}
	w.made = true
	w.wants.Replicas = replicas
	w.wants.Index++
	w.wants.Wants, w.wants.Drafts = wants, drafts
	close(w.changed)
	w.changed = make(chan struct{})
}

// digests returns the wanted artifacts; false before the first update.
func (w *wantList) digests() (map[starling.Digest]bool, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[starling.Digest]bool, len(w.wants.Wants))
	for _, x := range w.wants.Wants {
		out[x.Artifact] = true
	}
	return out, w.made
}

// wait returns the list as soon as it is another than the one with index, or after wait.
func (w *wantList) wait(ctx context.Context, index uint64, wait time.Duration) rpc.Wants {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		w.mu.Lock()
		wants, changed, made := w.wants, w.changed, w.made
		w.mu.Unlock()
		if made && wants.Index != index {
			return wants
		}
		select {
		case <-changed:
		case <-timer.C:
			return wants
		case <-ctx.Done():
			return wants
		}
	}
}

// wantsOf lists the artifacts that the region's caches must hold: of deployments
// under way or queued, of goals in force, of the releases before them, and of the
// releases kept for rollback.
func wantsOf(v raftfsm.View, dirs *directories, self string) []rpc.Want {
	type need struct {
		priority int
		origin   string
		base     starling.Digest
	}
	needs := map[starling.Digest]need{}
	add := func(d starling.Digest, origin string, priority int) {
		if d.IsZero() {
			return
		}
		n, ok := needs[d]
		if !ok || priority > n.priority {
			n.priority = priority
		}
		n.origin = cmp.Or(n.origin, origin)
		needs[d] = n
	}
	follows := func(d, base starling.Digest) {
		if n, ok := needs[d]; ok && n.base.IsZero() && d != base {
			n.base = base
			needs[d] = n
		}
	}
	origin := func(d starling.Digest) string {
		if a, ok := v.Artifact(d); ok {
			return a.Region
		}
		return ""
	}
	builds := map[starling.Digest]string{}
	for _, d := range underWay(v) {
		add(d.Artifact, origin(d.Artifact), wantUnderWay+d.Priority)
		if g, ok := v.Goal(d.App); ok {
			follows(d.Artifact, g.Artifact)
		}
		if d.Lease != 0 && builds[d.Artifact] == "" {
			builds[d.Artifact] = d.ID
		}
	}
	for _, g := range v.Goals() {
		add(g.Artifact, cmp.Or(g.Origin, origin(g.Artifact)), wantGoal)
		add(g.Previous, origin(g.Previous), wantPrevious)
		follows(g.Artifact, g.Previous)
		kept := map[starling.Digest]bool{}
		for _, r := range v.Releases(g.App) {
			if len(kept) >= max(maxKeptReleases, g.Deploy.Keep) {
				break
			}
			kept[r.Artifact] = true
			add(r.Artifact, cmp.Or(r.Origin, origin(r.Artifact)), wantKept)
		}
	}
	out := make([]rpc.Want, 0, len(needs))
	for d, n := range needs {
		out = append(out, rpc.Want{Artifact: d, Sources: dirs.sources(d, n.origin, self), Priority: n.priority, Base: n.base, Build: builds[d]})
	}
	slices.SortFunc(out, func(a, b rpc.Want) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), bytes.Compare(a.Artifact[:], b.Artifact[:]))
	})
	return out
}

// underWay lists the deployments of all regions that have not ended.
func underWay(v raftfsm.View) []*starling.Deployment {
	var out []*starling.Deployment
	f := starling.DeploymentFilter{Active: true, Limit: 1000}
	for {
		page := v.Deployments(f)
		out = append(out, page...)
		if len(page) < f.Limit {
			return out
		}
		f.Before = page[len(page)-1].ID
	}
}
