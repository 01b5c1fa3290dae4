package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/delta"
)

// deltaBytes is the size of the artifacts of TestDeltas; STARLING_DELTA_BYTES sets another.
func deltaBytes(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("STARLING_DELTA_BYTES"))
	switch {
	case os.Getenv("STARLING_DELTA_BYTES") == "":
		return 60 << 20
	case err != nil:
		t.Fatal(err)
	}
	return n
}

// overwrite puts new bytes, of a seed, over n pieces of b, at places spread evenly with jitter.
func overwrite(b []byte, n, piece, seed int) {
	rng := rand.New(rand.NewPCG(uint64(n), uint64(piece+seed)))
	for i := range n {
		at := i*(len(b)/n) + rng.IntN(len(b)/n-piece+1)
		copy(b[at:], noise(uint64(1_000_000*(seed+1)+i), piece))
	}
}

// TestDeltas is the promise about what a new release moves: a fleet with a release of
// one large file and many small ones gets others that differ in several ways.
func TestDeltas(t *testing.T) {
	t.Parallel()
	size := deltaBytes(t)
	r := newRegion(t)
	r.startCache()
	var machines []*machine
	for i := range 4 {
		machines = append(machines, r.machine(fmt.Sprintf("m%d", i+1)))
	}
	big := noise(3, size*9/10)
	files := map[string][]byte{"big": big}
	for i := range 20 {
		files[fmt.Sprintf("small/%02d", i)] = noise(uint64(100+i), size/250)
	}
	seq := uint64(1)
	r.leader.setGoal(goal(seq, r.push(files)))
	for _, m := range machines {
		m.await(seq, starling.MachineHealthy)
	}
	for _, step := range []struct {
		name   string
		change func(try int)
		most   int // bytes moved to each machine, and out of the cache
	}{
		{"5 % in 50 pieces", func(try int) { overwrite(big, 50, size/1000, try) }, size / 20 * 13 / 10},
		{"5 % in pieces of 4 KiB", func(try int) { overwrite(big, size/20>>12, 4<<10, try) }, size / 20 * 13 / 10},
		{"an insertion at the front", func(try int) { big = slices.Concat(noise(uint64(8+try), 1000), big) }, size / 100},
		{"a deletion in the middle", func(int) { big = slices.Delete(bytes.Clone(big), size/2, size/2+100_000) }, size / 100},
		{"a file renamed", func(try int) {
			old := fmt.Sprintf("small/%02d", try)
			files[fmt.Sprintf("tiny/%02d", try)] = files[old]
			delete(files, old)
		}, size / 100},
	} {
		// What machines move beyond that they ask for twice because a busy computer made somebody
		// late; so a release of each kind must do, not each.
		const tries = 3
		for try := range tries {
			before := r.bytesOut()
			step.change(try)
			files["big"] = big
			seq++
			r.leader.setGoal(goal(seq, r.push(files)))
			most := int64(0)
			for _, m := range machines {
				rep := m.await(seq, starling.MachineHealthy)
				checkTree(t, m, files)
				most = max(most, rep.Bytes.CacheOut+rep.Bytes.Peer)
				if b := rep.Bytes; b.Local+b.CacheOut+b.Peer < b.Artifact {
					t.Errorf("%s: %s counts %+v", step.name, m.node.Name, b)
				}
				t.Logf("%s: %s: %+v", step.name, m.node.Name, rep.Bytes)
			}
			out := r.bytesOut() - before
			t.Logf("%s: %.2f %% of the artifact left the cache", step.name, 100*float64(out)/float64(size))
			if out <= int64(step.most) && most <= int64(step.most) {
				break
			}
			if try == tries-1 {
				t.Errorf("%s: %d bytes moved to a machine and %d left the cache, want %d at most", step.name, most, out, step.most)
			}
		}
	}
}

// TestNewcomerIsServedByThoseWithTheOldRelease: machines that hold only the release
// before give a machine with nothing on disk what the new one shares with it.
func TestNewcomerIsServedByThoseWithTheOldRelease(t *testing.T) {
	r := newRegion(t)
	r.startCache()
	machines := []*machine{r.machine("m1"), r.machine("m2"), r.machine("m3")}
	const size = 40 << 20
	big := noise(3, size)
	r.leader.setGoal(goal(1, r.push(map[string][]byte{"big": big}), func(g *starling.Goal) { g.Deploy.Targets = "name != m4" }))
	for _, m := range machines {
		m.await(1, starling.MachineHealthy)
	}
	before := r.bytesOut()
	newcomer := r.machine("m4")
	changed := size / 8
	copy(big, noise(4, changed)) // the rest is as it was
	files := map[string][]byte{"big": big}
	r.leader.setGoal(goal(2, r.push(files)))
	for _, m := range append(machines, newcomer) {
		m.await(2, starling.MachineHealthy)
		checkTree(t, m, files)
	}
	// The others announce what they share once they have laid it out; until then the
	// newcomer asks the cache for its own share, which on a slow computer may be all of it.
	b := newcomer.report().Bytes
	if b.Local != 0 || b.CacheOut+b.Peer < b.Artifact || b.Peer < size/2 {
		t.Errorf("the newcomer counts %+v", b)
	}
	if out := r.bytesOut() - before; out > size*2/3 {
		t.Errorf("%d bytes of %d left the cache for a change of %d", out, size, changed)
	}
}

// makeRelease lays out a release of one file, with all its chunks or none, and returns
// its chunks' data.
func makeRelease(t *testing.T, dir appDir, content []byte, whole bool) (*release, map[starling.Digest][]byte) {
	t.Helper()
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "big"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(src)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var mu sync.Mutex
	chunks := map[starling.Digest][]byte{}
	m, err := artifact.Pack(t.Context(), root, func(p artifact.Piece) error {
		mu.Lock()
		defer mu.Unlock()
		chunks[p.Digest] = bytes.Clone(p.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	rel, err := createRelease(dir, starling.DigestOf(payload), m, payload, []byte("envelope"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rel.close(); err != nil {
			t.Error(err)
		}
	})
	for i := range m.Chunks {
		if whole {
			if err := rel.tree.WriteChunk(i, chunks[m.Chunks[i].Digest]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if whole {
		if err := rel.tree.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return rel, chunks
}

// patching is a peer that holds chunks and sends patches, spoilt ones if told so.
type patching struct {
	chunks map[starling.Digest][]byte
	spoil  func(p *blobcache.Patch)
}

func (p patching) Fetch(_ context.Context, _ string, f blobcache.Fetch, _ []byte) ([]byte, error) {
	return p.chunks[f.Digest], nil
}

func (p patching) FetchPatch(_ context.Context, _ string, f blobcache.Fetch, bases []starling.Digest, _ []byte) (blobcache.Patch, error) {
	var base []byte
	for _, d := range bases {
		base = append(base, p.chunks[d]...)
	}
	var e delta.Encoder
	data, ok := e.Encode(nil, base, p.chunks[f.Digest], 1<<20)
	if !ok {
		return blobcache.Patch{}, errors.New("no patch")
	}
	out := blobcache.Patch{Data: data, Bases: bases}
	if p.spoil != nil {
		p.spoil(&out)
	}
	return out, nil
}

func (p patching) GetManifest(context.Context, string, starling.Digest) ([]byte, error) {
	return nil, starling.ErrNotFound
}

func TestBring(t *testing.T) {
	t.Parallel()
	dir := appDir(t.TempDir())
	content := noise(3, 3<<20)
	old, chunks := makeRelease(t, dir, content, true)
	overwrite(content, 6, 1000, 0)
	rel, more := makeRelease(t, dir, content, false)
	maps.Copy(chunks, more)
	job := bringing{rel: rel, older: findOlder(rel, []*release{old}), pool: &buffers{}, patcher: blobcache.NewPatcher()}
	k := len(rel.manifest.Chunks) - 1

	job.from = patching{chunks, func(p *blobcache.Patch) { p.Data = p.Data[:len(p.Data)-1] }}
	got, err := job.bring(t.Context(), k)
	if !errors.Is(err, starling.ErrCorrupt) || !got.remote || rel.holds(k) {
		t.Errorf("a patch that cannot be applied: %+v, %v", got, err)
	}
	job.from = patching{chunks, func(p *blobcache.Patch) { p.Data[32] ^= 1 }}
	got, err = job.bring(t.Context(), k)
	if !errors.Is(err, starling.ErrCorrupt) || !got.remote || rel.holds(k) {
		t.Errorf("a patch that makes something else: %+v, %v", got, err)
	}
	job.from = patching{chunks, func(p *blobcache.Patch) { p.Data, p.Bases = []byte("no chunk"), nil }}
	got, err = job.bring(t.Context(), k)
	if !errors.Is(err, starling.ErrCorrupt) || !got.remote || rel.holds(k) {
		t.Errorf("something else in place of the chunk: %+v, %v", got, err)
	}
	job.from = patching{chunks: chunks}
	got, err = job.bring(t.Context(), k)
	if err != nil || !rel.holds(k) || got.moved > int64(rel.manifest.Chunks[k].Size/10) {
		t.Errorf("a good patch: %+v, %v", got, err)
	}
	// The disk has changed what the patches are against: the chunks come whole.
	damage(t, filepath.Join(string(dir), releasesDir, filepath.Base(dir.release(old.artifact)), treeName, "big"))
	for i := range k {
		if got, err = job.bring(t.Context(), i); err != nil || got.moved == 0 {
			t.Errorf("chunk %d: %+v, %v", i, got, err)
		}
	}
	if !rel.tree.Complete() || old.tree.Complete() {
		t.Error("no damaged base was met")
	}
}
