package swarm

import (
	"cmp"
	"fmt"
	"math/bits"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

const kib = 1024

var (
	blobA = starling.DigestOf([]byte("a"))
	blobB = starling.DigestOf([]byte("b"))
)

// rig drives one peer by hand.
type rig struct {
	t   *testing.T
	p   *Peer
	now time.Duration
	// open holds the fetches without an answer.
	open map[Request]time.Duration
	seen []Effect // all effects so far
}

func newRig(t *testing.T, cfg Config) *rig {
	if cfg.Self == "" {
		cfg.Self = "self"
	}
	return &rig{t: t, p: New(cfg), open: make(map[Request]time.Duration)}
}

func (r *rig) step(ev Event) []Effect {
	r.t.Helper()
	out := slices.Clone(r.p.Step(r.now, ev))
	for _, e := range out {
		switch e := e.(type) {
		case Fetch:
			if _, twice := r.open[e.Request]; twice {
				r.t.Fatalf("%+v is asked for twice", e.Request)
			}
			r.open[e.Request] = r.now
		case CancelFetch:
			delete(r.open, e.Request)
		}
	}
	r.seen = append(r.seen, out...)
	check(r.t, r.p)
	return out
}

func (r *rig) pass(d time.Duration) []Effect {
	r.now += d
	return r.step(Tick{})
}

// begin starts an artifact of n chunks of 1 KiB among self and peers, all linked.
func (r *rig) begin(artifact starling.Digest, n int, peers ...string) {
	r.step(Begin{Artifact: artifact, Chunks: equalChunks(n, kib)})
	members := []Member{{Name: r.p.cfg.Self}}
	for _, name := range peers {
		members = append(members, Member{Name: name})
	}
	r.step(Members{Artifact: artifact, Members: members})
	for _, name := range peers {
		if s := r.p.peers[name]; s == nil || !s.up {
			r.step(PeerUp{Peer: name})
		}
	}
}

func (r *rig) has(peer string, artifact starling.Digest, n int, chunks ...int) []Effect {
	all := NewBitmap(n)
	for _, c := range chunks {
		all.Set(c)
	}
	return r.step(PeerHas{Peer: peer, Artifact: artifact, All: all})
}

func (r *rig) hasAll(peer string, artifact starling.Digest, n int) []Effect {
	chunks := make([]int, n)
	for i := range chunks {
		chunks[i] = i
	}
	return r.has(peer, artifact, n, chunks...)
}

// answer ends an open fetch, or fails the test if there is none that fits.
func (r *rig) answer(fits func(Request) bool, with func(Request) Event) (Request, []Effect) {
	r.t.Helper()
	var found []Request
	for q := range r.open {
		if fits(q) {
			found = append(found, q)
		}
	}
	if len(found) == 0 {
		r.t.Fatal("no such fetch is open")
	}
	slices.SortFunc(found, func(a, b Request) int {
		return cmp.Or(a.Chunk-b.Chunk, strings.Compare(a.From, b.From))
	})
	q := found[0]
	ev := with(q)
	delete(r.open, q)
	return q, r.step(ev)
}

func (r *rig) got(fits func(Request) bool) []Effect {
	_, out := r.answer(fits, func(q Request) Event { return Got{Request: q, Took: max(r.now-r.open[q], time.Millisecond)} })
	return out
}

func (r *rig) fail(fits func(Request) bool, why Reason) (Request, []Effect) {
	return r.answer(fits, func(q Request) Event { return Failed{Request: q, Reason: why} })
}

func (r *rig) count(fits func(Request) bool) int {
	n := 0
	for q := range r.open {
		if fits(q) {
			n++
		}
	}
	return n
}

func from(name string) func(Request) bool {
	return func(q Request) bool { return q.From == name && !q.Origin }
}
func cacheReq(q Request) bool { return q.Origin }
func anyReq(Request) bool     { return true }

func find[T Effect](out []Effect) (T, bool) {
	for _, e := range out {
		if v, ok := e.(T); ok {
			return v, true
		}
	}
	var zero T
	return zero, false
}

// check holds the invariants of a peer's books.
func check(t interface {
	Helper()
	Fatalf(string, ...any)
}, p *Peer) {
	t.Helper()
	var inFlight int64
	for _, s := range p.sources {
		var sum int64
		for i, f := range s.fetches {
			sum += f.size
			if f.d.held.has(f.chunk) {
				t.Fatalf("chunk %d is held and asked of %s", f.chunk, s.name)
			}
			for _, g := range s.fetches[i+1:] {
				if g.d == f.d && g.chunk == f.chunk {
					t.Fatalf("chunk %d is asked twice of %s", f.chunk, s.name)
				}
			}
		}
		if sum != s.inFlightBytes {
			t.Fatalf("%s: %d bytes in flight, booked %d", s.name, sum, s.inFlightBytes)
		}
		inFlight += sum
		if !s.up && (len(s.views) > 0 || !s.origin && len(s.fetches) > 0) {
			t.Fatalf("%s is down but has views or fetches", s.name)
		}
	}
	if inFlight != p.inFlightBytes || inFlight > p.cfg.MaxInFlightBytes+starling.MaxChunkBytes {
		t.Fatalf("%d bytes in flight, booked %d, allowed %d", inFlight, p.inFlightBytes, p.cfg.MaxInFlightBytes)
	}
	for _, d := range p.downloads {
		checkDownload(t, p, d)
	}
}

func checkDownload(t interface {
	Helper()
	Fatalf(string, ...any)
}, p *Peer, d *download) {
	t.Helper()
	left, wants := 0, 0
	for c := range d.n {
		avail, flying := 0, false
		for _, s := range p.sources {
			if v := s.view(d); v != nil && !s.doubted && v.has.has(c) {
				avail++
			}
			flying = flying || !s.doubted && s.find(d, c) != nil
		}
		if avail != int(d.avail[c]) {
			t.Fatalf("chunk %d: %d sources, booked %d", c, avail, d.avail[c])
		}
		if !d.held.has(c) {
			left++
		}
		if want := !d.held.has(c) && !flying; want != d.wanted(c) {
			t.Fatalf("chunk %d: held %v, in flight %v, wanted %v", c, d.held.has(c), flying, d.wanted(c))
		}
	}
	for k := range d.level {
		n := 0
		for _, w := range d.level[k] {
			n += bits.OnesCount64(w)
		}
		if n != d.counts[k] {
			t.Fatalf("level %d: %d chunks, booked %d", k, n, d.counts[k])
		}
		wants += n
	}
	if left != d.left || wants != d.wants {
		t.Fatalf("left %d, booked %d; wanted %d, booked %d", left, d.left, wants, d.wants)
	}
}

func TestPickTakesTheRarest(t *testing.T) {
	for _, c := range []struct {
		name  string
		avail []uint8 // per chunk
		has   []int
		want  []int // any of them
	}{
		{"the rarest of those it has", []uint8{3, 1, 2, 5}, []int{0, 2, 3}, []int{2}},
		{"a tie", []uint8{2, 2, 1, 2}, []int{0, 1, 3}, []int{0, 1, 3}},
		{"nothing", []uint8{1, 1}, nil, nil},
		{"common ones are all alike", []uint8{200, 16, 15}, []int{0, 1, 2}, []int{0, 1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDownload(Begin{Chunks: equalChunks(len(c.avail), kib)}, 0)
			for chunk, n := range c.avail {
				for range n {
					d.more(chunk)
				}
			}
			has := newBitset(d.n)
			for _, chunk := range c.has {
				has.set(chunk)
			}
			hit := make(map[int]bool)
			for spin := range uint64(64) {
				got := d.pick(has, 1, mix(spin))
				if !slices.Contains(c.want, got) && !(got == -1 && len(c.want) == 0) {
					t.Fatalf("picked %d, want one of %v", got, c.want)
				}
				hit[got] = true
			}
			if len(c.want) > 1 && len(hit) != len(c.want) {
				t.Errorf("ties always fall on %v of %v", hit, c.want)
			}
		})
	}
}

func TestLinksFollowTheMembership(t *testing.T) {
	r := newRig(t, Config{})
	r.step(Begin{Artifact: blobA, Chunks: equalChunks(4, kib)})
	out := r.step(Members{Artifact: blobA, Members: []Member{{Name: "self"}, {Name: "a"}, {Name: "z"}}})
	if c, _ := find[Connect](out); c.Peer != "z" {
		t.Fatalf("effects %v: want a dial to z at once, since self is the lesser name", out)
	}
	out = r.pass(dialPatience)
	if c, _ := find[Connect](out); c.Peer != "a" {
		t.Fatalf("effects %v: want a dial to a, which did not come", out)
	}
	out = r.step(PeerUp{Peer: "z"})
	if a, ok := find[Announce](out); !ok || a.To != "z" || !a.Hello {
		t.Fatalf("effects %v: want a hello to z", out)
	}
	r.step(PeerDown{Peer: "a"})
	for range 40 { // it cannot be reached: tried again, ever more seldom
		out = append(out, r.pass(time.Second)...)
	}
	dials := 0
	for _, e := range out {
		if e == (Connect{Peer: "a"}) {
			dials++
			r.step(PeerDown{Peer: "a"})
		}
	}
	if dials < 1 || dials > 8 {
		t.Errorf("%d dials in 40 s", dials)
	}
}

func TestHelloIsAnswered(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 9, "a")
	r.step(Held{Artifact: blobA, Chunks: []uint32{8}})
	r.pass(announceEvery)
	r.seen = nil
	r.step(PeerHas{Peer: "a", Artifact: blobA, Hello: true, All: NewBitmap(9)})
	r.pass(announceEvery)
	a, ok := find[Announce](r.seen)
	if !ok || a.Hello || !a.All.Has(8) || a.All.Count() != 1 {
		t.Fatalf("answered %+v", a)
	}
}

func TestNewsGoToThoseWhoLackThem(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 4, "a", "b")
	r.has("a", blobA, 4, 2)
	r.has("b", blobA, 4)
	r.now += time.Second
	r.got(func(q Request) bool { return q.From == "a" && q.Chunk == 2 })
	r.pass(announceEvery)
	var told []string
	for _, e := range r.seen {
		if a, ok := e.(Announce); ok && slices.Contains(a.Chunks, 2) {
			told = append(told, a.To)
		}
	}
	if !slices.Equal(told, []string{"b"}) {
		t.Errorf("told %v, want b alone: a has it", told)
	}
}

func TestCorruptChunkEndsTheTrust(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 8, "bad", "good")
	r.hasAll("bad", blobA, 8)
	q, out := r.fail(from("bad"), ReasonCorrupt)
	if d, ok := find[Distrust](out); !ok || d.Peer != "bad" {
		t.Fatalf("effects %v: want distrust", out)
	}
	if r.p.peers["bad"].up || r.count(from("bad")) > 0 {
		t.Error("still linked to it, or fetching from it")
	}
	out = r.step(PeerUp{Peer: "bad"})
	if d, ok := find[Disconnect](out); !ok || d.Peer != "bad" {
		t.Errorf("effects %v: it may come back", out)
	}
	r.hasAll("good", blobA, 8)
	for r.p.peers["good"].samples < 8 {
		r.now += time.Millisecond
		r.got(from("good"))
	}
	if held, total := r.p.Progress(blobA); held != total {
		t.Errorf("%d of %d held; chunk %d was corrupt", held, total, q.Chunk)
	}
	if _, ok := find[Done](r.seen); !ok {
		t.Error("not done")
	}
}

func TestClaimsOfMissingChunksEndTheTrust(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 40, "a")
	r.hasAll("a", blobA, 40)
	for range maxSuspicions {
		r.fail(from("a"), ReasonMissing)
	}
	if d, ok := find[Distrust](r.seen); !ok || d.Peer != "a" {
		t.Error("trusted still")
	}
}

func TestHostileAnnouncements(t *testing.T) {
	long := append(NewBitmap(10), 0)
	spare := NewBitmap(10)
	spare[1] = 0xff
	for name, ev := range map[string]PeerHas{
		"short":        {All: NewBitmap(3)},
		"long":         {All: long},
		"spare bits":   {All: spare},
		"out of range": {Chunks: []uint32{3, 10}},
		"far out":      {Chunks: []uint32{1<<32 - 1}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			r.begin(blobA, 10, "a")
			ev.Peer, ev.Artifact = "a", blobA
			if d, ok := find[Distrust](r.step(ev)); !ok || d.Peer != "a" {
				t.Error("not distrusted")
			}
		})
	}
}

func TestBusySourceIsAskedAgainSoon(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 2, "a")
	r.hasAll("a", blobA, 2)
	r.fail(from("a"), ReasonBusy)
	if r.count(from("a")) != 0 {
		t.Fatal("asked again at once")
	}
	r.pass(2 * pauseBusy)
	if r.count(from("a")) == 0 {
		t.Error("not asked again")
	}
}

// A source that keeps to its cap says when to ask again: not before, and whatever often it
// does, it is neither doubted nor left alone for longer.
func TestBusySourceIsAskedAgainWhenItSays(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 2, "a")
	r.hasAll("a", blobA, 2)
	const after = 2 * time.Second
	for i := range 2 * maxBusy {
		if r.count(from("a")) == 0 {
			t.Fatalf("not asked again after %d busy answers", i)
		}
		for r.count(from("a")) > 0 {
			r.answer(from("a"), func(q Request) Event { return Failed{Request: q, Reason: ReasonBusy, After: after} })
		}
		r.pass(after - time.Millisecond)
		if r.count(from("a")) != 0 {
			t.Fatal("asked again too soon")
		}
		r.pass(after/4 + 2*time.Millisecond)
	}
	if r.p.peers["a"].doubted {
		t.Error("it is doubted")
	}
}

func TestSilentSourceIsGivenUp(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 6, "stuck", "fine")
	r.hasAll("stuck", blobA, 6)
	if r.count(from("stuck")) == 0 {
		t.Fatal("nothing asked")
	}
	r.pass(firstGuess)
	if r.count(from("stuck")) != 0 {
		t.Fatal("still waiting for it")
	}
	r.hasAll("fine", blobA, 6)
	for range 6 {
		r.now += 5 * time.Millisecond
		r.got(from("fine"))
	}
	if _, ok := find[Done](r.seen); !ok {
		t.Error("not done")
	}
}

func TestOverdueChunkIsHedged(t *testing.T) {
	r := newRig(t, Config{})
	const n = 20
	r.begin(blobA, n, "a", "b")
	r.hasAll("a", blobA, n)
	r.hasAll("b", blobA, n)
	for held := 0; held < n-1; {
		r.now += 10 * time.Millisecond
		if r.count(from("a")) > 0 && held < n/2 {
			r.got(from("a"))
		} else {
			r.got(anyReq)
		}
		held, _ = r.p.Progress(blobA)
	}
	if r.count(anyReq) != 1 {
		t.Fatalf("%d fetches for the last chunk", r.count(anyReq))
	}
	var last Request
	for q := range r.open {
		last = q
	}
	for range 60 {
		r.pass(10 * time.Millisecond)
	}
	if n := r.count(func(q Request) bool { return q.Chunk == last.Chunk }); n != 2 {
		t.Fatalf("the last chunk is asked of %d sources after 600 ms, where others took 10 to 100", n)
	}
	out := r.got(func(q Request) bool { return q != last })
	if c, ok := find[CancelFetch](out); !ok || c.Request != last {
		t.Errorf("effects %v: want the slow one cancelled", out)
	}
}

func TestOnlyTheShareIsAskedOfTheCache(t *testing.T) {
	r := newRig(t, Config{})
	r.step(Origins{Names: []string{"cache"}})
	r.begin(blobA, 100, "a", "b", "c")
	for _, name := range []string{"a", "b", "c"} {
		r.has(name, blobA, 100)
	}
	share := share(r.p.downloads[0].seedOf(), "self", r.p.downloads[0].members, r.p.downloads[0].chunks)
	asked := 0
	for r.count(cacheReq) > 0 {
		if n := r.count(cacheReq); n > maxCacheChunks {
			t.Fatalf("%d chunks asked of the cache at once", n)
		}
		r.now += time.Millisecond
		q, _ := r.answer(cacheReq, func(q Request) Event { return Got{Request: q, Took: time.Millisecond} })
		if !slices.Contains(share, uint32(q.Chunk)) {
			t.Fatalf("chunk %d is not in the share", q.Chunk)
		}
		asked++
	}
	if asked != len(share) || asked < 23 || asked > 27 {
		t.Errorf("asked for %d of a share of %d", asked, len(share))
	}
}

// TestCacheIsTheLastResort has the others bring their shares one chunk after the other,
// but for the last few of each: those are asked of the cache once nothing more comes.
func TestCacheIsTheLastResort(t *testing.T) {
	r := newRig(t, Config{})
	r.step(Origins{Names: []string{"cache"}})
	names := []string{"a", "b", "c"}
	r.begin(blobA, 100, names...)
	d := r.p.downloads[0]
	own := len(d.share)
	shares := make(map[string][]uint32)
	for _, name := range names {
		r.has(name, blobA, 100)
		shares[name] = share(d.seedOf(), name, d.members, d.chunks)
	}
	asked := 0
	for round := 0; round < 23; round++ {
		for _, name := range names {
			r.step(PeerHas{Peer: name, Artifact: blobA, Chunks: shares[name][round : round+1]})
			r.now += 10 * time.Millisecond
			for r.count(func(q Request) bool { return !q.Origin }) > 0 {
				r.got(func(q Request) bool { return !q.Origin })
			}
			if r.count(cacheReq) > 0 {
				r.got(cacheReq)
				asked++
			}
		}
	}
	if asked != own {
		t.Fatalf("the cache was asked for %d chunks, a share of %d, while the others brought theirs", asked, own)
	}
	quiet := 0
	for held := 0; held < 100 && r.now < time.Minute; held, _ = r.p.Progress(blobA) {
		if r.count(cacheReq) > 0 {
			r.now += 10 * time.Millisecond
			r.got(cacheReq)
		} else {
			r.pass(10 * time.Millisecond)
			quiet++
		}
	}
	if _, ok := find[Done](r.seen); !ok || quiet < 5 {
		t.Errorf("done %v; the others' chunks were asked for after %d pauses of 10 ms", ok, quiet)
	}
}

// TestSharesOfTheSilentAreCovered has one member bring nothing at all.
func TestSharesOfTheSilentAreCovered(t *testing.T) {
	r := newRig(t, Config{})
	r.step(Origins{Names: []string{"cache"}})
	r.begin(blobA, 100, "a", "b", "c")
	d := r.p.downloads[0]
	for _, name := range []string{"a", "b", "c"} {
		r.has(name, blobA, 100)
	}
	shareB := share(d.seedOf(), "b", d.members, d.chunks)
	for r.count(cacheReq) > 0 && len(d.share) > 0 {
		r.now += 10 * time.Millisecond
		q, _ := r.answer(cacheReq, func(q Request) Event { return Got{Request: q, Took: 10 * time.Millisecond} })
		if slices.Contains(shareB, uint32(q.Chunk)) {
			break
		}
		for _, name := range []string{"a", "c"} { // they keep pace
			for _, c := range share(d.seedOf(), name, d.members, d.chunks) {
				if !d.seen.has(int(c)) {
					r.step(PeerHas{Peer: name, Artifact: blobA, Chunks: []uint32{c}})
					break
				}
			}
		}
		for r.count(func(q Request) bool { return !q.Origin }) > 0 {
			r.got(func(q Request) bool { return !q.Origin })
		}
	}
	for _, name := range []string{"a", "c"} {
		r.step(PeerHas{Peer: name, Artifact: blobA, Chunks: share(d.seedOf(), name, d.members, d.chunks)})
	}
	covered := 1
	for until := r.now + minQuiet/2; r.now < until; r.pass(10 * time.Millisecond) { // before the fall-back
		for r.count(cacheReq) > 0 {
			q, _ := r.answer(cacheReq, func(q Request) Event { return Got{Request: q, Took: 10 * time.Millisecond} })
			if slices.Contains(d.share, uint32(q.Chunk)) {
				continue // the last of its own
			}
			if !slices.Contains(shareB, uint32(q.Chunk)) {
				t.Fatalf("chunk %d is asked of the cache, though its owner keeps pace", q.Chunk)
			}
			covered++
		}
	}
	if covered < len(shareB)/4 || covered > len(shareB)/2 {
		t.Errorf("%d chunks of a silent member's %d are taken over; two others do the same", covered, len(shareB))
	}
}

func TestAloneThereIsOnlyTheCache(t *testing.T) {
	r := newRig(t, Config{})
	r.step(Origins{Names: []string{"c1", "c2", "c3"}})
	r.begin(blobA, 50)
	for range 50 {
		r.now += time.Millisecond
		r.got(cacheReq)
	}
	if _, ok := find[Done](r.seen); !ok {
		t.Error("not done")
	}
}

func TestChunksThatNoCacheHasYetAreAskedAgain(t *testing.T) {
	r := newRig(t, Config{})
	r.step(Origins{Names: []string{"c1", "c2"}})
	r.begin(blobA, 1)
	asked := make(map[string]int)
	for r.now < 20*time.Second {
		for r.count(cacheReq) > 0 {
			q, _ := r.fail(cacheReq, ReasonMissing)
			asked[q.From]++
		}
		r.pass(100 * time.Millisecond)
	}
	for _, c := range []string{"c1", "c2"} {
		if n := asked[c]; n < 4 || n > 12 { // one each parkWait, though they do not wait
			t.Errorf("%s was asked %d times in 20 s", c, n)
		}
	}
}

func TestPriorityThenFairness(t *testing.T) {
	r := newRig(t, Config{})
	const n = 64
	r.step(Begin{Artifact: blobA, Chunks: equalChunks(n, kib)})
	r.step(Begin{Artifact: blobB, Chunks: equalChunks(n, kib)})
	r.step(PeerUp{Peer: "a"})
	r.hasAll("a", blobA, n)
	r.hasAll("a", blobB, n)
	count := func(rounds int) map[starling.Digest]int {
		got := make(map[starling.Digest]int)
		for range rounds {
			r.now += time.Millisecond
			q, _ := r.answer(anyReq, func(q Request) Event { return Got{Request: q, Took: time.Millisecond} })
			got[q.Artifact]++
		}
		return got
	}
	if got := count(40); got[blobA] < 17 || got[blobB] < 17 {
		t.Errorf("equals got %d and %d of 40 chunks", got[blobA], got[blobB])
	}
	r.step(Begin{Artifact: blobB, Chunks: equalChunks(n, kib), Priority: 1, Have: r.p.downloads[1].held.bitmap(n)})
	if got := count(20); got[blobB] < 17 {
		t.Errorf("the more urgent one got %d of 20 chunks", got[blobB])
	}
}

func TestMemoryInFlightIsBounded(t *testing.T) {
	const limit = 8 << 20
	r := newRig(t, Config{MaxInFlightBytes: limit})
	r.step(Begin{Artifact: blobA, Chunks: equalChunks(100, starling.MaxChunkBytes)})
	for i := range 10 {
		name := fmt.Sprint("p", i)
		r.step(PeerUp{Peer: name})
		r.hasAll(name, blobA, 100)
	}
	if n := r.p.inFlightBytes; n < limit || n >= limit+starling.MaxChunkBytes {
		t.Errorf("%d bytes in flight, limit %d", n, limit)
	}
}

func TestLostChunkIsFetchedAgain(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 3, "a")
	r.hasAll("a", blobA, 3)
	for range 3 {
		r.now += time.Millisecond
		r.got(anyReq)
	}
	r.step(Lost{Artifact: blobA, Chunks: []uint32{1}})
	r.now += time.Millisecond
	out := r.got(func(q Request) bool { return q.Chunk == 1 })
	if _, ok := find[Done](out); !ok {
		t.Error("not done again")
	}
}

func TestSeedServesAndFetchesNothing(t *testing.T) {
	r := newRig(t, Config{})
	have := NewBitmap(10)
	have.Set(3)
	r.step(Begin{Artifact: blobA, Chunks: equalChunks(10, kib), Have: have, Seed: true})
	out := r.step(PeerUp{Peer: "a"})
	if a, ok := find[Announce](out); !ok || !a.All.Has(3) {
		t.Errorf("effects %v: want chunk 3 announced", out)
	}
	r.hasAll("a", blobA, 10)
	r.pass(time.Minute)
	if len(r.open) > 0 {
		t.Errorf("it fetches %v", r.open)
	}
}

func TestEndLeavesNothing(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 10, "a")
	r.hasAll("a", blobA, 10)
	out := r.step(End{Artifact: blobA})
	if len(r.open) > 0 || r.p.inFlightBytes != 0 {
		t.Errorf("still open: %v", r.open)
	}
	if d, ok := find[Disconnect](out); !ok || d.Peer != "a" {
		t.Errorf("effects %v: want the link ended", out)
	}
}

func TestLinkLossPutsChunksBack(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 10, "a", "b")
	r.hasAll("a", blobA, 10)
	if len(r.open) == 0 {
		t.Fatal("nothing asked")
	}
	r.step(PeerDown{Peer: "a"})
	if len(r.open) != 0 || r.p.downloads[0].wants != 10 {
		t.Errorf("open %v, %d wanted", r.open, r.p.downloads[0].wants)
	}
}

func TestSameEventsSameEffects(t *testing.T) {
	run := func() []Effect {
		r := newRig(t, Config{Seed: 5})
		r.step(Origins{Names: []string{"c"}})
		r.begin(blobA, 60, "a", "b", "d", "e")
		for _, name := range []string{"a", "b", "d", "e"} {
			r.hasAll(name, blobA, 60)
		}
		for len(r.open) > 0 {
			r.now += time.Millisecond
			r.got(anyReq)
		}
		return r.seen
	}
	if a, b := run(), run(); !reflect.DeepEqual(a, b) {
		t.Error("two runs differ")
	}
}

// busyPeer returns a peer in the middle of 10,000 chunks with ten neighbours.
func busyPeer() *Peer {
	const n = 10_000
	p := New(Config{Self: "self"})
	p.Step(0, Origins{Names: []string{"cache"}})
	p.Step(0, Begin{Artifact: blobA, Chunks: benchChunks})
	p.Step(0, Members{Artifact: blobA, Members: benchMembers})
	for i := range 10 {
		name := fmt.Sprint("p", i)
		p.Step(0, PeerUp{Peer: name})
		all := NewBitmap(n)
		for c := range n {
			if mix(uint64(i*n+c))%2 == 0 {
				all.Set(c)
			}
		}
		p.Step(0, PeerHas{Peer: name, Artifact: blobA, All: all})
	}
	return p
}

var (
	benchChunks  = equalChunks(10_000, 1<<20)
	benchMembers = cell(1500, 3, 40)
)

func TestMemoryOfOnePeer(t *testing.T) {
	const peers, limitBytes = 40, 200 << 10
	keep := make([]*Peer, 0, peers)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range peers {
		keep = append(keep, busyPeer())
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / peers
	if each > limitBytes {
		t.Errorf("a peer of 10,000 chunks and 10 neighbours takes %d bytes, want %d at most", each, limitBytes)
	}
	t.Logf("%d bytes", each)
	runtime.KeepAlive(keep)
}

func BenchmarkStepGot(b *testing.B) {
	var p *Peer
	var open []Request
	left := 0
	now := time.Duration(0)
	for b.Loop() {
		if left == 0 {
			b.StopTimer()
			p, open, left, now = busyPeer(), nil, 9000, time.Second
			for _, e := range p.Step(now, Tick{}) {
				if f, ok := e.(Fetch); ok {
					open = append(open, f.Request)
				}
			}
			for _, s := range p.sources {
				for _, f := range s.fetches {
					if q := request(s, f); !slices.Contains(open, q) {
						open = append(open, q)
					}
				}
			}
			b.StartTimer()
		}
		now += time.Millisecond
		q := open[0]
		open = append(open[:0], open[1:]...)
		for _, e := range p.Step(now, Got{Request: q, Took: 5 * time.Millisecond}) {
			switch e := e.(type) {
			case Fetch:
				open = append(open, e.Request)
			case CancelFetch:
				open = slices.DeleteFunc(open, func(o Request) bool { return o == e.Request })
			}
		}
		if left--; len(open) == 0 {
			left = 0
		}
	}
}

// A chunk that comes late, in answer to a request of a download that has ended, ends what was
// asked for it since.
func TestAnswerToAnEarlierDownload(t *testing.T) {
	r := newRig(t, Config{})
	r.begin(blobA, 1, "p1")
	full := NewBitmap(1)
	full.Set(0)
	asked := func(from string, effects []Effect) (Request, bool) {
		for _, e := range effects {
			if f, ok := e.(Fetch); ok && f.From == from {
				return f.Request, true
			}
		}
		return Request{}, false
	}
	early, ok := asked("p1", r.step(PeerHas{Peer: "p1", Artifact: blobA, All: full}))
	if !ok {
		t.Fatal("p1 is not asked")
	}
	r.step(End{Artifact: blobA})
	r.step(Origins{Names: []string{"c0"}})
	r.step(Begin{Artifact: blobA, Chunks: equalChunks(1, kib)})
	r.step(Members{Artifact: blobA, Members: []Member{{Name: r.p.cfg.Self}}})
	for n := 0; ; n++ {
		if _, ok := asked("c0", r.seen); ok {
			break
		}
		if n == 100 {
			t.Fatal("the cache is not asked")
		}
		r.pass(100 * time.Millisecond)
	}
	if _, cancelled := r.step(Got{Request: early})[0].(CancelFetch); !cancelled || len(r.open) > 0 {
		t.Errorf("still under way: %v", r.open)
	}
}
