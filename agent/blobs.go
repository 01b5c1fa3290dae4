package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/swarm"
)

// Bounds of what is served to other machines.
const (
	maxServeBufferBytes = 32 << 20 // chunks in memory, being sent; beyond that peers are told busy
	maxServeStreams     = 512
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
		MaxUploads: swarm.UploadSlots, MaxUploadsQueued: swarm.UploadQueueChunks,
		Upload: blobcache.NewLimit(a.conf.UploadBytesPerSecond), Urgency: a.catalog.urgency,
	})
	err := server.Serve(ctx, blobcache.Accept(a.conf.AcceptBlob))
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
	case !f.taking(r.artifact) || f.parts[r.artifact].resting: // who asks for it will be told what is left
	case d != nil && d.rel == r:
		f.step(swarm.Lost{Artifact: r.artifact, Chunks: missingChunks(r)})
	default: // what runs is not repaired in place, but others must not be sent here for it
		f.step(swarm.Begin{Artifact: r.artifact, Chunks: r.manifest.Chunks, Have: haveOf(r), Seed: true})
	}
}
