package blobcache

import (
	"context"
	"errors"
	"fmt"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
)

// ErrFull reports that a store has no room: its bound is reached and everything in
// it is pinned, or its disk is full.
var ErrFull = errors.New("the cache is full")

// Source is what a Server serves: a Store, or the releases that a machine holds.
// Implementations are safe for concurrent use.
type Source interface {
	// Stat returns the size of a chunk, and false if it is not held. A chunk that
	// was asked about is among the last to be evicted.
	Stat(d starling.Digest) (bytes int, ok bool)
	// Chunk reads a chunk into buf, or into a larger one if buf is too short.
	// ErrNotFound: not held. ErrCorrupt: it was held, was found damaged, and is gone.
	Chunk(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error)
	// Wait returns nil once the chunk is held, or else when ctx ends. A source that
	// cannot wait returns ErrNotFound at once.
	Wait(ctx context.Context, d starling.Digest) error
	// Manifest returns the envelope of an artifact's signed manifest, or ErrNotFound.
	Manifest(ctx context.Context, artifact starling.Digest) ([]byte, error)
}

// Store is a Source that takes blobs, up to a bound, evicting those used least
// recently that are not pinned.
type Store interface {
	Source
	// Put keeps a chunk; when it returns nil, the chunk survives a crash. ErrCorrupt:
	// data is not that of d. ErrFull: no room.
	Put(ctx context.Context, d starling.Digest, data []byte) error
	// PutManifest keeps an envelope, in place of one it had. It does not judge it.
	PutManifest(ctx context.Context, artifact starling.Digest, envelope []byte) error
	// Pin has an artifact's envelope and the given chunks never evicted, whether or
	// not they are held yet, in place of those pinned for it before. Nil unpins them
	// and the envelope. The store keeps the slice. Pins do not survive a restart.
	Pin(artifact starling.Digest, chunks []starling.Digest)
	Usage() Usage
}

// Usage says what a store holds.
type Usage struct {
	UsedBytes int64
	MaxBytes  int64
	Blobs     int
	// Lost counts blobs found damaged, or deleted behind the store's back. When it
	// changes, a pinned blob that was held may be gone.
	Lost uint64
}

func checkChunk(d starling.Digest, data []byte) error {
	if len(data) == 0 || len(data) > starling.MaxChunkBytes {
		return fmt.Errorf("put chunk %s: %w: %d bytes, want 1 to %d", d.Short(), starling.ErrCorrupt, len(data), starling.MaxChunkBytes)
	}
	if starling.DigestOf(data) != d {
		return fmt.Errorf("put chunk %s: %w: the data has another digest", d.Short(), starling.ErrCorrupt)
	}
	return nil
}

func checkEnvelope(d starling.Digest, envelope []byte) error {
	if len(envelope) == 0 || len(envelope) > artifact.MaxEnvelopeBytes {
		return fmt.Errorf("put manifest %s: %w: envelope of %d bytes, want 1 to %d", d.Short(), starling.ErrCorrupt, len(envelope), artifact.MaxEnvelopeBytes)
	}
	return nil
}
