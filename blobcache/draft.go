package blobcache

import (
	"context"
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/rpc"
)

// draftKey is what a draft's job goes by until its artifact is known.
func draftKey(deployment string) starling.Digest {
	return starling.DigestOf([]byte("draft of " + deployment))
}

// wantDraft has the chunks of a build under way fetched as far as it is known.
func (r *Replicator) wantDraft(w rpc.WantDraft, wanted map[starling.Digest]bool) {
	key := draftKey(w.Deployment)
	wanted[key] = true
	j := r.jobs[key]
	if j == nil {
		j = &job{artifact: key, build: w.Deployment, total: -1}
		r.jobs[key] = j
	}
	j.sources, j.urgency = []rpc.Source{w.Source}, Urgency{Priority: w.Priority}
	if j.draft != w.Draft {
		j.draft, j.due = w.Draft, true
	}
}

// built returns the job of an artifact that is newly wanted: a new one, or what was
// fetched ahead of it.
func (r *Replicator) built(w rpc.Want) *job {
	key := draftKey(w.Build)
	j := r.jobs[key]
	if w.Build == "" || j == nil {
		j = &job{due: true, total: -1}
	} else {
		delete(r.jobs, key)
	}
	j.become(w.Artifact)
	r.jobs[w.Artifact] = j
	return j
}

// grow reads the pages of a draft that are new and returns all its chunks, each digest
// once, in the order in which they were uploaded, and how far that goes. A draft that
// does not go on from what was read is another attempt's: it takes that one's place.
func (t planTask) grow(ctx context.Context) ([]starling.Chunk, rpc.Draft, error) {
	var pages []*artifact.DraftPage // newest first
	chunks := t.chunks
	count := 0
	for at := t.draft; at != t.read; {
		if at.Pages == 0 || at.Pages < t.read.Pages {
			chunks = nil
			if at.Pages == 0 {
				break
			}
		}
		page, err := t.page(ctx, at)
		if err != nil {
			return t.chunks, t.read, err
		}
		pages = append(pages, page)
		if count += len(page.Chunks); count > starling.MaxChunks {
			return t.chunks, t.read, fmt.Errorf("draft of %s: %w: more than %d chunks", t.build, starling.ErrCorrupt, starling.MaxChunks)
		}
		at = rpc.Draft{Head: page.Previous, Pages: page.Number - 1}
	}
	all := slices.Clone(chunks)
	for _, page := range slices.Backward(pages) {
		all = append(all, page.Chunks...)
	}
	if all = unique(all); len(all) > starling.MaxChunks {
		all = all[:starling.MaxChunks]
	}
	return all, t.draft, nil
}

// page fetches one page of a draft from the caches of its region.
func (t planTask) page(ctx context.Context, at rpc.Draft) (*artifact.DraftPage, error) {
	last := fmt.Errorf("page %d of the draft of %s: %w", at.Pages, t.build, starling.ErrNotFound)
	for _, s := range t.sources {
		place := sourceCaches(s)
		for _, name := range place.order(at.Head) {
			b, err := t.cfg.Client.Get(ctx, place.addrs[name], at.Head, nil)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				last = err
				continue
			}
			page, err := artifact.DecodeDraftPage(b)
			if err == nil && page.Number != at.Pages {
				err = fmt.Errorf("draft page: %w: number %d, want %d", starling.ErrCorrupt, page.Number, at.Pages)
			}
			return page, err // its digest is right: another cache has no better one
		}
	}
	return nil, last
}
