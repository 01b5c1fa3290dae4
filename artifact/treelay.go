package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

// Modes while a tree is being filled. The manifest's come last, in seal.
const (
	workDirMode  = 0o700
	workFileMode = 0o600
	doneDirMode  = 0o755 // of directories that the manifest does not list
)

// lay makes every entry of the manifest, durably.
func (t *Tree) lay() error {
	if err := t.dir.Mkdir(FilesDir, doneDirMode); err != nil {
		return err
	}
	var err error
	if t.root, err = t.dir.OpenRoot(FilesDir); err != nil {
		return err
	}
	t.files = newFileCache(t.root, os.O_RDWR)
	made := map[string]bool{".": true}
	for i := range t.manifest.Files {
		if err := t.layEntry(&t.manifest.Files[i], made); err != nil {
			return fmt.Errorf("%q: %w", t.manifest.Files[i].Path, err)
		}
	}
	// The modes and content of these come later; names and sizes must be there first.
	return t.syncEntries()
}

func (t *Tree) layEntry(f *starling.File, made map[string]bool) error {
	parent := path.Dir(f.Path)
	if !made[parent] { // not listed: listed ones come first in path order
		if err := t.root.MkdirAll(parent, doneDirMode); err != nil {
			return err
		}
		made[parent] = true
	}
	switch f.Kind {
	case starling.KindDir:
		made[f.Path] = true
		return t.root.Mkdir(f.Path, workDirMode)
	case starling.KindSymlink:
		return t.root.Symlink(f.Link, f.Path)
	default:
		file, err := t.root.OpenFile(f.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, workFileMode)
		if err != nil {
			return err
		}
		return errors.Join(reserve(file, f.Size), file.Close())
	}
}

// reserve gives an empty file its size, with its blocks where the file system can.
func reserve(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return f.Truncate(size)
		case err != nil:
			return fmt.Errorf("reserve %d bytes: %w", size, err)
		}
		return nil
	}
}

// restore checks the entries of an unfinished tree and gives them back the modes
// that writing needs, which an interrupted seal may have changed.
func (t *Tree) restore() error {
	for i := range t.manifest.Files {
		f := &t.manifest.Files[i]
		info, err := t.root.Lstat(f.Path)
		if err != nil {
			return errors.Join(starling.ErrCorrupt, err)
		}
		kind, ok := kindOf(info.Mode())
		if !ok || kind != f.Kind || (kind == starling.KindFile && info.Size() != f.Size) {
			return fmt.Errorf("%w: %q is not what the manifest says", starling.ErrCorrupt, f.Path)
		}
		mode := fs.FileMode(workFileMode)
		switch kind {
		case starling.KindSymlink:
			continue
		case starling.KindDir:
			mode = workDirMode
		}
		if info.Mode().Perm() != mode {
			if err := t.root.Chmod(f.Path, mode); err != nil {
				return err
			}
		}
	}
	return nil
}

// seal gives every entry its mode, durably; children before the directories that
// may shut them away.
func (t *Tree) seal(ctx context.Context) error {
	each := len(t.manifest.Files) <= MaxFsyncFiles
	for i := len(t.manifest.Files) - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		f := &t.manifest.Files[i]
		if f.Kind == starling.KindSymlink {
			continue
		}
		if err := sealEntry(t.root, f, each); err != nil {
			return fmt.Errorf("%q: %w", f.Path, err)
		}
	}
	if each {
		return syncPath(t.root, ".")
	}
	return syncFileSystem(t.root)
}

func sealEntry(root *os.Root, f *starling.File, sync bool) error {
	file, err := root.Open(f.Path)
	if err != nil {
		return err
	}
	err = file.Chmod(fs.FileMode(f.Mode))
	if err == nil && sync {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// syncEntries flushes the names of all entries.
func (t *Tree) syncEntries() error {
	if len(t.manifest.Files) > MaxFsyncFiles {
		return syncFileSystem(t.root)
	}
	synced := map[string]bool{}
	for i := range t.manifest.Files {
		f := &t.manifest.Files[i]
		dirs := []string{path.Dir(f.Path)}
		if f.Kind == starling.KindFile {
			if err := syncPath(t.root, f.Path); err != nil {
				return err
			}
		}
		for d := path.Dir(f.Path); d != "."; d = path.Dir(d) {
			dirs = append(dirs, path.Dir(d))
		}
		for _, d := range dirs {
			if synced[d] {
				continue
			}
			synced[d] = true
			if err := syncPath(t.root, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// syncFiles flushes the content of the files with the given indices.
func (t *Tree) syncFiles(indices map[int]struct{}) error {
	if len(indices) > MaxFsyncFiles {
		return syncFileSystem(t.root)
	}
	for i := range indices {
		if err := t.syncFile(i); err != nil {
			return fmt.Errorf("flush %q: %w", t.manifest.Files[i].Path, err)
		}
	}
	return nil
}

func (t *Tree) syncFile(i int) error {
	f, err := t.files.acquire(i, t.manifest.Files[i].Path)
	if err != nil {
		return err
	}
	defer t.files.release(f)
	return f.Sync()
}

func syncPath(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncFileSystem flushes the file system that holds root in one go: cheaper than
// thousands of fsyncs.
func syncFileSystem(root *os.Root) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(f.Fd()))
	if err != nil {
		err = fmt.Errorf("syncfs: %w", err)
	}
	return errors.Join(err, f.Close())
}

// kindOf tells what a directory entry is; false for what no artifact may hold.
func kindOf(m fs.FileMode) (starling.FileKind, bool) {
	switch {
	case m.IsRegular():
		return starling.KindFile, true
	case m.IsDir():
		return starling.KindDir, true
	case m&fs.ModeSymlink != 0:
		return starling.KindSymlink, true
	default:
		return "", false
	}
}
