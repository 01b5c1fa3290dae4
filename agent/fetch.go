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
	GetManifest(ctx context.Context, addr string, artifact starling.Digest) ([]byte, error)
}

// chunkFetch is one worker that brings one chunk.
type chunkFetch struct{ cancel context.CancelFunc }

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
	f.fetches[q] = c
	d.workers++
	d.fetching++
	f.run.work(func() {
		defer cancel()
		began := time.Now()
		places, remote, err := d.rel.bring(ctx, f.blobs, f.buffers, n.Addr, q.Chunk, e.Wait)
		f.run.post(chunkFetched{f: f, d: d, c: c, q: q, places: places, remote: remote, err: err, took: time.Since(began)})
	})
}

func (f *flock) cancelFetch(q swarm.Request) {
	if c := f.fetches[q]; c != nil {
		c.cancel()
		delete(f.fetches, q)
	}
}

// bring fetches chunk i from addr, which may wait for it to come there, and writes it
// wherever it belongs. remote tells
// that an error is the other side's or the network's.
func (r *release) bring(ctx context.Context, from blobs, pool *buffers, addr string, i int, wait time.Duration) (places []int, remote bool, err error) {
	c := r.manifest.Chunks[i]
	buf := pool.get(c.Size)
	defer pool.put(buf)
	// WriteChunk checks it, before anything is written.
	data, err := from.Fetch(ctx, addr, blobcache.Fetch{Digest: c.Digest, Artifact: r.artifact, Wait: wait, Unchecked: true}, buf)
	if err != nil {
		return nil, true, err
	}
	if len(data) != c.Size {
		return nil, true, fmt.Errorf("chunk %s: %d bytes for %d: %w", c.Digest.Short(), len(data), c.Size, starling.ErrCorrupt)
	}
	for _, p := range r.places(i) {
		if err := r.tree.WriteChunk(p, data); err != nil {
			return places, errors.Is(err, starling.ErrCorrupt), err
		}
		places = append(places, p)
	}
	return places, false, nil
}

// chunkFetched ends the worker of one Fetch.
type chunkFetched struct {
	light
	f      *flock
	d      *download
	c      *chunkFetch
	q      swarm.Request
	places []int
	remote bool
	err    error
	took   time.Duration
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
		size := int64(d.rel.manifest.Chunks[q.Chunk].Size)
		if q.Origin {
			d.bytes.CacheOut += size
		} else {
			d.bytes.Peer += size
		}
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
			f.step(swarm.Failed{Request: q, Reason: reasonOf(e.err, e.remote)})
		}
		return
	}
	d.problem = ""
	d.unsynced = true
	f.step(swarm.Got{Request: q, Took: e.took})
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
