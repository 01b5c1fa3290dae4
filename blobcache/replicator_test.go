package blobcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

const testStoreBytes = 16 << 20

// world is some regions with their caches, each with its store, server and
// replicator, and the servers' part played by the test.
type world struct {
	*network
	regions map[string]*testRegion
}

type testRegion struct {
	world *world
	name  string

	mu      sync.Mutex
	nodes   []starling.Node
	changed chan struct{}
	wants   rpc.Wants
	news    chan struct{} // closed at the next change of wants
	reports map[string]rpc.CacheReport
	caches  map[string]*testCache
}

type testCache struct {
	name   string
	store  *MemStore
	server *Server
	stop   func() // server and replicator, as when the process dies
}

func newWorld(t testing.TB, tcp bool) *world {
	return &world{network: newNetwork(t, tcp), regions: map[string]*testRegion{}}
}

func (w *world) region(name string, caches int) *testRegion {
	r := &testRegion{world: w, name: name, changed: make(chan struct{}), news: make(chan struct{}),
		reports: map[string]rpc.CacheReport{}, caches: map[string]*testCache{}, wants: rpc.Wants{Replicas: 2}}
	w.regions[name] = r
	for i := range caches {
		r.add(fmt.Sprintf("%s-%d", name, i))
	}
	return r
}

// Wants implements Control.
func (r *testRegion) Wants(ctx context.Context, index uint64, wait time.Duration) (rpc.Wants, error) {
	deadline := time.After(wait)
	for {
		r.mu.Lock()
		wants, news := r.wants, r.news
		r.mu.Unlock()
		if wants.Index > index {
			return wants, nil
		}
		select {
		case <-news:
		case <-deadline:
			return wants, nil
		case <-ctx.Done():
			return rpc.Wants{}, ctx.Err()
		}
	}
}

// ReportCache implements Control.
func (r *testRegion) ReportCache(_ context.Context, c rpc.CacheReport) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reports[c.Name] = c
	return nil
}

func (r *testRegion) want(wants ...rpc.Want) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wants.Index++
	r.wants.Wants = wants
	close(r.news)
	r.news = make(chan struct{})
}

func (r *testRegion) members() []starling.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.nodes)
}

func (r *testRegion) membersChanged() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// edit changes the membership as gossip shows it.
func (r *testRegion) edit(change func(nodes []starling.Node) []starling.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes = change(r.nodes)
	close(r.changed)
	r.changed = make(chan struct{})
}

// add starts a cache and lets gossip show it.
func (r *testRegion) add(name string) *testCache {
	store := NewMemStore(testStoreBytes)
	client := r.world.client(identity(r.name, name, starling.RoleCache))
	others := NewRegion(client, func() []starling.Node {
		return slices.DeleteFunc(r.members(), func(n starling.Node) bool { return n.Name == name })
	}, 2)
	server := NewServer(ServerConfig{Region: r.name, Source: store, Store: store, Logger: quiet(), ReadBase: others.Chunk})
	stopServer := r.world.serve(name, server)
	replicator := NewReplicator(ReplicatorConfig{
		Name: name, Store: store, Client: client, Control: r, Members: r.members, Changed: r.membersChanged,
		Verify: decodeUnsigned, OutBytes: server.OutBytes, ReadBase: others.Chunk, Logger: quiet(), FollowPatience: time.Second,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	c := &testCache{name: name, store: store, server: server}
	var once sync.Once
	c.stop = func() {
		once.Do(func() {
			cancel()
			stopServer()
			wg.Wait()
		})
	}
	r.world.t.Cleanup(c.stop)
	r.caches[name] = c
	r.edit(func(nodes []starling.Node) []starling.Node { return append(nodes, cacheNode(r.name, name)) })
	wg.Go(func() {
		if err := replicator.Run(ctx); err != nil {
			r.world.t.Errorf("%s: %v", name, err)
		}
	})
	return c
}

// lose kills a cache and lets gossip show it.
func (r *testRegion) lose(name string) {
	r.caches[name].stop()
	delete(r.caches, name)
	r.edit(func(nodes []starling.Node) []starling.Node {
		return slices.DeleteFunc(slices.Clone(nodes), func(n starling.Node) bool { return n.Name == name })
	})
}

func (r *testRegion) stores() map[string]*MemStore {
	out := map[string]*MemStore{}
	for name, c := range r.caches {
		out[name] = c.store
	}
	return out
}

// complete reports whether every cache reports to hold its share, computed with the
// membership as it is.
func (r *testRegion) complete(artifact starling.Digest) bool {
	names := cachesOf(r.members()).names
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		i := slices.IndexFunc(r.reports[name].Holds, func(h rpc.CacheHold) bool { return h.Artifact == artifact })
		if i < 0 {
			return false
		}
		if h := r.reports[name].Holds[i]; !h.Complete || h.ChunksDone != h.ChunksTotal || !slices.Equal(h.Caches, names) {
			return false
		}
	}
	return true
}

func (r *testRegion) wanBytes(artifact starling.Digest) (sum int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.caches {
		for _, h := range r.reports[name].Holds {
			if h.Artifact == artifact {
				sum += h.WANBytes
			}
		}
	}
	return sum
}

func (r *testRegion) problem(artifact starling.Digest) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, report := range r.reports {
		for _, h := range report.Holds {
			if h.Artifact == artifact && h.Problem != "" {
				return h.Problem
			}
		}
	}
	return ""
}

// checkPlaced fails the test unless every chunk is on its replicas.
func (r *testRegion) checkPlaced(t testing.TB, m *starling.Manifest) {
	t.Helper()
	names := cachesOf(r.members()).names
	stores := r.stores()
	for i, c := range m.Chunks {
		for _, name := range starling.Rendezvous(c.Digest, names, 2) {
			if _, ok := stores[name].Stat(c.Digest); !ok {
				t.Errorf("chunk %d is not on %s of %v", i, name, names)
			}
		}
	}
}

// source is the region as another one sees it.
func (r *testRegion) source() rpc.Source {
	return rpc.Source{Region: r.name, Caches: r.members()}
}

// decodeUnsigned stands in for the signature: the envelope is the manifest.
func decodeUnsigned(envelope []byte, artifact starling.Digest) (*starling.Manifest, error) {
	if starling.DigestOf(envelope) != artifact {
		return nil, starling.ErrCorrupt
	}
	return starling.DecodeManifest(envelope)
}

// release makes an artifact of n chunks and uploads it into the region, but for the
// chunks that skip names.
func (r *testRegion) release(t testing.TB, seed, n int, skip func(i int) bool) (starling.Digest, *starling.Manifest) {
	t.Helper()
	m := &starling.Manifest{Version: starling.ManifestVersion, Chunker: "test",
		Files: []starling.File{{Path: "a", Kind: starling.KindFile, Mode: 0o644}}}
	region := NewRegion(r.world.client(identity(r.name, "worker", starling.RoleWorker)), r.members, 2)
	ctx := within(t, 60*time.Second)
	for i := range n {
		d, data := chunkOf(t, seed+i, 20_000+i)
		m.Chunks = append(m.Chunks, starling.Chunk{Digest: d, Size: len(data)})
		m.Files[0].Size += int64(len(data))
		if skip == nil || !skip(i) {
			if err := region.Put(ctx, d, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	artifact := starling.DigestOf(b)
	if err := region.PutManifest(ctx, artifact, b); err != nil {
		t.Fatal(err)
	}
	return artifact, m
}

func (r *testRegion) awaitComplete(t testing.TB, artifact starling.Digest) {
	t.Helper()
	eventually(t, r.name+" reports "+artifact.Short()+" complete", func() bool { return r.complete(artifact) })
}

func TestReplicationCrossesOnce(t *testing.T) {
	for name, tcp := range map[string]bool{"in memory": false, "over TCP": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tcp)
			home, away := w.region("eu", 3), w.region("us", 3)
			artifact, m := home.release(t, 0, 120, nil)
			home.want(rpc.Want{Artifact: artifact})
			away.want(rpc.Want{Artifact: artifact, Sources: []rpc.Source{home.source()}})
			home.awaitComplete(t, artifact)
			away.awaitComplete(t, artifact)
			home.checkPlaced(t, m)
			away.checkPlaced(t, m)
			copies := float64(away.wanBytes(artifact)) / float64(m.Bytes())
			t.Logf("%.3f copies crossed", copies)
			if copies < 1 || copies > 1.1 {
				t.Errorf("%.3f copies crossed, want 1", copies)
			}
			if n := home.wanBytes(artifact); n != 0 {
				t.Errorf("%d bytes crossed to the home", n)
			}

			// A machine of the region can now get all of it there.
			region := NewRegion(w.client(identity("us", "m", starling.RoleMachine)), away.members, 2)
			for _, c := range m.Chunks {
				if _, err := region.Get(within(t, 30*time.Second), c.Digest); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestReplicationFollowsMembership(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 3)
	artifact, m := home.release(t, 0, 90, nil)
	away.want(rpc.Want{Artifact: artifact, Sources: []rpc.Source{home.source()}})
	away.awaitComplete(t, artifact)

	before := away.wanBytes(artifact)
	newcomer := away.add("us-3")
	away.awaitComplete(t, artifact)
	away.checkPlaced(t, m)
	share := 0
	for _, c := range m.Chunks {
		if _, ok := newcomer.store.Stat(c.Digest); ok {
			share++
		}
	}
	if want := len(m.Chunks) / 2; share < want*6/10 || share > want*14/10 { // 2 replicas on 4 caches
		t.Errorf("the newcomer holds %d of %d chunks", share, len(m.Chunks))
	}

	away.lose("us-1")
	away.awaitComplete(t, artifact)
	away.checkPlaced(t, m)
	if after := away.wanBytes(artifact); after > before {
		t.Errorf("%d bytes crossed again, though neighbours held them", after-before)
	}
}

func TestReplicationGoesOnWithoutTheFirstInLine(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 3)
	artifact, m := home.release(t, 0, 40, nil)
	away.caches["us-0"].stop() // gossip does not know yet
	delete(away.caches, "us-0")
	away.want(rpc.Want{Artifact: artifact, Sources: []rpc.Source{home.source()}})
	eventually(t, "the two that live hold their shares", func() bool {
		names, stores := []string{"us-0", "us-1", "us-2"}, away.stores()
		for _, c := range m.Chunks {
			for _, name := range starling.Rendezvous(c.Digest, names, 2) {
				if s := stores[name]; s != nil {
					if _, ok := s.Stat(c.Digest); !ok {
						return false
					}
				}
			}
		}
		return true
	})
}

func TestReplicationBeginsBeforeTheSourceIsComplete(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 3)
	late := func(i int) bool { return i >= 20 }
	artifact, m := home.release(t, 0, 40, late)
	away.want(rpc.Want{Artifact: artifact, Sources: []rpc.Source{home.source()}})
	eventually(t, "the early chunks have crossed", func() bool {
		for _, c := range m.Chunks[:20] {
			if len(holders(away.stores(), c.Digest)) < 2 {
				return false
			}
		}
		return true
	})
	if away.complete(artifact) {
		t.Fatal("complete without the late chunks")
	}
	home.release(t, 0, 40, func(i int) bool { return !late(i) })
	away.awaitComplete(t, artifact)
	away.checkPlaced(t, m)
}

func TestReplicationMendsDamage(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 3)
	artifact, m := home.release(t, 0, 30, nil)
	away.want(rpc.Want{Artifact: artifact, Sources: []rpc.Source{home.source()}})
	away.awaitComplete(t, artifact)
	for _, c := range away.caches { // what a disk store does on finding damage
		for _, chunk := range m.Chunks[:10] {
			c.store.index.lose(key{chunk.Digest, false})
		}
	}
	eventually(t, "lost chunks are back", func() bool {
		for _, chunk := range m.Chunks {
			if len(holders(away.stores(), chunk.Digest)) < 2 {
				return false
			}
		}
		return true
	})
}

func TestReplicationReportsItsProblem(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 2)
	artifact, _ := home.release(t, 0, 10, func(i int) bool { return i == 3 })
	nowhere := starling.Digest{1}
	away.want(rpc.Want{Artifact: artifact, Sources: []rpc.Source{home.source()}}, rpc.Want{Artifact: nowhere, Sources: []rpc.Source{home.source()}})
	eventually(t, "both problems are reported", func() bool {
		return away.problem(artifact) != "" && away.problem(nowhere) != ""
	})
	away.mu.Lock()
	for _, r := range away.reports {
		for _, h := range r.Holds {
			if h.Complete || (h.Artifact == nowhere && h.ChunksTotal != -1) {
				t.Errorf("%+v", h)
			}
		}
	}
	away.mu.Unlock()
	home.release(t, 0, 10, nil)
	away.want(rpc.Want{Artifact: artifact, Sources: []rpc.Source{home.source()}}) // the other is given up
	away.awaitComplete(t, artifact)
	eventually(t, "the problems are over", func() bool {
		return away.problem(artifact) == "" && away.problem(nowhere) == ""
	})
}

func TestReplicationPinsItsShare(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 2)
	artifact, m := home.release(t, 0, 10, nil)
	want := rpc.Want{Artifact: artifact, Sources: []rpc.Source{home.source()}}
	away.want(want)
	away.awaitComplete(t, artifact)
	fill := func() {
		t.Helper()
		for i := range testStoreBytes>>20 + 1 { // more than the store takes
			d, data := chunkOf(t, 10_000+i, 1<<20)
			if err := away.caches["us-0"].store.Put(context.Background(), d, data); err != nil && !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
		}
	}
	fill()
	away.checkPlaced(t, m)
	away.want()
	eventually(t, "nothing is reported held", func() bool {
		away.mu.Lock()
		defer away.mu.Unlock()
		return len(away.reports["us-0"].Holds) == 0
	})
	fill()
	if _, ok := away.caches["us-0"].store.Stat(m.Chunks[0].Digest); ok {
		t.Error("an unwanted chunk outlived a store full of newer ones")
	}
}

// A new leader knows nothing of what a cache has told the one before.
func TestNewLeaderIsReportedTo(t *testing.T) {
	told := time.Now()
	r := &Replicator{reportedAt: told, reign: "s1"}
	if r.want(rpc.Wants{Reign: "s1"}); r.reportedAt != told {
		t.Error("the same leader is told everything again")
	}
	if r.want(rpc.Wants{Reign: "s2"}); !r.reportedAt.IsZero() {
		t.Error("the new leader is told nothing before something changes")
	}
}
