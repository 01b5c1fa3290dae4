package blobcache

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

// Places in a store's directory.
const (
	lockFile     = "lock"
	chunksDir    = "chunks"    // <2 hex digits>/<64 hex digits>
	manifestsDir = "manifests" // <64 hex digits>
	tempDir      = "tmp"       // emptied at every start
)

// touchAfter is how stale the time of last use on disk may become.
const touchAfter = time.Hour

// DiskStore is a Store in a directory: a file per blob.
//
// A blob is written beside its place, flushed, renamed, and flushed again before Put
// returns; puts at the same time share the flushes. A chunk is checked whenever it is
// read, against its digest the first time after a start, and later against the checksum
// that it had then; damaged ones are deleted, never returned.
type DiskStore struct {
	dir     string
	logger  *slog.Logger
	index   *index
	barrier *barrier
	lock    *os.File
	root    *os.File // dir, for flushing

	// placing is held while a file and its record in the index change together.
	placing sync.Mutex
}

// OpenStore opens the store in dir, which it makes if needed, for maxBytes of blobs.
// It fails with ErrConflict if another process has it open.
func OpenStore(dir string, maxBytes int64, logger *slog.Logger) (*DiskStore, error) {
	if maxBytes < starling.MaxChunkBytes {
		return nil, starling.Invalidf("cache.max_bytes", "%d: want %d at least", maxBytes, starling.MaxChunkBytes)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	root, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", errors.Join(err, lock.Close()))
	}
	s := &DiskStore{dir: dir, logger: logger, index: newIndex(maxBytes), lock: lock, root: root}
	s.barrier = newBarrier(func() error {
		if err := unix.Syncfs(int(root.Fd())); err != nil {
			return fmt.Errorf("syncfs: %w", err)
		}
		return nil
	})
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open cache: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

// lockDir takes the directory's lock, which the kernel drops when the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: %s is in use by another process: stop that one, or give this one another directory", starling.ErrConflict, dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close lets go of the directory. Calls under way fail or finish; there must be no others.
func (s *DiskStore) Close() error { return errors.Join(s.root.Close(), s.lock.Close()) }

// Stat implements Source.
func (s *DiskStore) Stat(d starling.Digest) (int, bool) {
	b, ok := s.index.get(key{d, false})
	return int(b.bytes), ok
}

// Wait implements Source.
func (s *DiskStore) Wait(ctx context.Context, d starling.Digest) error { return s.index.wait(ctx, d) }

// Pin implements Store.
func (s *DiskStore) Pin(artifact starling.Digest, chunks []starling.Digest) {
	s.index.pin(artifact, chunks)
}

// Usage implements Store.
func (s *DiskStore) Usage() Usage { return s.index.usage() }

// Chunk implements Source.
func (s *DiskStore) Chunk(_ context.Context, d starling.Digest, buf []byte) ([]byte, error) {
	k := key{d, false}
	b, ok := s.index.get(k)
	if !ok {
		return nil, fmt.Errorf("chunk %s: %w", d.Short(), starling.ErrNotFound)
	}
	data, err := s.read(b, buf)
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w", d.Short(), err)
	}
	sum := sumOf(data)
	if b.verified && sum != b.sum || !b.verified && starling.DigestOf(data) != d {
		return nil, fmt.Errorf("chunk %s: %w", d.Short(), s.lose(b, errors.New("its content has changed on disk")))
	}
	if !b.verified {
		s.index.note(k, func(b *blob) { b.verified, b.sum = true, sum })
	}
	s.touch(b)
	return data, nil
}

func sumOf(data []byte) uint32 { return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) }

// Manifest implements Source.
func (s *DiskStore) Manifest(_ context.Context, artifact starling.Digest) ([]byte, error) {
	b, ok := s.index.get(key{artifact, true})
	if !ok {
		return nil, fmt.Errorf("manifest %s: %w", artifact.Short(), starling.ErrNotFound)
	}
	data, err := s.read(b, nil)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", artifact.Short(), err)
	}
	s.touch(b)
	return data, nil
}

// read returns a blob's bytes. What can only mean that the blob is no good loses it.
func (s *DiskStore) read(b blob, buf []byte) ([]byte, error) {
	f, err := os.Open(s.path(b.key))
	if errors.Is(err, fs.ErrNotExist) {
		if _, still := s.index.get(b.key); !still { // evicted meanwhile
			return nil, starling.ErrNotFound
		}
		return nil, s.lose(b, err)
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size()
	if size != b.bytes && !b.key.manifest { // an envelope may just have been replaced
		return nil, s.lose(b, fmt.Errorf("it is %d bytes long, was %d", size, b.bytes))
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if _, err := io.ReadFull(f, buf); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.EIO) {
			return nil, s.lose(b, err)
		}
		return nil, err
	}
	return buf, nil
}

// lose deletes a blob that is damaged or gone and returns the error to report.
func (s *DiskStore) lose(b blob, why error) error {
	s.placing.Lock()
	s.index.lose(b.key)
	err := os.Remove(s.path(b.key))
	s.placing.Unlock()
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	s.logger.Warn("cache lost a damaged blob", "digest", b.key.digest.String(), "manifest", b.key.manifest, "cause", why, "delete_error", err)
	return fmt.Errorf("%w: %w", starling.ErrCorrupt, errors.Join(why, err))
}

// touch notes on disk, now and then, that a blob is in use, for the next start's order.
func (s *DiskStore) touch(b blob) {
	now := time.Now()
	if now.Sub(b.touched) < touchAfter {
		return
	}
	s.index.note(b.key, func(b *blob) { b.touched = now })
	if err := os.Chtimes(s.path(b.key), time.Time{}, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.logger.Warn("cache cannot note the time of use", "error", err)
	}
}

// Put implements Store.
func (s *DiskStore) Put(_ context.Context, d starling.Digest, data []byte) error {
	if err := checkChunk(d, data); err != nil {
		return err
	}
	k := key{d, false}
	if b, ok := s.index.get(k); ok {
		if b.durable {
			return nil
		}
		return s.settle(k) // another Put of the same chunk is still at it
	}
	if err := s.place(k, data); err != nil {
		return fmt.Errorf("put chunk %s: %w", d.Short(), err)
	}
	return nil
}

// PutManifest implements Store.
func (s *DiskStore) PutManifest(_ context.Context, artifact starling.Digest, envelope []byte) error {
	if err := checkEnvelope(artifact, envelope); err != nil {
		return err
	}
	if err := s.place(key{artifact, true}, envelope); err != nil {
		return fmt.Errorf("put manifest %s: %w", artifact.Short(), err)
	}
	return nil
}

// place writes a blob so that a crash leaves all of it or nothing.
func (s *DiskStore) place(k key, data []byte) error {
	if err := s.reserve(int64(len(data))); err != nil {
		return err
	}
	defer s.index.unreserve(int64(len(data)))
	temp, err := s.writeTemp(data)
	if err != nil {
		return diskError(err)
	}
	if err := s.barrier.wait(); err != nil {
		return diskError(errors.Join(err, os.Remove(temp)))
	}
	s.placing.Lock()
	if err = os.Rename(temp, s.path(k)); err == nil {
		s.index.insert(blob{key: k, bytes: int64(len(data)), verified: true, sum: sumOf(data), touched: time.Now()})
	}
	s.placing.Unlock()
	if err != nil {
		return diskError(errors.Join(err, os.Remove(temp)))
	}
	return s.settle(k)
}

// settle returns when a renamed blob would survive a crash.
func (s *DiskStore) settle(k key) error {
	if err := s.barrier.wait(); err != nil {
		return diskError(err)
	}
	s.index.note(k, func(b *blob) { b.durable = true })
	return nil
}

// reserve makes room by deleting what was used least recently.
func (s *DiskStore) reserve(bytes int64) error {
	s.placing.Lock()
	defer s.placing.Unlock()
	victims, ok := s.index.reserve(bytes)
	if !ok {
		u := s.index.usage()
		return fmt.Errorf("%w: %d of %d bytes used, the rest is pinned by artifacts in use: raise cache.max_bytes", ErrFull, u.UsedBytes, u.MaxBytes)
	}
	var errs error
	for _, v := range victims {
		if err := os.Remove(s.path(v)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = errors.Join(errs, err)
		}
	}
	if errs != nil {
		s.index.unreserve(bytes)
		return fmt.Errorf("evict: %w", errs)
	}
	return nil
}

// writeTemp writes data to a new file, or leaves none.
func (s *DiskStore) writeTemp(data []byte) (string, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, tempDir), "put-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func (s *DiskStore) path(k key) string {
	h := k.digest.Hex()
	if k.manifest {
		return filepath.Join(s.dir, manifestsDir, h)
	}
	return filepath.Join(s.dir, chunksDir, h[:2], h)
}

// diskError tells a full disk from other failures.
func diskError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: the disk has no space left: lower cache.max_bytes or free some: %w", ErrFull, err)
	}
	return err
}
