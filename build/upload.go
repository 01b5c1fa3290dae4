package build

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
)

// uploadError says that the caches failed, not the build.
type uploadError struct {
	what string
	err  error
}

func (e *uploadError) Error() string {
	return fmt.Sprintf("the blob caches did not %s: %v", e.what, e.err)
}

func (e *uploadError) Unwrap() error { return e.err }

// uploader brings chunks to the caches, only those that they lack. Pieces gather in a
// window; who fills it asks the caches about it and uploads, while others fill the
// next. Memory: one window for each caller of add, and the one being filled.
type uploader struct {
	ctx   context.Context // of the build
	blobs Blobs
	span  time.Duration // to retry one call
	draft *draft        // learns what the caches hold
	log   *slog.Logger

	newBytes atomic.Int64 // uploaded

	mu    sync.Mutex
	seen  map[starling.Digest]struct{}
	gap   []artifact.Piece // the window being filled
	bytes int
}

// add takes a piece, whose data it copies. It is a sink for artifact.Pack.
func (u *uploader) add(p artifact.Piece) error {
	u.mu.Lock()
	if _, ok := u.seen[p.Digest]; ok {
		u.mu.Unlock()
		return nil
	}
	u.seen[p.Digest] = struct{}{}
	p.Data = bytes.Clone(p.Data)
	u.gap = append(u.gap, p)
	u.bytes += len(p.Data)
	if len(u.gap) < windowPieces && u.bytes < windowBytes {
		u.mu.Unlock()
		return nil
	}
	full := u.take()
	u.mu.Unlock()
	return u.send(full)
}

// flush sends the last window.
func (u *uploader) flush() error {
	u.mu.Lock()
	last := u.take()
	u.mu.Unlock()
	return u.send(last)
}

func (u *uploader) take() []artifact.Piece {
	w := u.gap
	u.gap, u.bytes = nil, 0
	return w
}

func (u *uploader) send(window []artifact.Piece) error {
	if len(window) == 0 {
		return nil
	}
	ask := make([]starling.Digest, len(window))
	for i := range window {
		ask[i] = window[i].Digest
	}
	var missing []starling.Digest
	err := u.call("say which chunks they hold", func(ctx context.Context) (err error) {
		missing, err = u.blobs.Missing(ctx, ask)
		return err
	})
	if err != nil {
		return err
	}
	lacks := make(map[starling.Digest]bool, len(missing))
	for _, d := range missing {
		lacks[d] = true
	}
	var g errgroup.Group
	g.SetLimit(uploadParallel)
	for _, p := range window {
		if !lacks[p.Digest] {
			continue
		}
		g.Go(func() error {
			err := u.call("store a chunk", func(ctx context.Context) error {
				return u.blobs.Put(ctx, p.Digest, p.Data)
			})
			if err == nil {
				u.newBytes.Add(int64(len(p.Data)))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	up := make([]starling.Chunk, len(window))
	for i := range window {
		up[i] = starling.Chunk{Digest: window[i].Digest, Size: len(window[i].Data)}
	}
	if err := u.draft.add(u.ctx, up); err != nil && u.ctx.Err() == nil {
		u.log.Debug("other regions cannot be told ahead what is uploaded", "err", err)
	}
	return nil
}

// call calls the caches, again and again for a while.
func (u *uploader) call(what string, f func(context.Context) error) error {
	err := retry(u.ctx, u.span, f)
	if err == nil || u.ctx.Err() != nil {
		return err
	}
	return &uploadError{what, err}
}
