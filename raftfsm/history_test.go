package raftfsm

import (
	"errors"
	"fmt"
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
