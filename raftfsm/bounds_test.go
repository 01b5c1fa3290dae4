package raftfsm

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// driver applies commands and stops the test when one is refused.
type driver struct {
	t     testing.TB
	fsm   *FSM
	index uint64
	clock time.Time
}

func newDriver(t testing.TB) *driver { return &driver{t: t, fsm: New("east"), clock: epoch} }

func (d *driver) try(cmds ...Command) []Result {
	d.t.Helper()
	b, err := Encode(cmds)
	if err != nil {
		d.t.Fatal(err)
	}
	d.index++
	return d.fsm.Apply(&raft.Log{Index: d.index, Data: b}).([]Result)
}

func (d *driver) must(cmds ...Command) []Result {
	d.t.Helper()
	results := d.try(cmds...)
	for i, r := range results {
		if r.Err != nil {
			d.t.Fatalf("%s %s: %v", cmds[i].Type, cmds[i].Data, r.Err)
		}
	}
	return results
}

func (d *driver) cmd(kind Type, payload any) Command {
	d.t.Helper()
	d.clock = d.clock.Add(time.Millisecond)
	c, err := NewCommand(kind, d.clock, "ann", payload)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// history fills the state with n ended deployments of one app.
func (d *driver) history(n int) {
	d.must(d.cmd(TypeAppApply, AppApply{App: starling.App{Name: "old", Source: starling.SourceSpec{Git: "g"},
		Build: &starling.BuildSpec{Command: []string{"make"}}}}))
	for i := 0; i < n; {
		var cmds []Command
		for ; i < n && len(cmds) < MaxEntryCommands; i++ {
			id := fmt.Sprintf("old%d", i)
			cmds = append(cmds, d.cmd(TypeSubmit, Submit{ID: id, App: "old", SHA: fmt.Sprintf("%040x", i), IdempotencyKey: id}),
				d.cmd(TypeFinish, Finish{ID: id, Phase: starling.PhaseCancelled, Reason: "history"}))
		}
		d.must(cmds...)
	}
}

// What a state keeps in the tests that fill it.
const (
	keptEnded     = 800
	keptEvents    = 500
	keptArtifacts = 300
	keptTokens    = 100
)

func TestHistoryIsBounded(t *testing.T) {
	d, west := newDriver(t), New("west")
	d.fsm.limits.ended, d.fsm.limits.events, west.limits.ended = keptEnded, keptEvents, keptEnded
	const extra = 100
	d.history(keptEnded + extra)
	v := d.fsm.View()
	if h := get[home](v.reader, tableHomes, byID, strKey("east")); h.rec.Ended != keptEnded+1 { // pruned at submission, before the last one ended
		t.Errorf("%d ended deployments are kept", h.rec.Ended)
	}
	if _, ok := v.Deployment("old0"); ok {
		t.Error("the oldest is kept")
	}
	if _, ok := v.Deployment(fmt.Sprintf("old%d", extra)); !ok {
		t.Error("one within the bound is gone")
	}
	// An idempotency key is as good as its deployment.
	if r := d.must(d.cmd(TypeSubmit, Submit{ID: "again", App: "old", SHA: strings.Repeat("a", 40), IdempotencyKey: "old0"})); !r[0].Created {
		t.Error("the key of a dropped deployment is still taken")
	}

	events, gap := v.EventsAfter(0, 0, math.MaxInt)
	if len(events) != keptEvents || !gap {
		t.Fatalf("%d events, gap %v", len(events), gap)
	}
	for i := 1; i < len(events); i++ {
		if a, b := events[i-1], events[i]; b.Index < a.Index || b.Index == a.Index && b.N != a.N+1 || b.Index > a.Index && b.N != 0 {
			t.Fatalf("%d/%d comes after %d/%d", b.Index, b.N, a.Index, a.N)
		}
	}
	mid := events[100]
	rest, gap := v.EventsAfter(mid.Index, mid.N, 10)
	if gap || len(rest) != 10 || rest[0] != events[101] {
		t.Errorf("after %d/%d: %d events, gap %v", mid.Index, mid.N, len(rest), gap)
	}
	last := events[len(events)-1]
	if rest, gap := v.EventsAfter(last.Index, math.MaxInt, 10); gap || len(rest) != 0 {
		t.Errorf("after the last: %d events, gap %v", len(rest), gap)
	}

	// All of it goes to another region in batches, whole indexes at a time.
	batches, seen := 0, 0
	for at := uint64(0); ; batches++ {
		m := v.ChangedSince("east", at)
		if m.Index == at {
			break
		}
		if len(m.Deployments) > MaxMirrorRecords+MaxEntryCommands {
			t.Fatalf("a batch of %d", len(m.Deployments))
		}
		b, err := Encode([]Command{d.cmd(TypeMirror, Mirror{m})})
		if err != nil {
			t.Fatal(err)
		}
		if r := west.Apply(&raft.Log{Index: uint64(batches + 1), Data: b}).([]Result); r[0].Err != nil {
			t.Fatal(r[0].Err)
		}
		at, seen = m.Index, seen+len(m.Deployments)
	}
	if batches < 2 || seen != keptEnded+1 {
		t.Errorf("%d deployments in %d batches", seen, batches)
	}
	if n := get[home](west.View().reader, tableHomes, byID, strKey("east")).rec.Ended; n != keptEnded {
		t.Errorf("the mirror keeps %d", n)
	}
	if m := west.View().ChangedSince("east", 0); m.Index != 0 || m.Deployments != nil {
		t.Error("a region answers for another")
	}
}

func TestReleasesAreBounded(t *testing.T) {
	d := newDriver(t)
	d.must(d.cmd(TypeAppApply, AppApply{App: starling.App{Name: "a"}}))
	for i := range MaxReleasesPerApp + 5 {
		id := fmt.Sprintf("d%d", i)
		digest := starling.DigestOf([]byte(id))
		d.must(d.cmd(TypeArtifactRegister, ArtifactRegister{starling.Artifact{Digest: digest}}),
			d.cmd(TypeSubmit, Submit{ID: id, App: "a", Artifact: digest}),
			d.cmd(TypeStart, Start{ID: id}),
			d.cmd(TypePlaced, Placed{ID: id, Placing: starling.Placing{Name: "east", Placed: true}}),
			d.cmd(TypeAdvance, Advance{ID: id, From: starling.PhaseReplicating, To: starling.PhaseStaging}),
			d.cmd(TypeAdvance, Advance{ID: id, From: starling.PhaseStaging, To: starling.PhaseRollingOut}),
			d.cmd(TypeAdvance, Advance{ID: id, From: starling.PhaseRollingOut, To: starling.PhaseSucceeded}))
	}
	rel := d.fsm.View().Releases("a")
	if len(rel) != MaxReleasesPerApp || rel[0].Deployment != "d24" || rel[len(rel)-1].Deployment != "d5" {
		t.Fatalf("%d releases from %s to %s", len(rel), rel[0].Deployment, rel[len(rel)-1].Deployment)
	}
	if r := d.try(d.cmd(TypeSubmit, Submit{ID: "r", App: "a", Rollback: true, RollbackTo: 5})); !errors.Is(r[0].Err, starling.ErrNotFound) {
		t.Errorf("to a dropped release: %v", r[0].Err)
	}
}

func TestArtifactRecordsAreBoundedButThoseInUseStay(t *testing.T) {
	d := newDriver(t)
	d.fsm.limits.artifacts = keptArtifacts
	d.must(d.cmd(TypeAppApply, AppApply{App: starling.App{Name: "a"}}))
	name := func(i int) starling.Digest { return starling.DigestOf([]byte(fmt.Sprint(i))) }
	register := func(from, to int) {
		for from < to {
			var cmds []Command
			for ; from < to && len(cmds) < MaxEntryCommands; from++ {
				cmds = append(cmds, d.cmd(TypeArtifactRegister, ArtifactRegister{starling.Artifact{Digest: name(from)}}))
			}
			d.must(cmds...)
		}
	}
	register(0, 10)
	d.must(d.cmd(TypeSubmit, Submit{ID: "d1", App: "a", Artifact: name(0)}), d.cmd(TypeArtifactPlaced, ArtifactPlaced{Artifact: name(1)}))
	register(10, keptArtifacts+2)
	v := d.fsm.View()
	if n := len(v.Artifacts()); n != keptArtifacts {
		t.Errorf("%d artifacts are kept", n)
	}
	for i, want := range []bool{true, false, false, true} {
		if _, ok := v.Artifact(name(i)); ok != want {
			t.Errorf("artifact %d is kept: %v", i, ok)
		}
	}
	if v.Placed(name(1)) || len(v.PlacedAll()) != 0 {
		t.Error("a dropped artifact is still placed")
	}
	if got := v.Artifacts()[0].Digest; got != name(keptArtifacts+1) {
		t.Error("the newest is not first")
	}
}

func TestDeadTokensMakeRoom(t *testing.T) {
	d := newDriver(t)
	d.fsm.limits.tokens = keptTokens
	token := func(i int, expires time.Time) Command {
		id := fmt.Sprintf("t%d", i)
		return d.cmd(TypeTokenCreate, TokenCreate{starling.Token{ID: id, Role: starling.ACLViewer, Hash: starling.DigestOf([]byte(id)), ExpiresAt: expires}})
	}
	for i := 0; i < keptTokens; {
		var cmds []Command
		for ; i < keptTokens && len(cmds) < MaxEntryCommands; i++ {
			cmds = append(cmds, token(i, time.Time{}))
		}
		d.must(cmds...)
	}
	if r := d.try(token(-1, time.Time{})); !errors.Is(r[0].Err, starling.ErrConflict) {
		t.Fatalf("beyond the bound: %v", r[0].Err)
	}
	d.must(d.cmd(TypeTokenRevoke, TokenRevoke{ID: "t7"}))
	d.must(token(keptTokens, d.clock.Add(time.Minute)))
	if _, ok := d.fsm.View().Token("t7"); ok {
		t.Error("a revoked token took the room")
	}
	d.clock = d.clock.Add(time.Hour)
	d.must(token(keptTokens+1, time.Time{}))
	v := d.fsm.View()
	if _, ok := v.TokenByHash(starling.DigestOf([]byte(fmt.Sprintf("t%d", keptTokens)))); ok {
		t.Error("an expired token took the room")
	}
	if len(v.Tokens()) != keptTokens {
		t.Errorf("%d tokens", len(v.Tokens()))
	}
}

func TestTooMuchInput(t *testing.T) {
	d := newDriver(t)
	long := strings.Repeat("x", 3000)
	app := starling.App{Name: "a", Source: starling.SourceSpec{Git: "g"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	d.must(d.cmd(TypeAppApply, AppApply{App: app}), d.cmd(TypeSubmit, Submit{ID: "d1", App: "a", SHA: strings.Repeat("a", 40)}))
	lease := d.must(d.cmd(TypeJobLease, JobLease{Worker: "w"}))[0].Deployment.Lease
	big := app
	big.Build = &starling.BuildSpec{Command: []string{strings.Repeat("x", MaxAppBytes)}}
	regions := make([]string, MaxRegions+1)
	for name, c := range map[string]Command{
		"app":            d.cmd(TypeAppApply, AppApply{App: big}),
		"id":             d.cmd(TypeSubmit, Submit{ID: long, App: "a", SHA: strings.Repeat("a", 40)}),
		"key":            d.cmd(TypeSubmit, Submit{ID: "x", App: "a", SHA: strings.Repeat("a", 40), IdempotencyKey: long}),
		"NUL":            d.cmd(TypeSubmit, Submit{ID: "x", App: "a", SHA: strings.Repeat("a", 40), IdempotencyKey: "a\x00b"}),
		"regions":        d.cmd(TypeSubmit, Submit{ID: "x", App: "a", SHA: strings.Repeat("a", 40), Regions: regions}),
		"worker":         d.cmd(TypeJobLease, JobLease{Worker: long}),
		"holding":        d.cmd(TypeJobLease, JobLease{Worker: "w", Holding: make([]string, MaxHolding+1)}),
		"new bytes":      d.cmd(TypeJobComplete, JobComplete{ID: "d1", Lease: lease, NewBytes: -1, Artifact: starling.Artifact{Digest: starling.DigestOf(nil)}}),
		"no digest":      d.cmd(TypeJobComplete, JobComplete{ID: "d1", Lease: lease}),
		"chunks":         d.cmd(TypeJobComplete, JobComplete{ID: "d1", Lease: lease, Artifact: starling.Artifact{Digest: starling.DigestOf(nil), Chunks: -1}}),
		"files":          d.cmd(TypeArtifactRegister, ArtifactRegister{starling.Artifact{Digest: starling.DigestOf(nil), Files: starling.MaxFiles + 1}}),
		"artifact's app": d.cmd(TypeArtifactRegister, ArtifactRegister{starling.Artifact{Digest: starling.DigestOf(nil), App: "No"}}),
		"artifact's sha": d.cmd(TypeArtifactRegister, ArtifactRegister{starling.Artifact{Digest: starling.DigestOf(nil), SHA: "No"}}),
		"counts":         d.cmd(TypeCheckpoint, Checkpoint{ID: "d1", Counts: starling.Counts{Target: -1}}),
		"samples":        d.cmd(TypeCheckpoint, Checkpoint{ID: "d1", Counts: starling.Counts{Samples: make([]starling.FailureSample, 6)}}),
		"bytes":          d.cmd(TypeFinish, Finish{ID: "d1", Phase: starling.PhaseFailed, Bytes: starling.Bytes{WAN: -1}}),
		"placing":        d.cmd(TypePlaced, Placed{ID: "d1", Placing: starling.Placing{Name: "east", ChunksDone: -1}}),
		"phase":          d.cmd(TypeFinish, Finish{ID: "d1", Phase: starling.PhaseSucceeded}),
		"servers":        d.cmd(TypeRegionUpsert, RegionUpsert{Region{Name: "west", Servers: make([]string, MaxServersPerRegion+1)}}),
		"address":        d.cmd(TypeRegionUpsert, RegionUpsert{Region{Name: "west", Servers: []string{long}}}),
		"token name":     d.cmd(TypeTokenCreate, TokenCreate{starling.Token{ID: "t", Role: starling.ACLViewer, Hash: starling.DigestOf(nil), Name: long}}),
		"mirror":         d.cmd(TypeMirror, Mirror{starling.Mirror{Home: "west", Index: 1, Apps: make([]*starling.App, MaxMirrorRecordsApplied+1)}}),
		"no lost one":    d.cmd(TypeArtifactPlaced, ArtifactPlaced{}),
	} {
		before := d.fsm.View()
		if r := d.try(c); !starling.IsInvalid(r[0].Err) {
			t.Errorf("%s: %v", name, r[0].Err)
		}
		if d.fsm.View().ChangedSince("east", before.Index()).Index > before.Index() {
			t.Errorf("%s: a refused command left a change", name)
		}
	}

	// Reasons are cut, not refused: a failure must get through. The cut respects characters.
	r := d.must(d.cmd(TypeJobFail, JobFail{ID: "d1", Lease: lease, Reason: strings.Repeat("é", starling.MaxReasonBytes)}))
	if got := r[0].Deployment.Reason; len(got) != starling.MaxReasonBytes || strings.ContainsRune(got, '\uFFFD') {
		t.Errorf("a reason of %d bytes", len(got))
	}
	// What no snapshot could hold does not get in by way of a mirror either.
	huge := &starling.Deployment{ID: "w1", App: "a", Home: "west", Phase: starling.PhaseQueued, Actor: strings.Repeat("x", MaxMirroredRecordBytes)}
	d.must(d.cmd(TypeMirror, Mirror{starling.Mirror{Home: "west", Index: 1, Deployments: []*starling.Deployment{huge}}}))
	if _, ok := d.fsm.View().Deployment("w1"); ok {
		t.Error("a huge mirrored record was kept")
	}
}

// All that one full entry can change must fit into one mirror command.
func TestTheLargestBatchFits(t *testing.T) {
	d := newDriver(t)
	app := starling.App{Name: "a", Source: starling.SourceSpec{Git: "g"}, Build: &starling.BuildSpec{Command: []string{strings.Repeat("x", MaxAppBytes-2000)}}}
	d.must(d.cmd(TypeAppApply, AppApply{App: app}))
	from := d.index
	var cmds []Command
	for i := range MaxEntryCommands {
		cmds = append(cmds, d.cmd(TypeSubmit, Submit{ID: fmt.Sprintf("d%d", i), App: "a", SHA: strings.Repeat("a", 40)}))
	}
	d.must(cmds...)
	d.must(d.cmd(TypeRegionUpsert, RegionUpsert{Region{Name: "east"}}))
	m := d.fsm.View().ChangedSince("east", from)
	if len(m.Deployments) != MaxEntryCommands || m.Index != from+1 {
		t.Fatalf("%d deployments up to %d", len(m.Deployments), m.Index)
	}
	b, err := Encode([]Command{d.cmd(TypeMirror, Mirror{m})})
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < MaxEntryBytes {
		t.Errorf("only %d bytes: this test shows nothing", len(b))
	}
	if m := d.fsm.View().ChangedSince("east", m.Index); m.Index != from+1 {
		t.Errorf("more after the last: %d", m.Index)
	}
}

// BenchmarkCycle measures the life of a deployment, 8 commands, with a full history.
func BenchmarkCycle(b *testing.B) {
	d := newDriver(b)
	d.history(MaxEndedDeployments)
	app := starling.App{Name: "bench", Source: starling.SourceSpec{Git: "g"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	d.must(d.cmd(TypeAppApply, AppApply{App: app}))
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		id := fmt.Sprintf("b%d", n)
		n++
		d.must(d.cmd(TypeSubmit, Submit{ID: id, App: "bench", SHA: fmt.Sprintf("%040x", n), Regions: []string{"west"}}))
		lease := d.must(d.cmd(TypeJobLease, JobLease{Worker: "w"}))[0].Deployment.Lease
		d.must(d.cmd(TypeJobComplete, JobComplete{ID: id, Lease: lease, Artifact: starling.Artifact{Digest: starling.DigestOf([]byte(id)), Bytes: 1}}))
		d.must(d.cmd(TypePlaced, Placed{ID: id, Placing: starling.Placing{Name: "east", Placed: true}}))
		d.must(d.cmd(TypePlaced, Placed{ID: id, Placing: starling.Placing{Name: "west", Placed: true}}))
		d.must(d.cmd(TypeAdvance, Advance{ID: id, From: starling.PhaseReplicating, To: starling.PhaseStaging}))
		d.must(d.cmd(TypeAdvance, Advance{ID: id, From: starling.PhaseStaging, To: starling.PhaseRollingOut}))
		d.must(d.cmd(TypeAdvance, Advance{ID: id, From: starling.PhaseRollingOut, To: starling.PhaseSucceeded}))
	}
	b.ReportMetric(float64(8*n)/b.Elapsed().Seconds(), "applies/s")
}

// BenchmarkSubmit measures submissions alone, 64 in an entry, with a full history.
func BenchmarkSubmit(b *testing.B) {
	d := newDriver(b)
	d.history(MaxEndedDeployments)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if n%(MaxActiveDeployments/2) == 0 {
			b.StopTimer()
			d = newDriver(b)
			d.history(MaxEndedDeployments)
			b.StartTimer()
		}
		var cmds []Command
		for range 64 {
			n++
			cmds = append(cmds, d.cmd(TypeSubmit, Submit{ID: fmt.Sprintf("b%d", n), App: "old", SHA: fmt.Sprintf("%040x", n)}))
		}
		d.must(cmds...)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "applies/s")
}

// BenchmarkSnapshot measures a snapshot and a restore of a full history.
func BenchmarkSnapshot(b *testing.B) {
	d := newDriver(b)
	d.history(MaxEndedDeployments)
	var size int
	for b.Loop() {
		size = len(snapshotOf(b, d.fsm))
		restored(b, d.fsm)
	}
	b.ReportMetric(float64(size)/1e6, "MB")
}
