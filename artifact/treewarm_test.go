package artifact

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// residentBytes is how much of a file is in the page cache.
func residentBytes(t testing.TB, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	page := os.Getpagesize()
	pages := make([]byte, (len(m)+page-1)/page)
	if err := mincore(m, pages); err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for _, p := range pages {
		n += int64(p & 1)
	}
	return n * int64(page)
}

// Writing a release and reading it again leaves no more in the page cache than it may.
func TestPageCacheIsLeftToOthers(t *testing.T) {
	const maxBytes, size = 32 << 20, 128 << 20
	p := newPattern(t, 1, size)
	tree := p.create(t)
	tree.warm.maxBytes = maxBytes
	defer closeTree(t, tree)
	p.fill(t, tree)
	path := filepath.Join(tree.dir.Name(), FilesDir, p.m.Files[0].Path)
	before := residentBytes(t, path)
	if before > maxBytes*5/4 {
		t.Errorf("%d MiB are in the page cache after writing, more than %d", before>>20, maxBytes>>20)
	}
	buf := make([]byte, patternChunkBytes)
	for i := range p.m.Chunks {
		if _, err := tree.ReadChunk(i, buf); err != nil {
			t.Fatal(err)
		}
	}
	after := residentBytes(t, path)
	if after > before+maxBytes/4 && !tree.plainReads.Load() {
		t.Errorf("%d MiB are in the page cache after reading, %d before", after>>20, before>>20)
	}
	t.Logf("%d MiB of %d in the page cache, after reading all %d; reads leave it alone: %v", before>>20, size>>20, after>>20, !tree.plainReads.Load())
}

// TestRecover stands in for kill -9: nothing was noted, all is in the files.
func TestRecover(t *testing.T) {
	src := t.TempDir()
	write(t, src, "noise", noiseBytes(t, 5, 9<<20), 0o644)
	write(t, src, "small", []byte("a few bytes"), 0o644)
	write(t, src, "zeros", make([]byte, 9<<20), 0o644)
	tree, root, chunks := create(t, src)
	m := tree.Manifest()
	wrote := newBitset(len(m.Chunks))
	half := -1
	for i, c := range m.Chunks {
		switch {
		case i%3 != 1:
			wrote.set(i)
			if err := tree.WriteChunk(i, chunks[c.Digest]); err != nil {
				t.Fatal(err)
			}
		case half < 0: // the kill came in the middle of its write
			half = i
			e := tree.layout.Extents(nil, i)[0]
			e.Length /= 2
			if err := tree.writeExtent(e, chunks[c.Digest][:e.Length]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(tree.files.reopen(os.O_RDONLY), tree.root.Close()); err != nil { // no Sync
		t.Fatal(err)
	}
	again, err := OpenTree(root, tree.Artifact(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer closeTree(t, again)
	if again.Held() != 0 {
		t.Fatalf("%d chunks were noted", again.Held())
	}
	if err := again.Recover(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	for i := range m.Chunks {
		if again.Has(i) != wrote.get(i) {
			t.Errorf("chunk %d: held %v, was written %v (half of it: %v)", i, again.Has(i), wrote.get(i), i == half)
		}
	}
	fill(t, again, chunks)
	if err := again.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, want := listing(t, filepath.Join(root.Name(), FilesDir)), listing(t, src); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What a tree needs of memory does not grow with what is written to it.
func TestMemoryIsBounded(t *testing.T) {
	p := newPattern(t, 2000, 100_000)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	tree := p.create(t)
	defer closeTree(t, tree)
	began := time.Now()
	p.fill(t, tree)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
	chunks := uint64(len(p.m.Chunks))
	if each := (after.TotalAlloc - before.TotalAlloc - patternChunkBytes) / chunks; each > 128<<10 {
		t.Errorf("%d bytes were allocated for each chunk", each)
	}
	if n := len(tree.files.open); n > MaxOpenFiles {
		t.Errorf("%d files are open", n)
	}
	t.Logf("heap %+d KiB, %d KiB allocated, %s", (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>10, (after.TotalAlloc-before.TotalAlloc)>>10, time.Since(began))
}

// mincore is mincore(2), which x/sys does not have.
func mincore(m, pages []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
