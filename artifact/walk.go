package artifact

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"
	"unicode/utf8"

	"github.com/starlingdeploy/starling"
)

const dirBatchEntries = 1024 // directory entries read at once

// walk lists the tree in manifest order: the byte order of whole paths, in which
// "a-b" comes before "a/b". It refuses what no artifact may hold.
func walk(ctx context.Context, root *os.Root, maxFiles int) ([]starling.File, error) {
	var files []starling.File
	var bytes int64
	dirs := []string{"."}
	for len(dirs) > 0 {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		err := eachEntry(ctx, root, dir, func(name string) error {
			if len(files) >= maxFiles {
				return starling.Invalidf("artifact", "more than %d files and directories", maxFiles)
			}
			f, err := entry(root, name)
			if err != nil {
				return err
			}
			if bytes += f.Size; bytes > starling.MaxArtifactBytes {
				return starling.Invalidf("artifact", "larger than %d bytes", int64(starling.MaxArtifactBytes))
			}
			if f.Kind == starling.KindDir {
				dirs = append(dirs, name)
			}
			files = append(files, f)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(files, func(a, b starling.File) int { return cmp.Compare(a.Path, b.Path) })
	return files, nil
}

// eachEntry calls do with the path of every entry of dir, holding few of them in memory.
func eachEntry(ctx context.Context, root *os.Root, dir string, do func(name string) error) (err error) {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		entries, err := d.ReadDir(dirBatchEntries)
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		for _, e := range entries {
			if err := do(path.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
}

func entry(root *os.Root, name string) (starling.File, error) {
	f := starling.File{Path: name}
	if !utf8.ValidString(name) { // JSON would change it
		return f, starling.Invalidf("artifact", "%+.200q: the name is not valid UTF-8", name)
	}
	if err := starling.CheckPath(name); err != nil {
		return f, err
	}
	info, err := root.Lstat(name)
	if err != nil {
		return f, err
	}
	var ok bool
	if f.Kind, ok = kindOf(info.Mode()); !ok {
		return f, starling.Invalidf("artifact", "%.200q is a %s: only files, directories and symlinks can be deployed", name, describe(info.Mode()))
	}
	f.Mode = uint32(info.Mode().Perm()) // without setuid, setgid and sticky
	switch f.Kind {
	case starling.KindFile:
		f.Size = info.Size()
	case starling.KindSymlink:
		f.Mode = 0o777 // what Linux says of every link
		f.Link, err = link(root, name)
	}
	return f, err
}

// link returns a symlink's target if it stays in the tree: by its text, and also
// where it leads through other links.
func link(root *os.Root, name string) (string, error) {
	target, err := root.Readlink(name)
	if err != nil {
		return "", err
	}
	if !utf8.ValidString(target) {
		return "", starling.Invalidf("artifact", "symlink %.200q: its target is not valid UTF-8", name)
	}
	if err := starling.CheckLink(name, target); err != nil {
		return "", err
	}
	// A target that does not exist or loops is the app's affair; the kernel then
	// says so with an errno. Only os.Root's own refusal is not one.
	var errno syscall.Errno
	if _, err := root.Stat(name); err != nil && !errors.As(err, &errno) {
		return "", starling.Invalidf("artifact", "symlink %.200q leads outside the tree: %v", name, err)
	}
	return target, nil
}

func describe(m fs.FileMode) string {
	switch {
	case m&fs.ModeDevice != 0:
		return "device"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	default:
		return "file of unknown kind"
	}
}

// content reads the regular files of a walked tree one after the other, and fails
// if one is not what the walk saw.
type content struct {
	ctx   context.Context
	root  *os.Root
	files []starling.File // those still to be opened
	name  string          // of file
	file  *os.File        // nil: open the next
	left  int64           // bytes of file still to come
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	for {
		if err := c.ctx.Err(); err != nil {
			return 0, err
		}
		if c.file == nil {
			if err := c.next(); err != nil {
				return 0, err
			}
		}
		if c.left > 0 {
			n, err := c.file.Read(p[:min(int64(len(p)), c.left)])
			c.left -= int64(n)
			if err == io.EOF {
				return n, changed(c.name)
			}
			return n, err
		}
		var more [1]byte
		if n, err := c.file.Read(more[:]); n != 0 || err != io.EOF {
			return 0, errors.Join(changed(c.name), c.close())
		}
		if err := c.close(); err != nil {
			return 0, err
		}
	}
}

func (c *content) next() error {
	for len(c.files) > 0 && c.files[0].Size == 0 {
		c.files = c.files[1:]
	}
	if len(c.files) == 0 {
		return io.EOF
	}
	f := c.files[0]
	c.files = c.files[1:]
	// Not to hang on a pipe, nor follow a link, that has taken the file's place.
	file, err := c.root.OpenFile(f.Path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	c.file, c.name, c.left = file, f.Path, f.Size
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != f.Size {
		return changed(f.Path)
	}
	return nil
}

// close closes the current file, if any.
func (c *content) close() error {
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file = nil
	return err
}

func changed(name string) error {
	return starling.Invalidf("artifact", "%.200q changed while it was being packed", name)
}
