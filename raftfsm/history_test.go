package raftfsm

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// ledger applies commands one entry each.
type ledger struct {
	t *testing.T
	*FSM
}

func (l *ledger) apply(typ Type, payload any) Result {
	l.t.Helper()
	index := l.View().Index() + 1
	c, err := NewCommand(typ, epoch.Add(time.Duration(index)*time.Second), "ann", payload)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.Apply(&raft.Log{Index: index, Data: entryOf(l.t, c)}).([]Result)[0]
}

func (l *ledger) must(typ Type, payload any) Result {
	l.t.Helper()
	r := l.apply(typ, payload)
	if r.Err != nil {
		l.t.Fatalf("%s: %v", typ, r.Err)
	}
	return r
}

func (l *ledger) ended(from, n int) (ids []string) {
	l.t.Helper()
	for i := from; i < from+n; i++ {
		id := fmt.Sprintf("d%d", i)
		l.must(TypeSubmit, Submit{ID: id, App: "a", SHA: strings.Repeat("a", 40), IdempotencyKey: id})
		l.must(TypeFinish, Finish{ID: id, Phase: starling.PhaseCancelled})
		ids = append(ids, id)
	}
	return ids
}

func newLedger(t *testing.T) *ledger {
	l := &ledger{t, New("east")}
	a := starling.App{Name: "a", Source: starling.SourceSpec{Git: "g"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	a.SetDefaults()
	l.must(TypeAppApply, AppApply{App: a})
	return l
}

func TestArchiveRefusals(t *testing.T) {
	l := newLedger(t)
	ids := l.ended(0, 3)
	l.must(TypeSubmit, Submit{ID: "busy", App: "a", SHA: strings.Repeat("b", 40)})
	before := l.View().HistoryOf("east")
	for name, c := range map[string]struct {
		p    HistoryArchive
		want error
	}{
		"nothing":         {HistoryArchive{Home: "east", Data: []byte("x")}, nil},
		"too many":        {HistoryArchive{Home: "east", IDs: slices.Repeat(ids[:1], MaxSegmentDeployments+1), Data: []byte("x")}, nil},
		"no data":         {HistoryArchive{Home: "east", IDs: ids}, nil},
		"too much data":   {HistoryArchive{Home: "east", IDs: ids, Data: make([]byte, MaxSegmentBytes+1)}, nil},
		"no home":         {HistoryArchive{Home: "No", IDs: ids, Data: []byte("x")}, nil},
		"unknown":         {HistoryArchive{Home: "east", IDs: []string{ids[0], "d9"}, Data: []byte("x")}, starling.ErrConflict},
		"one twice":       {HistoryArchive{Home: "east", IDs: []string{ids[0], ids[0]}, Data: []byte("x")}, starling.ErrConflict},
		"not ended":       {HistoryArchive{Home: "east", IDs: []string{ids[0], "busy"}, Data: []byte("x")}, starling.ErrConflict},
		"of another home": {HistoryArchive{Home: "west", IDs: ids, Data: []byte("x")}, starling.ErrConflict},
	} {
		err := l.apply(TypeHistoryArchive, c.p).Err
		if c.want == nil && !starling.IsInvalid(err) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if got := l.View().HistoryOf("east"); got != before {
			t.Fatalf("%s left a trace: %+v", name, got)
		}
	}
	if l.View().Level() != 2 {
		t.Errorf("level %d: a refused command stands in the log too", l.View().Level())
	}
	l.must(TypeHistoryArchive, HistoryArchive{Home: "east", IDs: ids[:2], Data: make([]byte, MaxSegmentBytes)})
	if err := l.apply(TypeHistoryArchive, HistoryArchive{Home: "east", IDs: ids[:1], Data: []byte("x")}).Err; !errors.Is(err, starling.ErrConflict) {
		t.Errorf("archived again: %v", err)
	}
	at, _ := l.View().Archived(ids[1])
	l.must(TypeHistoryDrop, HistoryDrop{Home: "east", Through: at.Segment.Seq - 1})
	l.must(TypeHistoryDrop, HistoryDrop{Home: "west", Through: at.Segment.Seq})
	if _, ok := l.View().Archived(ids[1]); !ok {
		t.Error("dropped a later segment, or another home's")
	}
	l.must(TypeHistoryDrop, HistoryDrop{Home: "east", Through: at.Segment.Seq})
	if _, ok := l.View().Archived(ids[1]); ok || l.View().HistoryOf("east").Archived != 0 {
		t.Errorf("still there: %+v", l.View().HistoryOf("east"))
	}
}

func TestTheArchiveIsBounded(t *testing.T) {
	l := newLedger(t)
	const full = 3
	l.limits.archive = full * MaxSegmentBytes
	ids := l.ended(0, full+1)
	data := make([]byte, MaxSegmentBytes)
	for _, id := range ids[:full] {
		l.must(TypeHistoryArchive, HistoryArchive{Home: "east", IDs: []string{id}, Data: data})
	}
	if err := l.apply(TypeHistoryArchive, HistoryArchive{Home: "east", IDs: ids[full:], Data: data}).Err; !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("one more: %v", err)
	}
	at, _ := l.View().Archived(ids[0])
	l.must(TypeHistoryDrop, HistoryDrop{Home: "east", Through: at.Segment.Seq})
	l.must(TypeHistoryArchive, HistoryArchive{Home: "east", IDs: ids[full:], Data: data})
}

// Until the leader has archived it, what ended is not dropped to make room, within bounds.
func TestWhatIsNotArchivedYetStays(t *testing.T) {
	l := newLedger(t)
	l.limits.ended = 10
	l.ended(0, 15)
	if n := l.View().HistoryOf("east").Ended; n > 11 {
		t.Errorf("%d records at level 1, want the bound of programs of level 1", n)
	}
	l.must(TypeHistoryArchive, HistoryArchive{Home: "east", IDs: []string{"d14"}, Data: []byte("x")})
	l.ended(15, 30)
	if n := l.View().HistoryOf("east").Ended; n < 19 || n > 21 {
		t.Errorf("%d records with archives in use, want twice as many", n)
	}
}

// A key stands for its deployment wherever that is kept, and for nothing once it is dropped:
// played against a map, with snapshots between.
func TestArchivedKeysAgainstAModel(t *testing.T) {
	l := newLedger(t)
	rnd := rand.New(rand.NewPCG(4, 2))
	kept := map[string]string{} // deployment by key
	var records []string        // ended, not archived
	archived := map[uint64][]string{}
	check := func(round int) {
		t.Helper()
		for i := range 40 {
			key := fmt.Sprint("k", i)
			got, ok := l.View().submitted("a", key)
			if want := kept[key]; ok != (want != "") || ok && got.id() != want {
				t.Fatalf("round %d: %s stands for %+v, want %q", round, key, got, want)
			}
			if got, ok := l.View().submitted("b", key); ok {
				t.Fatalf("round %d: %s of another app stands for %+v", round, key, got)
			}
		}
	}
	for round := range 400 {
		switch rnd.IntN(8) {
		default:
			id, key := fmt.Sprint("d", round), []string{"", fmt.Sprint("k", rnd.IntN(40))}[min(1, rnd.IntN(5))]
			r := l.must(TypeSubmit, Submit{ID: id, App: "a", SHA: strings.Repeat("a", 40), IdempotencyKey: key})
			if had := kept[key]; r.Created != (had == "") || r.Archived == nil != (r.Deployment != nil) || r.Archived != nil && r.Archived.id() != had {
				t.Fatalf("round %d: %q, which stands for %q: %+v", round, key, had, r)
			}
			if r.Created {
				l.must(TypeFinish, Finish{ID: id, Phase: starling.PhaseCancelled})
				if records = append(records, id); key != "" {
					kept[key] = id
				}
			}
		case 0:
			n := min(len(records), 1+rnd.IntN(6))
			if n == 0 {
				continue
			}
			if l.apply(TypeHistoryArchive, HistoryArchive{Home: "east", IDs: append(slices.Clone(records[:n]), "none"), Data: []byte("x")}).Err == nil {
				t.Fatal("archived what is not there")
			}
			l.must(TypeHistoryArchive, HistoryArchive{Home: "east", IDs: records[:n], Data: []byte("x")})
			at, _ := l.View().Archived(records[0])
			archived[at.Segment.Seq], records = records[:n], records[n:]
		case 1:
			if len(archived) < 5 {
				continue
			}
			seqs := slices.Sorted(maps.Keys(archived))
			l.must(TypeHistoryDrop, HistoryDrop{Home: "east", Through: seqs[1]})
			for _, seq := range seqs[:2] {
				maps.DeleteFunc(kept, func(_, id string) bool { return slices.Contains(archived[seq], id) })
				delete(archived, seq)
			}
		case 2:
			l.FSM = restored(t, l.FSM)
		}
		check(round)
	}
	if len(kept) < 10 || len(archived) < 2 {
		t.Errorf("too little was kept to show anything: %d keys, %d segments", len(kept), len(archived))
	}
}

// Where a key has two deployments, since the new home of an app had not seen that of the old
// one, the new home's counts, in the archive as well.
func TestAnArchivedKeyOfTwoHomes(t *testing.T) {
	for _, first := range []string{"mine", "yours"} {
		rs := regionsOf(t, "east", "west")
		east, west := rs["east"], rs["west"]
		east.history(1)
		west.follow("east", east.fsm.View())
		east.must(east.cmd(TypeSubmit, Submit{ID: "mine", App: "old", SHA: fmt.Sprintf("%040x", 2), IdempotencyKey: "k"}))
		east.must(east.cmd(TypeFinish, Finish{ID: "mine", Phase: starling.PhaseCancelled}))
		west.must(west.cmd(TypeTakeover, Takeover{From: "east", Epoch: west.fsm.View().NextEpoch("east")}))
		west.must(west.cmd(TypeSubmit, Submit{ID: "yours", App: "old", SHA: fmt.Sprintf("%040x", 2), IdempotencyKey: "k"}))
		west.must(west.cmd(TypeFinish, Finish{ID: "yours", Phase: starling.PhaseCancelled}))
		west.follow("east", east.fsm.View())
		homes := map[string]string{"mine": "east", "yours": "west"}
		for _, id := range []string{first, map[string]string{"mine": "yours", "yours": "mine"}[first]} {
			west.must(west.cmd(TypeHistoryArchive, HistoryArchive{Home: homes[id], IDs: []string{id}, Data: []byte("x")}))
			l, ok := west.fsm.View().submitted("old", "k")
			if !ok || l.id() != "yours" {
				t.Errorf("with %s archived first, after %s the key stands for %+v", first, id, l)
			}
		}
	}
}
