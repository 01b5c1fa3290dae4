package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/starlingdeploy/starling"
)

// Bounds of what a tree's writing leaves in the page cache, which belongs to what
// else runs on the machine.
const (
	// WarmBytes written last stay in the page cache: a small release starts from there,
	// and peers ask for new chunks soon. Whoever writes more waits for the disk, so that
	// no more than this is ever unwritten.
	WarmBytes = 256 << 20
	// earlyBytes is the least that is sent to the disk at once, by itself; smaller
	// pieces are left for the kernel to merge.
	earlyBytes = 64 << 10
)

// warm lists the chunks that were written last.
type warm struct {
	maxBytes int64

	mu     sync.Mutex
	chunks []int // oldest first
	bytes  int64
}

// add puts chunk i in the list, and takes the oldest out that are too many.
func (w *warm) add(i, size int, sizeOf func(int) int) (cold []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.chunks = append(w.chunks, i)
	w.bytes += int64(size)
	for w.bytes > w.maxBytes && len(w.chunks) > 1 {
		cold = append(cold, w.chunks[0])
		w.bytes -= int64(sizeOf(w.chunks[0]))
		w.chunks = w.chunks[1:]
	}
	return cold
}

// cool writes the chunks to the disk that are written long enough ago, and drops them
// from the page cache.
func (t *Tree) cool(i int) error {
	var errs error
	for _, j := range t.warm.add(i, t.manifest.Chunks[i].Size, func(j int) int { return t.manifest.Chunks[j].Size }) {
		if err := t.evictChunk(j); err != nil {
			t.forget(j) // the kernel tells it once, and here
			errs = errors.Join(errs, fmt.Errorf("chunk %d: %w", j, err))
		}
	}
	return errs
}

func (t *Tree) evictChunk(i int) error {
	var room [4]starling.Extent
	for _, e := range t.layout.Extents(room[:0], i) {
		f, err := t.files.acquire(e.File, t.manifest.Files[e.File].Path)
		if err != nil {
			return err
		}
		err = evict(f.File, e.Offset, e.Length)
		t.files.release(f)
		if err != nil {
			return err
		}
	}
	return nil
}

// Recover counts chunks as held that an earlier process wrote and had no time to note:
// after a kill, not after a loss of power, all that it wrote is in the files. buf is
// as for ReadChunk. Nobody else may use t yet.
func (t *Tree) Recover(ctx context.Context, buf []byte) error {
	if t.finished {
		return nil
	}
	for i, c := range t.manifest.Chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if t.have.get(i) {
			continue
		}
		extents := t.layout.Extents(nil, i)
		written, err := t.written(extents)
		if err != nil {
			return fmt.Errorf("recover chunk %d of %s: %w", i, t.artifact.Short(), err)
		}
		if !written {
			continue
		}
		if buf, err = t.read(i, c, buf); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("recover chunk %d of %s: %w", i, t.artifact.Short(), err)
		}
		if err != nil || starling.DigestOf(buf) != c.Digest {
			continue
		}
		if err := t.mark(i, sumOf(buf), extents); err != nil {
			return err
		}
	}
	return nil
}

// written reports whether all of the extents may hold data.
func (t *Tree) written(extents []starling.Extent) (bool, error) {
	for _, e := range extents {
		f, err := t.files.acquire(e.File, t.manifest.Files[e.File].Path)
		if err != nil {
			return false, err
		}
		data := holdsData(f.File, e.Offset, e.Length)
		t.files.release(f)
		if !data {
			return false, nil
		}
	}
	return true, nil
}
