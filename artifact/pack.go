package artifact

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
)

// Bounds of Pack: PackWorkers chunks are hashed and handed to the sink at once, one more
// waits, and one is being read: 24 MiB at most.
const (
	PackWorkers = 4
	packBuffers = PackWorkers + 2
)

// Piece is one chunk on its way out of Pack.
type Piece struct {
	Index  int // in the manifest
	Digest starling.Digest
	Data   []byte // valid until the sink returns
}

// Pack reads the tree below root and returns its manifest: directories, symlinks that
// stay inside and regular files, with permission bits only. It hands every chunk to
// sink, from PackWorkers goroutines at once and not strictly in order, so that a sink
// that waits for the network holds up neither reading nor hashing; a sink must be
// safe for concurrent use. Equal chunks are handed over each time they occur.
//
// Memory is bounded whatever the size of the tree, but for about 200 bytes an entry.
// A tree that cannot be deployed (devices, links that lead out, too many entries),
// or changes while it is read, gives a *starling.FieldError; an error of sink ends Pack.
func Pack(ctx context.Context, root *os.Root, sink func(Piece) error) (*starling.Manifest, error) {
	files, err := walk(ctx, root, starling.MaxFiles)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	chunks, err := cut(ctx, root, files, sink)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	m := &starling.Manifest{Version: starling.ManifestVersion, Chunker: ChunkerName, Files: files, Chunks: chunks}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return m, nil
}

// cut streams the content of files through the chunker and the workers.
func cut(ctx context.Context, root *os.Root, files []starling.File, sink func(Piece) error) ([]starling.Chunk, error) {
	g, ctx := errgroup.WithContext(ctx)
	pieces := make(chan Piece)
	free := make(chan []byte, packBuffers)
	for range packBuffers {
		free <- nil // allocated when first needed: most trees are small
	}
	g.Go(func() error {
		defer close(pieces)
		src := &content{ctx: ctx, root: root, files: files}
		take := func() ([]byte, error) {
			select {
			case buf := <-free:
				if buf == nil {
					buf = make([]byte, MaxChunkBytes)
				}
				return buf, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		err := scan(src, take, func(i int, chunk []byte) error {
			select {
			case pieces <- Piece{Index: i, Data: chunk}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		return errors.Join(err, src.close())
	})
	var mu sync.Mutex
	var chunks []starling.Chunk
	for range PackWorkers {
		g.Go(func() error {
			for p := range pieces {
				p.Digest = starling.DigestOf(p.Data)
				mu.Lock()
				for len(chunks) <= p.Index {
					chunks = append(chunks, starling.Chunk{})
				}
				chunks[p.Index] = starling.Chunk{Digest: p.Digest, Size: len(p.Data)}
				mu.Unlock()
				if err := sink(p); err != nil {
					return err
				}
				free <- p.Data[:MaxChunkBytes]
			}
			return nil
		})
	}
	err := g.Wait()
	return chunks, err
}
