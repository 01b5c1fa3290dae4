package main

import (
	"context"
	"errors"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
)

// both is what a process serves that is a cache and a machine: its store first, then
// the releases on its disk.
type both struct{ store, releases blobcache.Source }

// Stat implements blobcache.Source.
func (b both) Stat(d starling.Digest) (int, bool) {
	if n, ok := b.store.Stat(d); ok {
		return n, true
	}
	return b.releases.Stat(d)
}

// Chunk implements blobcache.Source.
func (b both) Chunk(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error) {
	data, err := b.store.Chunk(ctx, d, buf)
	if errors.Is(err, starling.ErrNotFound) {
		return b.releases.Chunk(ctx, d, buf)
	}
	return data, err
}

// Wait implements blobcache.Source. It waits for the store alone: what is to come for a
// cache comes there.
func (b both) Wait(ctx context.Context, d starling.Digest) error {
	if _, ok := b.releases.Stat(d); ok {
		return nil
	}
	return b.store.Wait(ctx, d)
}

// Manifest implements blobcache.Source.
func (b both) Manifest(ctx context.Context, artifact starling.Digest) ([]byte, error) {
	envelope, err := b.store.Manifest(ctx, artifact)
	if errors.Is(err, starling.ErrNotFound) {
		return b.releases.Manifest(ctx, artifact)
	}
	return envelope, err
}
