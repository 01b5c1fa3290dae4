package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// workspace is the directory of one build.
type workspace struct {
	dir   string
	cache string // outlives the build
}

func (w workspace) src() string  { return filepath.Join(w.dir, "src") }
func (w workspace) tmp() string  { return filepath.Join(w.dir, "tmp") }
func (w workspace) home() string { return filepath.Join(w.dir, "home") }
func (w workspace) etc() string  { return filepath.Join(w.dir, "etc") }

// make makes the directories and the files that stand in for the system's accounts.
func (w workspace) make() error {
	for _, d := range []string{w.src(), w.tmp(), w.home(), w.etc(), w.cache} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("workspace: %w", err)
		}
	}
	for name, text := range map[string]string{
		"passwd":        "build:x:" + buildUID + ":" + buildUID + "::" + inHome + ":/bin/sh\n",
		"group":         "build:x:" + buildUID + ":\n",
		"hosts":         "127.0.0.1 localhost starling-build\n::1 localhost\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	} {
		if err := os.WriteFile(filepath.Join(w.etc(), name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("workspace: %w", err)
		}
	}
	return nil
}

// remove removes the workspace, and the cache too should it hold more than maxCacheBytes:
// the next build then starts cold, but with its disk allowance before it.
func (w workspace) remove(maxCacheBytes int64) error {
	var err error
	if w.dir != "" {
		err = removeTree(w.dir)
	}
	used, uerr := diskUsage(w.cache)
	if uerr != nil {
		return errors.Join(err, uerr)
	}
	if used > maxCacheBytes {
		return errors.Join(err, removeTree(w.cache))
	}
	now := time.Now()
	return errors.Join(err, ignoreMissing(os.Chtimes(w.cache, now, now)))
}
