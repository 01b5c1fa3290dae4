package build

import (
	"context"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/rpc"
)

const (
	draftEvery  = 500 * time.Millisecond // a page, at most; a build that uploads for less has none
	draftWithin = 15 * time.Second       // to store one
)

// draft makes known what a build has uploaded while it goes on: pages for the caches,
// the newest one's digest for the leader, by heartbeats. It is a help to other regions
// only: what cannot be listed here waits for the manifest.
type draft struct {
	blobs Blobs
	every time.Duration
	news  chan struct{} // room for one: there is a new head

	mu      sync.Mutex
	began   time.Time // when the first chunks were up; zero: none are
	paged   time.Time // when the last page was begun
	head    rpc.Draft
	pending []starling.Chunk // MaxDraftPageChunks at most; what comes beyond is left out
	storing bool
}

func newDraft(blobs Blobs, every time.Duration) *draft {
	return &draft{blobs: blobs, every: every, news: make(chan struct{}, 1)}
}

// add lists chunks that the caches hold, and stores a page when it is time. One caller
// does that at a time, while the others go on uploading.
func (d *draft) add(ctx context.Context, chunks []starling.Chunk) error {
	d.mu.Lock()
	now := time.Now()
	if d.began.IsZero() {
		d.began, d.paged = now, now
	}
	if d.head.Pages < artifact.MaxDraftPages && len(d.pending)+len(chunks) <= artifact.MaxDraftPageChunks {
		d.pending = append(d.pending, chunks...)
	}
	if d.storing || len(d.pending) == 0 || now.Sub(d.paged) < d.every {
		d.mu.Unlock()
		return nil
	}
	page := artifact.DraftPage{Number: d.head.Pages + 1, Previous: d.head.Head, Chunks: d.pending}
	d.pending, d.paged, d.storing = nil, now, true
	d.mu.Unlock()

	b := page.Encode()
	digest := starling.DigestOf(b)
	ctx, cancel := context.WithTimeout(ctx, draftWithin)
	err := d.blobs.Put(ctx, digest, b)
	cancel()

	d.mu.Lock()
	defer d.mu.Unlock()
	d.storing = false
	if err != nil {
		return err
	}
	d.head = rpc.Draft{Head: digest, Pages: page.Number}
	select {
	case d.news <- struct{}{}:
	default: // the word is out that there is news
	}
	return nil
}

// now returns the newest page and how long ago the first chunks were up, 0 if none are.
func (d *draft) now() (head rpc.Draft, uploadMS int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.began.IsZero() {
		return d.head, 0
	}
	return d.head, max(1, time.Since(d.began).Milliseconds())
}
