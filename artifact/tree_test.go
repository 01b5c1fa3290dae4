package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
)

// create packs src and lays it out in a new directory, still empty of content.
func create(t testing.TB, src string) (*Tree, *os.Root, map[starling.Digest][]byte) {
	t.Helper()
	m, d, chunks := pack(t, src)
	root := openRoot(t, t.TempDir())
	tree, err := CreateTree(root, d, m)
	if err != nil {
		t.Fatal(err)
	}
	return tree, root, chunks
}

func fill(t testing.TB, tree *Tree, chunks map[starling.Digest][]byte) {
	t.Helper()
	for _, i := range rand.Perm(len(tree.Manifest().Chunks)) {
		if err := tree.WriteChunk(i, chunks[tree.Manifest().Chunks[i].Digest]); err != nil {
			t.Fatal(err)
		}
	}
}

func closeTree(t testing.TB, tree *Tree) {
	t.Helper()
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
}

// listing describes a tree with content, for comparison.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		what := ""
		switch {
		case e.Type() == fs.ModeSymlink:
			if what, err = os.Readlink(p); err != nil {
				return err
			}
		case e.Type().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what = starling.DigestOf(data).Short()
		}
		fmt.Fprintf(&b, "%s %s %s\n", p[len(dir)+1:], info.Mode(), what)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTreeBecomesTheSource(t *testing.T) {
	src := sample(t)
	tree, root, chunks := create(t, src)
	if err := tree.Finish(context.Background()); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("finished without content: %v", err)
	}
	fill(t, tree, chunks)
	if !tree.Complete() || tree.Finished() {
		t.Errorf("complete %v, finished %v", tree.Complete(), tree.Finished())
	}
	for range 2 {
		if err := tree.Finish(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := listing(t, filepath.Join(root.Name(), FilesDir)), listing(t, src); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	closeTree(t, tree)

	again, err := OpenTree(root, tree.Artifact(), tree.Manifest())
	if err != nil {
		t.Fatal(err)
	}
	defer closeTree(t, again)
	if !again.Finished() || !again.Complete() {
		t.Error("not finished after opening it again")
	}
	for i, c := range again.Manifest().Chunks {
		got, err := again.ReadChunk(i, nil)
		if err != nil || starling.DigestOf(got) != c.Digest {
			t.Errorf("chunk %d: %v", i, err)
		}
		if j, ok := again.Index(c.Digest); !ok || again.Manifest().Chunks[j] != c {
			t.Errorf("index of chunk %d: %d %v", i, j, ok)
		}
	}
	if _, ok := again.Index(starling.Digest{1}); ok {
		t.Error("found a chunk that is not there")
	}
}

func TestTreeRefuses(t *testing.T) {
	tree, root, chunks := create(t, sample(t))
	defer closeTree(t, tree)
	data := chunks[tree.Manifest().Chunks[0].Digest]
	bad := bytes.Clone(data)
	bad[7] ^= 1
	if err := tree.WriteChunk(0, bad); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("flipped bit: %v", err)
	}
	if err := tree.WriteChunk(0, data[1:]); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("short: %v", err)
	}
	for _, i := range []int{-1, len(tree.Manifest().Chunks)} {
		if err := tree.WriteChunk(i, data); !errors.Is(err, starling.ErrNotFound) {
			t.Errorf("chunk %d: %v", i, err)
		}
	}
	if tree.Held() != 0 {
		t.Errorf("%d chunks held", tree.Held())
	}
	if _, err := tree.ReadChunk(0, nil); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("read: %v", err)
	}
	if _, err := CreateTree(root, tree.Artifact(), tree.Manifest()); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("created twice: %v", err)
	}
	if _, err := OpenTree(root, starling.Digest{9}, tree.Manifest()); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("opened as another: %v", err)
	}
	if _, err := OpenTree(openRoot(t, t.TempDir()), tree.Artifact(), tree.Manifest()); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("opened nothing: %v", err)
	}
}

// TestTreeResumes stands in for kill -9: what a Tree object had not flushed is
// forgotten with it, what it had is there.
func TestTreeResumes(t *testing.T) {
	tree, root, chunks := create(t, sample(t))
	m := tree.Manifest()
	if len(m.Chunks) < 3 {
		t.Fatalf("%d chunks are too few", len(m.Chunks))
	}
	put := func(tree *Tree, i int) {
		t.Helper()
		if err := tree.WriteChunk(i, chunks[m.Chunks[i].Digest]); err != nil {
			t.Fatal(err)
		}
	}
	put(tree, 1)
	if err := tree.Sync(); err != nil {
		t.Fatal(err)
	}
	put(tree, 0) // not flushed: the process dies here
	if err := tree.files.reopen(os.O_RDONLY); err != nil {
		t.Fatal(err)
	}
	if err := tree.root.Close(); err != nil {
		t.Fatal(err)
	}

	again, err := OpenTree(root, tree.Artifact(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTree(t, again)
	if !again.Has(1) || again.Has(0) || again.Held() != 1 {
		t.Errorf("has 0 %v, has 1 %v, held %d", again.Has(0), again.Has(1), again.Held())
	}
	if _, err := again.ReadChunk(1, nil); err != nil {
		t.Error(err)
	}
	fill(t, again, chunks)
	if err := again.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestTreeResumesAnInterruptedFinish(t *testing.T) {
	src := sample(t)
	tree, root, chunks := create(t, src)
	fill(t, tree, chunks)
	if err := tree.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := tree.seal(context.Background()); err != nil { // and no more of Finish
		t.Fatal(err)
	}
	closeTree(t, tree)
	again, err := OpenTree(root, tree.Artifact(), tree.Manifest())
	if err != nil {
		t.Fatal(err)
	}
	defer closeTree(t, again)
	if again.Finished() || !again.Complete() {
		t.Errorf("finished %v, complete %v", again.Finished(), again.Complete())
	}
	if err := again.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, want := listing(t, filepath.Join(root.Name(), FilesDir)), listing(t, src); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestOpenTreeNoticesDamage(t *testing.T) {
	damages := map[string]func(dir string) error{
		"file gone":       func(dir string) error { return os.Remove(filepath.Join(dir, FilesDir, "a/x")) },
		"file cut":        func(dir string) error { return os.Truncate(filepath.Join(dir, FilesDir, "a/x"), 5) },
		"files gone":      func(dir string) error { return os.RemoveAll(filepath.Join(dir, FilesDir)) },
		"chunk map cut":   func(dir string) error { return os.Truncate(filepath.Join(dir, haveFile), 30) },
		"chunk map empty": func(dir string) error { return os.Truncate(filepath.Join(dir, haveFile), 0) },
		"link for a file": func(dir string) error {
			p := filepath.Join(dir, FilesDir, "a/x")
			return errors.Join(os.Remove(p), os.Symlink("empty", p))
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			tree, root, _ := create(t, sample(t))
			closeTree(t, tree)
			if err := damage(root.Name()); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenTree(root, tree.Artifact(), tree.Manifest()); !errors.Is(err, starling.ErrCorrupt) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestReadChunkNeverServesDamage has an app write into its own release.
func TestReadChunkNeverServesDamage(t *testing.T) {
	tree, root, chunks := create(t, sample(t))
	defer closeTree(t, tree)
	fill(t, tree, chunks)
	if err := tree.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(root.Name(), FilesDir, "a/x"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("log line"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for i, c := range tree.Manifest().Chunks {
		data, err := tree.ReadChunk(i, nil)
		switch {
		case errors.Is(err, starling.ErrCorrupt):
			damaged++
			if tree.Has(i) {
				t.Error("the damaged chunk is still held")
			}
		case err != nil || starling.DigestOf(data) != c.Digest:
			t.Errorf("chunk %d: %v", i, err)
		}
	}
	if damaged != 1 {
		t.Errorf("%d damaged chunks, want 1", damaged)
	}
	if err := tree.WriteChunk(0, chunks[tree.Manifest().Chunks[0].Digest]); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("wrote into a release that may be running: %v", err)
	}
}

// TestReadChunkChecksWhileStaging has a disk lose what was written a moment ago.
func TestReadChunkChecksWhileStaging(t *testing.T) {
	tree, root, chunks := create(t, sample(t))
	defer closeTree(t, tree)
	fill(t, tree, chunks)
	f, err := os.OpenFile(filepath.Join(root.Name(), FilesDir, "a/x"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff, 0, 0xff}, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for i, c := range tree.Manifest().Chunks {
		data, err := tree.ReadChunk(i, nil)
		if errors.Is(err, starling.ErrCorrupt) {
			if err := tree.WriteChunk(i, chunks[c.Digest]); err != nil {
				t.Fatalf("the chunk cannot come again: %v", err)
			}
			data, err = tree.ReadChunk(i, nil)
			if err != nil || starling.DigestOf(data) != c.Digest {
				t.Errorf("chunk %d that came again: %v", i, err)
			}
			return
		}
		if err != nil || starling.DigestOf(data) != c.Digest {
			t.Errorf("chunk %d: %v", i, err)
		}
	}
	t.Error("no damage was noticed")
}

func TestCloneFromEarlierRelease(t *testing.T) {
	old := t.TempDir()
	write(t, old, "bin/app", noiseBytes(t, 11, 5<<20), 0o755)
	write(t, old, "data/big", noiseBytes(t, 12, 6<<20), 0o644)
	next := t.TempDir() // another first file, so that all offsets move
	write(t, next, "app", append([]byte("version 2"), noiseBytes(t, 11, 5<<20)...), 0o755)
	write(t, next, "data/big", noiseBytes(t, 12, 6<<20), 0o644)

	from, _, fromChunks := create(t, old)
	defer closeTree(t, from)
	fill(t, from, fromChunks)
	if err := from.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	tree, root, chunks := create(t, next)
	defer closeTree(t, tree)
	cloned := 0
	for i, c := range tree.Manifest().Chunks {
		if j, ok := from.Index(c.Digest); ok {
			if err := tree.CloneChunk(i, from, j, nil); err != nil {
				t.Fatal(err)
			}
			cloned++
		}
	}
	if cloned < len(tree.Manifest().Chunks)/2 {
		t.Errorf("only %d of %d chunks cloned", cloned, len(tree.Manifest().Chunks))
	}
	fill(t, tree, chunks)
	if err := tree.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, want := listing(t, filepath.Join(root.Name(), FilesDir)), listing(t, next); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestCloneChecksWhatItGot(t *testing.T) {
	src := sample(t)
	from, fromRoot, chunks := create(t, src)
	defer closeTree(t, from)
	fill(t, from, chunks)
	tree, _, _ := create(t, src)
	defer closeTree(t, tree)
	if err := tree.CloneChunk(0, from, 1, nil); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("another chunk: %v", err)
	}
	empty, _, _ := create(t, src)
	defer closeTree(t, empty)
	if err := tree.CloneChunk(0, empty, 0, nil); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("not held: %v", err)
	}
	if err := os.WriteFile(filepath.Join(fromRoot.Name(), FilesDir, "a-b"), []byte("DASH SORTS BEFORE SLASH"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tree.CloneChunk(0, from, 0, nil); !errors.Is(err, starling.ErrCorrupt) || tree.Has(0) {
		t.Errorf("damaged source: %v", err)
	}
	if err := tree.WriteChunk(0, chunks[tree.Manifest().Chunks[0].Digest]); err != nil {
		t.Errorf("after a bad clone: %v", err)
	}
}

func TestManyFilesNeedFewDescriptors(t *testing.T) {
	src := t.TempDir()
	const n = 700
	for i := range n {
		write(t, src, fmt.Sprintf("d%02d/f%04d", i%40, i), noiseBytes(t, byte(i), 400), 0o644)
	}
	tree, root, chunks := create(t, src)
	defer closeTree(t, tree)
	before := descriptors(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { fill(t, tree, chunks) })
	}
	wg.Wait()
	if got := descriptors(t) - before; got > MaxOpenFiles {
		t.Errorf("%d more descriptors open, want %d at most", got, MaxOpenFiles)
	}
	if err := tree.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, want := listing(t, filepath.Join(root.Name(), FilesDir)), listing(t, src); got != want {
		t.Error("the tree differs from its source")
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	return len(open)
}

// TestNothingHoldsExecutablesOpen runs a file of a finished tree: the kernel refuses
// that while anybody has it open for writing.
func TestNothingHoldsExecutablesOpen(t *testing.T) {
	src := t.TempDir()
	write(t, src, "run", []byte("#!/bin/sh\nexit 0\n"), 0o755)
	tree, root, chunks := create(t, src)
	defer closeTree(t, tree)
	fill(t, tree, chunks)
	if err := tree.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root.Name(), FilesDir, "run")
	p, err := os.StartProcess(path, []string{path}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	if state, err := p.Wait(); err != nil || !state.Success() {
		t.Errorf("%v, %v", state, err)
	}
}

func TestFullDiskShowsAtCreation(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	src := t.TempDir()
	write(t, src, "big", noiseBytes(t, 20, 4<<20), 0o644)
	m, d, _ := pack(t, src)
	root := openRoot(t, dir)
	_, err := CreateTree(root, d, m)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), `"big"`) {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestHaveRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 200).Draw(t, "chunks")
		s := haveState{artifact: starling.Digest{1, 2, 3}, chunks: n, have: newBitset(n)}
		for i := range n {
			if rapid.Bool().Draw(t, "have") {
				s.have.set(i)
			}
		}
		s.finished = s.have.count() == n && rapid.Bool().Draw(t, "finished")
		got, err := decodeHave(s.encode())
		if err != nil || got.finished != s.finished || got.chunks != n || got.artifact != s.artifact || !bytes.Equal(got.have, s.have) {
			t.Fatalf("got %+v, %v; want %+v", got, err, s)
		}
	})
}

func FuzzDecodeHave(f *testing.F) {
	s := haveState{chunks: 11, have: newBitset(11)}
	s.have.set(10)
	f.Add(s.encode())
	f.Add([]byte(haveMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeHave(b)
		if err == nil && !bytes.Equal(s.encode(), b) {
			t.Errorf("%x reads as another state", b)
		}
	})
}

// TestTreeAgainstSource packs random trees and lays them out again.
func TestTreeAgainstSource(t *testing.T) {
	trees := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c]{1,2}(/[a-c.0-]{1,2}){0,2}`), 1, 12, rapid.ID[string])
	for seed := range 25 {
		src := t.TempDir()
		for i, name := range trees.Example(seed) {
			p := filepath.Join(src, name)
			if os.MkdirAll(filepath.Dir(p), 0o755) != nil {
				continue // a file stands where a directory is needed: leave it out
			}
			size := []int{0, 1, 4095, 300 << 10}[(i+seed)%4]
			if err := os.WriteFile(p, noiseBytes(t, byte(i), size), os.FileMode(0o600|i%8)); err != nil {
				continue // likewise
			}
		}
		tree, root, chunks := create(t, src)
		fill(t, tree, chunks)
		if err := tree.Finish(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got, want := listing(t, filepath.Join(root.Name(), FilesDir)), listing(t, src); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		closeTree(t, tree)
	}
}
