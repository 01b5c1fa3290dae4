package raftfsm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

var epoch = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

// TestAnySequenceKeepsTheInvariants plays random commands, legal or not, and looks at
// the state after each entry.
func TestAnySequenceKeepsTheInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := newGenerator(rt)
		one, two := New("east"), New("east")
		w := newWatcher(rt)
		entries := uint64(1 + rounds*g.below(32))
		for index := uint64(1); index <= entries; index++ {
			cmds := make([]Command, []int{1, 1, 1, 2, 5}[g.below(5)])
			for i := range cmds {
				cmds[i] = g.command(one.View())
			}
			log := &raft.Log{Index: index, Data: entryOf(rt, cmds...)}
			results := one.Apply(log).([]Result)
			two.Apply(log)
			w.look(one.View(), index, cmds, results)
			if g.one(10) {
				two = restored(rt, one)
			}
		}
		if !bytes.Equal(snapshotOf(rt, one), snapshotOf(rt, two)) {
			rt.Fatal("a state that was restored on the way differs from one that was not")
		}
		w.nothingMutated()
		checkMirrored(rt, one)
	})
}

// generator draws commands from a world small enough for them to meet.
type generator struct {
	rt    *rapid.T
	clock time.Time
	next  int
	west  uint64
}

func newGenerator(rt *rapid.T) *generator { return &generator{rt: rt, clock: epoch} }

// below draws evenly from 0 to n-1; rapid's own ranges favour small numbers, with
// which hardly any deployment would get to its end.
func (g *generator) below(n int) int {
	v := 0
	for range 7 {
		v <<= 1
		if rapid.Bool().Draw(g.rt, "bit") {
			v |= 1
		}
	}
	return v % n
}

func (g *generator) one(in int) bool { return g.below(in) == 0 }

func (g *generator) pick(from ...string) string { return from[g.below(len(from))] }

func (g *generator) digest() starling.Digest {
	return starling.DigestOf([]byte(g.pick("v1", "v2", "v3")))
}

// id picks a deployment, mostly one that has not ended.
func (g *generator) id(v View) string {
	active := v.Active()
	if len(active) == 0 || g.one(10) {
		return g.pick("d1", "d2", "west1", "none")
	}
	return active[g.below(len(active))].ID
}

func (g *generator) command(v View) Command {
	g.clock = g.clock.Add(time.Duration(g.below(25)-5) * time.Second)
	kind, payload := g.payload(v)
	c, err := NewCommand(kind, g.clock, "ann", payload)
	if err != nil {
		g.rt.Fatal(err)
	}
	return c
}

func (g *generator) payload(v View) (Type, any) {
	id := g.id(v)
	d, known := v.Deployment(id)
	if !known {
		d = &starling.Deployment{}
	}
	lease := d.Lease
	if g.one(10) {
		lease--
	}
	kind := g.below(25)
	if len(v.Apps()) == 0 {
		kind = 0
	}
	if n := len(d.Hooks); n > 0 && g.one(2) {
		return g.hook(d, &d.Hooks[g.below(n)])
	}
	switch kind {
	case 0, 1:
		return TypeAppApply, AppApply{App: g.app()}
	case 2, 3, 4, 5, 6:
		return TypeSubmit, g.submission()
	case 7, 8:
		return TypeStart, Start{ID: id}
	case 9, 10:
		return TypePlaced, Placed{ID: id, Placing: starling.Placing{Name: g.pick("east", "west"), Placed: !g.one(5)}}
	case 11, 12, 13:
		to := map[starling.Phase]starling.Phase{starling.PhaseReplicating: starling.PhaseStaging, starling.PhaseStaging: starling.PhaseRollingOut,
			starling.PhaseRollingOut: starling.PhaseSucceeded}[d.Phase]
		if d.Phase == starling.PhaseStaging && d.Spec.Deploy.Strategy.Approval {
			to = starling.PhaseAwaitingApproval
		}
		return TypeAdvance, Advance{ID: id, From: d.Phase, To: to, Counts: starling.Counts{Target: 3}}
	case 14:
		switch g.below(4) {
		case 0:
			return TypePromote, Promote{ID: id, From: d.Wave, All: g.one(3)}
		case 1:
			return TypeIgnoreFreeze, IgnoreFreeze{ID: id}
		}
		next, more := d.NextStep()
		if !more {
			next.Index = d.Wave
		}
		return TypeWave, Wave{ID: id, Wave: next.Index}
	case 15:
		if g.one(2) {
			return TypePlaced, Placed{ID: id, Placing: starling.Placing{Name: "east", Placed: true}}
		}
		return TypeFinish, Finish{ID: id, Phase: starling.Phase(g.pick("failed", "cancelled", "succeeded")), Reason: "because"}
	case 16:
		return TypeApprove, Approve{ID: id}
	case 17:
		return TypePause, Pause{ID: id, Paused: g.one(4)}
	case 18, 19, 20:
		w := g.pick("w1", "w2", "w3")
		holding := []string{"none"}
		for r := range scan[starling.Deployment](v.reader, tableDeployments, byWorker, strKey(w)) {
			if !g.one(4) {
				holding = append(holding, r.rec.ID)
			}
		}
		lease := JobLease{Worker: w, Holding: holding}
		if g.one(4) {
			lease.Deployment = id
		}
		return TypeJobLease, lease
	case 21:
		return TypeJobRequeue, JobRequeue{ID: id, Lease: lease, Reason: "lost"}
	case 22:
		return TypeJobComplete, JobComplete{ID: id, Lease: lease, Artifact: starling.Artifact{Digest: g.digest(), Bytes: 10}}
	case 23:
		return g.rare(id, lease)
	}
	if g.one(3) {
		return g.rare(id, lease)
	}
	return TypeArtifactRegister, ArtifactRegister{starling.Artifact{Digest: g.digest(), Bytes: 10}}
}

// hook draws a command about one of a deployment's hooks.
func (g *generator) hook(d *starling.Deployment, h *starling.HookRun) (Type, any) {
	switch g.below(6) {
	case 0:
		return TypeHookBegin, HookBegin{ID: d.ID}
	case 1:
		return TypeHookRequeue, HookRequeue{ID: d.ID, Hook: h.Name(), Lease: h.Lease}
	case 2, 3:
		return TypeHookEnd, HookEnd{ID: d.ID, Hook: h.Name(), Lease: h.Lease, Failed: g.one(6)}
	}
	return TypeHookLease, HookLease{ID: d.ID, Hook: h.Name(), Region: h.Region, Worker: g.pick("w1", "w2")}
}

func (g *generator) rare(id string, lease uint64) (Type, any) {
	switch g.below(8) {
	case 0:
		return TypeJobFail, JobFail{ID: id, Lease: lease, Reason: "exit 1"}
	case 1:
		return TypeArtifactPlaced, ArtifactPlaced{Artifact: g.digest(), Lost: g.one(2)}
	case 2:
		return TypeRegionUpsert, RegionUpsert{Region{Name: g.pick("east", "west")}}
	case 3:
		name := g.pick("t1", "t2")
		return TypeTokenBootstrap, TokenBootstrap{starling.Token{ID: name, Role: starling.ACLOperator, Hash: starling.DigestOf([]byte(name))}}
	case 4:
		return TypeTokenRevoke, TokenRevoke{ID: g.pick("t1", "t2")}
	case 5:
		return TypeCheckpoint, Checkpoint{ID: id, Bytes: starling.Bytes{Peer: 5}}
	case 6:
		return TypeTokenRevoke, nil
	}
	g.west++
	return TypeMirror, Mirror{starling.Mirror{Home: "west", Index: g.west,
		Apps:  []*starling.App{new(starling.App), {Name: g.pick("a", "b"), Home: "west"}},
		Goals: []*starling.Goal{{App: g.pick("a", "w"), Home: "west", Generation: starling.Generation{Epoch: 1, Sequence: g.west}, Stage: starling.StageFetch}},
		Deployments: []*starling.Deployment{{ID: g.pick("west1", "west2", "d1"), App: "w", Home: "west", CreatedAt: epoch,
			Phase: starling.Phase(g.pick("queued", "staging", "succeeded", "nonsense"))}},
	}}
}

func (g *generator) app() starling.App {
	a := starling.App{Name: g.pick("a", "b", "c"), Source: starling.SourceSpec{Git: "g"}}
	if !g.one(4) {
		a.Build = &starling.BuildSpec{Command: []string{"make"}}
	}
	s := &a.Deploy.Strategy
	s.AutoRevert, s.Approval = g.one(2), g.one(5)
	s.Gate = starling.Gate(g.pick("each", "quorum", "all_regions"))
	if g.one(2) {
		s.Waves = []string{"10%", "100%"}
	}
	if g.one(2) {
		s.Regions = [][]string{{"west"}, {"nowhere"}}
	}
	if g.one(2) {
		a.Deploy.Hooks.Region = &starling.OnceHooks{Pre: []string{"x"}}
		a.Deploy.Hooks.Deployment = &starling.OnceHooks{Pre: []string{"x"}, Post: []string{"x"}}
	}
	return a
}

func (g *generator) submission() Submit {
	g.next++
	s := Submit{ID: fmt.Sprintf("d%d", g.next), App: g.pick("a", "a", "b", "c"), Priority: []int{0, 0, 0, 5}[g.below(4)], Regions: []string{"west"}}
	s.Supersede = g.one(4)
	if g.one(5) {
		s.IdempotencyKey = g.pick("k1", "k2")
	}
	switch g.below(6) {
	case 0:
		s.Rollback, s.RollbackTo = true, uint64(g.below(3))
	case 1, 2:
		s.Artifact = g.digest()
	default:
		s.SHA = fmt.Sprintf("%040x", g.below(4))
	}
	return s
}

// watcher remembers the states before and compares.
type watcher struct {
	rt     *rapid.T
	seen   map[*starling.Deployment]string // every version of every record, as JSON
	ended  map[string]string               // ended deployments as JSON
	goals  map[string]*starling.Goal
	leases map[string]int // attempt by deployment and token
	clock  time.Time
	events int
}

func newWatcher(rt *rapid.T) *watcher {
	return &watcher{rt: rt, seen: map[*starling.Deployment]string{}, ended: map[string]string{}, goals: map[string]*starling.Goal{}, leases: map[string]int{}}
}

func (w *watcher) look(v View, index uint64, cmds []Command, results []Result) {
	if v.Index() != index || len(results) != len(cmds) {
		w.rt.Fatalf("index %d after entry %d, %d results for %d commands", v.Index(), index, len(results), len(cmds))
	}
	for i, r := range results {
		if r.Index != index {
			w.rt.Fatalf("result %+v of entry %d", r, index)
		}
		if d := r.Deployment; cmds[i].Type == TypeJobLease && d != nil {
			token := fmt.Sprint(d.ID, "/", d.Lease)
			if attempt, ok := w.leases[token]; ok && attempt != d.Attempt || d.Lease != index || d.Attempt > starling.MaxBuildAttempts {
				w.rt.Fatalf("token %s was given for attempt %d and again for %d", token, attempt, d.Attempt)
			}
			w.leases[token] = d.Attempt
		}
	}
	all := records(scan[starling.Deployment](v.reader, tableDeployments, byID, nil))
	w.deployments(v, all)
	w.hooks(v, cmds, results)
	w.lanes(v, all)
	w.lists(v, all)
	for _, g := range v.Goals() {
		if old := w.goals[g.App]; old != nil && old != g {
			same := old.Generation == g.Generation
			if !g.Supersedes(old) || same && (g.Artifact != old.Artifact || !g.Stage.AtLeast(old.Stage) || falls(old, g)) {
				w.rt.Fatalf("goal %+v after %+v", g, old)
			}
		}
		w.goals[g.App] = g
	}
	for _, d := range all { // while a deployment is paused its goal stands still
		if g, ok := v.Goal(d.App); ok && d.Home == "east" && d.Paused && (d.Hold == nil || g.Generation == d.Hold.Generation && g.Revision != d.Hold.Revision) {
			w.rt.Fatalf("%s is held as %+v, and its goal is %+v", d.ID, d.Hold, g)
		}
	}
	if v.meta.Clock.Before(w.clock) {
		w.rt.Fatalf("the clock went back from %s to %s", w.clock, v.meta.Clock)
	}
	w.clock = v.meta.Clock
	w.counters(v, all)
}

// falls reports whether fewer machines of any region may activate than before.
func falls(old, g *starling.Goal) bool {
	return slices.ContainsFunc([]string{"east", "west", "north"}, func(r string) bool { return g.In(r).Cutoff < old.In(r).Cutoff })
}

// fence holds what a deployment that failed or was cancelled proves: its tokens are void for good.
func (w *watcher) fence(v View, d *starling.Deployment) {
	if d.Home != "east" || d.Phase == starling.PhaseSucceeded {
		return
	}
	if d.Fence == nil || d.Fence.Index == 0 || d.Fence.Index > v.Index() || d.Lease != 0 {
		w.rt.Fatalf("%s is %s, its fence %+v, its lease %d", d.ID, d.Phase, d.Fence, d.Lease)
	}
	if d.Fence.Goal.IsZero() {
		return
	}
	if g, ok := v.Goal(d.App); !ok || g.Generation.Compare(d.Fence.Goal) < 0 || d.Fence.Generation != d.Generation {
		w.rt.Fatalf("%s has the fence %+v and its app the goal %+v", d.ID, d.Fence, g)
	}
}

func (w *watcher) deployments(v View, all []*starling.Deployment) {
	underWay := map[string]string{}
	for _, d := range all {
		b := w.json(d)
		if was, ok := w.ended[d.ID]; ok && was != b {
			w.rt.Fatalf("deployment %s changed after its end:\n%s\n%s", d.ID, was, b)
		}
		switch {
		case d.Phase.Terminal():
			w.ended[d.ID] = b
			if d.Home == "east" && (d.EndedAt.IsZero() || d.EndedAt.Before(d.CreatedAt) || d.Phase == starling.PhaseFailed && d.Reason == "") {
				w.rt.Fatalf("an end without its marks: %s", b)
			}
			w.fence(v, d)
		case d.Home == "east" && d.Phase != starling.PhaseQueued:
			if other := underWay[d.App]; other != "" {
				w.rt.Fatalf("%s and %s of app %s are both under way", other, d.ID, d.App)
			}
			underWay[d.App] = d.ID
			if got, ok := v.UnderWay(d.App); !ok || got != d {
				w.rt.Fatalf("UnderWay(%s) is not %s", d.App, d.ID)
			}
			if g, ok := v.Goal(d.App); d.Phase != starling.PhaseBuilding && (!ok || g.Deployment != d.ID || g.Generation != d.Generation) {
				w.rt.Fatalf("the goal %+v is not that of %s", g, b)
			}
		}
		if (d.Phase == starling.PhaseBuilding) && (d.Lease == 0 || d.Worker == "") || d.Phase == starling.PhaseQueued && d.Lease != 0 {
			w.rt.Fatalf("a job and its lease do not agree: %s", b)
		}
	}
}

// hooks holds that no machine begins before its hooks, that nothing succeeds before all have
// ended, and that no token is given twice.
func (w *watcher) hooks(v View, cmds []Command, results []Result) {
	for i, r := range results {
		var p HookLease
		if cmds[i].Type != TypeHookLease || r.Err != nil || json.Unmarshal(cmds[i].Data, &p) != nil {
			continue
		}
		token := fmt.Sprint(p.ID, "/", p.Hook, "/", v.Index())
		if _, again := w.leases[token]; again {
			w.rt.Fatalf("token %s was given twice", token)
		}
		w.leases[token] = 1
	}
	for d := range w.seen {
		now, ok := v.Deployment(d.ID)
		if !ok || now != d || d.Home != "east" || len(d.Hooks) == 0 {
			continue
		}
		g, _ := v.Goal(d.App)
		for i := range d.Hooks {
			h := &d.Hooks[i]
			if d.Phase == starling.PhaseSucceeded && h.State != starling.HookDone || d.Phase.Terminal() && !h.Ended() || h.Attempt > starling.MaxHookAttempts {
				w.rt.Fatalf("%s is %s and its hook %+v", d.ID, d.Phase, h)
			}
			mine := g != nil && g.Generation == d.Generation && g.Stage.AtLeast(starling.StageActivate)
			if !h.Post && h.State != starling.HookDone && mine && (h.Scope == starling.HookDeployment || !g.Holds(h.Region)) {
				w.rt.Fatalf("machines may begin before %+v: goal %+v", h, g)
			}
		}
	}
}

// json returns a record as it was when first seen.
func (w *watcher) json(d *starling.Deployment) string {
	if _, ok := w.seen[d]; !ok {
		b, err := json.Marshal(d)
		if err != nil {
			w.rt.Fatal(err)
		}
		w.seen[d] = string(b)
	}
	return w.seen[d]
}

// nothingMutated checks that no record that was ever stored has changed in place.
func (w *watcher) nothingMutated() {
	for d, was := range w.seen {
		delete(w.seen, d)
		if now := w.json(d); now != was {
			w.rt.Fatalf("a stored record was changed in place:\n%s\n%s", was, now)
		}
	}
}

// lanes compares the derived queue with what the deployments say.
func (w *watcher) lanes(v View, all []*starling.Deployment) {
	busy, next := map[string]bool{}, map[string]*row[starling.Deployment]{}
	for _, d := range all {
		r := v.deployment(d.ID)
		if r.mod == 0 || d.Phase.Terminal() {
			continue
		}
		if d.Phase != starling.PhaseQueued {
			busy[d.App] = true
		} else if n := next[d.App]; !d.Paused && (n == nil || d.Priority > n.rec.Priority || d.Priority == n.rec.Priority && r.seq < n.seq) {
			next[d.App] = r
		}
	}
	var want []string
	for app, r := range next {
		if !busy[app] {
			want = append(want, r.rec.ID)
		}
	}
	var got []string
	for _, d := range slices.Concat(v.Startable(), v.Buildable()) {
		got = append(got, d.ID)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		w.rt.Fatalf("next in line are %v, not %v", want, got)
	}
}

// lists compares paged lists with a plain sort.
func (w *watcher) lists(v View, all []*starling.Deployment) {
	for _, f := range []starling.DeploymentFilter{{}, {App: "a"}, {Active: true}, {App: "b", Active: true}} {
		var want []*starling.Deployment
		for _, d := range all {
			if (f.App == "" || d.App == f.App) && !(f.Active && d.Phase.Terminal()) {
				want = append(want, d)
			}
		}
		slices.SortFunc(want, func(a, b *starling.Deployment) int { return byAge(v.deployment(b.ID), v.deployment(a.ID)) })
		var got []*starling.Deployment
		for f.Limit = 3; ; {
			page := v.Deployments(f)
			if got = append(got, page...); len(page) < f.Limit {
				break
			}
			f.Before = page[len(page)-1].ID
		}
		if !slices.Equal(want, got) {
			w.rt.Fatalf("list %+v gives %d deployments in pages, want %d", f, len(got), len(want))
		}
	}
}

func (w *watcher) counters(v View, all []*starling.Deployment) {
	for h := range scan[home](v.reader, tableHomes, byID, nil) {
		want := home{Name: h.rec.Name, Mirror: h.rec.Mirror}
		for _, d := range all {
			if d.Home == want.Name && d.Phase.Terminal() {
				want.Ended++
			} else if d.Home == want.Name {
				want.Active++
			}
		}
		for _, a := range v.Artifacts() {
			if a.Region == want.Name {
				want.Artifacts++
			}
		}
		for _, k := range v.Tokens() {
			if k.Region == want.Name {
				want.Tokens++
			}
		}
		if *h.rec != want {
			w.rt.Fatalf("counters are %+v, want %+v", *h.rec, want)
		}
	}
	events, _ := v.EventsAfter(0, 0, MaxEventsKept)
	if len(events) != v.meta.Events || len(events) < w.events {
		w.rt.Fatalf("%d events, %d counted, %d before", len(events), v.meta.Events, w.events)
	}
	w.events = len(events)
}

// checkMirrored pulls everything of a state in batches into another region and compares.
func checkMirrored(t failer, f *FSM) {
	v, west := f.View(), New("north")
	for index := uint64(1); ; index++ {
		m := v.ChangedSince("east", west.View().MirrorIndex("east"))
		if m.Index == west.View().MirrorIndex("east") {
			break
		}
		c, err := NewCommand(TypeMirror, epoch, "", Mirror{m})
		if err != nil {
			t.Fatal(err)
		}
		if r := west.Apply(&raft.Log{Index: index, Data: entryOf(t, c)}).([]Result); r[0].Err != nil {
			t.Fatal(r[0].Err)
		}
	}
	east := func(v View) string {
		m := starling.Mirror{}
		for r := range scan[starling.App](v.reader, tableApps, byID, nil) {
			if r.rec.Home == "east" {
				m.Apps = append(m.Apps, r.rec)
			}
		}
		for r := range scan[starling.Deployment](v.reader, tableDeployments, byID, nil) {
			if r.rec.Home == "east" {
				m.Deployments = append(m.Deployments, r.rec)
			}
		}
		for _, g := range v.Goals() {
			if g.Home == "east" {
				m.Goals = append(m.Goals, g)
			}
		}
		for _, a := range []string{"a", "b", "c"} {
			m.Releases = append(m.Releases, v.Releases(a)...)
		}
		m.Tokens = v.Tokens()
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if want, got := east(v), east(west.View()); want != got {
		t.Fatalf("the mirror differs:\n%s\n%s", want, got)
	}
}

type failer interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func entryOf(t failer, cmds ...Command) []byte {
	t.Helper()
	b, err := json.Marshal(Entry{EntryVersion, cmds})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func snapshotOf(t failer, f *FSM) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := f.View().WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func restored(t failer, f *FSM) *FSM {
	t.Helper()
	out := New(f.region)
	if err := out.Restore(io.NopCloser(bytes.NewReader(snapshotOf(t, f)))); err != nil {
		t.Fatal(err)
	}
	return out
}
