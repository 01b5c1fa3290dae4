package raftnode

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Bounds of making raft.db smaller at the start.
const (
	compactMinBytes = 64 << 20 // smaller files are left as they are
	compactTxBytes  = 4 << 20
	compactSuffix   = ".compact" // of a copy that is not complete
	boltFileMode    = 0o600
)

func boltOptions() *bbolt.Options {
	return &bbolt.Options{
		NoFreelistSync: true, // rebuilt at start; saves a page write in each commit
		FreelistType:   bbolt.FreelistMapType,
		Timeout:        storeLockTimeout,
	}
}

// prepareBolt checks the file at path before it is used, and makes it smaller if it has
// minBytes or more and most of it is free: bbolt uses free pages again but never gives
// them back. It tells whether there is a file. starling.ErrCorrupt: it is damaged.
func prepareBolt(path string, minBytes int64, logger *slog.Logger) (exists bool, err error) {
	use, fileBytes, err := inspectBolt(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	if len(use.buckets) > 0 && !slices.Equal(use.buckets, []string{"conf", "logs"}) { // raft-boltdb's
		return true, damaged("its buckets are %q", use.buckets)
	}
	if err := os.Remove(path + compactSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, fmt.Errorf("remove a half-made copy: %w", err)
	}
	if fileBytes < minBytes || int64(use.used)*use.pageBytes > fileBytes/2 {
		return len(use.buckets) > 0, nil
	}
	if err := compactBolt(path); err != nil {
		logger.Warn("the raft log stays as large as it is", "bytes", fileBytes, "error", err)
	} else {
		logger.Info("made the raft log smaller", "bytes_before", fileBytes, "bytes_used", int64(use.used)*use.pageBytes)
	}
	return true, nil
}

// inspectBolt checks the file while no other process has it.
func inspectBolt(path string) (use boltUse, fileBytes int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return use, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // and unlocks it
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return use, 0, inUse(path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return use, 0, err
	}
	if info.Size() == 0 { // a first start that did not come far
		return use, 0, nil
	}
	use, err = checkBolt(f, info.Size())
	return use, info.Size(), err
}

func inUse(path string, err error) error {
	return fmt.Errorf("data directory %s is in use by another process: %w", filepath.Dir(path), err)
}

// compactBolt copies what the file holds into a new one and puts that in its place. A
// crash at any instant leaves one of the two.
func compactBolt(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make %s smaller: %w", path, err)
		}
	}()
	from, err := bbolt.Open(path, boltFileMode, boltOptions())
	if errors.Is(err, bolterrors.ErrTimeout) {
		return inUse(path, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	temp := path + compactSuffix
	to, err := bbolt.Open(temp, boltFileMode, boltOptions())
	if err != nil {
		return err
	}
	err = bbolt.Compact(to, from, compactTxBytes)
	if err = errors.Join(err, to.Sync(), to.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
