package swarm

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// fillingWorld is machines that fetch from caches that are being filled: chunk i comes
// to both caches at i times every. All latencies are a millisecond, all links fast.
type fillingWorld struct {
	t     *testing.T
	now   time.Duration
	every time.Duration
	names []string
	peers map[string]*Peer
	wake  map[string]time.Duration
	todo  []parkTimed
	done  map[string]time.Duration
	asked int // requests to caches
	given int // chunks out of caches
}

type parkTimed struct {
	at time.Duration
	to string
	ev Event
}

const parkLatency = time.Millisecond

func (w *fillingWorld) later(d time.Duration, to string, ev Event) {
	w.todo = append(w.todo, parkTimed{w.now + d, to, ev})
}

func (w *fillingWorld) step(name string, ev Event) {
	p := w.peers[name]
	for _, e := range slices.Clone(p.Step(w.now, ev)) {
		switch e := e.(type) {
		case Connect:
			w.later(parkLatency, name, PeerUp(e))
			w.later(parkLatency, e.Peer, PeerUp{Peer: name})
		case Announce:
			w.later(parkLatency, e.To, PeerHas{Peer: name, Artifact: e.Artifact, Hello: e.Hello, All: slices.Clone(e.All), Chunks: slices.Clone(e.Chunks)})
		case WakeAt:
			w.wake[name] = e.At
		case Done:
			w.done[name] = w.now
		case Fetch:
			w.fetch(name, e)
		}
	}
	check(w.t, p)
}

func (w *fillingWorld) fetch(name string, e Fetch) {
	took := 2 * parkLatency
	if !e.Origin {
		w.later(took, name, Got{Request: e.Request, Took: took})
		return
	}
	w.asked++
	missing := time.Duration(e.Chunk)*w.every - w.now - parkLatency
	switch {
	case missing <= 0:
	case missing <= e.Wait:
		took += missing
	default:
		w.later(took+e.Wait, name, Failed{Request: e.Request, Reason: ReasonMissing})
		return
	}
	w.given++
	w.later(took, name, Got{Request: e.Request, Took: took})
}

// next runs the event that comes next; false: there is none.
func (w *fillingWorld) next() bool {
	slices.SortStableFunc(w.todo, func(a, b parkTimed) int { return int(a.at - b.at) })
	who := ""
	for _, name := range slices.Sorted(maps.Keys(w.wake)) {
		if who == "" || w.wake[name] < w.wake[who] {
			who = name
		}
	}
	switch {
	case len(w.todo) > 0 && (who == "" || w.todo[0].at <= w.wake[who]):
		one := w.todo[0]
		w.todo = w.todo[1:]
		w.now = one.at
		w.step(one.to, one.ev)
	case who != "":
		w.now = max(w.now, w.wake[who])
		delete(w.wake, who)
		w.step(who, Tick{})
	default:
		return false
	}
	return true
}

// Machines that fetch from caches while these are filled finish soon after the last
// chunk has come, ask little in vain, and take one copy out of the caches.
func TestCachesThatAreBeingFilled(t *testing.T) {
	const n = 240
	for _, tt := range []struct {
		machines int
		every    time.Duration
	}{{2, 100 * time.Millisecond}, {12, 100 * time.Millisecond}, {12, 10 * time.Millisecond}, {12, 300 * time.Millisecond}} {
		t.Run(fmt.Sprintf("%d machines, a chunk every %s", tt.machines, tt.every), func(t *testing.T) {
			w := &fillingWorld{t: t, every: tt.every, peers: map[string]*Peer{}, wake: map[string]time.Duration{}, done: map[string]time.Duration{}}
			var members []Member
			for i := range tt.machines {
				name := fmt.Sprintf("m%02d", i)
				w.names = append(w.names, name)
				members = append(members, Member{Name: name})
				w.peers[name] = New(Config{Self: name, Seed: uint64(i)})
			}
			for _, name := range w.names {
				w.step(name, Origins{Names: []string{"c1", "c2"}})
				w.step(name, Begin{Artifact: blobA, Chunks: equalChunks(n, kib)})
				w.step(name, Members{Artifact: blobA, Members: members})
			}
			filled := time.Duration(n-1) * tt.every
			for len(w.done) < tt.machines {
				if !w.next() || w.now > filled+time.Minute {
					t.Fatalf("at %s %d of %d machines are done", w.now, len(w.done), tt.machines)
				}
			}
			last := slices.Max(slices.Collect(maps.Values(w.done)))
			copies := float64(w.given) / n
			t.Logf("filled at %s, last machine %s later; %.3f copies out of the caches, %.1f requests for a chunk", filled, last-filled, copies, float64(w.asked)/n)
			if last-filled > time.Second {
				t.Errorf("the last machine is done %s after the caches", last-filled)
			}
			if copies > 1.02 {
				t.Errorf("%.3f copies left the caches", copies)
			}
			if most := n * (12 + int(w.now/(4*time.Second))); w.asked > most {
				t.Errorf("%d requests to the caches for %d chunks, want %d at most", w.asked, n, most)
			}
		})
	}
}
