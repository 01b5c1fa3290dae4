package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/swarm"
)

// bytesOut returns what the cache has sent to machines.
func (r *region) bytesOut() int64 {
	var n int64
	for _, t := range r.cache.Traffic() {
		n += t.Bytes
	}
	return n
}

// checkTree compares a machine's current release with files.
func checkTree(t *testing.T, m *machine, files map[string][]byte) {
	t.Helper()
	for name, want := range files {
		if got := readFileOr(m.app("current", name), ""); got != string(want) {
			t.Errorf("%s: %s holds %d bytes that are not the %d expected", m.node.Name, name, len(got), len(want))
		}
	}
}

func TestFiveMachinesShareOneCopy(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	var machines []*machine
	for i := range 5 {
		machines = append(machines, r.machine(fmt.Sprintf("m%d", i+1)))
	}
	files := map[string][]byte{"version": []byte("v1"), "big": noise(3, 50<<20), "small/one": []byte("1")}
	v1 := r.push(files)
	r.leader.setGoal(goal(1, v1))
	var sum starling.Bytes
	for _, m := range machines {
		rep := m.await(1, starling.MachineHealthy)
		sum = sum.Add(rep.Bytes)
		sum.Artifact = rep.Bytes.Artifact
		checkTree(t, m, files)
	}
	if copies := float64(r.bytesOut()) / float64(sum.Artifact); copies > 1.5 {
		t.Errorf("%.2f copies left the cache", copies)
	}
	if sum.CacheOut+sum.Peer < 5*sum.Artifact || sum.Peer < 3*sum.Artifact {
		t.Errorf("bytes %+v", sum)
	}
	t.Logf("cache sent %.2f copies; machines count %+v", float64(r.bytesOut())/float64(sum.Artifact), sum)

	// A delta: only what changed moves, and again about one copy of it leaves the cache.
	before := r.bytesOut()
	files["version"] = []byte("v2")
	r.leader.setGoal(goal(2, r.push(files)))
	for _, m := range machines {
		m.await(2, starling.MachineHealthy)
		checkTree(t, m, files)
	}
	if moved := r.bytesOut() - before; moved > sum.Artifact/5 {
		t.Errorf("the delta took %d bytes out of the cache", moved)
	}
	// Back: nothing moves.
	before = r.bytesOut()
	r.leader.setGoal(goal(3, v1))
	for _, m := range machines {
		if rep := m.await(3, starling.MachineHealthy); rep.Bytes.CacheOut+rep.Bytes.Peer+rep.Bytes.Local != 0 {
			t.Errorf("%s moved %+v for the rollback", m.node.Name, rep.Bytes)
		}
	}
	if r.bytesOut() != before {
		t.Error("the rollback took bytes out of the cache")
	}

	// One that comes late gets all from its peers, even without the cache.
	late := r.machine("m6")
	late.await(3, starling.MachineHealthy)
	if rep := late.report(); rep.Bytes.Peer < rep.Bytes.Artifact/2 {
		t.Errorf("the late machine got %+v", rep.Bytes)
	}
}

// asked has the loop do something between two events.
type asked struct {
	light
	do func()
}

func (e asked) apply() { e.do() }

// links returns how many links a machine has, or dials.
func (m *machine) links() int {
	n := make(chan int, 1)
	m.agent.run.post(asked{do: func() { n <- len(m.agent.flock.links) + len(m.agent.flock.dials) }})
	return <-n
}

// Machines that all have an artifact let their links go, and are there again for one that needs them.
func TestLinksRestWhenNobodyNeedsThem(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	cache := r.startCache()
	soon := func(c *Config) { c.restAfter = time.Second }
	var machines []*machine
	for i := range 3 {
		machines = append(machines, r.machine(fmt.Sprintf("m%d", i+1), soon))
	}
	files := map[string][]byte{"version": []byte("v1"), "big": noise(5, 8<<20)}
	r.leader.setGoal(goal(1, r.push(files)))
	for _, m := range machines {
		m.await(1, starling.MachineHealthy)
	}
	atRest := func() {
		t.Helper()
		eventually(t, 30*time.Second, "machines without links", func() bool {
			for _, m := range machines {
				if m.links() > 0 {
					return false
				}
			}
			return true
		})
	}
	atRest()
	cache.Alive = false
	r.roster.set(cache)
	late := r.machine("m4", soon)
	rep := late.await(1, starling.MachineHealthy)
	checkTree(t, late, files)
	if rep.Bytes.Peer < rep.Bytes.Artifact {
		t.Errorf("the late machine got %+v", rep.Bytes)
	}
	machines = append(machines, late)
	atRest()
	cache.Alive = true
	r.roster.set(cache)
	files["version"] = []byte("v2")
	r.leader.setGoal(goal(2, r.push(files)))
	for _, m := range machines {
		m.await(2, starling.MachineHealthy)
		checkTree(t, m, files)
	}
}

func TestLateMachineNeedsNoCache(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	cache := r.startCache()
	first := r.machine("m1")
	files := map[string][]byte{"version": []byte("v1"), "big": noise(4, 8<<20)}
	r.leader.setGoal(goal(1, r.push(files)))
	first.await(1, starling.MachineHealthy)
	cache.Alive = false
	r.roster.set(cache)
	second := r.machine("m2")
	rep := second.await(1, starling.MachineHealthy)
	checkTree(t, second, files)
	if rep.Bytes.CacheOut != 0 || rep.Bytes.Peer != rep.Bytes.Artifact {
		t.Errorf("bytes %+v", rep.Bytes)
	}
}

// liar is a machine whose blob server sends other bytes than it was asked for, and
// whose brain claims to hold everything.
type liar struct{ blobcache.Source }

func (l liar) Chunk(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error) {
	b, err := l.Source.Chunk(ctx, d, buf)
	if err == nil {
		b[len(b)/2] ^= 1
	}
	return b, err
}

// lie answers links and claims to hold every chunk of an artifact.
func lie(ctx context.Context, e *endpoint, artifact starling.Digest, chunks int) {
	all := swarm.NewBitmap(chunks)
	for i := range chunks {
		all.Set(i)
	}
	for {
		conn, _, err := e.accept(testSwarm)(ctx)
		if err != nil {
			return
		}
		frame, err := appendAnnounce(appendHello(nil), swarm.Announce{Artifact: artifact, All: all})
		if err == nil {
			_, err = conn.Write(frame)
		}
		if err != nil {
			conn.Close()
		}
	}
}

func chunksOf(t *testing.T, r *region, d starling.Digest) int {
	t.Helper()
	envelope, err := r.store.Manifest(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := r.verify(envelope, d)
	if err != nil {
		t.Fatal(err)
	}
	return len(m.Chunks)
}

func TestBrokenStreamsHeal(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	const size = 12 << 20
	slow := func(c *Config) { c.DownloadBytesPerSecond = size }
	machines := []*machine{r.machine("m1", slow), r.machine("m2", slow), r.machine("m3", slow)}
	files := map[string][]byte{"big": noise(6, size)}
	v1 := r.push(files)
	r.leader.setGoal(goal(1, v1))
	for i := range 3 {
		eventually(t, 20*time.Second, "some more has come", func() bool {
			rep := machines[1].report()
			return rep.State == starling.MachineHealthy || rep.ChunksDone > i*chunksOf(t, r, v1)/4
		})
		machines[1].endpoint.cut()
	}
	for _, m := range machines {
		m.await(1, starling.MachineHealthy)
		checkTree(t, m, files)
	}
}

func TestManifestThatNobodySignedIsRefused(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	good := r.push(map[string][]byte{"version": []byte("v1")})
	forged := starling.DigestOf([]byte("no such manifest"))
	envelope, err := r.store.Manifest(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.PutManifest(t.Context(), forged, envelope); err != nil {
		t.Fatal(err)
	}
	r.leader.setGoal(goal(1, forged))
	eventually(t, 30*time.Second, "the reason is reported", func() bool {
		rep := m.report()
		return rep.State == starling.MachineFetching && rep.Reason != ""
	})
	// A newer goal ends the vain attempts.
	r.leader.setGoal(goal(2, good))
	m.await(2, starling.MachineHealthy)
}

func TestTraceReplaysToTheSameEffects(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	var mu sync.Mutex
	var trace []swarm.Record
	m := r.machine("m1", func(c *Config) {
		c.Trace = func(rec swarm.Record) { mu.Lock(); trace = append(trace, rec); mu.Unlock() }
	})
	other := r.machine("m2")
	r.leader.setGoal(goal(1, r.push(map[string][]byte{"big": noise(7, 16<<20)})))
	m.await(1, starling.MachineHealthy)
	other.await(1, starling.MachineHealthy)
	m.stop()
	brain := swarm.New(swarm.Config{Self: "m1"})
	for i, rec := range trace {
		got := brain.Step(rec.At, rec.Event)
		if len(got) == 0 && len(rec.Effects) == 0 {
			continue
		}
		if !reflect.DeepEqual(got, rec.Effects) {
			t.Fatalf("step %d, %T: the agent had %+v, the replay %+v", i, rec.Event, rec.Effects, got)
		}
	}
	if len(trace) < 20 {
		t.Errorf("the trace has %d steps", len(trace))
	}
}

func TestDamagedReleaseIsNotServed(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	files := map[string][]byte{"big": noise(8, 3<<20)}
	v1 := r.push(files)
	r.leader.setGoal(goal(1, v1))
	m.await(1, starling.MachineHealthy)
	damage(t, m.app("current", "big"))
	client := blobcache.NewClient(newEndpoint(t, identityOf(machineNode("m2"))).dialBlob)
	defer client.Close()
	envelope, err := client.GetManifest(t.Context(), m.node.Addr, v1)
	if err != nil {
		t.Fatal(err)
	}
	manifest, _, err := r.verify(envelope, v1)
	if err != nil {
		t.Fatal(err)
	}
	missing := 0
	for _, c := range manifest.Chunks {
		switch _, err := client.Get(t.Context(), m.node.Addr, c.Digest, nil); {
		case errors.Is(err, starling.ErrNotFound):
			missing++
		case err != nil:
			t.Fatal(err)
		}
	}
	if missing != 1 {
		t.Errorf("%d chunks are missing", missing)
	}
}
