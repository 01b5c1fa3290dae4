package blobcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/delta"
	"github.com/starlingdeploy/starling/rpc"
)

// counting is a Source that counts the reads of chunks.
type counting struct {
	Source
	reads map[starling.Digest]int
}

func (c counting) Chunk(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error) {
	c.reads[d]++
	return c.Source.Chunk(ctx, d, buf)
}

// put stores a chunk and returns its digest.
func put(t *testing.T, s *MemStore, data []byte) starling.Digest {
	t.Helper()
	d := starling.DigestOf(data)
	if err := s.Put(t.Context(), d, data); err != nil {
		t.Fatal(err)
	}
	return d
}

// patchWorld is a server with two old chunks and one that is made of both.
type patchWorld struct {
	*network
	store  *MemStore
	source counting
	server *Server
	client *Client
	bases  []starling.Digest
	target starling.Chunk
	data   []byte
}

func newPatchWorld(t *testing.T) *patchWorld {
	t.Helper()
	w := &patchWorld{network: newNetwork(t, false), store: NewMemStore(64 << 20)}
	_, a := chunkOf(t, 1, 500_000)
	_, b := chunkOf(t, 2, 300_000)
	w.bases = []starling.Digest{put(t, w.store, a), put(t, w.store, b)}
	w.data = slices.Concat(a[200_000:], []byte("something new"), b[:250_000])
	w.target = starling.Chunk{Digest: put(t, w.store, w.data), Size: len(w.data)}
	w.source = counting{w.store, map[starling.Digest]int{}}
	w.server = NewServer(ServerConfig{Region: "eu", Source: w.source, Logger: quiet()})
	w.serve("c", w.server)
	w.client = w.network.client(identity("eu", "m", starling.RoleMachine))
	return w
}

// fetch gets the target as a patch against bases and checks what comes of it.
func (w *patchWorld) fetch(bases ...starling.Digest) Patch {
	w.t.Helper()
	ctx := within(w.t, 30*time.Second)
	p, err := w.client.FetchPatch(ctx, "c", Fetch{Digest: w.target.Digest}, bases, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	got := p.Data
	if len(p.Bases) > 0 {
		if got, _, err = NewPatcher().Apply(ctx, w.store.Chunk, w.target, p.Bases, p.Data, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	if !bytes.Equal(got, w.data) {
		w.t.Fatalf("%d bytes that are not the chunk", len(got))
	}
	return p
}

func TestFetchPatch(t *testing.T) {
	w := newPatchWorld(t)
	p := w.fetch(w.bases...)
	if len(p.Data) > 64 || !slices.Equal(p.Bases, w.bases) {
		t.Errorf("a patch of %d bytes against %d bases", len(p.Data), len(p.Bases))
	}
	moved := int64(len(p.Data))
	eventually(t, "the bytes of the patch are counted", func() bool { return w.server.OutBytes(starling.Digest{}) == moved })
	// Again: nothing is read.
	clear(w.source.reads)
	if again := w.fetch(w.bases...); !bytes.Equal(again.Data, p.Data) || len(w.source.reads) > 0 {
		t.Errorf("the patch was made again, %d chunks read", len(w.source.reads))
	}
	// What the server does not hold it leaves out.
	if p := w.fetch(starling.Digest{1}, w.bases[0], w.bases[1]); !slices.Equal(p.Bases, w.bases) || len(p.Data) > 64 {
		t.Errorf("a patch of %d bytes against %d bases", len(p.Data), len(p.Bases))
	}
	if p := w.fetch(w.bases[0]); !slices.Equal(p.Bases, w.bases[:1]) || len(p.Data) < 250_000 || len(p.Data) > 250_100 {
		t.Errorf("a patch of %d bytes against %d bases", len(p.Data), len(p.Bases))
	}
}

func TestFetchPatchGetsTheChunkWhereAPatchIsNoUse(t *testing.T) {
	w := newPatchWorld(t)
	other, data := chunkOf(t, 3, 100_000)
	if err := w.store.Put(t.Context(), other, data); err != nil {
		t.Fatal(err)
	}
	for _, bases := range [][]starling.Digest{{other}, {starling.Digest{1}}, nil} {
		if p := w.fetch(bases...); len(p.Bases) > 0 {
			t.Errorf("a patch of %d bytes", len(p.Data))
		}
	}
	clear(w.source.reads)
	if w.fetch(other); w.source.reads[other] > 0 {
		t.Error("a patch was tried again")
	}
	if _, err := w.client.FetchPatch(t.Context(), "c", Fetch{Digest: starling.Digest{7}}, w.bases, nil); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("a chunk that is not held: %v", err)
	}
	// One that comes while it is waited for.
	late, data := chunkOf(t, 4, 1000)
	var got Patch
	done := make(chan error, 1)
	go func() {
		var err error
		got, err = w.client.FetchPatch(within(t, 30*time.Second), "c", Fetch{Digest: late, Wait: 20 * time.Second}, w.bases, nil)
		done <- err
	}()
	eventually(t, "the server waits", func() bool {
		w.store.index.mu.Lock()
		defer w.store.index.mu.Unlock()
		return w.store.index.waiting[late] != nil
	})
	put(t, w.store, data)
	if err := <-done; err != nil || !bytes.Equal(got.Data, data) {
		t.Errorf("%d bytes, %v", len(got.Data), err)
	}
}

func TestBasesKeepWithinBounds(t *testing.T) {
	w := newPatchWorld(t)
	var bases []starling.Digest
	for i := range 4 {
		_, data := chunkOf(t, 10+i, 3<<20)
		bases = append(bases, put(t, w.store, data))
	}
	var digests []byte
	for _, d := range bases {
		digests = append(digests, d[:]...)
	}
	held, used, n := w.server.heldBases(digests, false)
	if len(held) != 2 || used != 3 || n != 6<<20 {
		t.Errorf("%d bases, %b, %d bytes", len(held), used, n)
	}
	if _, sound, err := NewPatcher().Apply(t.Context(), w.store.Chunk, w.target, bases, nil, nil); err == nil || sound {
		t.Errorf("bases of 12 MiB: %v", err)
	}
}

func TestDamagedBase(t *testing.T) {
	w := newPatchWorld(t)
	p := w.fetch(w.bases...)
	missing := func(context.Context, starling.Digest, []byte) ([]byte, error) { return nil, starling.ErrCorrupt }
	if _, sound, err := NewPatcher().Apply(t.Context(), missing, w.target, p.Bases, p.Data, nil); err == nil || sound {
		t.Errorf("sound %v, %v", sound, err)
	}
	cut := p.Data[:len(p.Data)-1]
	if _, sound, err := NewPatcher().Apply(t.Context(), w.store.Chunk, w.target, p.Bases, cut, nil); !errors.Is(err, starling.ErrCorrupt) || !sound {
		t.Errorf("a damaged patch: sound %v, %v", sound, err)
	}
}

func TestPatcherForgetsTheOldest(t *testing.T) {
	p := NewPatcher()
	data := make([]byte, 1<<20)
	for i := range byte(40) {
		p.Remember(starling.Digest{i}, nil, data)
		p.lookUp(patchKey(starling.Digest{0}, nil)) // in use
	}
	if p.usedBytes > maxPatchesBytes || p.lru.Len() != len(p.known) || len(p.known) != 31 {
		t.Errorf("%d patches, %d bytes", len(p.known), p.usedBytes)
	}
	for i, want := range map[byte]bool{0: true, 1: false, 39: true} {
		if _, known := p.lookUp(patchKey(starling.Digest{i}, nil)); known != want {
			t.Errorf("patch %d: known %v", i, known)
		}
	}
}

func TestPatchWhenOneBaseIsNowhere(t *testing.T) {
	w := newPatchWorld(t)
	_, b := chunkOf(t, 2, 300_000)
	nearby := map[starling.Digest][]byte{w.bases[1]: b}
	store := NewMemStore(64 << 20)
	_, a := chunkOf(t, 1, 500_000)
	put(t, store, a)
	put(t, store, w.data)
	w.serve("c", NewServer(ServerConfig{Region: "eu", Source: store, Logger: quiet(),
		ReadBase: func(_ context.Context, d starling.Digest, _ []byte) ([]byte, error) {
			if data := nearby[d]; data != nil {
				return data, nil
			}
			return nil, starling.ErrNotFound
		}}))
	if p := w.fetch(w.bases...); len(p.Bases) != 2 || len(p.Data) > 64 {
		t.Errorf("a patch of %d bytes against %d bases, one from nearby", len(p.Data), len(p.Bases))
	}
	if p := w.fetch(w.bases[0], starling.Digest{1}); !slices.Equal(p.Bases, w.bases[:1]) {
		t.Errorf("a patch of %d bytes against %d bases, one from nowhere", len(p.Data), len(p.Bases))
	}
}

func TestPatcherForgetsWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPatcher()
		p.Remember(starling.Digest{1}, nil, []byte("patch"))
		time.Sleep(patchIdle - time.Second)
		if _, known := p.lookUp(patchKey(starling.Digest{1}, nil)); !known {
			t.Error("forgotten too early")
		}
		time.Sleep(patchIdle + time.Second)
		synctest.Wait()
		if _, known := p.lookUp(patchKey(starling.Digest{1}, nil)); known || p.usedBytes != 0 {
			t.Error("not forgotten")
		}
		p.Remember(starling.Digest{1}, nil, []byte("patch"))
		time.Sleep(patchIdle + time.Second) // no timer is left behind
	})
}

// A peer that does not know the operation ends the stream: nobody hangs.
func TestFetchPatchFromAPeerThatKnowsNone(t *testing.T) {
	c := NewClient(func(context.Context, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			_, _ = io.ReadFull(far, make([]byte, requestBytes))
			far.Close()
		}()
		return near, nil
	})
	defer c.Close()
	_, err := c.FetchPatch(within(t, 10*time.Second), "old", Fetch{Digest: starling.Digest{1}}, []starling.Digest{{2}}, nil)
	if !errors.Is(err, starling.ErrUnavailable) {
		t.Error(err)
	}
}

func TestFetchPatchRefusesBasesThatWereNotNamed(t *testing.T) {
	c := NewClient(func(context.Context, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			_, _ = io.ReadFull(far, make([]byte, requestBytes+2*digestBytes))
			head := response{status: statusOK, size: 3}.encode()
			_, _ = far.Write(append(head[:], 4, 'a', 'b'))
		}()
		return near, nil
	})
	defer c.Close()
	_, err := c.FetchPatch(within(t, 10*time.Second), "liar", Fetch{Digest: starling.Digest{1}}, []starling.Digest{{2}, {3}}, nil)
	if !errors.Is(err, starling.ErrCorrupt) {
		t.Error(err)
	}
}

func BenchmarkPatcher(b *testing.B) {
	store := NewMemStore(64 << 20)
	_, base := chunkOf(b, 1, 1200<<10)
	target := slices.Clone(base)
	for i := range 15 {
		_, piece := chunkOf(b, 100+i, 4<<10)
		copy(target[i*80<<10:], piece)
	}
	d := starling.DigestOf(base)
	if err := store.Put(b.Context(), d, base); err != nil {
		b.Fatal(err)
	}
	checked := func(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error) { // as a machine reads
		data, err := store.Chunk(ctx, d, buf)
		if err == nil && starling.DigestOf(data) != d {
			err = fmt.Errorf("base: %w", starling.ErrCorrupt)
		}
		return data, err
	}
	c := starling.Chunk{Digest: starling.DigestOf(target), Size: len(target)}
	var patch []byte
	b.Run("make", func(b *testing.B) {
		p := NewPatcher()
		b.SetBytes(int64(len(target)))
		for b.Loop() {
			var err error
			p.forget()
			if patch, err = p.make(b.Context(), checked, c.Digest, target, []starling.Digest{d}); err != nil || patch == nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("apply", func(b *testing.B) {
		b.SetBytes(int64(len(target)))
		dst, p := make([]byte, delta.MaxTargetBytes), NewPatcher()
		for b.Loop() {
			if _, _, err := p.Apply(b.Context(), checked, c, []starling.Digest{d}, patch, dst); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// publish uploads an artifact of one file, cut into the given chunks, into the region.
func (r *testRegion) publish(t *testing.T, chunks [][]byte) (starling.Digest, int64) {
	t.Helper()
	m := &starling.Manifest{Version: starling.ManifestVersion, Chunker: "test",
		Files: []starling.File{{Path: "a", Kind: starling.KindFile, Mode: 0o644}}}
	region := NewRegion(r.world.client(identity(r.name, "worker", starling.RoleWorker)), r.members, 2)
	ctx := within(t, 60*time.Second)
	for _, data := range chunks {
		d := starling.DigestOf(data)
		if err := region.Put(ctx, d, data); err != nil {
			t.Fatal(err)
		}
		m.Chunks = append(m.Chunks, starling.Chunk{Digest: d, Size: len(data)})
		m.Files[0].Size += int64(len(data))
	}
	envelope, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	artifact := starling.DigestOf(envelope)
	if err := region.PutManifest(ctx, artifact, envelope); err != nil {
		t.Fatal(err)
	}
	return artifact, m.Files[0].Size
}

func TestPatchesCrossBetweenRegions(t *testing.T) {
	for _, caches := range []int{2, 3} { // of three each lacks a third of the chunks that patches are against
		t.Run(fmt.Sprint(caches, " caches"), func(t *testing.T) { patchesCross(t, caches) })
	}
}

func patchesCross(t *testing.T, caches int) {
	w := newWorld(t, false)
	eu, us := w.region("eu", caches), w.region("us", caches)
	var chunks [][]byte
	for i := range 20 {
		_, data := chunkOf(t, 500+i, 200_000)
		chunks = append(chunks, data)
	}
	v1, size := eu.publish(t, chunks)
	want := rpc.Want{Artifact: v1, Sources: []rpc.Source{eu.source()}}
	us.want(want)
	us.awaitComplete(t, v1)
	for i := range chunks { // 5 % of each chunk changes
		chunks[i] = slices.Clone(chunks[i])
		_, piece := chunkOf(t, 600+i, 10_000)
		copy(chunks[i][i*5000:], piece)
	}
	v2, _ := eu.publish(t, chunks)
	us.want(want, rpc.Want{Artifact: v2, Sources: []rpc.Source{eu.source()}, Base: v1})
	us.awaitComplete(t, v2)
	stores := us.stores()
	for i, data := range chunks {
		d := starling.DigestOf(data)
		for _, name := range holders(stores, d) {
			if got, err := stores[name].Chunk(t.Context(), d, nil); err != nil || !bytes.Equal(got, data) {
				t.Errorf("chunk %d at %s: %v", i, name, err)
			}
		}
		if n := len(holders(stores, d)); n != 2 {
			t.Errorf("chunk %d is on %d caches", i, n)
		}
	}
	eventually(t, "the bytes are reported", func() bool { return us.wanBytes(v2) > 0 })
	if n := us.wanBytes(v2); n < size/20 || n > size/20*3/2 { // under load a neighbour loses patience, and its patch crosses again
		t.Errorf("%d bytes crossed for a change of %d", n, size/20)
	}
	// A release that none came before crosses whole.
	v3, _ := eu.publish(t, [][]byte{noiseOf(t, 700), noiseOf(t, 701)})
	us.want(want, rpc.Want{Artifact: v3, Sources: []rpc.Source{eu.source()}, Base: starling.Digest{9}})
	us.awaitComplete(t, v3)
}

func noiseOf(t *testing.T, seed int) []byte {
	t.Helper()
	_, data := chunkOf(t, seed, 100_000)
	return data
}
