package raftfsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// play applies the transcripts' commands and returns the regions in which they end.
func play(t testing.TB, names ...string) *stage {
	t.Helper()
	s := newStage()
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		s.play(string(b))
	}
	return s
}

func TestSameLogSameBytes(t *testing.T) {
	one, two := play(t, "deploy", "mirror").fsms, play(t, "deploy", "mirror").fsms
	for region := range one {
		if !bytes.Equal(snapshotOf(t, one[region]), snapshotOf(t, two[region])) {
			t.Errorf("region %s: the same log gave two states", region)
		}
		if !bytes.Equal(snapshotOf(t, one[region]), snapshotOf(t, restored(t, one[region]))) {
			t.Errorf("region %s: a restored state differs", region)
		}
	}
}

func TestRestoreRefusesAnyFlippedBit(t *testing.T) {
	f := play(t, "mirror").fsms["west"]
	good, target := snapshotOf(t, f), New("west")
	before := snapshotOf(t, target)
	for i := range good {
		if i > 100 && i < len(good)-150 && i%37 != 0 {
			continue // every byte of header and trailer, some of each record
		}
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if err := target.Restore(io.NopCloser(bytes.NewReader(bad))); err == nil {
			t.Fatalf("bit %d of byte %d of %d was flipped unnoticed", i%8, i, len(good))
		}
	}
	for _, n := range []int{0, 1, len(good) / 2, len(good) - 1} {
		if err := target.Restore(io.NopCloser(bytes.NewReader(good[:n]))); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if err := target.Restore(io.NopCloser(bytes.NewReader(append(bytes.Clone(good), '\n')))); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("with a byte more: %v", err)
	}
	if err := New("east").Restore(io.NopCloser(bytes.NewReader(good))); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("into another region: %v", err)
	}
	if !bytes.Equal(before, snapshotOf(t, target)) {
		t.Error("a refused snapshot changed the state")
	}
}

func TestEntriesThatCannotBeRead(t *testing.T) {
	f := New("east")
	ok, err := NewCommand(TypeAppApply, epoch, "ann", AppApply{App: starling.App{Name: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	many := make([]Command, MaxEntryCommands+1)
	for i := range many {
		many[i] = ok
	}
	encode := func(e Entry) []byte {
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		data    []byte
		results int
	}{
		"nothing":          {nil, 1},
		"garbage":          {[]byte("{"), 1},
		"no command":       {encode(Entry{Version: EntryVersion}), 1},
		"too many":         {encode(Entry{EntryVersion, many}), MaxEntryCommands},
		"too long for two": {append(encode(Entry{EntryVersion, []Command{ok, ok}}), bytes.Repeat([]byte(" "), MaxEntryBytes)...), 2},
		"no time":          {encode(Entry{EntryVersion, []Command{{Type: TypeAppApply, Data: ok.Data}}}), 1},
		"a time too far":   {encode(Entry{EntryVersion, []Command{{Type: TypeAppApply, Data: ok.Data, At: time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -20*3600))}}}), 1},
		"no payload":       {encode(Entry{EntryVersion, []Command{{Type: TypeAppApply, At: epoch}}}), 1},
		"a long actor":     {encode(Entry{EntryVersion, []Command{{Type: TypeAppApply, At: epoch, Data: ok.Data, Actor: strings.Repeat("a", MaxActorBytes+1)}}}), 1},
	} {
		t.Run(name, func(t *testing.T) {
			index := f.View().Index() + 1
			results := f.Apply(&raft.Log{Index: index, Data: c.data}).([]Result)
			if len(results) != c.results {
				t.Fatalf("%d results, want %d", len(results), c.results)
			}
			for _, r := range results {
				if !starling.IsInvalid(r.Err) || r.Index != index {
					t.Errorf("result %+v", r)
				}
			}
			if len(f.View().Apps()) != 0 || f.View().Index() != index {
				t.Error("it left a trace")
			}
		})
	}
	for name, cmds := range map[string][]Command{
		"none": nil, "too many": many, "unknown": {ok, {Type: "app.explode"}},
		"too long": {ok, {Type: TypeAppApply, At: epoch, Data: json.RawMessage(`"` + strings.Repeat("x", MaxEntryBytes) + `"`)}},
	} {
		if _, err := Encode(cmds); !starling.IsInvalid(err) {
			t.Errorf("encode %s: %v", name, err)
		}
	}
	b, err := Encode([]Command{ok})
	if err != nil {
		t.Fatal(err)
	}
	if r := f.Apply(&raft.Log{Index: f.View().Index() + 1, Data: b}).([]Result); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
}

func TestChanged(t *testing.T) {
	f := New("east")
	c, err := NewCommand(TypeRegionUpsert, epoch, "", RegionUpsert{Region{Name: "east"}})
	if err != nil {
		t.Fatal(err)
	}
	entry := entryOf(t, c)
	apply := func(index uint64) { f.Apply(&raft.Log{Index: index, Data: entry}) }
	closed := func(ch <-chan struct{}) bool {
		select {
		case <-ch:
			return true
		default:
			return false
		}
	}
	zero, five := f.Changed(0), f.Changed(5)
	if closed(zero) || closed(five) {
		t.Fatal("closed before anything was applied")
	}
	apply(5)
	if !closed(zero) || closed(five) || !closed(f.Changed(4)) {
		t.Fatal("after entry 5")
	}
	apply(6)
	if !closed(five) {
		t.Fatal("after entry 6")
	}

	// Waiting is bounded: those beyond the bound wake at the next entry.
	for i := range uint64(MaxWaits) {
		f.Changed(1000 + i)
	}
	extra := f.Changed(1 << 40)
	if len(f.waits) > MaxWaits+1 || closed(extra) {
		t.Fatalf("%d waits", len(f.waits))
	}
	apply(7)
	if !closed(extra) {
		t.Fatal("the one beyond the bound was not woken")
	}
	waiting := f.Changed(2000)
	if err := f.Restore(io.NopCloser(bytes.NewReader(snapshotOf(t, New("east"))))); err != nil {
		t.Fatal(err)
	}
	if !closed(waiting) || f.View().Index() != 0 || len(f.View().Regions()) != 0 {
		t.Fatal("after a restore")
	}
}

// Readers, waiters and a snapshot beside the log; for the race detector.
func TestReadersBesideTheLog(t *testing.T) {
	f := New("east")
	const entries = 300
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for v := f.View(); v.Index() < entries; v = f.View() {
				if apps := len(v.Apps()); uint64(apps) != 2*v.Index() {
					t.Errorf("%d apps at index %d: half an entry", apps, v.Index())
				}
				if v.Index()%50 == 0 {
					snapshotOf(t, f)
				}
				<-f.Changed(v.Index())
			}
		})
	}
	for i := uint64(1); i <= entries; i++ {
		var cmds []Command
		for _, half := range []string{"x", "y"} {
			c, err := NewCommand(TypeAppApply, epoch, "", AppApply{App: starling.App{Name: fmt.Sprint(half, i)}})
			if err != nil {
				t.Fatal(err)
			}
			cmds = append(cmds, c)
		}
		f.Apply(&raft.Log{Index: i, Data: entryOf(t, cmds...)})
	}
	wg.Wait()
}

// Under the real library: an entry's results reach the proposer, and a node that
// starts again has its state from the snapshot and the log after it.
func TestUnderRaft(t *testing.T) {
	logs, stable, snaps := raft.NewInmemStore(), raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger = "one", hclog.NewNullLogger()
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	conf.CommitTimeout, conf.TrailingLogs = 5*time.Millisecond, 1
	open := func() (*raft.Raft, *FSM) {
		f := New("east")
		addr, trans := raft.NewInmemTransport("one")
		if err := raft.BootstrapCluster(conf, logs, stable, snaps, trans, raft.Configuration{
			Servers: []raft.Server{{ID: "one", Address: addr}},
		}); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			t.Fatal(err)
		}
		r, err := raft.NewRaft(conf, f, logs, stable, snaps, trans)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-r.LeaderCh():
		case <-time.After(20 * time.Second):
			t.Fatal("no leader")
		}
		return r, f
	}
	submit := func(r *raft.Raft, name string) {
		c, err := NewCommand(TypeAppApply, epoch, "ann", AppApply{App: starling.App{Name: name}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := Encode([]Command{c, c})
		if err != nil {
			t.Fatal(err)
		}
		future := r.Apply(b, 10*time.Second)
		if err := future.Error(); err != nil {
			t.Fatal(err)
		}
		results := future.Response().([]Result)
		if len(results) != 2 || results[0].Err != nil || !results[0].Created || results[1].Created || results[0].Index != future.Index() {
			t.Fatalf("results %+v", results)
		}
	}
	r, f := open()
	submit(r, "before")
	if err := r.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	submit(r, "after")
	want := snapshotOf(t, f)
	if err := r.Shutdown().Error(); err != nil {
		t.Fatal(err)
	}
	r, f = open()
	if err := r.Barrier(10 * time.Second).Error(); err != nil {
		t.Fatal(err)
	}
	if got := snapshotOf(t, f); !bytes.Equal(want, got) {
		t.Errorf("after a restart:\n%s\nwant:\n%s", got, want)
	}
	if err := r.Shutdown().Error(); err != nil {
		t.Fatal(err)
	}
}

// failingSink is a disk that is full after some bytes.
type failingSink struct {
	left      int
	cancelled bool
}

func (s *failingSink) Write(b []byte) (int, error) {
	if s.left -= len(b); s.left < 0 {
		return 0, errors.New("disk full")
	}
	return len(b), nil
}
func (s *failingSink) Close() error  { return errors.New("close of a broken sink") }
func (s *failingSink) Cancel() error { s.cancelled = true; return nil }
func (s *failingSink) ID() string    { return "sink" }

func TestPersistReportsADiskThatIsFull(t *testing.T) {
	snap, err := play(t, "mirror").fsms["west"].Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Release()
	full := &failingSink{left: 10}
	if err := snap.Persist(full); err == nil || !full.cancelled {
		t.Errorf("full disk: %v, cancelled %v", err, full.cancelled)
	}
	if err := snap.Persist(&failingSink{left: 1 << 30}); err == nil {
		t.Error("a failing close was not reported")
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte(`{"v":2,"commands":[{}]}`))
	f.Add([]byte(`{"v":1,"commands":[{"type":"mirror.apply","at":"2026-01-02T03:00:00Z","data":{"batch":{"home":"west","index":999,"deployments":[{}],"goals":[null]}}}]}`))
	for _, name := range []string{"deploy", "rest"} {
		for _, entries := range play(f, name).log {
			for _, e := range entries {
				f.Add(e)
			}
		}
	}
	east := play(f, "mirror").fsms["east"]
	base := snapshotOf(f, east)
	index := east.View().Index() + 1
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := DecodeEntry(data); errors.Is(err, ErrTooNew) {
			t.Skip("Apply stops the program at it")
		}
		one, two := New("east"), New("east")
		for _, fsm := range []*FSM{one, two} {
			if err := fsm.Restore(io.NopCloser(bytes.NewReader(base))); err != nil {
				t.Fatal(err)
			}
			if len(fsm.Apply(&raft.Log{Index: index, Data: data}).([]Result)) == 0 {
				t.Error("no result")
			}
		}
		after := snapshotOf(t, one)
		if !bytes.Equal(after, snapshotOf(t, two)) {
			t.Error("one entry gave two states")
		}
		if !bytes.Equal(after, snapshotOf(t, restored(t, one))) {
			t.Error("the state does not survive a snapshot")
		}
	})
}

func FuzzRestore(f *testing.F) {
	for _, fsm := range play(f, "mirror").fsms {
		f.Add(snapshotOf(f, fsm))
		lines := bytes.SplitAfter(snapshotOf(f, fsm), []byte("\n"))
		for _, l := range lines[1:] {
			f.Add(bytes.Join([][]byte{lines[0], l, l}, nil))
		}
	}
	f.Add([]byte(`{"format":"starling-state","version":1,"region":"east"}` + "\n" + `{"t":"deployments","rec":null}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := New("east").Restore(io.NopCloser(bytes.NewReader(data))); err == nil {
			return
		}
		// The same with a checksum that fits: whatever is then accepted must be a sound state.
		body, _, _ := bytes.Cut(data, []byte(`{"records":`))
		sum := sha256.New()
		sum.Write(body)
		end, err := trailerLine(bytes.Count(body, []byte("\n"))-1, sum)
		if err != nil {
			t.Fatal(err)
		}
		fsm := New("east")
		if err := fsm.Restore(io.NopCloser(bytes.NewReader(append(bytes.Clone(body), end...)))); err != nil {
			return
		}
		v := fsm.View()
		v.Deployments(starling.DeploymentFilter{})
		v.ChangedSince("east", 0)
		v.Startable()
		if !bytes.Equal(snapshotOf(t, restored(t, fsm)), snapshotOf(t, fsm)) {
			t.Error("a state was accepted that does not survive a snapshot")
		}
	})
}
