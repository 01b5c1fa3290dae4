package blobcache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// A cache that comes takes its share and nothing else moves; when it goes again, only
// that share is dealt anew. Whatever their number, no cache has much more than the others.
func TestShareMovesOnlyWhatItMust(t *testing.T) {
	const chunks, replicas = 6000, 2
	digests := make([]starling.Digest, chunks)
	for i := range digests {
		digests[i] = starling.DigestOf(fmt.Appendf(nil, "chunk %d", i))
	}
	names := []string{"cache-a", "cache-b"}
	for n := 3; n <= 12; n++ {
		newcomer := fmt.Sprintf("cache-%c", 'a'+n-1)
		grown := append(slices.Clone(names), newcomer)
		held := map[string]int{}
		moved := 0
		for _, d := range digests {
			before, after := starling.Rendezvous(d, names, replicas), starling.Rendezvous(d, grown, replicas)
			for _, name := range after {
				held[name]++
				switch {
				case slices.Contains(before, name):
				case name == newcomer:
					moved++
				default:
					t.Fatalf("%d caches: a chunk moves from %v to %v, without need", n, before, after)
				}
			}
		}
		want := chunks * replicas / n
		if moved < want*9/10 || moved > want*11/10 {
			t.Errorf("%d caches: %d copies move to the one that comes, want about %d", n, moved, want)
		}
		for name, count := range held {
			if count > want*11/10 {
				t.Errorf("%d caches: %s holds %d of %d", n, name, count, want)
			}
		}
		names = grown
	}
}

// chunksBetween is how many chunks the caches of a region have sent to each other.
func (r *testRegion) chunksBetween() (n int64) {
	for _, c := range r.caches {
		for _, t := range c.server.Traffic() {
			if t.Region == r.name && t.Role == starling.RoleCache {
				n += t.Chunks
			}
		}
	}
	return n
}

func (r *testRegion) held(chunks []starling.Chunk) map[string]int {
	out := map[string]int{}
	for name, store := range r.stores() {
		for _, c := range chunks {
			if _, ok := store.Stat(c.Digest); ok {
				out[name]++
			}
		}
	}
	return out
}

// Six real caches hold two artifacts; a seventh comes and one of the six dies. What is
// copied is the share of the one that comes, then the share of the one that went; nothing
// crosses from another region again.
func TestCacheFleetCopiesOnlyShares(t *testing.T) {
	w := newWorld(t, false)
	home, away := w.region("eu", 2), w.region("us", 6)
	first, m1 := home.release(t, 0, 100, nil)
	second, m2 := home.release(t, 1000, 100, nil)
	chunks := slices.Concat(m1.Chunks, m2.Chunks)
	away.want(rpc.Want{Artifact: first, Sources: []rpc.Source{home.source()}}, rpc.Want{Artifact: second, Sources: []rpc.Source{home.source()}})
	complete := func() {
		away.awaitComplete(t, first)
		away.awaitComplete(t, second)
		away.checkPlaced(t, m1)
		away.checkPlaced(t, m2)
	}
	complete()
	wan, lan, before := away.wanBytes(first)+away.wanBytes(second), away.chunksBetween(), away.held(chunks)

	away.add("us-6")
	complete()
	after := away.held(chunks)
	if copied := away.chunksBetween() - lan; copied != int64(after["us-6"]) {
		t.Errorf("%d chunks were copied for the %d of the one that came", copied, after["us-6"])
	}
	if share := len(chunks) * 2 / 7; after["us-6"] < share*6/10 || after["us-6"] > share*14/10 {
		t.Errorf("the one that came holds %d chunks, want about %d", after["us-6"], share)
	}
	for name, n := range before {
		if after[name] != n {
			t.Errorf("%s held %d chunks and now %d", name, n, after[name])
		}
	}

	names := cachesOf(away.members()).names
	share := 0 // of the one that goes
	for _, c := range chunks {
		if slices.Contains(starling.Rendezvous(c.Digest, names, 2), "us-1") {
			share++
		}
	}
	delete(after, "us-1")
	away.lose("us-1")
	complete()
	copies := 0
	for name, n := range away.held(chunks) {
		copies += n - after[name]
	}
	if copies > share { // fewer: some of it is still where it was before the seventh came
		t.Errorf("%d chunks were copied for a share of %d", copies, share)
	}
	if now := away.wanBytes(first) + away.wanBytes(second); now > wan {
		t.Errorf("%d bytes crossed again", now-wan)
	}
}

// Of one priority the nearest deadline gets three turns of four, the others share the rest.
func TestNearDeadlinesGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1, 64, nil)
		soon, later := time.Now().Add(time.Minute), time.Now().Add(time.Hour)
		var mu sync.Mutex
		var order []starling.Digest
		var wg sync.WaitGroup
		enter := func(a starling.Digest, u Urgency, n int) {
			for range n {
				wg.Go(func() {
					turn, err := q.enter(context.Background(), a, u, 1<<20)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					order = append(order, a)
					mu.Unlock()
					time.Sleep(100 * time.Millisecond)
					turn.done()
				})
				synctest.Wait()
			}
		}
		enter(bulkA, Urgency{Deadline: later}, 13)
		enter(bulkB, Urgency{}, 12)
		enter(hotfix, Urgency{Deadline: soon}, 24)
		wg.Wait()
		count := map[starling.Digest]int{}
		for _, a := range order[1:33] { // the first was alone
			count[a]++
		}
		if count[hotfix] != 24 || count[bulkA]+count[bulkB] != 8 || count[bulkA] < 3 || count[bulkB] < 3 {
			t.Errorf("of 32 turns %d went to the nearest deadline, %d and %d to the others", count[hotfix], count[bulkA], count[bulkB])
		}
		rest := map[starling.Digest]int{}
		for _, a := range order[33:41] {
			rest[a]++
		}
		if rest[bulkA] < 6 {
			t.Errorf("of the next 8 turns %d went to the next deadline", rest[bulkA])
		}
	})
}

// What would wait for longer than the cap allows is told when to come again; what is more
// urgent is not, and by then there is room.
func TestBusyTellsWhenToAskAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chunk = 1 << 20
		perSecond := float64(chunk / 2) // five chunks may be sent in 10 s
		limit := NewLimit(int64(perSecond*wireOverhead) + 100)
		q := newTurns(1, 64, limit)
		var wg sync.WaitGroup
		refused := 0
		var busy *BusyError
		enter := func(u Urgency) error {
			turn, err := q.enter(context.Background(), bulkA, u, chunk)
			if err != nil {
				return err
			}
			time.Sleep(2 * time.Second) // at the cap
			turn.progress(chunk)
			turn.done()
			return nil
		}
		for range 10 {
			wg.Go(func() {
				if err := enter(Urgency{}); err != nil && !errors.As(err, &busy) {
					t.Error(err)
				} else if err != nil {
					refused++
				}
			})
			synctest.Wait()
		}
		if refused != 4 || busy.After < minAgain || busy.After > maxAgain || !errors.Is(busy, starling.ErrUnavailable) {
			t.Fatalf("%d were refused, with %+v", refused, busy)
		}
		if again := statusBusy.err(busy.Error()); AskAgainAfter(again) != busy.After || !errors.Is(again, starling.ErrUnavailable) {
			t.Errorf("at the other side: %v", again)
		}
		wg.Go(func() {
			if err := enter(Urgency{Priority: 9}); err != nil {
				t.Errorf("urgent: %v", err)
			}
		})
		synctest.Wait()
		time.Sleep(busy.After + 3*time.Second) // the urgent one came between
		if err := enter(Urgency{}); err != nil {
			t.Errorf("again: %v", err)
		}
		wg.Wait()
		if q.left != 0 || len(q.lanes) != 0 {
			t.Errorf("left over: %+v", q)
		}
	})
}

// Four caches keep to one cap together, and three to all of it as soon as one has gone.
func TestEgressIsSharedByTheCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total, chunk, span = 8 << 20, 256 << 10, 4 * time.Second
		n := newNetwork(t, false)
		var shares []*Egress
		var stops []func()
		for i := range 4 {
			e := NewEgress(total, 0)
			store := NewMemStore(64 << 20)
			d, data := chunkOf(t, 1, chunk)
			if err := store.Put(context.Background(), d, data); err != nil {
				t.Fatal(err)
			}
			stops = append(stops, n.serve(fmt.Sprint("cache-", i), NewServer(ServerConfig{Region: "eu", Source: store, Logger: quiet(), Upload: e.Limit()})))
			shares = append(shares, e)
		}
		measure := func(caches int, rate float64, what string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(context.Background(), span)
			defer cancel()
			var mu sync.Mutex
			var sum int64
			var wg sync.WaitGroup
			for i := range caches {
				for range 3 { // far more than the cap
					wg.Go(func() {
						c := NewClient(n.dialer(worker))
						defer c.Close()
						d, _ := chunkOf(t, 1, chunk)
						for ctx.Err() == nil {
							data, err := c.Get(ctx, fmt.Sprint("cache-", i), d, nil)
							if err != nil {
								pause(ctx, AskAgainAfter(err)+time.Millisecond)
								continue
							}
							mu.Lock()
							sum += int64(len(data))
							mu.Unlock()
						}
					})
				}
			}
			wg.Wait()
			if got := float64(sum) * wireOverhead / span.Seconds(); got > 1.05*rate || got < 0.75*rate {
				t.Errorf("%s: %.0f bytes a second, of %.0f", what, got, rate)
			}
		}
		measure(4, total*4/unknownCaches, "before they know how many they are")
		for _, e := range shares {
			e.live(4)
		}
		measure(4, total, "four")
		stops[3]()
		for _, e := range shares {
			e.live(3)
		}
		measure(3, total, "three")
		for _, stop := range stops {
			stop()
		}
	})
}

func TestEgressWithinACachesOwnCap(t *testing.T) {
	for _, tc := range []struct {
		total, own int64
		caches     int
		want       int64
	}{{0, 0, 3, 0}, {0, 700, 3, 700}, {900, 0, 3, 300}, {900, 200, 3, 200}, {900, 700, 1, 700}, {2, 0, 12, 1}} {
		if got := NewEgress(tc.total, tc.own).part(tc.caches); got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
}
