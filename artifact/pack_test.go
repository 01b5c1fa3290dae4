package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	cdc "github.com/PlakarKorp/go-cdc-chunkers"

	"github.com/starlingdeploy/starling"
)

func TestPackDescribesTheTree(t *testing.T) {
	dir := sample(t)
	if err := os.Chmod(filepath.Join(dir, "a/x"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	m, _, chunks := pack(t, dir)
	var got []string
	for _, f := range m.Files {
		got = append(got, fmt.Sprintf("%s %s %o %d %s", f.Path, f.Kind, f.Mode, f.Size, f.Link))
	}
	want := []string{
		"a dir 755 0 ",
		"a-b file 644 23 ",
		"a/empty file 600 0 ",
		"a/x file 755 3145728 ",
		"a0 file 444 23 ",
		"current symlink 777 0 a/x",
		"dangling symlink 777 0 not/there",
		"deep dir 755 0 ",
		"deep/er dir 755 0 ",
		"deep/er/still dir 755 0 ",
		"deep/er/still/file file 640 716800 ",
		"deep/er/ünï<&>cödé name file 644 1 ",
		"deep/up symlink 777 0 ../a",
		"hollow dir 755 0 ",
		"locked dir 500 0 ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if m.Chunker != ChunkerName {
		t.Errorf("chunker %q", m.Chunker)
	}
	var content []byte
	for _, c := range m.Chunks {
		content = append(content, chunks[c.Digest]...)
	}
	var whole []byte
	for _, f := range m.Files {
		if f.Kind == starling.KindFile {
			b, err := os.ReadFile(filepath.Join(dir, f.Path))
			if err != nil {
				t.Fatal(err)
			}
			whole = append(whole, b...)
		}
	}
	if !bytes.Equal(content, whole) {
		t.Error("the chunks are not the content of the files in order")
	}
}

func TestPackEmptyTree(t *testing.T) {
	m, _, _ := pack(t, t.TempDir())
	if len(m.Files) != 0 || len(m.Chunks) != 0 {
		t.Errorf("got %s", m)
	}
}

func TestPackRefuses(t *testing.T) {
	link := func(target, name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name string
		make func(t *testing.T, dir string)
		want string
	}{
		{"absolute link", link("/etc/passwd", "l"), "absolute"},
		{"escaping link", link("../../etc/passwd", "l"), "outside the tree"},
		{"link that escapes through another", func(t *testing.T, dir string) {
			if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
				t.Fatal(err)
			}
			link("..", "a/b/up")(t, dir)      // a
			link("b/up/../..", "a/l")(t, dir) // by its text a, in truth above the tree
		}, "outside the tree"},
		{"named pipe", func(t *testing.T, dir string) {
			if err := syscall.Mkfifo(filepath.Join(dir, "p"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, `"p" is a named pipe`},
		{"socket", func(t *testing.T, dir string) {
			l, err := net.Listen("unix", filepath.Join(dir, "s"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, `"s" is a socket`},
		{"device", func(t *testing.T, dir string) {
			if err := syscall.Mknod(filepath.Join(dir, "d"), syscall.S_IFCHR|0o600, 1<<8|3); err != nil {
				t.Skipf("cannot make a device here: %v", err)
			}
		}, `"d" is a device`},
		{"name that is not UTF-8", func(t *testing.T, dir string) {
			write(t, dir, "bad\xff", nil, 0o600)
		}, "not valid UTF-8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			tt.make(t, dir)
			var k kept
			_, err := Pack(context.Background(), openRoot(t, dir), k.sink)
			if !starling.IsInvalid(err) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a complaint about %q", err, tt.want)
			}
		})
	}
}

func TestWalkBoundsEntries(t *testing.T) {
	dir := t.TempDir()
	for i := range 30 {
		write(t, dir, fmt.Sprintf("d%d/f", i%3), nil, 0o600)
		write(t, dir, fmt.Sprintf("f%d", i), nil, 0o600)
	}
	if _, err := walk(context.Background(), openRoot(t, dir), 36); err != nil {
		t.Error(err)
	}
	if _, err := walk(context.Background(), openRoot(t, dir), 35); !starling.IsInvalid(err) {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestPackNoticesChange(t *testing.T) {
	changes := map[string]func(path string) error{
		"grows":   func(p string) error { return os.Truncate(p, 3<<20) },
		"shrinks": func(p string) error { return os.Truncate(p, 1<<20) },
		"goes":    os.Remove,
		"turns into a pipe": func(p string) error {
			return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600))
		},
		"turns into a link": func(p string) error {
			return errors.Join(os.Remove(p), os.Symlink("a", p))
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			// Larger than what Pack reads ahead, so that z is opened after the first chunk is
			// out. No sink returns before the change.
			write(t, dir, "a", noiseBytes(t, 3, 14<<20), 0o600)
			write(t, dir, "z", noiseBytes(t, 4, 2<<20), 0o600)
			var once sync.Once
			var changeErr error
			_, err := Pack(context.Background(), openRoot(t, dir), func(Piece) error {
				once.Do(func() { changeErr = change(filepath.Join(dir, "z")) })
				return nil
			})
			if changeErr != nil {
				t.Fatal(changeErr)
			}
			if err == nil {
				t.Error("the change went unnoticed")
			}
		})
	}
}

func TestPackStopsOnSinkError(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", noiseBytes(t, 5, 32<<20), 0o600)
	full := errors.New("no room")
	if _, err := Pack(context.Background(), openRoot(t, dir), func(Piece) error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Pack(ctx, openRoot(t, dir), func(Piece) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestPackBoundsConcurrency(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", noiseBytes(t, 6, 24<<20), 0o600)
	var now, most atomic.Int32
	_, err := Pack(context.Background(), openRoot(t, dir), func(Piece) error {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		now.Add(-1)
		return nil
	})
	if err != nil || most.Load() > PackWorkers {
		t.Errorf("%d sinks at once, %v", most.Load(), err)
	}
}

// scanAll is scan for tests: emit gets a chunk's data until it returns.
func scanAll(src io.Reader, emit func(i int, data []byte) error) error {
	var bufs [2][]byte
	n := 0
	return scan(src, func() ([]byte, error) { // one is handed on while the other takes the rest
		n++
		if bufs[n%2] == nil {
			bufs[n%2] = make([]byte, MaxChunkBytes)
		}
		return bufs[n%2], nil
	}, emit)
}

// TestCutPointsAreGolden fails when cut points move, which would make every fleet
// fetch everything anew. If it must, ChunkerName has to change with them.
func TestCutPointsAreGolden(t *testing.T) {
	var sizes []int
	h := sha256.New()
	err := scanAll(io.LimitReader(noise(42), 24<<20), func(_ int, data []byte) error {
		sizes = append(sizes, len(data))
		d := sha256.Sum256(data)
		h.Write(d[:])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []int{1208812, 1029735, 1609110, 1109996, 1583830, 1803906, 988841, 1255549, 363321, 1167415, 883128,
		1581355, 1303435, 816024, 1485772, 1002534, 531127, 1729684, 1384615, 835677, 1232663, 259295}
	if !slices.Equal(sizes, want) {
		t.Errorf("sizes %v, want %v", sizes, want)
	}
	if got, want := hex.EncodeToString(h.Sum(nil)), "ae8eb6b81013b9089cdbd3ae72246667a3e0e13f01c0b33efe62a6a0c6249153"; got != want {
		t.Errorf("digest of digests %s, want %s", got, want)
	}
}

// TestCutPointsAreTheLibrarys compares our loop with the library's, on content that
// makes cuts of all kinds: before and after the normal size, at the most, at the end.
func TestCutPointsAreTheLibrarys(t *testing.T) {
	sparse := make([]byte, 5<<20)
	for i := 0; i < len(sparse); i += 37_000 {
		sparse[i] = byte(i)
	}
	contents := map[string][]byte{
		"nothing": nil, "one byte": {1}, "zeros": make([]byte, 5<<20+5), "sparse": sparse,
		"text": bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog\n"), 40_000),
	}
	for i := range 5 {
		contents[fmt.Sprintf("noise %d", i)] = noiseBytes(t, byte(60+i), MinChunkBytes-2+i*(900<<10)+i)
	}
	for name, content := range contents {
		var got, want []int
		if err := scanAll(iotest.HalfReader(bytes.NewReader(content)), func(_ int, data []byte) error {
			got = append(got, len(data))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		c, err := cdc.NewChunker(ChunkerName, bytes.NewReader(content), &cdc.ChunkerOpts{
			MinSize: MinChunkBytes, NormalSize: NormalChunkBytes, MaxSize: MaxChunkBytes,
		})
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			var data []byte
			if data, err = c.Next(); len(data) > 0 {
				want = append(want, len(data))
			}
		}
		if !errors.Is(err, io.EOF) || !slices.Equal(got, want) {
			t.Errorf("%s: cuts %v, the library %v, %v", name, got, want, err)
		}
	}
}

func TestInsertionAtFrontMovesLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("one goroutine over 256 MiB: slow under the race detector, and nothing to find")
	}
	const size = 128 << 20
	chunksOf := func(r io.Reader) map[[32]byte]int {
		out := map[[32]byte]int{}
		if err := scanAll(r, func(_ int, data []byte) error {
			out[sha256.Sum256(data)] = len(data)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := chunksOf(io.LimitReader(noise(7), size))
	after := chunksOf(io.MultiReader(strings.NewReader("inserted"), io.LimitReader(noise(7), size)))
	moved, bytes := 0, 0
	for d, n := range after {
		if _, ok := before[d]; !ok {
			moved++
			bytes += n
		}
	}
	mean := size / len(before)
	t.Logf("%d chunks, mean %d KiB; %d moved, %d KiB", len(before), mean>>10, moved, bytes>>10)
	if moved*100 >= len(after) {
		t.Errorf("%d of %d chunks moved", moved, len(after))
	}
	if mean < 900<<10 || mean > 1400<<10 {
		t.Errorf("mean chunk size %d", mean)
	}
}

func BenchmarkPack(b *testing.B) {
	dir := b.TempDir()
	const size = 256 << 20
	for i := range 4 {
		write(b, dir, fmt.Sprint(i), noiseBytes(b, byte(i), size/4), 0o600)
	}
	root := openRoot(b, dir)
	b.SetBytes(size)
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		if _, err := Pack(context.Background(), root, func(Piece) error { return nil }); err != nil {
			b.Fatal(err)
		}
		n++
	}
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		b.Fatal(err)
	}
	cpu := func(u syscall.Rusage) float64 {
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	b.ReportMetric(float64(n)*size/1e6/(cpu(after)-cpu(before)), "MB/s-per-core")
}
