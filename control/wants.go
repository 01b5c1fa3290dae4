package control

import (
	"context"
	"reflect"
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
	claims    claims
	set       map[starling.Digest]bool // of the artifacts; never changed
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
	same := !w.claims.take(v) && w.made && w.dirs == version
	w.fsm, w.dirs = v.Index(), version
	drafts := dirs.draftsOf(v)
	if same && w.wants.Replicas == replicas && reflect.DeepEqual(drafts, w.wants.Drafts) {
		return
	}
	wants := w.claims.wants(dirs, self)
	if w.made && w.wants.Replicas == replicas && reflect.DeepEqual(drafts, w.wants.Drafts) && reflect.DeepEqual(wants, w.wants.Wants) {
		return
	}
	w.made = true
	w.wants.Replicas = replicas
	w.wants.Index++
	w.wants.Wants, w.wants.Drafts = wants, drafts
	w.set = make(map[starling.Digest]bool, len(wants))
	for _, x := range wants {
		w.set[x.Artifact] = true
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// digests returns the wanted artifacts, read only, and the list's version; false before the
// first update.
func (w *wantList) digests() (set map[starling.Digest]bool, index uint64, made bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.set, w.wants.Index, w.made
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
