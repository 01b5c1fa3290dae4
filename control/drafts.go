package control

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// draftBoard holds what the region's builds under way have uploaded so far: one digest
// for each. It lives in the leader's memory, for one term; heartbeats fill it again.
type draftBoard struct {
	mu      sync.Mutex
	builds  map[string]buildProgress // by deployment
	changed chan struct{}            // closed when a draft has grown
}

// buildProgress is a worker's word on its upload.
type buildProgress struct {
	rpc.BuildDraft
	uploadAt time.Time // the first chunk reached the caches; zero: none has
}

func newDraftBoard() *draftBoard {
	return &draftBoard{builds: map[string]buildProgress{}, changed: make(chan struct{})}
}

// heard takes what a heartbeat under the lease in force says. A draft never shrinks.
func (b *draftBoard) heard(id string, q rpc.HeartbeatRequest, at time.Time) error {
	if q.Draft.Pages < 0 || q.Draft.Pages > artifact.MaxDraftPages || (q.Draft.Pages == 0) != q.Draft.Head.IsZero() || q.UploadMS < 0 {
		return starling.Invalidf("draft", "%d pages, uploaded for %d ms: out of bounds", q.Draft.Pages, q.UploadMS)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.builds[id]
	if p.Lease != q.Lease {
		p = buildProgress{BuildDraft: rpc.BuildDraft{Deployment: id, Lease: q.Lease}}
	}
	if p.uploadAt.IsZero() && q.UploadMS > 0 {
		p.uploadAt = at.Add(-time.Duration(q.UploadMS) * time.Millisecond)
	}
	if q.Draft.Pages > p.Pages {
		p.Draft = q.Draft
		close(b.changed)
		b.changed = make(chan struct{})
	}
	b.builds[id] = p
	return nil
}

// keep forgets builds that are over.
func (b *draftBoard) keep(active []*starling.Deployment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.builds) == 0 {
		return
	}
	building := make(map[string]uint64, len(b.builds))
	for _, d := range active {
		if d.Phase == starling.PhaseBuilding {
			building[d.ID] = d.Lease
		}
	}
	for id, p := range b.builds {
		if building[id] != p.Lease {
			delete(b.builds, id)
		}
	}
}

// all returns the drafts that have a page, MaxDrafts at most, and a channel that is
// closed when one has grown.
func (b *draftBoard) all() ([]rpc.BuildDraft, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []rpc.BuildDraft
	for _, p := range b.builds {
		if p.Pages > 0 {
			out = append(out, p.BuildDraft)
		}
	}
	slices.SortFunc(out, func(x, y rpc.BuildDraft) int { return cmp.Compare(x.Lease, y.Lease) }) // the oldest first
	return out[:min(len(out), rpc.MaxDrafts)], b.changed
}

// uploadAt returns when the first chunk of a build was up, zero if that is not known.
func (b *draftBoard) uploadAt(d *starling.Deployment) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.builds[d.ID]; p.Lease == d.Lease {
		return p.uploadAt
	}
	return time.Time{}
}

// learnDrafts merges what a region says of its builds with what it said before: a build
// that is left out may just have ended, which its record will tell, or the region has
// another leader, who will hear of it soon. It reports whether anything is new.
func (n *neighbour) learnDrafts(drafts []rpc.BuildDraft, at time.Time) bool {
	news := false
	for _, d := range drafts[:min(len(drafts), rpc.MaxDrafts)] {
		if len(d.Deployment) > raftfsm.MaxIDBytes || d.Head.IsZero() || d.Pages < 1 || d.Pages > artifact.MaxDraftPages {
			continue
		}
		old, ok := n.drafts[d.Deployment]
		if ok && old.Lease == d.Lease && old.Pages >= d.Pages {
			d = old.BuildDraft
		} else if ok && d.Lease < old.Lease {
			continue
		} else {
			news = true
		}
		if n.drafts == nil {
			n.drafts = map[string]heardDraft{}
		}
		n.drafts[d.Deployment] = heardDraft{d, at}
	}
	for id, d := range n.drafts {
		if at.Sub(d.at) > draftKeptFor {
			delete(n.drafts, id)
			news = true
		}
	}
	return news
}

// heardDraft is a draft and when it was last named.
type heardDraft struct {
	rpc.BuildDraft
	at time.Time
}

// draftsOf lists the builds under way in other regions whose chunks this region's
// caches may fetch ahead, the most urgent first.
func (d *directories) draftsOf(v raftfsm.View) []rpc.WantDraft {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []rpc.WantDraft
	for region, n := range d.regions {
		for id, h := range n.drafts {
			dep, ok := v.Deployment(id)
			if !ok || dep.Home != region || dep.Phase != starling.PhaseBuilding || dep.Lease != h.Lease {
				continue
			}
			if live := liveCaches(n); len(live) > 0 {
				out = append(out, rpc.WantDraft{
					Deployment: id, Draft: h.Draft, Source: rpc.Source{Region: region, Caches: live}, Priority: wantDraft + dep.Priority,
				})
			}
		}
	}
	slices.SortFunc(out, func(a, b rpc.WantDraft) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Deployment, b.Deployment))
	})
	return out[:min(len(out), rpc.MaxDrafts)]
}

func liveCaches(n *neighbour) []starling.Node {
	var live []starling.Node
	for _, c := range n.directory.Caches {
		if c.Alive {
			live = append(live, c)
		}
	}
	return live
}
