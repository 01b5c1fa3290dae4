package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/starlingdeploy/starling"
)

// blankBytes of zeros at the head of a chunk's place say that it was not written.
// (A chunk that really begins so is fetched again.)
const blankBytes = 4 << 10

// recheck counts chunks that an earlier run wrote and had no time to note: what a
// kill interrupts is in the files nevertheless. Nobody else may use r yet.
func (r *release) recheck(ctx context.Context, pool *buffers) (err error) {
	if r.tree.Complete() {
		return nil
	}
	p := placeReader{r: r, layout: starling.NewLayout(r.manifest), open: -1}
	defer func() { err = errors.Join(err, p.close()) }()
	buf := pool.get(starling.MaxChunkBytes)
	defer pool.put(buf)
	for i := range r.manifest.Chunks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.tree.Has(i) {
			continue
		}
		data, err := p.read(i, buf)
		if err != nil {
			return fmt.Errorf("recheck chunk %d: %w", i, err)
		}
		if data == nil {
			continue
		}
		if err := r.tree.WriteChunk(i, data); err != nil && !errors.Is(err, starling.ErrCorrupt) {
			return fmt.Errorf("recheck: %w", err)
		}
	}
	return nil
}

// placeReader reads what stands at the places of chunks, whether it is right or not.
type placeReader struct {
	r      *release
	layout *starling.Layout
	file   *os.File
	open   int // index of file; -1: none
}

// read returns the bytes at chunk i's place in buf, or nil if it is blank.
func (p *placeReader) read(i int, buf []byte) ([]byte, error) {
	size := p.r.manifest.Chunks[i].Size
	done := 0
	for _, e := range p.layout.Extents(nil, i) {
		if err := p.use(e.File); err != nil {
			return nil, err
		}
		at, end := e.Offset, e.Offset+e.Length
		if done == 0 { // look at the head before reading all
			n := min(e.Length, blankBytes)
			if err := p.readAt(buf[:n], at); err != nil {
				return nil, err
			}
			if blank(buf[:n]) {
				return nil, nil
			}
			done, at = int(n), at+n
		}
		if err := p.readAt(buf[done:done+int(end-at)], at); err != nil {
			return nil, err
		}
		done += int(end - at)
	}
	return buf[:size], nil
}

func (p *placeReader) readAt(b []byte, at int64) error {
	n, err := p.file.ReadAt(b, at)
	if n == len(b) || errors.Is(err, io.EOF) { // a short file holds wrong bytes, which the digest shows
		return nil
	}
	return err
}

// use opens a file of the manifest in place of the one before.
func (p *placeReader) use(index int) error {
	if p.open == index {
		return nil
	}
	if err := p.close(); err != nil {
		return err
	}
	f, err := p.r.root.Open(filepath.Join(treeName, p.r.manifest.Files[index].Path))
	if err != nil {
		return err
	}
	p.file, p.open = f, index
	return nil
}

func (p *placeReader) close() error {
	if p.file == nil {
		return nil
	}
	err := p.file.Close()
	p.file, p.open = nil, -1
	return err
}

func blank(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
