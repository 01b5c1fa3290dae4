package blobcache

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/starlingdeploy/starling"
)

// MemStore is a Store in memory, for tests and small worlds. Nothing in it survives.
type MemStore struct {
	index *index
	mu    sync.RWMutex
	data  map[key][]byte
}

// NewMemStore returns an empty store of maxBytes at most.
func NewMemStore(maxBytes int64) *MemStore {
	return &MemStore{index: newIndex(maxBytes), data: map[key][]byte{}}
}

// Stat implements Source.
func (s *MemStore) Stat(d starling.Digest) (int, bool) {
	b, ok := s.index.get(key{d, false})
	return int(b.bytes), ok
}

// Chunk implements Source.
func (s *MemStore) Chunk(_ context.Context, d starling.Digest, buf []byte) ([]byte, error) {
	data, err := s.read(key{d, false})
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w", d.Short(), err)
	}
	return append(buf[:0], data...), nil
}

// Wait implements Source.
func (s *MemStore) Wait(ctx context.Context, d starling.Digest) error { return s.index.wait(ctx, d) }

// Manifest implements Source.
func (s *MemStore) Manifest(_ context.Context, artifact starling.Digest) ([]byte, error) {
	data, err := s.read(key{artifact, true})
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", artifact.Short(), err)
	}
	return slices.Clone(data), nil
}

// Put implements Store.
func (s *MemStore) Put(_ context.Context, d starling.Digest, data []byte) error {
	if err := checkChunk(d, data); err != nil {
		return err
	}
	return s.write(key{d, false}, data)
}

// PutManifest implements Store.
func (s *MemStore) PutManifest(_ context.Context, artifact starling.Digest, envelope []byte) error {
	if err := checkEnvelope(artifact, envelope); err != nil {
		return err
	}
	return s.write(key{artifact, true}, envelope)
}

// Pin implements Store.
func (s *MemStore) Pin(artifact starling.Digest, chunks []starling.Digest) {
	s.index.pin(artifact, chunks)
}

// Usage implements Store.
func (s *MemStore) Usage() Usage { return s.index.usage() }

func (s *MemStore) read(k key) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, ok := s.index.get(k); !ok {
		return nil, starling.ErrNotFound
	}
	return s.data[k], nil
}

func (s *MemStore) write(k key, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.index.get(k); ok && !k.manifest {
		return nil
	}
	victims, ok := s.index.reserve(int64(len(data)))
	if !ok {
		return fmt.Errorf("put %s: %w", k.digest.Short(), ErrFull)
	}
	for _, v := range victims {
		delete(s.data, v)
	}
	s.data[k] = slices.Clone(data)
	s.index.insert(blob{key: k, bytes: int64(len(data)), verified: true, durable: true})
	s.index.unreserve(int64(len(data)))
	return nil
}
