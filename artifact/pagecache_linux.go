package artifact

import (
	"errors"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// rwfDontCache asks preadv2(2) to drop what it has to read from the disk from the page
// cache again, and to leave alone what was there (RWF_DONTCACHE, Linux 6.14).
const rwfDontCache = 0x80

// readAt is f.ReadAt that leaves the page cache as it was, where the kernel and the
// file system can. plain is set once they cannot.
func readAt(f *os.File, b []byte, at int64, plain *atomic.Bool) error {
	for len(b) > 0 && !plain.Load() {
		n, err := unix.Preadv2(int(f.Fd()), [][]byte{b}, at, rwfDontCache)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
			plain.Store(true)
		case err != nil:
			return &os.PathError{Op: "read", Path: f.Name(), Err: err}
		case n == 0:
			return io.EOF
		default:
			b, at = b[n:], at+int64(n)
		}
	}
	if len(b) == 0 {
		return nil
	}
	_, err := f.ReadAt(b, at)
	return err
}

// startWriteback has the kernel begin to write a range to the disk, and does not wait:
// a flush later on finds little to do. It is advice: the flush reports failures.
func startWriteback(f *os.File, at, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), at, n, unix.SYNC_FILE_RANGE_WRITE)
}

// evict waits until a range is written to the disk, though not durably, and drops it
// from the page cache.
func evict(f *os.File, at, n int64) error {
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	for {
		err := unix.SyncFileRange(int(f.Fd()), at, n, wait)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ESPIPE), errors.Is(err, unix.EINVAL): // no file system for that
			return nil
		case err != nil:
			return &os.PathError{Op: "sync_file_range", Path: f.Name(), Err: err}
		}
		break
	}
	_ = unix.Fadvise(int(f.Fd()), at, n, unix.FADV_DONTNEED) // advice
	return nil
}

// holdsData reports whether a range of f was ever written, apart from the page at its
// head, which may hold the end of what is before it. It says yes where it cannot know.
func holdsData(f *os.File, at, n int64) bool {
	const page = 4 << 10
	start := (at + page - 1) / page * page
	if start >= at+n {
		return true
	}
	found, err := unix.Seek(int(f.Fd()), start, unix.SEEK_DATA)
	if err != nil {
		return !errors.Is(err, unix.ENXIO) // ENXIO: nothing up to the file's end
	}
	return found < at+n
}
