package raftfsm

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// TestTakeoverModel explores what can become of a few regions of which the
// first is the home of an app: campaigns, votes given, refused and lost on their way,
// takeovers by votes and by order, step by step, even long after others have gone on;
// copies pulled in any order; the old home going on all the while, as one that is cut off
// without a lease would. Every state is one of real state machines. In each of them:
//
//   - no app has two homes at one epoch, now or ever before;
//   - no region's goal goes back;
//   - a deployment that has ended changes only with a higher epoch;
//   - of a sample: once everybody has heard of everything, all regions say the same, one of
//     them is the home, nothing is left over elsewhere, and a retry finds its deployment.
//
// STARLING_MODEL_STATES sets how many states are visited at most; with 1000000 the first
// four cases are visited in full (make model). Otherwise it is a part of them, from both
// ends: the short histories and some of the longest.
func TestTakeoverModel(t *testing.T) {
	states := 150 * rounds * rounds // few under the race detector: there is one goroutine
	if n, err := strconv.Atoi(os.Getenv("STARLING_MODEL_STATES")); err == nil {
		states = n
	}
	for _, tt := range []struct {
		regions int
		bounds  modelBounds
		kinds   []string // of events that must have been among them
	}{
		{3, modelBounds{campaigns: 2}, []string{"vote", "lost vote", "take", "step", "pull", "returned"}},
		{3, modelBounds{campaigns: 1, acts: 1}, []string{"vote", "take", "step", "pull", "brings", "fails", "submits"}},
		{3, modelBounds{orders: 2}, []string{"order", "step", "pull", "returned"}},
		{3, modelBounds{orders: 1, acts: 1}, []string{"order", "step", "pull", "returned", "brings", "fails", "submits"}},
		{3, modelBounds{campaigns: 2, orders: 1, acts: 2, lines: true}, []string{"vote", "order", "pull"}},
		{4, modelBounds{campaigns: 1, acts: 1, lines: true}, []string{"vote", "pull"}},
	} {
		t.Run(fmt.Sprintf("%d regions, %+v", tt.regions, tt.bounds), func(t *testing.T) {
			m := &model{t: t, names: []string{"a", "b", "c", "d"}[:tt.regions], seen: map[uint64]bool{}, seed: maphash.MakeSeed(), done: map[string]int{}}
			all := m.explore(tt.bounds, states)
			t.Logf("%d states (all there are: %v), %d transitions, %d settled; %v", len(m.seen), all, m.steps, m.settled, m.done)
			if len(m.seen) < states && !all {
				t.Errorf("only %d states of %d", len(m.seen), states)
			}
			for _, kind := range tt.kinds {
				if m.done[kind] == 0 && states > 2000 {
					t.Errorf("the model never did %s", kind)
				}
			}
		})
	}
}

// modelBounds bounds what happens within one history.
type modelBounds struct {
	campaigns, orders, acts int
	lines                   bool // campaigns for any region's apps, not the first one's only
}

// model explores states.
type model struct {
	t       *testing.T
	names   []string
	seed    maphash.Seed
	seen    map[uint64]bool
	steps   int
	settled int
	done    map[string]int
}

// world is one state: the regions', and what candidates know of votes given to them.
type world struct {
	m       *model
	fsms    []*FSM
	index   []uint64
	tallies []tally
	left    modelBounds
	homes   map[uint64]string // of the app, by epoch, ever
	story   *chapter
}

type tally struct {
	vote Vote
	from []string
}

// chapter is how a state came about, for the report of a failure.
type chapter struct {
	what   string
	before *chapter
}

func (c *chapter) String() string {
	if c == nil {
		return ""
	}
	return c.before.String() + "\n  " + c.what
}

// explore visits states until there are no new ones, or so many; it takes up the oldest
// and the newest of those that wait in turn.
func (m *model) explore(b modelBounds, states int) (all bool) {
	for waiting := []*world{m.begin(b)}; len(waiting) > 0; {
		var w *world
		if last := len(waiting) - 1; m.steps%2 == 0 {
			w, waiting = waiting[0], waiting[1:]
		} else {
			w, waiting = waiting[last], waiting[:last]
		}
		for _, s := range w.successors() {
			m.steps++
			key := s.key()
			if m.seen[key] {
				continue
			}
			if len(m.seen) >= states {
				return false
			}
			m.seen[key] = true
			s.check()
			if len(m.seen)%8 == 0 {
				s.fork("settle").settle()
			}
			waiting = append(waiting, s)
		}
	}
	return true
}

// begin makes the first state: the app is at a, with a deployment under way that all have
// seen and one queued that only a has.
func (m *model) begin(b modelBounds) *world {
	w := &world{m: m, left: b, homes: map[uint64]string{}, tallies: make([]tally, len(m.names)), index: make([]uint64, len(m.names))}
	for _, n := range m.names {
		f := New(n)
		f.limits.takeover = 1
		w.fsms = append(w.fsms, f)
	}
	for i := range w.fsms {
		for _, n := range m.names {
			w.must(i, TypeRegionUpsert, RegionUpsert{Region{Name: n}})
		}
	}
	art := starling.DigestOf([]byte("v1"))
	w.must(0, TypeAppApply, AppApply{App: starling.App{Name: "x"}})
	w.must(0, TypeArtifactRegister, ArtifactRegister{starling.Artifact{Digest: art, Bytes: 1}})
	w.must(0, TypeSubmit, Submit{ID: "d1", App: "x", Artifact: art, Regions: m.names, IdempotencyKey: "k1"})
	w.must(0, TypeStart, Start{ID: "d1"})
	for _, n := range m.names {
		w.must(0, TypePlaced, Placed{ID: "d1", Placing: starling.Placing{Name: n, Placed: true}})
	}
	w.must(0, TypeAdvance, Advance{ID: "d1", From: starling.PhaseReplicating, To: starling.PhaseStaging})
	w.must(0, TypeAdvance, Advance{ID: "d1", From: starling.PhaseStaging, To: starling.PhaseRollingOut})
	for i := 1; i < len(w.fsms); i++ {
		w.pull(i, 0)
	}
	w.must(0, TypeSubmit, Submit{ID: "d2", App: "x", Artifact: art, Regions: m.names, IdempotencyKey: "k2"})
	return w
}

func (w *world) fork(format string, args ...any) *world {
	c := *w
	c.fsms, c.index, c.tallies = slices.Clone(w.fsms), slices.Clone(w.index), slices.Clone(w.tallies)
	c.story = &chapter{fmt.Sprintf(format, args...), w.story}
	return &c
}

// try commits a command at a region of w, which must be a fork, on a state of its own.
func (w *world) try(i int, kind Type, payload any) Result {
	c, err := NewCommand(kind, epoch, "", payload)
	if err != nil {
		w.m.t.Fatal(err)
	}
	b, err := Encode([]Command{c})
	if err != nil {
		w.m.t.Fatal(err)
	}
	f := &FSM{region: w.m.names[i], limits: w.fsms[i].limits, waits: map[uint64]chan struct{}{}}
	db := &database{schema: w.fsms[i].db.Load().schema}
	db.current.Store(w.fsms[i].db.Load().current.Load())
	f.db.Store(db)
	before := w.fsms[i].View()
	r := f.Apply(&raft.Log{Index: w.index[i] + 1, Data: b}).([]Result)[0]
	if r.Err == nil {
		w.index[i]++
		w.fsms[i] = f
		w.compare(before, f.View())
	}
	return r
}

func (w *world) must(i int, kind Type, payload any) Result {
	r := w.try(i, kind, payload)
	if r.Err != nil {
		w.fail("%s at %s: %v", kind, w.m.names[i], r.Err)
	}
	return r
}

func (w *world) fail(format string, args ...any) {
	w.m.t.Helper()
	for i, f := range w.fsms {
		w.m.t.Logf("%s:\n%s%s%s", w.m.names[i], show(f.View(), "apps", ""), show(f.View(), "deployments", ""), show(f.View(), "takeovers", ""))
	}
	w.m.t.Fatalf("%s\nafter%s", fmt.Sprintf(format, args...), w.story)
}

// compare checks what one entry did to one region.
func (w *world) compare(before, after View) {
	old, _ := before.Goal("x")
	g, _ := after.Goal("x")
	if old != nil && (g == nil || g != old && !g.Supersedes(old)) {
		w.fail("the goal goes from %+v to %+v", old, g)
	}
	for _, d := range before.Deployments(starling.DeploymentFilter{}) {
		now, ok := after.Deployment(d.ID)
		if d.Phase.Terminal() && (!ok || now.Phase != d.Phase && now.CurrentEpoch() <= d.CurrentEpoch()) {
			w.fail("%s, which had ended as %s, is %+v", d.ID, d.Phase, now)
		}
	}
}

// pull brings i what changed at j; false if there is nothing.
func (w *world) pull(i, j int) bool {
	from := w.m.names[j]
	seen := w.fsms[i].View().MirrorIndex(from)
	m := w.fsms[j].View().ChangedSince(from, seen)
	if m.Index == seen {
		return false
	}
	w.must(i, TypeMirror, Mirror{m})
	return true
}

// successors returns every state that one event leads to.
func (w *world) successors() []*world {
	var out []*world
	add := func(kind string, s *world) {
		w.m.done[kind]++
		out = append(out, s)
	}
	for i, self := range w.m.names {
		v := w.fsms[i].View()
		for j, other := range w.m.names {
			if i == j {
				continue
			}
			if s := w.fork("%s pulls from %s", self, other); s.pull(i, j) {
				add("pull", s)
			}
			w.asked(i, j, add)
			if w.left.orders > 0 {
				s := w.fork("%s is ordered to take over %s", self, other)
				if s.left.orders--; s.try(i, TypeTakeover, Takeover{From: other, Epoch: v.NextEpoch(other)}).Err == nil {
					add("order", s)
				}
			}
		}
		for _, lost := range w.m.names {
			if lost == "a" || w.left.lines {
				w.campaign(i, lost, add)
			}
			if tk, ok := v.Takeover(lost); ok && tk.To == self && tk.Stage == starling.TakeoverDone {
				w.goOn(i, tk, add)
			}
		}
		for _, tk := range v.Unfinished() {
			w.goOn(i, tk, add)
		}
		if ta := w.tallies[i]; 2*len(ta.from) > len(w.m.names) {
			s := w.fork("%s takes over %s at epoch %d with %v", self, ta.vote.Lost, ta.vote.Epoch, ta.from)
			s.tallies[i] = tally{}
			if s.try(i, TypeTakeover, Takeover{From: ta.vote.Lost, Epoch: ta.vote.Epoch, Votes: ta.from}).Err == nil {
				add("take", s)
			}
		}
		w.act(i, add)
	}
	return out
}

// campaign lets a region vote for itself; what it knew of an earlier campaign is lost, as
// in a crash.
func (w *world) campaign(i int, lost string, add func(string, *world)) {
	if w.left.campaigns == 0 {
		return
	}
	self, v := w.m.names[i], w.fsms[i].View()
	mirror := v.MirrorIndex(lost)
	if lost == self {
		mirror = v.Index()
	}
	vote := Vote{Lost: lost, Epoch: v.NextEpoch(lost), Candidate: self, Regions: w.m.names, Mirror: mirror}
	s := w.fork("%s campaigns for %s at epoch %d", self, lost, vote.Epoch)
	if s.left.campaigns--; s.try(i, TypeVote, vote).Err == nil {
		s.tallies[i] = tally{vote, []string{self}}
		add("campaign", s)
	}
}

// asked lets region j hear of candidate i's campaign: its vote gets back, or is lost.
func (w *world) asked(i, j int, add func(string, *world)) {
	self, other, ta := w.m.names[i], w.m.names[j], w.tallies[i]
	if ta.vote.Epoch == 0 || ta.vote.Lost == other || slices.Contains(ta.from, other) {
		return
	}
	s := w.fork("%s votes for %s, which hears of it", other, self)
	if s.try(j, TypeVote, ta.vote).Err != nil {
		return
	}
	s.tallies[i].from = append(slices.Clone(ta.from), other)
	add("vote", s)
	lost := w.fork("%s votes for %s, which does not hear of it", other, self)
	lost.must(j, TypeVote, ta.vote)
	add("lost vote", lost)
}

// goOn carries a takeover on, or ends it when the other region has seen all of it.
func (w *world) goOn(i int, tk *starling.Takeover, add func(string, *world)) {
	self := w.m.names[i]
	switch from := slices.Index(w.m.names, tk.From); {
	case tk.Stage == starling.TakeoverBegun:
		s := w.fork("%s goes on taking over %s", self, tk.From)
		s.must(i, TypeTakeover, Takeover{From: tk.From, Epoch: tk.Epoch, Votes: tk.Votes})
		add("step", s)
	case tk.Stage == starling.TakeoverDone && from != i && w.fsms[from].View().MirrorIndex(self) >= w.fsms[i].View().TakeoverIndex(tk.From):
		s := w.fork("%s knows that %s has returned", self, tk.From)
		s.must(i, TypeReturned, Returned{Region: tk.From})
		add("returned", s)
	}
}

// act lets a region that thinks it is the home do what homes do.
func (w *world) act(i int, add func(string, *world)) {
	self, v := w.m.names[i], w.fsms[i].View()
	if a, ok := v.App("x"); !ok || a.Home != self || w.left.acts == 0 {
		return
	}
	commands := map[string]func(s *world) Result{
		"submits d3": func(s *world) Result {
			return s.try(i, TypeSubmit, Submit{ID: "d3-" + self, App: "x", Artifact: starling.DigestOf([]byte("v1")), IdempotencyKey: "k3"})
		},
	}
	if d, ok := v.UnderWay("x"); ok {
		commands["fails "+d.ID] = func(s *world) Result {
			return s.try(i, TypeFinish, Finish{ID: d.ID, Phase: starling.PhaseFailed, Reason: "no"})
		}
		commands["brings "+d.ID+" to its end"] = func(s *world) Result {
			return s.try(i, TypeAdvance, Advance{ID: d.ID, From: d.Phase, To: starling.PhaseSucceeded})
		}
	} else if next := v.Startable(); len(next) > 0 {
		commands["starts "+next[0].ID] = func(s *world) Result { return s.try(i, TypeStart, Start{ID: next[0].ID}) }
	}
	for _, what := range slices.Sorted(maps.Keys(commands)) {
		do := commands[what]
		s := w.fork("%s %s", self, what)
		if s.left.acts--; do(s).Err == nil {
			add(strings.Fields(what)[0], s)
		}
	}
}

// check looks at one state.
func (w *world) check() {
	homes := w.homes
	for i, f := range w.fsms {
		a, ok := f.View().App("x")
		if !ok {
			w.fail("%s has no app", w.m.names[i])
		}
		if was := homes[a.CurrentEpoch()]; was != "" && was != a.Home {
			w.fail("at epoch %d both %s and %s are the home", a.CurrentEpoch(), was, a.Home)
		} else if was == "" {
			homes = cloneWith(homes, a.CurrentEpoch(), a.Home)
		}
	}
	w.homes = homes
}

func cloneWith(m map[uint64]string, k uint64, v string) map[uint64]string {
	out := map[uint64]string{k: v}
	for k, v := range m {
		out[k] = v
	}
	return out
}

// settle lets everybody hear of everything, and compares.
func (w *world) settle() {
	w.m.settled++
	for round, busy := 0, true; busy; round++ {
		if round > 100 {
			w.fail("it never settles")
		}
		busy = false
		for i := range w.fsms {
			for j := range w.fsms {
				if i != j && w.pull(i, j) {
					busy = true
				}
			}
			v := w.fsms[i].View()
			for _, tk := range slices.Concat(v.Unfinished(), v.Takeovers()) {
				if tk.To != w.m.names[i] {
					continue
				}
				w.goOn(i, tk, func(_ string, s *world) {
					w.fsms, w.index, busy = s.fsms, s.index, true
				})
			}
		}
	}
	w.check()
	want := w.says(0)
	for i := range w.fsms {
		if got := w.says(i); got != want {
			w.fail("all have heard everything, and\n%s says\n%s%s says\n%s", w.m.names[0], want, w.m.names[i], got)
		}
	}
	a, _ := w.fsms[0].View().App("x")
	for i, f := range w.fsms {
		v := f.View()
		if n := len(v.Active()); n > 0 && a.Home != w.m.names[i] {
			w.fail("%s is not the home and has %d deployments to go on with", w.m.names[i], n)
		}
		for _, d := range v.Deployments(starling.DeploymentFilter{Active: true}) {
			if d.Home != a.Home || d.CurrentEpoch() != a.CurrentEpoch() {
				w.fail("%s, homed at %s, has not ended, and the home is %s", d.ID, d.Home, a.Home)
			}
		}
		// A retry finds the same deployment everywhere, and d1, which all had seen, is there.
		if l, _ := v.submitted("x", "k1"); l.Deployment == nil || l.Deployment.ID != "d1" {
			w.fail("the key of d1 stands for %+v", l)
		}
	}
}

// says is what a region would tell people.
func (w *world) says(i int) string {
	v := w.fsms[i].View()
	return show(v, "apps", "") + show(v, "goals", "") + byName(show(v, "deployments", "")) + show(v, "releases", "x") + show(v, "takeovers", "")
}

func byName(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// key identifies a state: what the regions hold and what is on its way.
func (w *world) key() uint64 {
	var h maphash.Hash
	h.SetSeed(w.m.seed)
	num := func(n uint64) { h.Write(binary.BigEndian.AppendUint64(nil, n)) }
	str := func(parts ...string) {
		for _, p := range parts {
			h.WriteString(p)
			h.WriteByte(0)
		}
	}
	for i, f := range w.fsms {
		v := f.View()
		num(uint64(i))
		for r := range scan[starling.App](v.reader, tableApps, byID, nil) {
			str(r.rec.Home)
			num(r.rec.Epoch)
			num(r.mod)
		}
		for r := range scan[starling.Goal](v.reader, tableGoals, byID, nil) {
			str(r.rec.Home, r.rec.Deployment)
			num(r.rec.Generation.Epoch)
			num(r.rec.Generation.Sequence)
			num(r.rec.Revision)
			num(r.mod)
		}
		for r := range scan[starling.Deployment](v.reader, tableDeployments, byID, nil) {
			str(r.rec.ID, r.rec.Home, string(r.rec.Phase))
			num(r.rec.Epoch)
			num(r.mod)
		}
		for r := range scan[starling.Release](v.reader, tableReleases, byID, nil) {
			str(r.rec.Home, r.rec.Deployment)
			num(r.mod)
		}
		for r := range scan[starling.Takeover](v.reader, tableTakeovers, byID, nil) {
			str(r.rec.From, r.rec.To, string(r.rec.Stage))
			num(r.rec.Epoch)
			num(r.mod)
		}
		for r := range scan[Ballot](v.reader, tableBallots, byID, nil) {
			str(r.rec.Lost, r.rec.Candidate)
			num(r.rec.Epoch)
		}
		for _, n := range w.m.names {
			num(v.MirrorIndex(n))
		}
		str(w.tallies[i].vote.Lost, strings.Join(w.tallies[i].from, ","))
		num(w.tallies[i].vote.Epoch)
	}
	num(uint64(w.left.campaigns)<<16 | uint64(w.left.orders)<<8 | uint64(w.left.acts))
	for _, e := range slices.Sorted(maps.Keys(w.homes)) {
		num(e)
		str(w.homes[e])
	}
	return h.Sum64()
}
