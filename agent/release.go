package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
)

// release is an artifact in an app's directory, whole or in part. Reading chunks is
// safe for concurrent use, also while it is closed.
type release struct {
	artifact starling.Digest
	manifest *starling.Manifest
	tree     *artifact.Tree
	root     *os.Root
	twins    map[starling.Digest][]int // chunks that occur more than once; nil: none

	mu     sync.RWMutex // held for reading while tree is in use
	closed bool
}

// openRelease opens a release that an earlier run has made. Its manifest was
// verified then; here it is only compared with the digest it must have. ErrNotFound:
// there is none; ErrCorrupt: it is of no use and must be made anew.
func openRelease(dir appDir, digest starling.Digest) (*release, error) {
	root, err := os.OpenRoot(dir.release(digest))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open release %s: %w", digest.Short(), starling.ErrNotFound)
	} else if err != nil {
		return nil, fmt.Errorf("open release %s: %w", digest.Short(), err)
	}
	r, err := openIn(root, digest)
	if err != nil {
		return nil, fmt.Errorf("open release %s: %w", digest.Short(), errors.Join(err, root.Close()))
	}
	return r, nil
}

func openIn(root *os.Root, digest starling.Digest) (*release, error) {
	payload, err := readBounded(root, manifestName)
	if errors.Is(err, os.ErrNotExist) {
		return nil, starling.ErrNotFound
	} else if err != nil {
		return nil, err
	}
	if starling.DigestOf(payload) != digest {
		return nil, fmt.Errorf("%s: %w", manifestName, starling.ErrCorrupt)
	}
	m, err := starling.DecodeManifest(payload)
	if err != nil {
		return nil, err
	}
	tree, err := artifact.OpenTree(root, digest, m)
	if err != nil {
		return nil, err
	}
	return newRelease(root, digest, m, tree), nil
}

// createRelease makes the directory of a release from a verified manifest, whose
// payload and envelope are kept beside it. What an earlier attempt left is removed.
func createRelease(dir appDir, digest starling.Digest, m *starling.Manifest, payload, envelope []byte) (*release, error) {
	path := dir.release(digest)
	if err := removeRelease(path); err != nil {
		return nil, err
	}
	if err := makeDirs(path); err != nil {
		return nil, fmt.Errorf("create release: %w", err)
	}
	if err := writeDurably(filepath.Join(path, envelopeName), envelope); err != nil {
		return nil, fmt.Errorf("create release: %w", err)
	}
	if err := writeDurably(filepath.Join(path, manifestName), payload); err != nil { // last: it says that both are there
		return nil, fmt.Errorf("create release: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("create release: %w", err)
	}
	tree, err := artifact.CreateTree(root, digest, m)
	if err != nil {
		return nil, fmt.Errorf("create release: %w", errors.Join(err, root.Close()))
	}
	return newRelease(root, digest, m, tree), nil
}

func newRelease(root *os.Root, digest starling.Digest, m *starling.Manifest, tree *artifact.Tree) *release {
	r := &release{artifact: digest, manifest: m, tree: tree, root: root}
	seen := make(map[starling.Digest]int, len(m.Chunks))
	for i := range m.Chunks {
		d := m.Chunks[i].Digest
		first, again := seen[d]
		if !again {
			seen[d] = i
			continue
		}
		if r.twins == nil {
			r.twins = map[starling.Digest][]int{}
		}
		if r.twins[d] == nil {
			r.twins[d] = []int{first}
		}
		r.twins[d] = append(r.twins[d], i)
	}
	return r
}

// places returns all chunks with the content of chunk i, itself included.
func (r *release) places(i int) []int {
	if all := r.twins[r.manifest.Chunks[i].Digest]; all != nil {
		return all
	}
	return []int{i}
}

// read reads a chunk by its digest; ErrNotFound if it is not held.
func (r *release) read(d starling.Digest, buf []byte) ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	i, ok := r.find(d)
	if !ok {
		return nil, starling.ErrNotFound
	}
	return r.tree.ReadChunk(i, buf)
}

// find returns a held chunk with digest d. The caller holds mu.
func (r *release) find(d starling.Digest) (int, bool) {
	if r.closed {
		return 0, false
	}
	i, ok := r.tree.Index(d)
	if !ok {
		return 0, false
	}
	for _, j := range r.places(i) {
		if r.tree.Has(j) {
			return j, true
		}
	}
	return 0, false
}

// cloneInto fills chunk i of to from this release; ErrNotFound if it lacks the content.
func (r *release) cloneInto(to *artifact.Tree, i int, d starling.Digest, buf []byte) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	j, ok := r.find(d)
	if !ok {
		return starling.ErrNotFound
	}
	return to.CloneChunk(i, r.tree, j, buf)
}

// envelope returns the signed manifest.
func (r *release) envelope() ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return nil, starling.ErrNotFound
	}
	return readBounded(r.root, envelopeName)
}

// close waits for readers, flushes and closes. Writers must have ended.
func (r *release) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	if err := errors.Join(r.tree.Close(), r.root.Close()); err != nil {
		return fmt.Errorf("close release %s: %w", r.artifact.Short(), err)
	}
	return nil
}

// readBounded reads a file of at most twice a manifest's bound: an envelope holds
// the manifest in base64.
func readBounded(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const limit = 2 * starling.MaxManifestBytes
	var b bytes.Buffer
	n, err := b.ReadFrom(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, err
	case n > limit:
		return nil, fmt.Errorf("%s: longer than %d bytes: %w", name, limit, starling.ErrCorrupt)
	}
	return b.Bytes(), nil
}
