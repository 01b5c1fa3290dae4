package artifact

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

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
	extents := t.layout.Extents(nil, i)
	for _, e := range extents {
		if err := t.writeExtent(e, data[:e.Length]); err != nil {
			return fmt.Errorf("write chunk %d of %s: %w", i, t.artifact.Short(), err)
		}
		data = data[e.Length:]
	}
	return t.mark(i, extents)
}

// ReadChunk reads chunk i into buf, or into a larger one if buf is too short. What
// this process did not write and check itself, or what an app may have changed since
// Finish, is checked again: ErrCorrupt means that the chunk is not held any more.
// ErrNotFound: it was not held.
func (t *Tree) ReadChunk(i int, buf []byte) ([]byte, error) {
	c, err := t.chunk(i)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	have, fresh := t.have.get(i), t.fresh.get(i)
	t.mu.Unlock()
	if !have {
		return nil, fmt.Errorf("read chunk %d of %s: %w", i, t.artifact.Short(), starling.ErrNotFound)
	}
	buf, err = t.read(i, c, buf)
	switch {
	case errors.Is(err, io.EOF): // the file was cut
	case err != nil:
		return nil, fmt.Errorf("read chunk %d of %s: %w", i, t.artifact.Short(), err)
	case fresh || starling.DigestOf(buf) == c.Digest:
		return buf, nil
	}
	t.mu.Lock()
	if t.have.get(i) {
		t.have.clear(i)
		t.fresh.clear(i)
		t.held--
	}
	t.mu.Unlock()
	return nil, fmt.Errorf("read chunk %d of %s: %w", i, t.artifact.Short(), starling.ErrCorrupt)
}

// CloneChunk fills chunk i from chunk j of another tree (or of t) on the same
// machine. The kernel shares or copies the blocks where it can; the result is read
// back into buf, or into a larger one, and checked before it counts: ErrCorrupt if
// it does not match, ErrNotFound if from does not hold j.
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
	dst, src := t.layout.Extents(nil, i), from.layout.Extents(nil, j)
	if buf, err = t.copyExtents(dst, from, src, buf); err == nil {
		buf, err = t.read(i, c, buf)
	}
	if err != nil {
		return fmt.Errorf("clone chunk %d of %s: %w", i, t.artifact.Short(), err)
	}
	if starling.DigestOf(buf) != c.Digest {
		return fmt.Errorf("clone chunk %d of %s: %w", i, t.artifact.Short(), starling.ErrCorrupt)
	}
	return t.mark(i, dst)
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

// mark counts chunk i as held, and flushes once enough is written.
func (t *Tree) mark(i int, extents []starling.Extent) error {
	t.mu.Lock()
	if !t.have.get(i) {
		t.have.set(i)
		t.held++
	}
	t.fresh.set(i)
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
	_, err = f.WriteAt(data, e.Offset)
	return err
}

// read returns the bytes of chunk i as they stand in the files.
func (t *Tree) read(i int, c starling.Chunk, buf []byte) ([]byte, error) {
	if cap(buf) < c.Size {
		buf = make([]byte, c.Size)
	}
	buf = buf[:c.Size]
	rest := buf
	for _, e := range t.layout.Extents(nil, i) {
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
	_, err = f.ReadAt(buf, e.Offset)
	return err
}

// copyExtents copies the bytes of src, extents of from, to dst, extents of t; both
// cover the same number of bytes. It returns buf, perhaps grown.
func (t *Tree) copyExtents(dst []starling.Extent, from *Tree, src []starling.Extent, buf []byte) ([]byte, error) {
	for len(dst) > 0 && len(src) > 0 {
		d, s := &dst[0], &src[0]
		n := min(d.Length, s.Length)
		var err error
		if buf, err = t.copyRange(*d, from, *s, int(n), buf); err != nil {
			return buf, err
		}
		d.Offset, d.Length = d.Offset+n, d.Length-n
		s.Offset, s.Length = s.Offset+n, s.Length-n
		if d.Length == 0 {
			dst = dst[1:]
		}
		if s.Length == 0 {
			src = src[1:]
		}
	}
	return buf, nil
}

// copyRange copies n bytes. copy_file_range(2) shares the blocks on file systems
// with reflinks when the range is aligned, and copies inside the kernel otherwise.
func (t *Tree) copyRange(d starling.Extent, from *Tree, s starling.Extent, n int, buf []byte) ([]byte, error) {
	in, err := from.files.acquire(s.File, from.manifest.Files[s.File].Path)
	if err != nil {
		return buf, err
	}
	defer from.files.release(in)
	out, err := t.files.acquire(d.File, t.manifest.Files[d.File].Path)
	if err != nil {
		return buf, err
	}
	defer t.files.release(out)

	inOff, outOff := s.Offset, d.Offset
	for n > 0 {
		copied, err := unix.CopyFileRange(int(in.Fd()), &inOff, int(out.Fd()), &outOff, n, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && !copyUnsupported(err):
			return buf, fmt.Errorf("copy_file_range: %w", err)
		case err != nil || copied == 0: // not between these file systems, or the source was cut
			return t.copyBytes(in, inOff, out, outOff, n, buf)
		}
		n -= copied
	}
	return buf, nil
}

func (t *Tree) copyBytes(in *openFile, inOff int64, out *openFile, outOff int64, n int, buf []byte) ([]byte, error) {
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	if _, err := in.ReadAt(buf[:n], inOff); err != nil {
		return buf, err
	}
	_, err := out.WriteAt(buf[:n], outOff)
	return buf, err
}

func copyUnsupported(err error) bool {
	for _, no := range []unix.Errno{unix.ENOSYS, unix.EXDEV, unix.EOPNOTSUPP, unix.EINVAL, unix.EPERM, unix.EBADF} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}
