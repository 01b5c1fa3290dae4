package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
)

// Where things stand below DataDir:
//
//	agent.lock                          held for as long as the agent runs
//	apps/<app>/state.json               record
//	apps/<app>/current                  link to releases/<id>/files, switched by rename
//	apps/<app>/output.log, output.log.1, … what the release prints
//	apps/<app>/releases/<id>/           one release; id is the artifact's first idDigits hex digits
//	  manifest.json                     the manifest, checked against the artifact's digest
//	  manifest.dsse                     its signed envelope, as other machines get it
//	  account.json                      how it came here (starling.Account), for servers that ask
//	  have                              which chunks are on disk (package artifact)
//	  files/                            the tree, written in place
//
// Order of writes, so that power loss at any instant leaves one whole release:
// the manifest is durable before the tree is begun; a chunk is durable before its
// bit in the tree's have-bitmap; all of a tree before its release counts as
// complete; the record of the goal before its activation begins; the link before
// the new child starts; the record of what runs only when it was found healthy.
// At a start the link is put back to the release that the record says runs.
const (
	idDigits     = 16
	lockName     = "agent.lock"
	appsDir      = "apps"
	releasesDir  = "releases"
	currentName  = "current"
	recordName   = "state.json"
	outputName   = "output.log"
	manifestName = "manifest.json"
	envelopeName = "manifest.dsse"
	treeName     = artifact.FilesDir
)

const (
	lockPatience = time.Second
	lockPause    = 20 * time.Millisecond
)

// appDir is the directory of one app.
type appDir string

func (d appDir) join(parts ...string) string {
	return filepath.Join(append([]string{string(d)}, parts...)...)
}

// release returns the directory of a release.
func (d appDir) release(digest starling.Digest) string {
	return d.join(releasesDir, digest.Hex()[:idDigits])
}

// tree returns the directory in which a release's processes run.
func (d appDir) tree(digest starling.Digest) string {
	return filepath.Join(d.release(digest), treeName)
}

// switchTo makes current lead to the tree of a release, durably. It is atomic:
// at every instant the link leads to the old tree or to the new one.
func (d appDir) switchTo(digest starling.Digest) error {
	target := filepath.Join(releasesDir, digest.Hex()[:idDigits], treeName)
	if d.leadsTo(digest) {
		return nil
	}
	if err := renameio.Symlink(target, d.join(currentName)); err != nil {
		return fmt.Errorf("switch current: %w", err)
	}
	return syncDir(string(d))
}

// leadsTo reports whether current leads to the tree of a release.
func (d appDir) leadsTo(digest starling.Digest) bool {
	now, err := os.Readlink(d.join(currentName))
	return err == nil && now == filepath.Join(releasesDir, digest.Hex()[:idDigits], treeName)
}

// removeCurrent makes nothing current, durably.
func (d appDir) removeCurrent() error {
	if err := os.Remove(d.join(currentName)); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove current: %w", err)
	}
	return syncDir(string(d))
}

// writeDurably replaces path by b: all of it or nothing, on disk when it returns.
func writeDurably(path string, b []byte) error {
	if err := renameio.WriteFile(path, b, 0o640); err != nil { // syncs the file before the rename
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// makeDirs makes path and what is missing above it, each durable in its parent.
func makeDirs(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	parent := filepath.Dir(path)
	if err := makeDirs(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make directory: %w", err)
	}
	return syncDir(parent)
}

// lockDataDir refuses a second agent on the same directory. An agent that is just
// ending is waited for, up to lockPatience.
func lockDataDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(lockPause) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
	}
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		err = fmt.Errorf("data directory %s is in use by another agent: %w", dir, starling.ErrConflict)
	default:
		err = fmt.Errorf("lock data directory: %w", err)
	}
	return nil, errors.Join(err, f.Close())
}

// unlockDataDir gives the lock up at once: to close the file alone leaves it to a
// process that is just being forked.
func unlockDataDir(f *os.File) error {
	if err := errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close()); err != nil {
		return fmt.Errorf("unlock data directory: %w", err)
	}
	return nil
}

// removeRelease removes a release's directory; a crash half-way leaves a rest that
// the next start removes.
func removeRelease(dir string) error {
	doomed := dir + ".removed"
	if err := os.Rename(dir, doomed); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove release: %w", err)
	}
	return removeTree(doomed)
}

// removeTree removes dir and everything below it.
func removeTree(dir string) error {
	if err := makeRemovable(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove release: %w", err)
	}
	return nil
}

// makeRemovable gives the owner write access to every directory below dir: an
// artifact may hold directories without it.
func makeRemovable(dir string) error {
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case errors.Is(err, os.ErrPermission) && e != nil && e.IsDir():
			// Listed too late: WalkDir reads a directory before it calls us again.
			return os.Chmod(path, 0o700)
		case err != nil:
			return err
		case e.IsDir():
			return os.Chmod(path, 0o700)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove release: %w", err)
	}
	return nil
}
