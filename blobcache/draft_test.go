package blobcache

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/rpc"
)

// testBuild is a build under way: its worker's part, played by the test.
type testBuild struct {
	t      testing.TB
	region *testRegion
	caches *Region
	draft  rpc.Draft
	m      *starling.Manifest
}

func (r *testRegion) build(t testing.TB) *testBuild {
	return &testBuild{t: t, region: r, caches: NewRegion(r.world.client(identity(r.name, "worker", starling.RoleWorker)), r.members, 2),
		m: &starling.Manifest{Version: starling.ManifestVersion, Chunker: "test",
			Files: []starling.File{{Path: "a", Kind: starling.KindFile, Mode: 0o644}}}}
}

// upload brings n more chunks to the caches and lists them in a page.
func (b *testBuild) upload(seed, n int) []starling.Chunk {
	b.t.Helper()
	page := artifact.DraftPage{Number: b.draft.Pages + 1, Previous: b.draft.Head}
	for i := range n {
		d, data := chunkOf(b.t, seed+i, 20_000+i)
		if err := b.caches.Put(within(b.t, 30*time.Second), d, data); err != nil {
			b.t.Fatal(err)
		}
		page.Chunks = append(page.Chunks, starling.Chunk{Digest: d, Size: len(data)})
		b.m.Files[0].Size += int64(len(data))
	}
	b.m.Chunks = append(b.m.Chunks, page.Chunks...)
	encoded := page.Encode()
	b.draft = rpc.Draft{Head: starling.DigestOf(encoded), Pages: page.Number}
	if err := b.caches.Put(within(b.t, 30*time.Second), b.draft.Head, encoded); err != nil {
		b.t.Fatal(err)
	}
	return page.Chunks
}

// finish uploads the manifest.
func (b *testBuild) finish() starling.Digest {
	b.t.Helper()
	encoded, err := json.Marshal(b.m)
	if err != nil {
		b.t.Fatal(err)
	}
	d := starling.DigestOf(encoded)
	if err := b.caches.PutManifest(within(b.t, 30*time.Second), d, encoded); err != nil {
		b.t.Fatal(err)
	}
	return d
}

func (b *testBuild) want() rpc.WantDraft {
	return rpc.WantDraft{Deployment: "d-1", Draft: b.draft, Source: b.region.source(), Priority: 800}
}

func (r *testRegion) wantDrafts(drafts ...rpc.WantDraft) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wants.Index++
	r.wants.Wants, r.wants.Drafts = nil, drafts
	close(r.news)
	r.news = make(chan struct{})
}

func (r *testRegion) awaitChunks(t testing.TB, what string, chunks []starling.Chunk) {
	t.Helper()
	eventually(t, what, func() bool {
		for _, c := range chunks {
			if len(holders(r.stores(), c.Digest)) < 2 {
				return false
			}
		}
		return true
	})
}

// aheadBytes is what the region's caches report to have fetched for builds.
func (r *testRegion) aheadBytes() (sum int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, report := range r.reports {
		for _, d := range report.Drafts {
			sum += d.WANBytes
		}
	}
	return sum
}

// What a build has uploaded crosses while the build goes on, page by page, once; with
// the manifest nothing crosses again, and what did is counted for the artifact.
func TestReplicationFollowsAGrowingList(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 3)
	b := home.build(t)
	first := b.upload(0, 20)
	away.wantDrafts(b.want())
	away.awaitChunks(t, "the first page's chunks have crossed", first)
	second := b.upload(100, 20)
	third := b.upload(200, 20) // the caches hear of both at once
	away.wantDrafts(b.want())
	away.awaitChunks(t, "all pages' chunks have crossed", slices.Concat(second, third))
	total := b.m.Bytes()
	eventually(t, "what crossed ahead is reported", func() bool { return away.aheadBytes() >= total })
	if n := away.aheadBytes(); n > total*11/10 {
		t.Errorf("%d bytes crossed for %d uploaded", n, total)
	}

	last := b.upload(300, 5) // never listed to the others: in the manifest only
	done := b.finish()
	away.want(rpc.Want{Artifact: done, Sources: []rpc.Source{home.source()}, Build: "d-1"})
	away.dropDrafts()
	away.awaitComplete(t, done)
	away.checkPlaced(t, b.m)
	away.awaitChunks(t, "the last chunks have crossed", last)
	copies := float64(away.wanBytes(done)) / float64(b.m.Bytes())
	t.Logf("%.3f copies crossed, %.0f %% of them ahead of the manifest", copies, 100*float64(total)/float64(b.m.Bytes()))
	if copies < 0.99 || copies > 1.1 {
		t.Errorf("%.3f copies are counted for the artifact, want 1", copies)
	}
}

func (r *testRegion) dropDrafts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wants.Index++
	r.wants.Drafts = nil
	close(r.news)
	r.news = make(chan struct{})
}

// The manifest may come in the middle of what is fetched ahead.
func TestManifestInTheMiddleOfADraft(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 2)
	b := home.build(t)
	b.upload(0, 60)
	away.wantDrafts(b.want())
	eventually(t, "something has crossed", func() bool { return away.aheadBytes() > 0 })
	b.upload(100, 60)
	done := b.finish()
	away.mu.Lock() // both in one answer, as a server gives it
	away.wants.Index++
	away.wants.Drafts = nil
	away.wants.Wants = []rpc.Want{{Artifact: done, Sources: []rpc.Source{home.source()}, Build: "d-1"}}
	close(away.news)
	away.news = make(chan struct{})
	away.mu.Unlock()
	away.awaitComplete(t, done)
	away.checkPlaced(t, b.m)
	if copies := float64(away.wanBytes(done)) / float64(b.m.Bytes()); copies < 0.99 || copies > 1.1 {
		t.Errorf("%.3f copies crossed, want 1", copies)
	}
}

// A build that failed leaves nothing behind that would keep others out: what was fetched
// ahead is not pinned, and forgotten.
func TestAbandonedDraft(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 2)
	b := home.build(t)
	chunks := b.upload(0, 20)
	away.wantDrafts(b.want())
	away.awaitChunks(t, "the chunks have crossed", chunks)

	// The next attempt lists other chunks, from page 1 again.
	again := home.build(t)
	other := again.upload(500, 20)
	away.wantDrafts(again.want())
	away.awaitChunks(t, "the other attempt's chunks have crossed", other)

	away.wantDrafts()
	eventually(t, "nothing is reported for a build", func() bool {
		away.mu.Lock()
		defer away.mu.Unlock()
		return !slices.ContainsFunc([]string{"us-0", "us-1"}, func(n string) bool { return len(away.reports[n].Drafts) > 0 })
	})
	for i := range testStoreBytes>>20 + 1 { // more than the store takes
		d, data := chunkOf(t, 10_000+i, 1<<20)
		if err := away.caches["us-0"].store.Put(context.Background(), d, data); err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	if _, ok := away.caches["us-0"].store.Stat(chunks[0].Digest); ok {
		t.Error("a chunk of no artifact outlived a store full of newer ones")
	}
}

// Pages come from another region: what is not as it should be is an error, and fetched
// again later.
func TestBadDraftPages(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 2)
	b := home.build(t)
	d, data := chunkOf(t, 1, 1000)
	if err := b.caches.Put(within(t, 30*time.Second), d, data); err != nil {
		t.Fatal(err)
	}
	task := planTask{cfg: &ReplicatorConfig{Client: w.client(identity("us", "us-9", starling.RoleCache)), Logger: quiet()},
		build: "d-1", sources: []rpc.Source{home.source()}}
	grow := func(draft rpc.Draft) error {
		task.draft = draft
		_, read, err := task.grow(within(t, 30*time.Second))
		if err != nil && read != (rpc.Draft{}) {
			t.Errorf("after %v it counts as read up to %+v", err, read)
		}
		return err
	}
	if err := grow(rpc.Draft{Head: d, Pages: 1}); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("a chunk that is no page: %v", err)
	}
	b.upload(0, 3)
	b.upload(10, 3)
	if err := grow(rpc.Draft{Head: b.draft.Head, Pages: 7}); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("page 2 as page 7: %v", err)
	}
	if err := grow(rpc.Draft{Head: starling.Digest{1}, Pages: 1}); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("a page that nobody has: %v", err)
	}
	if err := grow(b.draft); err != nil {
		t.Errorf("a good draft: %v", err)
	}
	away.wantDrafts(rpc.WantDraft{Deployment: "d-1", Draft: rpc.Draft{Head: d, Pages: 1}, Source: home.source()})
	away.wantDrafts(b.want())
	away.awaitChunks(t, "a good head after a bad one is followed", b.m.Chunks)
}
