package artifact

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

// pattern is an artifact of any size that takes no memory: chunk i is made when asked for.
type pattern struct {
	m    *starling.Manifest
	base []byte
}

// patternChunkBytes is no multiple of a page: real chunks begin anywhere.
const patternChunkBytes = 1<<20 - 777

// newPattern makes an artifact of n files of fileBytes each.
func newPattern(t testing.TB, n int, fileBytes int64) *pattern {
	p := &pattern{base: noiseBytes(t, 99, patternChunkBytes)}
	p.m = &starling.Manifest{Version: starling.ManifestVersion, Chunker: ChunkerName}
	for i := range n {
		p.m.Files = append(p.m.Files, starling.File{Path: fmt.Sprintf("f%06d", i), Kind: starling.KindFile, Mode: 0o644, Size: fileBytes})
	}
	for left := int64(n) * fileBytes; left > 0; left -= patternChunkBytes {
		p.m.Chunks = append(p.m.Chunks, starling.Chunk{Size: int(min(left, patternChunkBytes))})
	}
	buf := make([]byte, patternChunkBytes)
	for i := range p.m.Chunks {
		p.m.Chunks[i].Digest = starling.DigestOf(p.chunk(i, buf))
	}
	return p
}

func (p *pattern) chunk(i int, buf []byte) []byte {
	buf = buf[:p.m.Chunks[i].Size]
	copy(buf, p.base)
	binary.BigEndian.PutUint64(buf, uint64(i))
	return buf
}

func (p *pattern) create(t testing.TB) *Tree {
	t.Helper()
	tree, err := CreateTree(openRoot(t, t.TempDir()), starling.Digest{1}, p.m)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// fillFrom writes all chunks in a scattered order.
func (p *pattern) fill(t testing.TB, tree *Tree) {
	t.Helper()
	buf := make([]byte, patternChunkBytes)
	n := len(p.m.Chunks)
	for k := range n {
		i := k * 7919 % n
		if n%7919 == 0 {
			i = k
		}
		if err := tree.WriteChunk(i, p.chunk(i, buf)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func cpuSeconds(t testing.TB) float64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func benchTree(b *testing.B, files int, each int64, do func(p *pattern, tree *Tree)) {
	p := newPattern(b, files, each)
	total := float64(files) * float64(each)
	cpu := 0.0
	b.SetBytes(int64(total))
	n := 0
	for b.Loop() {
		tree := p.create(b)
		before := cpuSeconds(b)
		do(p, tree)
		cpu += cpuSeconds(b) - before
		closeTree(b, tree)
		if err := os.RemoveAll(tree.dir.Name()); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(cpu/(float64(n)*total/1e9), "cpu-s/GB")
}

func BenchmarkWriteChunk(b *testing.B) {
	for _, files := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d files", files), func(b *testing.B) {
			benchTree(b, files, 1_000_000_000/int64(files), func(p *pattern, tree *Tree) { p.fill(b, tree) })
		})
	}
}

// dropCaches has nothing of a finished tree's file in the page cache.
func dropCaches(t testing.TB, tree *Tree, file int) {
	t.Helper()
	f, err := tree.root.Open(tree.manifest.Files[file].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkCloneChunk(b *testing.B) {
	const size = 500_000_000
	p := newPattern(b, 1, size)
	from := p.create(b)
	defer closeTree(b, from)
	p.fill(b, from)
	buf := make([]byte, patternChunkBytes)
	benchTree(b, 1, size, func(p *pattern, tree *Tree) {
		dropCaches(b, from, 0) // an old release that nobody reads
		for i := range p.m.Chunks {
			if err := tree.CloneChunk(i, from, i, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
