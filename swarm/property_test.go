package swarm

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
)

// TestBooksHoldUnderAnyEvents throws events in any order, sensible or not, at a peer.
func TestBooksHoldUnderAnyEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := New(Config{Self: "p2", Seed: rapid.Uint64().Draw(t, "seed"), MaxInFlightBytes: 20 * kib})
		var trace []Record
		var now time.Duration
		open := make(map[Request]bool)
		var order []Request // every fetch ever made
		size := map[starling.Digest]int{blobA: 70, blobB: 9}
		step := func(ev Event) {
			effects := slices.Clone(p.Step(now, ev))
			trace = append(trace, Record{At: now, Event: ev, Effects: effects})
			for _, e := range effects {
				switch e := e.(type) {
				case Fetch:
					if open[e.Request] {
						t.Fatalf("%+v is asked for twice", e.Request)
					}
					open[e.Request] = true
					order = append(order, e.Request)
				case CancelFetch:
					delete(open, e.Request)
				case WakeAt:
					if e.At <= now {
						t.Fatalf("at %s wants to be woken at %s", now, e.At)
					}
				}
			}
			check(t, p)
		}
		artifact := rapid.SampledFrom([]starling.Digest{blobA, blobB})
		peer := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("p", rapid.IntRange(0, 7).Draw(t, "n")) })
		indices := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) uint32 { return uint32(rapid.IntRange(0, 70).Draw(t, "i")) }), 0, 5)
		bitmap := func(n int) Bitmap {
			b := NewBitmap(n)
			for i := range n {
				if rapid.Bool().Draw(t, "bit") {
					b.Set(i)
				}
			}
			return b
		}
		begin := func(t *rapid.T) {
			a := artifact.Draw(t, "artifact")
			ev := Begin{Artifact: a, Chunks: equalChunks(size[a], kib), Priority: rapid.IntRange(0, 1).Draw(t, "priority")}
			if rapid.Bool().Draw(t, "some held") {
				ev.Have = bitmap(size[a])
			}
			ev.Seed = rapid.IntRange(0, 5).Draw(t, "seed only") == 0
			step(ev)
		}
		begin(t)
		t.Repeat(map[string]func(*rapid.T){
			"begin": begin,
			"end":   func(t *rapid.T) { step(End{Artifact: artifact.Draw(t, "artifact")}) },
			"members": func(t *rapid.T) {
				var m []Member
				for i := range 8 {
					if rapid.Bool().Draw(t, "live") {
						m = append(m, Member{Name: fmt.Sprint("p", i), Zone: fmt.Sprint(i % 2), Rack: fmt.Sprint(i % 3)})
					}
				}
				step(Members{Artifact: artifact.Draw(t, "artifact"), Members: m})
			},
			"origins": func(t *rapid.T) { step(Origins{Names: []string{"c0", "p1", "c2"}[:rapid.IntRange(0, 3).Draw(t, "n")]}) },
			"up":      func(t *rapid.T) { step(PeerUp{Peer: peer.Draw(t, "peer")}) },
			"down":    func(t *rapid.T) { step(PeerDown{Peer: peer.Draw(t, "peer")}) },
			"has": func(t *rapid.T) {
				a := artifact.Draw(t, "artifact")
				ev := PeerHas{Peer: peer.Draw(t, "peer"), Artifact: a, Hello: rapid.Bool().Draw(t, "hello"), Chunks: indices.Draw(t, "chunks")}
				if rapid.Bool().Draw(t, "all") {
					ev.All = bitmap(size[a])
				}
				step(ev)
			},
			"held": func(t *rapid.T) {
				step(Held{Artifact: artifact.Draw(t, "artifact"), Chunks: indices.Draw(t, "chunks")})
			},
			"lost": func(t *rapid.T) {
				step(Lost{Artifact: artifact.Draw(t, "artifact"), Chunks: indices.Draw(t, "chunks")})
			},
			"answer": func(t *rapid.T) {
				if len(order) == 0 {
					t.Skip("nothing was asked")
				}
				q := rapid.SampledFrom(order).Draw(t, "fetch") // some are cancelled or answered already
				delete(open, q)
				if reason := Reason(rapid.IntRange(0, 10).Draw(t, "reason")); reason >= ReasonCorrupt && reason <= ReasonLocal {
					step(Failed{Request: q, Reason: reason})
				} else {
					step(Got{Request: q, Took: time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond})
				}
			},
			"tick": func(t *rapid.T) {
				now += time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond
				step(Tick{})
			},
		})
		if err := Replay(Config{Self: "p2", Seed: p.cfg.Seed, MaxInFlightBytes: 20 * kib}, trace); err != nil {
			t.Fatal(err)
		}
	})
}

// TestNeverStuck gives a peer one honest source among useless ones; driven only by
// the effects it asks for, it must finish.
func TestNeverStuck(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 30
		names := []string{"a", "b", "c", "d"}
		honest := rapid.IntRange(0, len(names)).Draw(t, "honest") // the last: the cache
		faults := make(map[string]int)
		for _, name := range names {
			faults[name] = rapid.IntRange(0, 4).Draw(t, name)
		}
		p := New(Config{Self: "self", Seed: rapid.Uint64().Draw(t, "seed")})
		var w struct {
			now  time.Duration
			wake time.Duration
			todo []timed
		}
		full := NewBitmap(n)
		for i := range n {
			full.Set(i)
		}
		later := func(d time.Duration, ev Event) {
			w.todo = append(w.todo, timed{w.now + d, ev})
		}
		good := func(q Request) bool {
			return q.Origin && honest == len(names) || !q.Origin && honest < len(names) && q.From == names[honest]
		}
		done := false
		step := func(ev Event) {
			for _, e := range slices.Clone(p.Step(w.now, ev)) {
				switch e := e.(type) {
				case Connect:
					later(time.Millisecond, PeerUp(e))
					later(2*time.Millisecond, PeerHas{Peer: e.Peer, Artifact: blobA, All: full})
				case WakeAt:
					w.wake = e.At
				case Done:
					done = true
				case Fetch:
					took := 5 * time.Millisecond
					fault := faults[e.From]
					if e.Origin {
						fault = 2
					}
					switch {
					case good(e.Request):
						later(took, Got{Request: e.Request, Took: took})
					case fault == 0: // never answers
					case fault == 1:
						later(took, Failed{Request: e.Request, Reason: ReasonCorrupt})
					case fault == 2:
						later(took, Failed{Request: e.Request, Reason: ReasonMissing})
					case fault == 3:
						later(took, Failed{Request: e.Request, Reason: ReasonBusy})
					case fault == 4:
						later(took, Failed{Request: e.Request, Reason: ReasonGone})
					}
				}
			}
			check(t, p)
		}
		step(Origins{Names: []string{"cache"}})
		step(Begin{Artifact: blobA, Chunks: equalChunks(n, kib)})
		members := []Member{{Name: "self"}}
		for _, name := range names {
			members = append(members, Member{Name: name})
		}
		step(Members{Artifact: blobA, Members: members})
		for !done {
			slices.SortStableFunc(w.todo, func(a, b timed) int { return int(a.at - b.at) })
			switch {
			case len(w.todo) > 0 && (w.wake == 0 || w.todo[0].at <= w.wake):
				next := w.todo[0]
				w.todo = w.todo[1:]
				w.now = next.at
				step(next.ev)
			case w.wake > 0:
				w.now, w.wake = w.wake, 0
				step(Tick{})
			default:
				t.Fatalf("at %s nothing is under way and no wake-up asked for", w.now)
			}
			if w.now > 5*time.Minute {
				held, _ := p.Progress(blobA)
				t.Fatalf("%d of %d chunks after %s", held, n, w.now)
			}
		}
	})
}

type timed struct {
	at time.Duration
	ev Event
}

func TestRecordSurvivesJSON(t *testing.T) {
	q := Request{Artifact: blobA, Chunk: 7, From: "a", Origin: true}
	all := NewBitmap(9)
	all.Set(8)
	trace := []Record{
		{1, Begin{Artifact: blobA, Chunks: equalChunks(2, 5), Have: NewBitmap(2), Priority: 3, Seed: true}, []Effect{Done{blobA}}},
		{2, End{blobA}, []Effect{Disconnect{"a"}}},
		{3, Members{blobA, []Member{{"a", "z", "r"}}}, []Effect{Connect{"a"}}},
		{4, Origins{[]string{"c"}}, []Effect{Fetch{q, time.Second}, CancelFetch{q}}},
		{5, PeerUp{"a"}, []Effect{Announce{To: "a", Artifact: blobA, Hello: true, All: all}}},
		{6, PeerDown{"a"}, nil},
		{7, PeerHas{Peer: "a", Artifact: blobA, Hello: true, All: all, Chunks: []uint32{1}}, nil},
		{8, Got{q, time.Second}, []Effect{WakeAt{9}}},
		{9, Held{blobA, []uint32{1}}, nil},
		{10, Lost{blobA, []uint32{1}}, nil},
		{11, Failed{Request: q, Reason: ReasonBusy}, []Effect{Distrust{"a", "why", true}}},
		{12, Tick{}, nil},
	}
	b, err := json.Marshal(trace)
	if err != nil {
		t.Fatal(err)
	}
	var back []Record
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(trace, back) {
		t.Errorf("%+v\nbecame\n%+v", trace, back)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"at":1,"event":{"type":"Tick","data":{}},"effects":[{"type":"WakeAt","data":{"At":5}}]}`))
	f.Add([]byte(`{"at":-1,"event":{"type":"PeerHas","data":{"Peer":"a","All":"AAA=","Chunks":[4294967295]}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Record
		if err := json.Unmarshal(b, &r); err != nil {
			return
		}
		if _, err := json.Marshal(r); err != nil {
			t.Fatalf("read, but cannot be written: %v", err)
		}
	})
}

func FuzzBitmap(f *testing.F) {
	f.Add([]byte{0xff, 0x01}, 9)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > starling.MaxChunks {
			return
		}
		m := Bitmap(b)
		if !m.Valid(n) {
			return
		}
		s := newBitset(n)
		for i := range n {
			if m.Has(i) {
				s.set(i)
			}
		}
		if !slices.Equal(s.bitmap(n), m) {
			t.Fatalf("%x with %d chunks became %x", b, n, s.bitmap(n))
		}
	})
}
