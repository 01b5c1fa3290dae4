package build

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// janitor removes mirrors and caches that nobody has used for long and, when the disk
// gets full, those that were not used for longest, until ctx ends.
func (w *Worker) janitor(ctx context.Context) {
	for {
		if err := w.clean(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("cleaning the worker's data directory", "err", err)
		}
		if sleep(ctx, janitorEvery) != nil {
			return
		}
	}
}

// kept is a directory that only saves time.
type kept struct {
	path  string
	name  string
	locks *locks
	used  time.Time
}

func (w *Worker) clean(ctx context.Context) error {
	var all []kept
	for dir, l := range map[string]*locks{"mirrors": w.mirrors.locks, "cache": w.caches} {
		entries, err := os.ReadDir(filepath.Join(w.cfg.DataDir, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				return err
			}
			all = append(all, kept{filepath.Join(w.cfg.DataDir, dir, e.Name()), e.Name(), l, info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return a.used.Compare(b.used) })
	for _, k := range all {
		if ctx.Err() != nil {
			return nil
		}
		full := checkFree(w.cfg.DataDir, 2*w.cfg.MinFreeBytes) != nil
		if !full && time.Since(k.used) < unusedFor {
			return nil // the rest was used later
		}
		unlock, ok := k.locks.tryLock(k.name)
		if !ok {
			continue
		}
		err := removeTree(k.path)
		unlock()
		if err != nil {
			return err
		}
		w.log.Info("removed", "dir", k.path, "last_used", k.used, "disk_full", full)
	}
	return nil
}
