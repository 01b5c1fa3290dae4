package build

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// removeTree removes a tree even where the build left directories without write permission.
func removeTree(path string) error {
	if err := os.RemoveAll(path); err == nil {
		return nil
	}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if d == nil || !d.IsDir() {
			return nil // RemoveAll will tell
		}
		if err != nil {
			return nil
		}
		return os.Chmod(p, 0o700) // called before the directory is read
	})
	return errors.Join(os.RemoveAll(path), ignoreMissing(err))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// emptyDir removes everything in dir.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// entryBytes is what an entry costs beside its blocks: inodes are disk too.
const entryBytes = 512

// diskUsage sums the bytes on disk below dirs, counting hard links once. What vanishes
// or cannot be read while it looks is left out.
func diskUsage(dirs ...string) (int64, error) {
	var sum int64
	linked := make(map[uint64]struct{})
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			st, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				return fmt.Errorf("no stat of %s", d.Name())
			}
			if st.Nlink > 1 && !d.IsDir() {
				if _, seen := linked[st.Ino]; seen {
					return nil
				}
				linked[st.Ino] = struct{}{}
			}
			sum += st.Blocks*512 + entryBytes
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("disk usage: %w", err)
		}
	}
	return sum, nil
}
