package artifact

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/starlingdeploy/starling"
)

// WriteChunk checks data against the manifest (ErrCorrupt if it does not match) and
// writes it into the files that chunk i covers. From then on Has(i) is true; it
// survives a crash after the next flush.
func (t *Tree) WriteChunk(i int, data []byte) error {
	c, err := t.chunk(i)
	if err != nil {
		return err
	}
	if len(data) != c.Size || starling.DigestOf(data) != c.Digest {
		return fmt.Errorf("write chunk %d of %s: %w", i, t.artifact.Short(), starling.ErrCorrupt)
	}
	if held, err := t.writable(i); held || err != nil {
		return err
	}
	if err := t.write(i, data); err != nil {
		return fmt.Errorf("write chunk %d of %s: %w", i, t.artifact.Short(), err)
	}
	return nil
}

// write writes the checked bytes of chunk i where they belong.
func (t *Tree) write(i int, data []byte) error {
	var room [4]starling.Extent
	extents := t.layout.Extents(room[:0], i)
	sum := sumOf(data)
	for _, e := range extents {
		if err := t.writeExtent(e, data[:e.Length]); err != nil {
			return err
		}
		data = data[e.Length:]
	}
	if err := t.mark(i, sum, extents); err != nil {
		return err
	}
	return t.cool(i)
}

// ReadChunk reads chunk i into buf, or into a larger one if buf is too short. It is
// checked again, by its digest if this process did not write it or an app may have
// changed it since Finish: ErrCorrupt means that the chunk is not held any more.
// ErrNotFound: it was not held.
func (t *Tree) ReadChunk(i int, buf []byte) ([]byte, error) {
	c, err := t.chunk(i)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	have, fresh, sum := t.have.get(i), t.fresh.get(i), t.sums[i]
	t.mu.Unlock()
	if !have {
		return nil, fmt.Errorf("read chunk %d of %s: %w", i, t.artifact.Short(), starling.ErrNotFound)
	}
	buf, err = t.read(i, c, buf)
	switch {
	case errors.Is(err, io.EOF): // the file was cut
	case err != nil:
		return nil, fmt.Errorf("read chunk %d of %s: %w", i, t.artifact.Short(), err)
	case fresh && sumOf(buf) == sum, !fresh && starling.DigestOf(buf) == c.Digest:
		return buf, nil
	}
	t.forget(i)
	return nil, fmt.Errorf("read chunk %d of %s: %w", i, t.artifact.Short(), starling.ErrCorrupt)
}

func sumOf(data []byte) uint32 { return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) }

// forget has chunk i not held any more.
func (t *Tree) forget(i int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.have.get(i) {
		t.have.clear(i)
		t.fresh.clear(i)
		t.held--
	}
}

// CloneChunk fills chunk i from chunk j of another tree (or of t) on the same
// machine, by way of buf or a larger one, where it is checked: ErrCorrupt if it does
// not match, ErrNotFound if from does not hold j. (copy_file_range(2) would have to be
// read back to be checked, and no file system shares blocks for it, since chunks begin
// anywhere in a block.)
func (t *Tree) CloneChunk(i int, from *Tree, j int, buf []byte) error {
	c, err := t.chunk(i)
	if err != nil {
		return err
	}
	source, err := from.chunk(j)
	if err != nil {
		return err
	}
	if source != c {
		return fmt.Errorf("clone chunk %d of %s: %w: chunk %d of %s is another", i, t.artifact.Short(), starling.ErrConflict, j, from.artifact.Short())
	}
	if !from.Has(j) {
		return fmt.Errorf("clone chunk %d of %s: %w", i, t.artifact.Short(), starling.ErrNotFound)
	}
	if held, err := t.writable(i); held || err != nil {
		return err
	}
	if buf, err = from.read(j, c, buf); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("clone chunk %d of %s: %w", i, t.artifact.Short(), err)
	}
	if err != nil || starling.DigestOf(buf) != c.Digest {
		return fmt.Errorf("clone chunk %d of %s: %w", i, t.artifact.Short(), starling.ErrCorrupt)
	}
	if err := t.write(i, buf); err != nil {
		return fmt.Errorf("clone chunk %d of %s: %w", i, t.artifact.Short(), err)
	}
	return nil
}

func (t *Tree) chunk(i int) (starling.Chunk, error) {
	if i < 0 || i >= len(t.manifest.Chunks) {
		return starling.Chunk{}, fmt.Errorf("chunk %d of %s: %w", i, t.artifact.Short(), starling.ErrNotFound)
	}
	return t.manifest.Chunks[i], nil
}

// writable reports whether chunk i is held already, and refuses writes to a finished tree.
func (t *Tree) writable(i int) (held bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.have.get(i) {
		return true, nil
	}
	if t.finished {
		return false, fmt.Errorf("write chunk %d of %s: %w: the tree is finished", i, t.artifact.Short(), starling.ErrConflict)
	}
	return false, nil
}

// mark counts chunk i, which has a checksum, as held, and flushes once enough is written.
func (t *Tree) mark(i int, sum uint32, extents []starling.Extent) error {
	t.mu.Lock()
	if !t.have.get(i) {
		t.have.set(i)
		t.held++
	}
	t.fresh.set(i)
	t.sums[i] = sum
	for _, e := range extents {
		t.dirty[e.File] = struct{}{}
		t.unsyncedBytes += e.Length
	}
	due := t.unsyncedBytes >= SyncUnsyncedBytes
	t.mu.Unlock()
	if due && t.syncMu.TryLock() { // otherwise a flush is under way, and the next chunk will ask again
		defer t.syncMu.Unlock()
		return t.flush()
	}
	return nil
}

func (t *Tree) writeExtent(e starling.Extent, data []byte) error {
	f, err := t.files.acquire(e.File, t.manifest.Files[e.File].Path)
	if err != nil {
		return err
	}
	defer t.files.release(f)
	if _, err = f.WriteAt(data, e.Offset); err == nil && e.Length >= earlyBytes {
		startWriteback(f.File, e.Offset, e.Length)
	}
	return err
}

// read returns the bytes of chunk i as they stand in the files.
func (t *Tree) read(i int, c starling.Chunk, buf []byte) ([]byte, error) {
	if cap(buf) < c.Size {
		buf = make([]byte, c.Size)
	}
	buf = buf[:c.Size]
	rest := buf
	var room [4]starling.Extent
	for _, e := range t.layout.Extents(room[:0], i) {
		if err := t.readExtent(e, rest[:e.Length]); err != nil {
			return nil, err
		}
		rest = rest[e.Length:]
	}
	return buf, nil
}

func (t *Tree) readExtent(e starling.Extent, buf []byte) error {
	f, err := t.files.acquire(e.File, t.manifest.Files[e.File].Path)
	if err != nil {
		return err
	}
	defer t.files.release(f)
	return readAt(f.File, buf, e.Offset, &t.plainReads)
}
