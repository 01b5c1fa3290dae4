package agent

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/swarm"
)

// chunkTimeout ends a fetch that hangs; the brain's own time-outs are far tighter.
const chunkTimeout = 2 * time.Minute

// blobs fetches from the blob server of a cache or a machine; *blobcache.Client does.
type blobs interface {
	Fetch(ctx context.Context, addr string, f blobcache.Fetch, buf []byte) ([]byte, error)
	FetchPatch(ctx context.Context, addr string, f blobcache.Fetch, bases []starling.Digest, buf []byte) (blobcache.Patch, error)
	GetManifest(ctx context.Context, addr string, artifact starling.Digest) ([]byte, error)
}

// chunkFetch is one worker that brings one chunk.
type chunkFetch struct {
	cancel context.CancelFunc
	source int                 // in the download's book
	kind   starling.SourceKind // of the source
}

// fetch starts a worker for one chunk. How many run is bounded by the brain, in
// bytes (swarm.Config.MaxInFlightBytes) and per source.
func (f *flock) fetch(e swarm.Fetch) {
	q := e.Request
	fail := func(r swarm.Reason) {
		f.step(swarm.Failed{Request: q, Reason: r})
	}
	d := f.downloads[q.Artifact]
	if d == nil || d.rel == nil || d.ended {
		fail(swarm.ReasonLocal)
		return
	}
	nodes := f.machines
	if q.Origin {
		nodes = f.caches
	}
	n, ok := nodes[q.From]
	if !ok {
		fail(swarm.ReasonGone)
		return
	}
	ctx, cancel := context.WithTimeout(d.ctx, chunkTimeout)
	c := &chunkFetch{cancel: cancel}
	c.source, c.kind = d.book.ask(&n, q.Origin)
	f.fetches[q] = c
	d.workers++
	d.fetching++
	job := bringing{rel: d.rel, older: d.older, addr: n.Addr, wait: e.Wait, pool: f.buffers, patcher: f.patcher}
	f.run.work(func() {
		defer cancel()
		began, timed := f.meter.read(), &timedBlobs{blobs: f.blobs}
		job.from = timed
		got, err := job.bring(ctx, q.Chunk)
		took := spent{from: began, to: f.meter.read(), answered: timed.answered, received: timed.received}
		f.run.post(chunkFetched{f: f, d: d, c: c, q: q, brought: got, err: err, spent: took})
	})
}

func (f *flock) cancelFetch(q swarm.Request) {
	if c := f.fetches[q]; c != nil {
		c.cancel()
		delete(f.fetches, q)
	}
}

// bringing is what it takes to bring a chunk of rel from addr, which may wait for it to
// come there.
type bringing struct {
	rel     *release
	older   *older // nil: none
	from    blobs
	addr    string
	wait    time.Duration
	pool    *buffers
	patcher *blobcache.Patcher
}

// brought is what came of it.
type brought struct {
	places []int // the chunks that are held now
	moved  int64 // bytes that came over the network
	remote bool  // an error is the other side's or the network's
}

// bring fetches chunk i, as a patch against older ones if that is less, and writes it
// wherever it belongs.
func (b *bringing) bring(ctx context.Context, i int) (got brought, err error) {
	c := b.rel.manifest.Chunks[i]
	buf := b.pool.get(c.Size)
	defer b.pool.put(buf)
	want := blobcache.Fetch{Digest: c.Digest, Artifact: b.rel.artifact, Wait: b.wait, Unchecked: true}
	got.remote = true
	patch, err := b.from.FetchPatch(ctx, b.addr, want, b.older.bases(i), buf)
	if err != nil {
		return got, err
	}
	got.moved = int64(len(patch.Data))
	data := patch.Data
	if len(patch.Bases) > 0 {
		whole := b.pool.get(c.Size)
		defer b.pool.put(whole)
		var sound bool
		data, sound, err = b.patcher.Apply(ctx, b.older.read, c, patch.Bases, patch.Data, whole)
		if err != nil && !sound { // the disk has lost a base: without it, then
			patch.Bases = nil
			data, err = b.from.Fetch(ctx, b.addr, want, buf)
			got.moved += int64(len(data))
		}
		if err != nil {
			return got, err
		}
	}
	if len(data) != c.Size {
		return got, fmt.Errorf("chunk %s: %d bytes for %d: %w", c.Digest.Short(), len(data), c.Size, starling.ErrCorrupt)
	}
	for _, p := range b.rel.places(i) { // WriteChunk checks data, before anything is written
		if err := b.rel.tree.WriteChunk(p, data); err != nil {
			got.remote = errors.Is(err, starling.ErrCorrupt)
			return got, err
		}
		got.places = append(got.places, p)
	}
	if len(patch.Bases) > 0 {
		b.patcher.Remember(c.Digest, patch.Bases, patch.Data)
	}
	return got, nil
}

// chunkFetched ends the worker of one Fetch.
type chunkFetched struct {
	light
	f *flock
	d *download
	c *chunkFetch
	q swarm.Request
	brought
	err   error
	spent spent
}

func (e chunkFetched) apply() {
	f, d, q := e.f, e.d, e.q
	current := f.fetches[q] == e.c
	if current {
		delete(f.fetches, q)
	}
	d.workers--
	d.fetching--
	if e.err == nil {
		reused := int64(d.rel.manifest.Chunks[q.Chunk].Size) - e.moved // what a patch took from older chunks
		d.bytes = d.bytes.From(e.c.kind, e.moved).From(starling.SourceLocal, max(0, reused))
		d.book.got(e.c.source, q.Chunk, int(e.moved), e.spent)
		d.book.reused(max(0, reused))
	} else {
		d.book.failed(e.c.source, e.spent, reasonOf(e.err, e.remote))
	}
	if d.ended {
		d.closed()
		return
	}
	e.tell(current)
	d.progress()
	if d.due {
		d.seal()
	}
}

// tell hands the outcome to the brain.
func (e chunkFetched) tell(current bool) {
	f, d, q := e.f, e.d, e.q
	if e.err != nil {
		f.log.Debug("a chunk was not fetched", "artifact", q.Artifact.Short(), "chunk", q.Chunk, "from", q.From, "error", e.err)
		if !e.remote {
			d.problem = e.err.Error()
		}
		if current { // otherwise the brain has forgotten it, and may have asked anew
			f.step(swarm.Failed{Request: q, Reason: reasonOf(e.err, e.remote), After: blobcache.AskAgainAfter(e.err)})
		}
		return
	}
	d.problem = ""
	d.unsynced = true
	f.step(swarm.Got{Request: q, Took: e.spent.took()})
	if len(e.places) > 1 {
		held := make([]uint32, len(e.places))
		for i, p := range e.places {
			held[i] = uint32(p)
		}
		f.step(swarm.Held{Artifact: q.Artifact, Chunks: held})
	}
}

func reasonOf(err error, remote bool) swarm.Reason {
	switch {
	case errors.Is(err, context.Canceled):
		return swarm.ReasonCancelled
	case !remote:
		return swarm.ReasonLocal
	case errors.Is(err, starling.ErrCorrupt):
		return swarm.ReasonCorrupt
	case errors.Is(err, starling.ErrNotFound):
		return swarm.ReasonMissing
	case errors.Is(err, starling.ErrUnavailable):
		return swarm.ReasonBusy
	case errors.Is(err, context.DeadlineExceeded):
		return swarm.ReasonTimeout
	default:
		return swarm.ReasonGone
	}
}

// Sizes of pooled buffers: powers of two from minBufferBytes to starling.MaxChunkBytes.
const (
	minBufferBits  = 16
	maxBufferBits  = 22
	minBufferBytes = 1 << minBufferBits
)

// buffers holds chunk buffers by size, for as long as the garbage collector lets it:
// an idle machine has none.
type buffers struct {
	pools [maxBufferBits - minBufferBits + 1]sync.Pool
}

// get returns a buffer with room for size bytes, MaxChunkBytes at most.
func (b *buffers) get(size int) []byte {
	class := max(0, bits.Len(uint(max(size, 1)-1))-minBufferBits)
	if p, ok := b.pools[class].Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, minBufferBytes<<class)
}

// put gives a buffer of get back.
func (b *buffers) put(buf []byte) {
	buf = buf[:cap(buf)]
	b.pools[bits.Len(uint(len(buf)))-1-minBufferBits].Put(&buf)
}
