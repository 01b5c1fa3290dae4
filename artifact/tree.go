package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/starlingdeploy/starling"
)

// FilesDir is the directory, inside the one given to CreateTree, where a release's
// files stand. Its sibling haveFile says which chunks of them are on disk.
const (
	FilesDir = "files"
	haveFile = "have"
)

// Bounds of one Tree.
const (
	MaxOpenFiles      = 64        // file descriptors kept open between calls
	MaxFsyncFiles     = 64        // with more files to flush, the whole file system is flushed at once
	SyncUnsyncedBytes = 512 << 20 // WriteChunk flushes and notes progress after this much; what a loss of power can lose
)

// Tree is one artifact laid out on disk, complete or not. All methods but Close
// are safe for concurrent use; Close and Finish wait for nobody's writes: end them first.
type Tree struct {
	artifact starling.Digest
	manifest *starling.Manifest
	layout   *starling.Layout
	dir      *os.Root // the caller's
	root     *os.Root // FilesDir in it
	files    *fileCache

	warm       warm
	plainReads atomic.Bool // the kernel knows no others

	syncMu sync.Mutex // one flush at a time

	mu            sync.Mutex
	have          bitset
	fresh         bitset   // checked and written by this process, not yet open to the app's own writes
	sums          []uint32 // CRC-32C of the fresh chunks: a tenth of the digest's cost
	held          int      // bits in have
	finished      bool
	dirty         map[int]struct{} // indices of files written since the last flush
	unsyncedBytes int64
	byDigest      map[starling.Digest]int // lazily built; first index of each digest
}

// CreateTree makes the files of an artifact under dir: directories, links, and files
// of their full size with space reserved, so that a full disk shows before any byte
// is fetched. Leftovers of an unfinished CreateTree are replaced; an existing tree
// is refused with ErrConflict. The caller keeps dir open until after Close.
func CreateTree(dir *os.Root, artifact starling.Digest, m *starling.Manifest) (*Tree, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if _, err := dir.Lstat(haveFile); err == nil {
		return nil, fmt.Errorf("create tree of %s: %w: it exists", artifact.Short(), starling.ErrConflict)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("create tree: %w", err)
	}
	if err := dir.RemoveAll(FilesDir); err != nil {
		return nil, fmt.Errorf("create tree: remove leftovers: %w", err)
	}
	t := newTree(dir, artifact, m)
	err := t.lay()
	if err == nil {
		err = writeHave(dir, t.state())
	}
	if err != nil {
		if t.root != nil {
			err = errors.Join(err, t.root.Close())
		}
		return nil, fmt.Errorf("create tree of %s: %w", artifact.Short(), errors.Join(err, dir.RemoveAll(FilesDir)))
	}
	return t, nil
}

// OpenTree opens a tree made by CreateTree, with the chunks that were on disk when
// the process or the machine went down. It fails with ErrNotFound if there is none,
// and with ErrCorrupt if what is there is not this artifact's; then the directory
// should be emptied and the tree created again.
func OpenTree(dir *os.Root, artifact starling.Digest, m *starling.Manifest) (*Tree, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	state, err := readHave(dir, len(m.Chunks))
	if err != nil {
		return nil, fmt.Errorf("open tree of %s: %w", artifact.Short(), err)
	}
	if state.artifact != artifact || state.chunks != len(m.Chunks) {
		return nil, fmt.Errorf("open tree of %s: %w: the directory belongs to %s", artifact.Short(), starling.ErrCorrupt, state.artifact.Short())
	}
	t := newTree(dir, artifact, m)
	t.have, t.held, t.finished = state.have, state.have.count(), state.finished
	if t.root, err = dir.OpenRoot(FilesDir); err != nil {
		return nil, fmt.Errorf("open tree of %s: %w", artifact.Short(), errors.Join(starling.ErrCorrupt, err))
	}
	t.files = newFileCache(t.root, os.O_RDWR)
	if t.finished {
		t.files.flag = os.O_RDONLY
		return t, nil
	}
	if err := t.restore(); err != nil {
		return nil, fmt.Errorf("open tree of %s: %w", artifact.Short(), errors.Join(err, t.root.Close()))
	}
	return t, nil
}

func newTree(dir *os.Root, artifact starling.Digest, m *starling.Manifest) *Tree {
	return &Tree{
		artifact: artifact,
		manifest: m,
		layout:   starling.NewLayout(m),
		dir:      dir,
		have:     newBitset(len(m.Chunks)),
		fresh:    newBitset(len(m.Chunks)),
		sums:     make([]uint32, len(m.Chunks)),
		dirty:    map[int]struct{}{},
		warm:     warm{maxBytes: WarmBytes},
	}
}

// Artifact returns the digest of the artifact.
func (t *Tree) Artifact() starling.Digest { return t.artifact }

// Manifest returns the manifest; read only.
func (t *Tree) Manifest() *starling.Manifest { return t.manifest }

// Has reports whether chunk i is held: checked and written.
func (t *Tree) Has(i int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.have.get(i)
}

// Held returns how many chunks are held.
func (t *Tree) Held() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held
}

// Complete reports whether every chunk is held.
func (t *Tree) Complete() bool { return t.Held() == len(t.manifest.Chunks) }

// Finished reports whether Finish has succeeded, now or before a restart.
func (t *Tree) Finished() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished
}

// Index returns the first chunk with digest d. The same content may occur at
// several indices; each is held, or not, by itself.
func (t *Tree) Index(d starling.Digest) (int, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byDigest == nil {
		t.byDigest = make(map[starling.Digest]int, len(t.manifest.Chunks))
		for i := len(t.manifest.Chunks) - 1; i >= 0; i-- {
			t.byDigest[t.manifest.Chunks[i].Digest] = i
		}
	}
	i, ok := t.byDigest[d]
	return i, ok
}

// Sync flushes what was written and then notes it as held across a crash. WriteChunk
// does so by itself every SyncUnsyncedBytes; call it before a planned stop.
func (t *Tree) Sync() error {
	t.syncMu.Lock()
	defer t.syncMu.Unlock()
	return t.flush()
}

// flush is Sync for callers that hold syncMu.
func (t *Tree) flush() error {
	t.mu.Lock()
	if t.finished || (len(t.dirty) == 0 && t.unsyncedBytes == 0) {
		t.mu.Unlock()
		return nil
	}
	state := t.state()
	dirty := t.dirty
	unsynced := t.unsyncedBytes
	t.dirty, t.unsyncedBytes = map[int]struct{}{}, 0
	t.mu.Unlock()

	err := t.syncFiles(dirty)
	if err == nil {
		err = writeHave(t.dir, state)
	}
	if err != nil { // still to be flushed
		t.mu.Lock()
		for i := range dirty {
			t.dirty[i] = struct{}{}
		}
		t.unsyncedBytes += unsynced
		t.mu.Unlock()
		return fmt.Errorf("flush tree of %s: %w", t.artifact.Short(), err)
	}
	return nil
}

// state returns a copy of what goes to haveFile. The caller holds mu, or is alone.
func (t *Tree) state() haveState {
	return haveState{artifact: t.artifact, chunks: len(t.manifest.Chunks), finished: t.finished, have: t.have.clone()}
}

// Finish makes a complete tree ready to run: flushes all content, gives files and
// directories their modes, and flushes those too. After it the tree is read only,
// and nothing holds its files open for writing. Finishing twice is no error.
func (t *Tree) Finish(ctx context.Context) error {
	t.syncMu.Lock()
	defer t.syncMu.Unlock()
	t.mu.Lock()
	finished, missing := t.finished, len(t.manifest.Chunks)-t.held
	t.mu.Unlock()
	switch {
	case finished:
		return nil
	case missing > 0:
		return fmt.Errorf("finish tree of %s: %w: %d chunks are missing", t.artifact.Short(), starling.ErrConflict, missing)
	}
	if err := t.files.reopen(os.O_RDONLY); err != nil {
		return fmt.Errorf("finish tree of %s: %w", t.artifact.Short(), err)
	}
	if err := t.seal(ctx); err != nil { // flushes the content as well
		return fmt.Errorf("finish tree of %s: %w", t.artifact.Short(), err)
	}
	t.mu.Lock()
	state := t.state()
	t.mu.Unlock()
	state.finished = true
	if err := writeHave(t.dir, state); err != nil {
		return fmt.Errorf("finish tree of %s: %w", t.artifact.Short(), err)
	}
	t.mu.Lock()
	t.finished = true
	t.dirty, t.unsyncedBytes = nil, 0
	t.fresh = newBitset(len(t.manifest.Chunks))
	t.mu.Unlock()
	return nil
}

// Close flushes and closes the tree's files. The directory stays the caller's.
func (t *Tree) Close() error {
	return errors.Join(t.Sync(), t.files.reopen(os.O_RDONLY), t.root.Close())
}
