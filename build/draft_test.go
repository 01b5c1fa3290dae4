package build

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/rpc"
)

// readDraft follows a draft's pages back to the first.
func readDraft(t testing.TB, b *testBlobs, head rpc.Draft) []starling.Chunk {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []starling.Chunk
	at := head.Head
	for number := head.Pages; number > 0; number-- {
		page, err := artifact.DecodeDraftPage(b.chunks[at])
		if err != nil || page.Number != number {
			t.Fatalf("page %d: %+v, %v", number, page, err)
		}
		out = append(page.Chunks, out...)
		at = page.Previous
	}
	return out
}

// The leader hears what is uploaded while there is more to upload: here the caches take
// nothing beyond the first chunks before it has.
func TestDraftIsKnownBeforeTheUploadEnds(t *testing.T) {
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("a", "1"), "mkdir out && head -c 48000000 /dev/urandom > out/big")
	r := newRig(t, SandboxOff, job)
	r.worker.draftEvery = 0
	r.leader.beats = make(chan rpc.HeartbeatRequest, 1000)
	heard := make(chan struct{})
	var puts atomic.Int64
	r.blobs.onPut = func(ctx context.Context) error {
		if puts.Add(1) <= 40 {
			return nil
		}
		select {
		case <-heard:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(30 * time.Second):
			return fmt.Errorf("nothing was heard of the chunks uploaded so far")
		}
	}
	stop := r.start(t)
	defer stop()
	var first rpc.HeartbeatRequest
	select {
	case first = <-r.leader.beats:
	case <-r.leader.ended:
		t.Fatalf("the build ended first: %+v %+v", r.leader.failed, r.leader.completed)
	}
	early := readDraft(t, r.blobs, first.Draft)
	r.blobs.mu.Lock()
	for _, c := range early {
		if len(r.blobs.chunks[c.Digest]) != c.Size {
			t.Errorf("chunk %s is listed as %d bytes, the caches hold %d", c.Digest.Short(), c.Size, len(r.blobs.chunks[c.Digest]))
		}
	}
	r.blobs.mu.Unlock()
	if len(early) == 0 || first.UploadMS == 0 || first.Lease != job.Lease {
		t.Errorf("%d chunks are listed by %+v", len(early), first)
	}
	close(heard)
	r.wait(t)
	stop()

	done := r.mustComplete(t)
	if done.UploadMS < first.UploadMS {
		t.Errorf("the upload took %d ms in the end, %d ms before", done.UploadMS, first.UploadMS)
	}
	part := map[starling.Digest]bool{}
	for _, c := range r.blobs.manifest(t, done.Artifact.Digest).Chunks {
		part[c.Digest] = true
	}
	if len(early) >= len(part) {
		t.Errorf("%d of %d chunks were listed at first", len(early), len(part))
	}
	for _, c := range early {
		if !part[c.Digest] {
			t.Errorf("chunk %s is listed, but no part of the artifact", c.Digest.Short())
		}
	}
}

// A quick build has no draft, and one whose pages cannot be stored is none the worse.
func TestDraftIsNoCondition(t *testing.T) {
	blobs := newTestBlobs()
	chunks := []starling.Chunk{{Digest: starling.DigestOf([]byte("a")), Size: 1}}
	quick := newDraft(blobs, time.Hour)
	if err := quick.add(t.Context(), chunks); err != nil || blobs.puts != 0 {
		t.Errorf("%d pages, %v", blobs.puts, err)
	}
	if head, ms := quick.now(); head != (rpc.Draft{}) || ms < 1 {
		t.Errorf("%+v after %d ms", head, ms)
	}

	d := newDraft(blobs, 0)
	blobs.down = starling.ErrUnavailable
	if err := d.add(t.Context(), chunks); err == nil {
		t.Error("a page that was not stored is reported as stored")
	}
	blobs.down = nil
	if err := d.add(t.Context(), chunks); err != nil {
		t.Fatal(err)
	}
	if head, _ := d.now(); head.Pages != 1 || len(readDraft(t, blobs, head)) != 1 {
		t.Errorf("after a failure the head is %+v", head)
	}
	if err := d.add(t.Context(), make([]starling.Chunk, artifact.MaxDraftPageChunks+1)); err != nil {
		t.Errorf("more chunks than a page takes: %v", err)
	}
}
