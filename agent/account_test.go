package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/swarm"
)

func TestWhatBoundsAChunk(t *testing.T) {
	// A chunk that came in a second from one of three peers, half as fast as this machine can.
	usual := observed{took: time.Second, write: 10 * time.Millisecond, cpu: 0.2, rate: 50, best: 100, sources: 3}
	for _, tt := range []struct {
		name string
		edit func(o *observed)
		want starling.Bound
	}{
		{"room here: the peer", func(*observed) {}, starling.BoundPeerLink},
		{"room here: the cache", func(o *observed) { o.origin = true }, starling.BoundCache},
		{"as fast as ever, from several", func(o *observed) { o.rate = 85 }, starling.BoundOwnLink},
		{"as fast as ever, from several, a cache among them", func(o *observed) { o.rate, o.origin = 85, true }, starling.BoundOwnLink},
		{"as fast as ever, from one", func(o *observed) { o.rate, o.sources = 100, 1 }, starling.BoundPeerLink},
		{"at the cap, from one", func(o *observed) { o.rate, o.sources, o.limit = 50, 1, 52 }, starling.BoundOwnLink},
		{"below the cap", func(o *observed) { o.limit = 90 }, starling.BoundPeerLink},
		{"nothing was measured before", func(o *observed) { o.best = 0 }, starling.BoundPeerLink},
		{"half the time in writing", func(o *observed) { o.write = o.took / 2 }, starling.BoundDisk},
		{"the disk is full", func(o *observed) { o.diskError = true }, starling.BoundDisk},
		{"no time at all", func(o *observed) { o.took, o.write = 0, 0 }, starling.BoundPeerLink},
		{"no CPU left, whatever else", func(o *observed) { o.cpu, o.rate, o.write = 0.9, 100, o.took }, starling.BoundCPU},
	} {
		o := usual
		tt.edit(&o)
		if got := boundOf(o); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestMeter(t *testing.T) {
	m := newMeter(0)
	at := func(ms, received int) reading {
		return reading{at: time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond), received: int64(received), cpu: time.Duration(ms) * time.Millisecond / 2}
	}
	if rate, cpu := m.over(at(0, 0), at(2000, 10_000)); rate != 5000 || cpu != 0.5/float64(m.procs) || m.best.Load() != 5000 {
		t.Errorf("rate %v, cpu %v, best %d", rate, cpu, m.best.Load())
	}
	if rate, _ := m.over(at(0, 0), at(10, 10_000)); rate != 1e6 || m.best.Load() != 5000 {
		t.Errorf("a burst of 10 ms counts as the best: rate %v, best %d", rate, m.best.Load())
	}
	if rate, cpu := m.over(at(5, 5), at(5, 5)); rate != 0 || cpu != 0 {
		t.Errorf("over nothing: %v, %v", rate, cpu)
	}
	if cpuTime() <= 0 {
		t.Error("this process has used no CPU time")
	}
}

// Sources at all distances, a failure, a liar, and an interruption.
func TestBook(t *testing.T) {
	var l ledger
	self := starling.Node{Name: "m0", Region: "here", Zone: "a", Rack: "r1"}
	m := newMeter(0)
	art := starling.DigestOf([]byte("v1"))
	b := l.open(&self, m, art)
	b.to(stageFetch)
	node := func(name, zone, rack string) *starling.Node {
		return &starling.Node{Name: name, Zone: zone, Rack: rack}
	}
	took := func(d time.Duration) spent {
		from := reading{at: time.Unix(100, 0)}
		to := reading{at: from.at.Add(d)}
		return spent{from: from, to: to, answered: from.at.Add(d / 4), received: to.at}
	}
	for i, n := range []*starling.Node{node("m1", "a", "r1"), node("m2", "a", "r2"), node("m3", "b", "r1"), node("m1", "a", "r1")} {
		s, _ := b.ask(n, false)
		b.got(s, i, 100<<i, took(40*time.Millisecond))
	}
	cache, kind := b.ask(node("m1", "a", "r1"), true) // a cache with a machine's name
	if kind != starling.SourceCache {
		t.Errorf("kind %s", kind)
	}
	b.failed(cache, took(time.Second), swarm.ReasonTimeout)
	l.distrust(swarm.Distrust{Peer: "m3", Reason: "lies"})
	b.pause()
	if again := l.open(&self, m, art); again != b {
		t.Error("the second attempt has another account")
	}
	b.to(stageFetch)
	cache, _ = b.ask(node("m1", "a", "r1"), true)
	b.got(cache, 4, 7, took(40*time.Millisecond))
	b.done()

	a, err := decodeOf(b)
	if err != nil {
		t.Fatal(err)
	}
	if want := (starling.Bytes{PeerRack: 900, PeerZone: 200, PeerRegion: 400, Peer: 1500, CacheOut: 7}); a.Bytes != want {
		t.Errorf("bytes %+v", a.Bytes)
	}
	if len(a.Sources) != 4 || a.Sources[0].Chunks != 2 || a.Sources[0].WaitMS != 20 || a.Sources[2].Distrusted != "lies" || a.Sources[3].Failures["timeout"] != 1 {
		t.Errorf("sources %+v", a.Sources)
	}
	if fmt.Sprint(a.Trace.Chunk, a.Trace.Source) != "[0 1 2 3 4] [0 1 2 0 3]" {
		t.Errorf("trace %+v", a.Trace)
	}
	var chunks int
	for i, x := range a.Time {
		chunks += x.Chunks
		if x.Bound != starling.Bounds[i] {
			t.Errorf("time %d is of %s", i, x.Bound)
		}
	}
	if chunks != 5 || a.EndedAt.IsZero() {
		t.Errorf("%d chunks are bounded, ended %s", chunks, a.EndedAt)
	}
	if again := l.open(&self, m, art); again == b {
		t.Error("a finished account goes on")
	}
}

func decodeOf(b *book) (*starling.Account, error) {
	j, err := b.encode()
	if err != nil {
		return nil, err
	}
	return starling.DecodeAccount(j, b.node.Name, b.artifact)
}

// Time that nobody measures is shared out fully, once.
func TestTimeOfABook(t *testing.T) {
	b := newBook(&starling.Node{Name: "m0"}, newMeter(0), starling.Digest{})
	start := b.since
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	for _, c := range []struct {
		ms, flying int
		stage      stage
	}{
		{100, 0, stageFetch}, {150, 1, stageFetch}, {550, 0, stageFetch}, {600, 0, stagePaused}, {5000, 0, stageFetch},
		{5010, 2, stageFetch}, {5610, 0, stageFinish}, {5640, 0, stageDone},
	} {
		b.step(at(c.ms))
		b.flying, b.stage = c.flying, c.stage
	}
	disk, peer := 3, 1
	b.weight[disk], b.weight[peer] = time.Second, 4*time.Second
	got := map[starling.Bound]int64{}
	for _, x := range b.times(at(9000)) {
		if x.MS != 0 {
			got[x.Bound] = x.MS
		}
	}
	want := map[starling.Bound]int64{starling.BoundPrepare: 100, starling.BoundWaiting: 50 + 50 + 10, starling.BoundPeerLink: 800, starling.BoundDisk: 200 + 30}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLedgerAndSourcesAreBounded(t *testing.T) {
	var l ledger
	m := newMeter(0)
	self := starling.Node{Name: "m0", Zone: "a"}
	for i := range 3 * maxBooks {
		l.open(&self, m, starling.DigestOf([]byte{byte(i)}))
	}
	if len(l.books) != maxBooks {
		t.Errorf("%d accounts in memory", len(l.books))
	}
	b := l.books[0]
	for i := range 2 * starling.MaxAccountSources {
		s, _ := b.ask(&starling.Node{Name: fmt.Sprintf("m%d", i), Zone: []string{"a", "b"}[i%2]}, false)
		b.got(s, i, 1, spent{})
	}
	a, err := decodeOf(b)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(a.Sources); n != starling.MaxAccountSources+2 || a.Sources[n-1].Name != "" || a.Sources[n-1].Chunks != starling.MaxAccountSources/2 {
		t.Errorf("%d sources, the last %+v", n, a.Sources[n-1])
	}
	if a.Bytes.Peer != 2*starling.MaxAccountSources || a.Bytes.PeerZone != a.Bytes.PeerRegion {
		t.Errorf("bytes %+v", a.Bytes)
	}
}

// Machines in racks and zones, a cache, an update, and a server that asks over the
// blob protocol, also after a restart.
func TestMachinesTellWhereChunksCameFrom(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	const chunky = 24 << 20
	files := map[string][]byte{"version": []byte("v1"), "big": noise(21, chunky)}
	v1 := r.push(files)
	var machines []*machine
	for i, place := range [][2]string{{"a", "r1"}, {"a", "r1"}, {"a", "r2"}, {"b", "r1"}} {
		machines = append(machines, r.placed(fmt.Sprintf("m%d", i+1), place[0], place[1]))
	}
	r.leader.setGoal(goal(1, v1))
	ask := blobcache.NewClient(newEndpoint(t, identityOf(starling.Node{Name: "s1", Region: "here", Roles: []starling.Role{starling.RoleServer}})).dialBlob)
	defer ask.Close()
	account := func(m *machine, artifact starling.Digest) *starling.Account {
		t.Helper()
		b, err := ask.GetAccount(t.Context(), m.node.Addr, artifact)
		if err != nil {
			t.Fatal(err)
		}
		a, err := starling.DecodeAccount(b, m.node.Name, artifact)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	var sum starling.Bytes
	for _, m := range machines {
		rep := m.await(1, starling.MachineHealthy)
		a := account(m, v1)
		checkAccount(t, r, m, a, rep)
		sum = sum.Add(a.Bytes)
		if a.Bytes.CacheOut+a.Bytes.Peer+a.Bytes.Local < a.Bytes.Artifact {
			t.Errorf("%s: %+v", m.node.Name, a.Bytes)
		}
	}
	if sum.PeerRack == 0 || sum.PeerZone == 0 || sum.PeerRegion == 0 {
		t.Errorf("some distance gave nothing: %+v", sum)
	}
	if a := account(machines[3], v1); a.Bytes.PeerRack+a.Bytes.PeerZone != 0 {
		t.Errorf("the only machine of zone b got %+v", a.Bytes)
	}
	files["version"] = []byte("v2")
	v2 := r.push(files)
	r.leader.setGoal(goal(2, v2))
	machines[0].await(2, starling.MachineHealthy)
	a := account(machines[0], v2)
	if a.Bytes.Local < chunky/2 || len(a.Trace.Chunk) >= a.Chunks {
		t.Errorf("the update: %+v, %d of %d chunks came", a.Bytes, len(a.Trace.Chunk), a.Chunks)
	}
	if _, err := ask.GetAccount(t.Context(), machines[0].node.Addr, starling.DigestOf([]byte("other"))); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("account of an artifact that is not here: %v", err)
	}
	// The account outlives the process; a damaged one is refused by whoever asks.
	machines[0].stop()
	machines[0].start()
	eventually(t, 20*time.Second, "the account is back", func() bool {
		b, err := ask.GetAccount(t.Context(), machines[0].node.Addr, v2)
		if err != nil {
			return false
		}
		kept, err := starling.DecodeAccount(b, "m1", v2)
		return err == nil && kept.StartedAt.Equal(a.StartedAt) && kept.Bytes == a.Bytes
	})
	kept, err := filepath.Glob(machines[0].app("releases", "*", accountName))
	if err != nil || len(kept) != 2 {
		t.Fatal(kept, err)
	}
	for _, name := range kept {
		if err := os.WriteFile(name, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := ask.GetAccount(t.Context(), machines[0].node.Addr, v2); err == nil {
		if _, err := starling.DecodeAccount(b, "m1", v2); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("a damaged account: %v", err)
		}
	}
}

// placed starts a machine in a zone and rack.
func (r *region) placed(name, zone, rack string) *machine {
	r.t.Helper()
	return r.machine(name, func(c *Config) { c.Node.Zone, c.Node.Rack = zone, rack })
}

// checkAccount holds an account against the machine's report and itself.
func checkAccount(t *testing.T, r *region, m *machine, a *starling.Account, rep starling.MachineReport) {
	t.Helper()
	name := m.node.Name
	if a.Bytes != rep.Bytes || a.EndedAt.IsZero() || a.Chunks != chunksOf(t, r, a.Artifact) || a.TookMS != rep.FetchMS || rep.Bound == "" {
		t.Errorf("%s: account %+v in %d ms, ended %s; report %+v in %d ms, %q", name, a.Bytes, a.TookMS, a.EndedAt, rep.Bytes, rep.FetchMS, rep.Bound)
	}
	chunks, times := 0, int64(0)
	var bytes starling.Bytes
	for _, s := range a.Sources {
		chunks += s.Chunks
		bytes = bytes.From(s.Kind, s.Bytes)
		if (s.Kind == starling.SourceCache) != (s.Name == "cache-1") || s.Chunks > 0 && s.BytesPerSecond() == 0 && s.ActiveMS > 0 {
			t.Errorf("%s: source %+v", name, s)
		}
	}
	bytes.Artifact = a.Bytes.Artifact
	for _, x := range a.Time {
		times += x.MS
		chunks -= x.Chunks
	}
	if bytes != a.Bytes || chunks != 0 || times != a.TookMS || len(a.Trace.Chunk) < a.Chunks {
		t.Errorf("%s: sources give %+v of %+v; %d chunks are of no bound; %d of %d ms; %d of %d chunks",
			name, bytes, a.Bytes, chunks, times, a.TookMS, len(a.Trace.Chunk), a.Chunks)
	}
	if a.TookMS > time.Since(a.StartedAt).Milliseconds()+1 {
		t.Errorf("%s: %d ms since %s", name, a.TookMS, a.StartedAt)
	}
}

// What is slow on purpose is found. Not parallel: the CPU time of other tests would count.
func TestBoundsAreFound(t *testing.T) {
	r := newRegion(t)
	cache := r.startCache()
	const size = 16 << 20
	v1 := r.push(map[string][]byte{"big": noise(22, size)})
	r.leader.setGoal(goal(1, v1))
	capped := r.machine("capped", func(c *Config) { c.DownloadBytesPerSecond, c.UploadBytesPerSecond = size/2, size/2 })
	if rep := capped.await(1, starling.MachineHealthy); rep.Bound != starling.BoundOwnLink || rep.FetchMS < 1000 {
		t.Errorf("with a download cap: %s for most of %d ms", rep.Bound, rep.FetchMS)
	}
	cache.Alive = false
	r.roster.set(cache)
	other := r.machine("other")
	if rep := other.await(1, starling.MachineHealthy); rep.Bound != starling.BoundPeerLink || rep.FetchMS < 1000 {
		t.Errorf("from a peer with an upload cap: %s for most of %d ms", rep.Bound, rep.FetchMS)
	}
}
