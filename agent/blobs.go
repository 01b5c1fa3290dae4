package agent

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/swarm"
)

// Bounds of what is served to other machines.
const (
	maxServeBufferBytes = 64 << 20 // chunks in memory, being sent or waiting; beyond that peers are told busy
	maxServeStreams     = 512
	slotMinBytes        = 16 << 10 // writes from this size on are chunks, and need a slot
)

// source is the catalog as blobcache serves it.
type source struct {
	*catalog
	spoiled func(r *release) // a chunk of r was found damaged
}

var _ blobcache.Source = source{}

// Stat implements blobcache.Source.
func (s source) Stat(d starling.Digest) (int, bool) { return s.stat(d) }

// Chunk implements blobcache.Source.
func (s source) Chunk(_ context.Context, d starling.Digest, buf []byte) ([]byte, error) {
	var problem error
	for _, r := range s.all() {
		b, err := r.read(d, buf)
		switch {
		case err == nil:
			return b, nil
		case errors.Is(err, starling.ErrCorrupt):
			s.spoiled(r)
		case !errors.Is(err, starling.ErrNotFound):
			problem = err
		}
	}
	if problem != nil {
		return nil, problem
	}
	return nil, starling.ErrNotFound
}

// Wait implements blobcache.Source. A machine does not wait: its peers hear from it
// when a chunk has come.
func (s source) Wait(context.Context, starling.Digest) error { return starling.ErrNotFound }

// Manifest implements blobcache.Source.
func (s source) Manifest(_ context.Context, artifact starling.Digest) ([]byte, error) {
	return s.envelope(artifact)
}

// Source returns what this machine holds, for a process that serves it together with
// a cache's store; otherwise the agent does, by Config.AcceptBlob.
func (a *Agent) Source() blobcache.Source {
	return source{catalog: a.catalog, spoiled: func(r *release) { a.run.post(releaseSpoiled{a: a, rel: r}) }}
}

// serveBlobs serves what this machine holds to the other machines of its region.
func (a *Agent) serveBlobs(ctx context.Context) error {
	if a.conf.AcceptBlob == nil {
		return nil
	}
	server := blobcache.NewServer(blobcache.ServerConfig{
		Region: a.conf.Node.Region, Source: a.Source(), Logger: a.log,
		MaxStreams: maxServeStreams, MaxBufferBytes: maxServeBufferBytes, Account: a.Account, Patcher: a.flock.patcher,
	})
	slots := semaphore.NewWeighted(swarm.UploadSlots)
	limit := newLimiter(a.conf.UploadBytesPerSecond)
	err := server.Serve(ctx, func(ctx context.Context) (net.Conn, starling.Identity, error) {
		conn, id, err := a.conf.AcceptBlob(ctx)
		if err != nil {
			return nil, id, err
		}
		return newUpload(conn, slots, limit), id, nil
	})
	if err != nil {
		return fmt.Errorf("serve blobs: %w", err)
	}
	return nil
}

// releaseSpoiled says that files of a release are not what they were.
type releaseSpoiled struct {
	light
	a   *Agent
	rel *release
}

func (e releaseSpoiled) apply() {
	f, r := e.a.flock, e.rel
	e.a.log.Warn("a chunk of a release on disk is damaged", "artifact", r.artifact.Short())
	d := f.downloads[r.artifact]
	switch {
	case !f.taking(r.artifact):
	case d != nil && d.rel == r:
		f.step(swarm.Lost{Artifact: r.artifact, Chunks: missingChunks(r)})
	default: // what runs is not repaired in place, but others must not be sent here for it
		f.step(swarm.Begin{Artifact: r.artifact, Chunks: r.manifest.Chunks, Have: haveOf(r), Seed: true})
	}
}

// upload is a stream to a peer that sends chunks in turn with the others: as many
// as swarm.UploadSlots at once, in order of arrival, within the cap. So chunks are
// finished one after the other, and can be passed on.
type upload struct {
	net.Conn
	slots  *semaphore.Weighted
	limit  *rate.Limiter   // nil: no cap
	closed context.Context // ends with Close
	cancel context.CancelFunc
}

func newUpload(c net.Conn, slots *semaphore.Weighted, limit *rate.Limiter) *upload {
	ctx, cancel := context.WithCancel(context.Background()) // ended by Close
	return &upload{Conn: c, slots: slots, limit: limit, closed: ctx, cancel: cancel}
}

// Write implements net.Conn.
func (u *upload) Write(b []byte) (int, error) {
	if len(b) < slotMinBytes {
		return u.Conn.Write(b)
	}
	if err := u.slots.Acquire(u.closed, 1); err != nil {
		return 0, net.ErrClosed
	}
	defer u.slots.Release(1)
	if u.limit == nil {
		return u.Conn.Write(b)
	}
	done := 0
	for done < len(b) {
		part := b[done:min(len(b), done+u.limit.Burst())]
		if err := u.limit.WaitN(u.closed, len(part)); err != nil {
			return done, net.ErrClosed
		}
		n, err := u.Conn.Write(part)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Close implements net.Conn.
func (u *upload) Close() error {
	u.cancel()
	return u.Conn.Close()
}

// download streams are capped as they are read.
type cappedReads struct {
	net.Conn
	limit  *rate.Limiter
	closed context.Context // ends with Close
	cancel context.CancelFunc
}

// capReads returns dial with the bytes read from its streams within limit; nil: no cap.
func capReads(dial BlobDial, limit *rate.Limiter) blobcache.Dial {
	if limit == nil {
		return blobcache.Dial(dial)
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		life, cancel := context.WithCancel(context.Background()) // ended by Close
		return &cappedReads{Conn: conn, limit: limit, closed: life, cancel: cancel}, nil
	}
}

// Read implements net.Conn.
func (c *cappedReads) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), c.limit.Burst())])
	if n > 0 && c.limit.WaitN(c.closed, n) != nil {
		return n, net.ErrClosed
	}
	return n, err
}

// Close implements net.Conn.
func (c *cappedReads) Close() error {
	c.cancel()
	return c.Conn.Close()
}
