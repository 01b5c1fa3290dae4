package artifact

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noise returns an endless reader of reproducible random bytes.
func noise(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

func noiseBytes(t testing.TB, seed byte, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(noise(seed), b); err != nil {
		t.Fatal(err)
	}
	return b
}

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func write(t testing.TB, dir, name string, data []byte, mode os.FileMode) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil {
		t.Fatal(err)
	}
}

// kept collects what Pack hands out.
type kept struct {
	mu     sync.Mutex
	chunks map[starling.Digest][]byte
}

func (k *kept) sink(p Piece) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.chunks == nil {
		k.chunks = map[starling.Digest][]byte{}
	}
	k.chunks[p.Digest] = append([]byte(nil), p.Data...)
	return nil
}

// pack packs a directory and returns the manifest, its digest and its chunks.
func pack(t testing.TB, dir string) (*starling.Manifest, starling.Digest, map[starling.Digest][]byte) {
	t.Helper()
	var k kept
	m, err := Pack(context.Background(), openRoot(t, dir), k.sink)
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return m, starling.DigestOf(b), k.chunks
}

// sample makes a tree with the odd cases: empty files and directories, names that
// sort around the slash, links, modes, and content of a few chunks.
func sample(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "a-b", []byte("dash sorts before slash"), 0o644)
	write(t, dir, "a/x", noiseBytes(t, 1, 3<<20), 0o755)
	write(t, dir, "a/empty", nil, 0o600)
	write(t, dir, "a0", []byte("digit sorts after slash"), 0o444)
	write(t, dir, "deep/er/still/file", noiseBytes(t, 2, 700<<10), 0o640)
	write(t, dir, "deep/er/ünï<&>cödé name", []byte("x"), 0o644)
	for _, d := range []string{"hollow", "locked"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "locked"), 0o500); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"current": "a/x", "deep/up": "../a", "dangling": "not/there"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
