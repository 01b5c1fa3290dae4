package artifact

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"sync"
)

// fileCache keeps the files of a tree that were used last open, MaxOpenFiles of
// them and those in use, so that 100,000 files do not need 100,000 descriptors.
type fileCache struct {
	root *os.Root

	mu    sync.Mutex
	idle  sync.Cond // signalled when a stale file is closed
	flag  int       // os.O_RDWR or os.O_RDONLY
	open  map[int]*openFile
	lru   list.List // of *openFile without users, most recent first
	stale int       // files opened with an earlier flag that are still in use
	err   error     // of closing stale files
}

type openFile struct {
	*os.File
	index int
	users int
	stale bool
	elem  *list.Element // in lru; nil while in use
}

func newFileCache(root *os.Root, flag int) *fileCache {
	c := &fileCache{root: root, flag: flag, open: map[int]*openFile{}}
	c.idle.L = &c.mu
	return c
}

// acquire opens the file with the given index and path, or shares it. Each acquire
// needs a release.
func (c *fileCache) acquire(index int, path string) (*openFile, error) {
	c.mu.Lock()
	if f := c.open[index]; f != nil {
		c.use(f)
		c.mu.Unlock()
		return f, nil
	}
	flag := c.flag
	c.mu.Unlock()

	file, err := c.root.OpenFile(path, flag, 0)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.open[index]; f != nil { // somebody was faster
		c.use(f)
		return f, file.Close()
	}
	f := &openFile{File: file, index: index, users: 1}
	if flag != c.flag { // reopened meanwhile: for this one use only
		f.stale = true
		c.stale++
		return f, nil
	}
	c.open[index] = f
	c.trim()
	return f, nil
}

func (c *fileCache) use(f *openFile) {
	f.users++
	if f.elem != nil {
		c.lru.Remove(f.elem)
		f.elem = nil
	}
}

func (c *fileCache) release(f *openFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.users--
	switch {
	case f.users > 0:
	case f.stale:
		c.err = errors.Join(c.err, f.Close())
		c.stale--
		c.idle.Broadcast()
	default:
		f.elem = c.lru.PushFront(f)
		c.trim()
	}
}

// trim closes files without users beyond the bound. Close has nothing to tell
// that the later fsync of the same file would not.
func (c *fileCache) trim() {
	for len(c.open) > MaxOpenFiles && c.lru.Len() > 0 {
		c.closeIdle(c.lru.Back())
	}
}

func (c *fileCache) closeIdle(e *list.Element) {
	f := e.Value.(*openFile)
	c.lru.Remove(e)
	delete(c.open, f.index)
	c.err = errors.Join(c.err, f.Close())
}

// reopen has files opened with flag from now on, and returns when no file that was
// opened before is open any more.
func (c *fileCache) reopen(flag int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flag = flag
	for c.lru.Len() > 0 {
		c.closeIdle(c.lru.Back())
	}
	for index, f := range c.open {
		f.stale = true
		c.stale++
		delete(c.open, index)
	}
	for c.stale > 0 {
		c.idle.Wait()
	}
	err := c.err
	c.err = nil
	if err != nil {
		return fmt.Errorf("close files: %w", err)
	}
	return nil
}
