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
	"github.com/starlingdeploy/starling/swarm"
)

var (
	bulkA  = starling.Digest{1}
	bulkB  = starling.Digest{2}
	hotfix = starling.Digest{3}
)

// line has n chunks of an artifact wait for their turns; each takes a second. sent is
// told who got one.
func line(t *testing.T, q *turns, wg *sync.WaitGroup, artifact starling.Digest, priority, n, bytes int, sent func(starling.Digest)) {
	t.Helper()
	for range n {
		wg.Go(func() {
			turn, err := q.enter(context.Background(), artifact, Urgency{Priority: priority}, bytes)
			if err != nil {
				t.Error(err)
				return
			}
			sent(artifact)
			time.Sleep(time.Second)
			turn.done()
		})
		synctest.Wait() // in this order
	}
}

func TestTurnsAreFairAmongArtifacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1, 64, nil)
		var mu sync.Mutex
		var order []starling.Digest
		note := func(a starling.Digest) { mu.Lock(); order = append(order, a); mu.Unlock() }
		var wg sync.WaitGroup
		line(t, q, &wg, bulkA, 0, 9, 2<<20, note) // chunks of twice the size
		line(t, q, &wg, bulkB, 0, 8, 1<<20, note)
		wg.Wait()
		var a, b int64
		for i, d := range order[1:13] { // the first was alone
			if d == bulkA {
				a += 2
			} else {
				b++
			}
			if max(a, b)-min(a, b) > 2 {
				t.Fatalf("after %d turns %d MiB of one and %d MiB of the other were sent", i+1, a, b)
			}
		}
		if len(q.lanes) != 0 || q.sending != 0 || q.waiting != 0 {
			t.Errorf("left over: %+v", q)
		}
	})
}

func TestHotfixGoesBeforeBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(2, 64, nil)
		var mu sync.Mutex
		var order []starling.Digest
		note := func(a starling.Digest) { mu.Lock(); order = append(order, a); mu.Unlock() }
		var wg sync.WaitGroup
		line(t, q, &wg, bulkA, 0, 10, 1<<20, note)
		line(t, q, &wg, hotfix, 100, 4, 1<<20, note)
		wg.Wait()
		if at := slices.Index(order, hotfix); at != 2 {
			t.Errorf("the hotfix began at turn %d", at)
		}
		for _, d := range order[2:6] {
			if d != hotfix {
				t.Errorf("bulk came between: %v", order)
			}
		}
	})
}

func TestFullLineMakesRoomForTheUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1, 2, nil)
		results := make(chan string, 8)
		enter := func(name string, artifact starling.Digest, priority int) {
			go func() {
				turn, err := q.enter(context.Background(), artifact, Urgency{Priority: priority}, 1)
				if err == nil {
					time.Sleep(time.Second)
					turn.done()
				} else if !errors.Is(err, starling.ErrUnavailable) {
					t.Error(err)
				}
				results <- fmt.Sprint(name, " ", err == nil)
			}()
			synctest.Wait()
		}
		enter("first", bulkA, 0)  // sends
		enter("second", bulkA, 0) // waits
		enter("third", bulkB, 0)  // waits
		enter("fourth", bulkB, 0) // no room
		enter("urgent", hotfix, 9)
		var got []string
		for range 5 {
			got = append(got, <-results)
		}
		slices.Sort(got)
		lost := 0
		for _, r := range got {
			if r == "second false" || r == "third false" {
				lost++
			}
		}
		if lost != 1 || !slices.Contains(got, "fourth false") || !slices.Contains(got, "first true") || !slices.Contains(got, "urgent true") {
			t.Errorf("%v", got)
		}
	})
}

// Those who do not read what they asked for do not stop the others.
func TestSlowTransfersLendTheirSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(2, 64, nil)
		var stuck []*turn
		for range 2 {
			turn, err := q.enter(context.Background(), bulkA, Urgency{Priority: 0}, 1)
			if err != nil {
				t.Fatal(err)
			}
			stuck = append(stuck, turn)
		}
		began := time.Now()
		next, err := q.enter(context.Background(), bulkB, Urgency{Priority: 0}, 1)
		if err != nil || time.Since(began) != swarm.SlotPatience {
			t.Errorf("began after %s, %v", time.Since(began), err)
		}
		next.done()
		for _, s := range stuck {
			s.done()
		}
		if len(q.lanes) != 0 || q.sending != 0 {
			t.Errorf("left over: %+v", q)
		}
	})
}

// Once it is known how long a chunk takes, those that fall behind are told soon, and those
// that keep up are left alone.
func TestSlowTransfersAreToldByTheirProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, usual = 1 << 20, 400 * time.Millisecond
		q := newTurns(1, 64, nil)
		send := func(piece time.Duration) (waited time.Duration) { // the next, while one is sent in 16 pieces
			first, err := q.enter(context.Background(), bulkA, Urgency{Priority: 0}, size)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				began := time.Now()
				next, err := q.enter(context.Background(), bulkA, Urgency{Priority: 0}, size)
				if err != nil {
					t.Error(err)
					return
				}
				waited = time.Since(began)
				next.done()
			})
			for range 16 {
				time.Sleep(piece)
				first.progress(size / 16)
			}
			first.done()
			wg.Wait()
			return waited
		}
		if waited := send(usual / 16); waited != usual {
			t.Errorf("the first: waited %s for what took %s", waited, usual)
		}
		if waited := send(usual / 16 * 3 / 2); waited != usual*3/2 {
			t.Errorf("one somewhat slower than usual: waited %s for what took %s", waited, usual*3/2)
		}
		if waited := send(usual); waited > usual {
			t.Errorf("one 16 times as slow as usual: waited %s", waited)
		}
		if len(q.lanes) != 0 || q.sending != 0 {
			t.Errorf("left over: %+v", q)
		}
	})
}

func TestTurnPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns(1, 64, nil)
		ctx, cancel := context.WithCancel(context.Background())
		hog := func() { // one after the other, each just within its lease
			for ctx.Err() == nil {
				if turn, err := q.enter(ctx, hotfix, Urgency{Priority: 9}, 1); err == nil {
					time.Sleep(swarm.SlotPatience - time.Second)
					turn.done()
				}
			}
		}
		var wg sync.WaitGroup
		wg.Go(hog)
		wg.Go(hog)
		synctest.Wait()
		began := time.Now()
		if _, err := q.enter(context.Background(), bulkA, Urgency{Priority: 0}, 1); !errors.Is(err, starling.ErrUnavailable) || time.Since(began) != turnPatience {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		cancel()
		wg.Wait()
		if len(q.lanes) != 0 || q.waiting != 0 || q.sending != 0 {
			t.Errorf("left over: %+v", q)
		}
	})
}

// A server with a slow uplink and two equal artifacts gives each half; a third one
// that is urgent gets nearly all while it lasts.
func TestServerSharesItsUplink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const wire, perArtifact, chunk = 10 << 20, 24, 512 << 10
		n := newNetwork(t, false)
		urgent := map[starling.Digest]int{bulkA: 0, bulkB: 0, hotfix: 100}
		store, _ := startServer(n, func(c *ServerConfig) {
			c.MaxUploads, c.Upload = 4, NewLimit(wire)
			c.Urgency = func(a starling.Digest) (Urgency, bool) { p, ok := urgent[a]; return Urgency{Priority: p}, ok }
		})
		var mu sync.Mutex
		ends := map[starling.Digest]time.Duration{}
		began := time.Now()
		var wg sync.WaitGroup
		fetch := func(a starling.Digest, streams, count int) {
			c := n.client(worker)
			left := make(chan starling.Digest, count)
			for i := range count {
				d, data := chunkOf(t, int(a[0])*1000+i, chunk)
				if err := store.Put(context.Background(), d, data); err != nil {
					t.Fatal(err)
				}
				left <- d
			}
			close(left)
			for range streams {
				wg.Go(func() {
					for d := range left {
						if _, err := c.Fetch(context.Background(), "cache", Fetch{Digest: d, Artifact: a}, nil); err != nil {
							t.Error(err)
						}
						mu.Lock()
						ends[a] = time.Since(began)
						mu.Unlock()
					}
				})
			}
		}
		fetch(bulkA, 16, perArtifact) // asks four times as hard as
		fetch(bulkB, 4, perArtifact)
		time.Sleep(500 * time.Millisecond)
		hotfixAt := time.Since(began)
		fetch(hotfix, 8, 8)
		wg.Wait()
		took := time.Since(began)

		total := float64((2*perArtifact + 8) * chunk)
		if rate := total * wireOverhead / took.Seconds() / wire; rate > 1.01 || rate < 0.97 {
			t.Errorf("%.3f of the cap was used", rate)
		}
		if d := (ends[bulkA] - ends[bulkB]).Abs(); d > took/10 {
			t.Errorf("equal artifacts took %s and %s", ends[bulkA], ends[bulkB])
		}
		seconds := float64(chunk) * wireOverhead / wire
		alone := time.Duration(8 * seconds * float64(time.Second))
		ahead := time.Duration(4 * seconds * float64(time.Second)) // were being sent
		if d := ends[hotfix] - hotfixAt; d > alone+ahead+ahead/2 {
			t.Errorf("the hotfix took %s, alone %s", d, alone)
		}
		t.Logf("bulk %s and %s, hotfix %s of %s alone", ends[bulkA], ends[bulkB], ends[hotfix]-hotfixAt, alone)
	})
}
