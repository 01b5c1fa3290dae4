package blobcache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

func openStore(t testing.TB, dir string, maxBytes int64) *DiskStore {
	t.Helper()
	s, err := OpenStore(dir, maxBytes, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStores runs every store through the same suite.
func TestStores(t *testing.T) {
	kinds := map[string]func(t *testing.T, maxBytes int64) Store{
		"memory": func(t *testing.T, maxBytes int64) Store { return NewMemStore(maxBytes) },
		"disk": func(t *testing.T, maxBytes int64) Store {
			s := openStore(t, t.TempDir(), maxBytes)
			t.Cleanup(func() { s.Close() })
			return s
		},
	}
	suite := map[string]func(t *testing.T, open func(maxBytes int64) Store){
		"keeps what is put":           storeKeeps,
		"refuses what is not it":      storeRefuses,
		"wakes those who wait":        storeWakes,
		"evicts the least used":       storeEvicts,
		"never evicts what is pinned": storePins,
		"is safe for concurrent use":  storeConcurrent,
	}
	for kind, open := range kinds {
		for name, test := range suite {
			t.Run(kind+"/"+name, func(t *testing.T) {
				test(t, func(maxBytes int64) Store { return open(t, maxBytes) })
			})
		}
	}
}

func storeKeeps(t *testing.T, open func(int64) Store) {
	ctx, s := context.Background(), open(64<<20)
	d, data := chunkOf(t, 1, 300_000)
	if _, ok := s.Stat(d); ok {
		t.Error("holds what was not put")
	}
	if _, err := s.Chunk(ctx, d, nil); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("chunk: %v", err)
	}
	if _, err := s.Manifest(ctx, d); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("manifest: %v", err)
	}
	for range 2 { // twice is no error, and counts once
		if err := s.Put(ctx, d, data); err != nil {
			t.Fatal(err)
		}
	}
	if n, ok := s.Stat(d); !ok || n != len(data) {
		t.Errorf("stat %d %v", n, ok)
	}
	short, long := make([]byte, 10), make([]byte, 1<<20)
	for _, buf := range [][]byte{nil, short, long} {
		got, err := s.Chunk(ctx, d, buf)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("with a buffer of %d: %d bytes, %v", len(buf), len(got), err)
		}
		if cap(buf) >= len(data) && &got[0] != &buf[0] {
			t.Error("did not use the buffer")
		}
	}
	a, _ := chunkOf(t, 2, 1)
	for _, envelope := range []string{"first", "another envelope", "last"} {
		if err := s.PutManifest(ctx, a, []byte(envelope)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Manifest(ctx, a); err != nil || string(got) != envelope {
			t.Errorf("manifest %q, %v", got, err)
		}
	}
	if _, ok := s.Stat(a); ok {
		t.Error("a manifest counts as a chunk")
	}
	if u := s.Usage(); u.UsedBytes != int64(len(data)+len("last")) || u.Blobs != 2 || u.MaxBytes != 64<<20 || u.Lost != 0 {
		t.Errorf("usage %+v", u)
	}
}

func storeRefuses(t *testing.T, open func(int64) Store) {
	ctx, s := context.Background(), open(64<<20)
	d, data := chunkOf(t, 1, 1000)
	for name, bad := range map[string][]byte{
		"flipped bit": append([]byte{data[0] ^ 1}, data[1:]...),
		"short":       data[:999],
		"nothing":     nil,
		"too long":    make([]byte, starling.MaxChunkBytes+1),
	} {
		if err := s.Put(ctx, d, bad); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.PutManifest(ctx, d, nil); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("empty envelope: %v", err)
	}
	if u := s.Usage(); u.UsedBytes != 0 || u.Blobs != 0 {
		t.Errorf("usage %+v", u)
	}
}

func storeWakes(t *testing.T, open func(int64) Store) {
	s := open(64 << 20)
	d, data := chunkOf(t, 1, 1000)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Wait(gone, d); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := s.Wait(within(t, 20*time.Second), d); err != nil {
				t.Error(err)
			}
			if _, ok := s.Stat(d); !ok {
				t.Error("woken for nothing")
			}
		})
	}
	if err := s.Put(context.Background(), d, data); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := s.Wait(gone, d); err != nil {
		t.Errorf("waiting for what is held: %v", err)
	}
}

const storeMax = 10 << 20

// putMiB puts n chunks of 1 MiB with seeds from first on.
func putMiB(t *testing.T, s Store, first, n int) (ds []starling.Digest) {
	t.Helper()
	for i := first; i < first+n; i++ {
		d, data := chunkOf(t, i, 1<<20)
		if err := s.Put(context.Background(), d, data); err != nil {
			t.Fatal(err)
		}
		ds = append(ds, d)
	}
	return ds
}

func storeEvicts(t *testing.T, open func(int64) Store) {
	s := open(storeMax)
	first := putMiB(t, s, 0, 10)
	for _, d := range first[:3] { // used again: the last to go
		if _, err := s.Chunk(context.Background(), d, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := s.Stat(first[3]); !ok { // asking counts, too
		t.Fatal("lost early")
	}
	putMiB(t, s, 100, 5)
	for i, d := range first {
		_, ok := s.Stat(d)
		if want := i < 4 || i == 9; ok != want {
			t.Errorf("chunk %d held: %v, want %v", i, ok, want)
		}
	}
	if u := s.Usage(); u.UsedBytes != storeMax || u.Lost != 0 {
		t.Errorf("usage %+v", u)
	}
}

func storePins(t *testing.T, open func(int64) Store) {
	ctx, s := context.Background(), open(storeMax)
	one, two := starling.Digest{1}, starling.Digest{2}
	early, _ := chunkOf(t, 0, 1<<20)
	s.Pin(one, []starling.Digest{early}) // before it is there
	if err := s.PutManifest(ctx, one, []byte("envelope")); err != nil {
		t.Fatal(err)
	}
	ds := putMiB(t, s, 0, 9)
	s.Pin(one, ds[:4])
	s.Pin(two, ds[2:6])
	more := putMiB(t, s, 100, 8) // room for three beside the pins
	held := func(d starling.Digest) bool {
		_, ok := s.Stat(d)
		return ok
	}
	for i, d := range ds {
		if held(d) != (i < 6) {
			t.Errorf("chunk %d held: %v", i, held(d))
		}
	}
	if _, err := s.Manifest(ctx, one); err != nil {
		t.Errorf("pinned manifest: %v", err)
	}
	s.Pin(two, append(append([]starling.Digest{}, ds[2:6]...), more...))
	d, data := chunkOf(t, 200, 2<<20)
	if err := s.Put(ctx, d, data); !errors.Is(err, ErrFull) {
		t.Errorf("put beside pins: %v", err)
	}
	s.Pin(two, nil)
	if err := s.Put(ctx, d, data); err != nil {
		t.Errorf("after unpinning: %v", err)
	}
	for i, d := range ds[:4] {
		if !held(d) {
			t.Errorf("chunk %d, still pinned, is gone", i)
		}
	}
	s.Pin(one, []starling.Digest{})
	if putMiB(t, s, 300, 9); held(ds[0]) {
		t.Error("chunk 0 outlived its pin and ten newer ones")
	}
	if _, err := s.Manifest(ctx, one); err != nil {
		t.Errorf("a manifest pinned without chunks: %v", err)
	}
}

func storeConcurrent(t *testing.T, open func(int64) Store) {
	ctx, s := context.Background(), open(storeMax)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 12 {
				d, data := chunkOf(t, (i+w*3)%16, 1<<20)
				if err := s.Put(ctx, d, data); err != nil && !errors.Is(err, ErrFull) { // all room may be spoken for
					t.Error(err)
				}
				got, err := s.Chunk(ctx, d, nil)
				if err == nil && !bytes.Equal(got, data) {
					t.Error("other bytes came back")
				}
				if err != nil && !errors.Is(err, starling.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if u := s.Usage(); u.UsedBytes > storeMax || u.UsedBytes != int64(u.Blobs)<<20 || u.Lost != 0 {
		t.Errorf("usage %+v", u)
	}
}

func TestDiskStoreSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 64<<20)
	ds := putMiB(t, s, 0, 3)
	if err := s.PutManifest(context.Background(), ds[0], []byte("envelope")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// What an interrupted put leaves, and what does not belong here.
	for _, f := range []string{"tmp/put-1", "chunks/00/stranger", "chunks/ab/" + strings.Repeat("ab", 32)} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.path(key{ds[1], false}), old, old); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, 5<<20)
	defer s.Close()
	if u := s.Usage(); u.Blobs != 4 || u.UsedBytes != 3<<20+8 {
		t.Errorf("usage %+v", u)
	}
	if b, err := s.Manifest(context.Background(), ds[0]); err != nil || string(b) != "envelope" {
		t.Errorf("manifest %q, %v", b, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, tempDir)); err != nil || len(left) != 0 {
		t.Errorf("temporary files %v, %v", left, err)
	}
	putMiB(t, s, 50, 2) // one has to go: the one used longest ago, by its file's time
	if _, ok := s.Stat(ds[1]); ok {
		t.Error("the oldest chunk stayed")
	}
	for _, d := range []starling.Digest{ds[0], ds[2]} {
		if _, err := s.Chunk(context.Background(), d, nil); err != nil {
			t.Error(err)
		}
	}
}

func TestDiskStoreNeverServesDamage(t *testing.T) {
	flip := func(path string) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{0xff, 0x00, 0xff}, 4000)
		return errors.Join(err, f.Close())
	}
	damages := map[string]func(path string) error{
		"flipped bits": flip,
		"cut":          func(p string) error { return os.Truncate(p, 100) },
		"gone":         os.Remove,
	}
	// Whether it goes bad while the cache is down, after it was written, or after it was read.
	before := map[string]func(t *testing.T, s *DiskStore, d starling.Digest) *DiskStore{
		"while down": func(t *testing.T, s *DiskStore, d starling.Digest) *DiskStore {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return openStore(t, s.dir, 64<<20)
		},
		"once written": func(t *testing.T, s *DiskStore, d starling.Digest) *DiskStore { return s },
		"once checked": func(t *testing.T, s *DiskStore, d starling.Digest) *DiskStore {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, s.dir, 64<<20)
			if _, err := s.Chunk(t.Context(), d, nil); err != nil {
				t.Fatal(err)
			}
			return s
		},
	}
	for name := range damages {
		for when := range before {
			damage, settle := damages[name], before[when]
			t.Run(name+" "+when, func(t *testing.T) {
				s := openStore(t, t.TempDir(), 64<<20)
				d := putMiB(t, s, 0, 1)[0]
				s = settle(t, s, d)
				defer s.Close()
				if err := damage(s.path(key{d, false})); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Chunk(context.Background(), d, nil); !errors.Is(err, starling.ErrCorrupt) {
					t.Errorf("got %v", err)
				}
				if _, ok := s.Stat(d); ok {
					t.Error("still held")
				}
				if _, err := os.Stat(s.path(key{d, false})); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the file: %v", err)
				}
				if u := s.Usage(); u.Lost != 1 || u.UsedBytes != 0 {
					t.Errorf("usage %+v", u)
				}
				putMiB(t, s, 0, 1) // and it can come again
				if _, err := s.Chunk(context.Background(), d, nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 64<<20)
	_, err := OpenStore(dir, 64<<20, quiet())
	if !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, 64<<20)
	defer s.Close()
	if _, err := OpenStore(t.TempDir(), 1, quiet()); !starling.IsInvalid(err) {
		t.Errorf("a cache too small: %v", err)
	}
}

func TestFullDiskIsClear(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := openStore(t, dir, 64<<20)
	defer s.Close()
	ds := putMiB(t, s, 0, 2)
	d, data := chunkOf(t, 9, 2<<20)
	err := s.Put(context.Background(), d, data)
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, tempDir)); err != nil || len(left) != 0 {
		t.Errorf("temporary files %v, %v", left, err)
	}
	for _, d := range ds {
		if _, err := s.Chunk(context.Background(), d, nil); err != nil {
			t.Error(err)
		}
	}
	if u := s.Usage(); u.UsedBytes != 2<<20 {
		t.Errorf("usage %+v", u)
	}
}

func TestBarrierSharesFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flushes := 0 // one runs at a time
		hold := make(chan struct{})
		b := newBarrier(func() error {
			if flushes++; flushes == 1 {
				<-hold
			}
			return nil
		})
		var wg sync.WaitGroup
		join := func() {
			wg.Go(func() {
				if err := b.wait(); err != nil {
					t.Error(err)
				}
			})
		}
		join()
		synctest.Wait() // the first flush runs
		for range 20 {
			join()
		}
		synctest.Wait() // the others wait for the next
		close(hold)
		wg.Wait()
		if flushes != 2 {
			t.Errorf("%d flushes for 21 waits", flushes)
		}
	})
	broken := errors.New("disk on fire")
	if err := newBarrier(func() error { return broken }).wait(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
