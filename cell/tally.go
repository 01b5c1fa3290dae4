package cell

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Tally holds the last report of each machine on each app and merges them with the
// membership. It is for one goroutine at a time.
type Tally struct {
	region string
	nodes  []starling.Node // sorted by name
	barred map[string]bool // machines that no goal targets
	// version counts changes of who is there, stamp those of anything that is counted.
	version, stamp uint64
	apps           map[string]*appTally
}

// appTally is the merged state of the machines that one revision of a goal targets.
type appTally struct {
	entries map[string]*entry // by node
	goal    *starling.Goal    // that targets were chosen for; nil: none were
	version uint64
	targets []target
	absent  int

	fresh     bool // merged holds every report
	countedAt time.Time
	merged    rpc.CellApp
	stamp     uint64
	putAt     time.Time // of the last report
}

// entry is a machine's last word on an app; State is empty before the first.
type entry struct {
	report starling.MachineReport
	at     time.Time
}

// target is one live machine that a goal selects.
type target struct {
	entry *entry
	due   bool
}

// Change says how much a report was news.
type Change int

// The changes.
const (
	Same    Change = iota
	Numbers        // how far the machine is
	State          // where it stands
)

// NewTally returns one without members. The region is what samples name.
func NewTally(region string) *Tally { return &Tally{region: region, apps: map[string]*appTally{}} }

// SetMembers takes the present members, sorted by name, and forgets those that left. Dead
// ones count as absent where a goal selects them. The slice is kept.
func (t *Tally) SetMembers(nodes []starling.Node) {
	known := make(map[string]bool, len(nodes))
	for i := range nodes {
		known[nodes[i].Name] = true
	}
	t.nodes = nodes
	t.version++
	for _, a := range t.apps {
		for name := range a.entries {
			if !known[name] {
				delete(a.entries, name)
			}
		}
	}
}

// SetDraining takes the machines that no goal targets.
func (t *Tally) SetDraining(names []string) {
	if len(names) == len(t.barred) && !slices.ContainsFunc(names, func(n string) bool { return !t.barred[n] }) {
		return
	}
	t.barred = make(map[string]bool, len(names))
	for _, n := range names {
		t.barred[n] = true
	}
	t.version++
}

// KeepApps forgets apps without a goal, unless they were reported on after since.
func (t *Tally) KeepApps(goals []*starling.Goal, since time.Time) {
	if len(t.apps) == 0 {
		return
	}
	have := make(map[string]bool, len(goals))
	for _, g := range goals {
		have[g.App] = true
	}
	maps.DeleteFunc(t.apps, func(app string, a *appTally) bool { return !have[app] && !a.putAt.After(since) })
}

// Knows reports whether anything is kept on an app.
func (t *Tally) Knows(app string) bool { return t.apps[app] != nil }

// Apps returns how many apps anything is kept on.
func (t *Tally) Apps() int { return len(t.apps) }

// Record takes a machine's report. One on another generation than that which is counted
// is kept for when that has come. A machine that is no member fails with ErrUnavailable:
// the report is to be sent again.
func (t *Tally) Record(r starling.MachineReport, at time.Time) (Change, error) {
	clean(&r)
	if _, ok := slices.BinarySearchFunc(t.nodes, r.Node, compareName); !ok {
		return Same, fmt.Errorf("machine %.80q is not in gossip yet: %w", r.Node, starling.ErrUnavailable)
	}
	a := t.app(r.App)
	a.putAt = at
	e := a.entry(r.Node)
	old := &e.report
	change := Same
	switch {
	case old.State != r.State || old.Generation != r.Generation || old.Reason != r.Reason || !slices.Equal(old.Distrusted, r.Distrusted):
		change = State
	case old.Bytes != r.Bytes || old.ChunksDone != r.ChunksDone || old.FetchMS != r.FetchMS || !slices.Equal(old.Kept, r.Kept):
		change = Numbers
	}
	e.report, e.at = r, at
	if change != Same {
		a.fresh = false
	}
	return change, nil
}

// clean bounds what a machine says: nonsense must not spoil the sums.
func clean(r *starling.MachineReport) {
	r.Reason = clip(r.Reason, starling.MaxReasonBytes)
	r.Kept = r.Kept[:min(len(r.Kept), maxKeptPerApp)]
	var plain []starling.Distrust
	for _, d := range r.Distrusted[:min(len(r.Distrusted), starling.MaxDistrusted)] {
		if d, ok := d.Plain(); ok {
			plain = append(plain, d)
		}
	}
	r.Distrusted = plain
	if !r.Bytes.Within(maxMachineBytes) {
		r.Bytes = starling.Bytes{}
	}
	r.FetchMS = max(0, r.FetchMS)
	if !r.Bound.Valid() {
		r.Bound = ""
	}
}

func compareName(n starling.Node, name string) int { return cmp.Compare(n.Name, name) }

func (t *Tally) app(name string) *appTally {
	a := t.apps[name]
	if a == nil {
		a = &appTally{entries: map[string]*entry{}}
		t.apps[name] = a
	}
	return a
}

func (a *appTally) entry(node string) *entry {
	e := a.entries[node]
	if e == nil {
		e = &entry{}
		a.entries[node] = e
	}
	return e
}

// Count returns the merged state of the machines that goal selects, and a stamp that
// grows when it may have changed. With thousands of machines it may be up to recountAfter old.
func (t *Tally) Count(goal *starling.Goal, now time.Time) (merged rpc.CellApp, stamp uint64) {
	a := t.app(goal.App)
	if g := a.goal; g == nil || g.Generation != goal.Generation || g.Revision != goal.Revision || a.version != t.version {
		t.aim(a, goal)
	}
	if !a.fresh && (a.countedAt.IsZero() || len(a.targets) < recountMachines || now.Sub(a.countedAt) >= recountAfter) {
		a.recount(t.region)
		t.stamp++
		a.fresh, a.countedAt, a.stamp = true, now, t.stamp
	}
	return a.merged, a.stamp
}

// aim chooses the machines of a goal and those whose turn has come.
func (t *Tally) aim(a *appTally, goal *starling.Goal) {
	a.goal, a.version, a.fresh, a.countedAt = goal, t.version, false, time.Time{}
	a.targets, a.absent = a.targets[:0], 0
	sel, err := starling.ParseSelector(goal.Deploy.Targets)
	if err != nil { // validated at submission; selecting nothing is the safe reading
		return
	}
	active := goal.Stage.AtLeast(starling.StageActivate) && !goal.Holds(t.region)
	for i := range t.nodes {
		n := &t.nodes[i]
		switch {
		case t.barred[n.Name] || !sel.Matches(n):
		case !n.Alive:
			a.absent++
		default:
			due := active && goal.Cutoff.Selects(n.Name, goal.Deployment)
			a.targets = append(a.targets, target{a.entry(n.Name), due})
		}
	}
}

// Chosen counts the members that a selector chooses and that take part.
func (t *Tally) Chosen(sel starling.Selector) (live, absent int) {
	for i := range t.nodes {
		switch n := &t.nodes[i]; {
		case t.barred[n.Name] || !sel.Matches(n):
		case n.Alive:
			live++
		default:
			absent++
		}
	}
	return live, absent
}

// recount merges the reports. A machine that failed counts as due wherever its place
// is, for nothing more is awaited of it: a wave is settled when healthy and failed
// machines make up those due. Healthy are only those whose turn has come.
func (a *appTally) recount(region string) {
	out := rpc.CellApp{
		App: a.goal.App, Generation: a.goal.Generation, Revision: a.goal.Revision,
		Counts: starling.Counts{Target: len(a.targets), Absent: a.absent},
	}
	c := &out.Counts
	accused := map[starling.Distrust]*starling.Accused{}
	held := map[starling.Digest]int{}
	for _, m := range a.targets {
		r := &m.entry.report
		if m.due {
			c.Due++
		}
		if r.Generation != a.goal.Generation {
			out.Unheard++
			continue
		}
		out.Bytes = out.Bytes.Add(r.Bytes)
		countAccused(accused, region, r)
		for _, d := range r.Kept {
			if d != a.goal.Artifact {
				held[d]++
			}
		}
		if r.FetchMS > 0 {
			c.Slowest = addSlowest(c.Slowest, starling.SlowMachine{Node: r.Node, Region: region, FetchMS: r.FetchMS, Bound: r.Bound})
		}
		count(&out, m.due, region, r)
	}
	for _, one := range accused {
		c.Distrusted = append(c.Distrusted, *one)
	}
	c.Distrusted = starling.MergeAccused(c.Distrusted)
	out.Held = mostHeld(held)
	out.Bytes.New, out.Bytes.WAN = 0, 0 // not a machine's to say
	a.merged = out
}

// count adds one machine's state.
func count(out *rpc.CellApp, due bool, region string, r *starling.MachineReport) {
	c := &out.Counts
	switch r.State {
	case starling.MachineStaged, starling.MachineActivating, starling.MachineHealthy:
		c.Staged++
		if due && r.State == starling.MachineHealthy {
			c.Healthy++
		}
		out.Progress.Count(1, 1)
		if r.FetchMS > 0 {
			out.Fetch.Count(r.FetchMS)
		}
		return
	case starling.MachineFailed:
		c.Failed++
		if !due {
			c.Due++
		}
		if len(c.Samples) < starling.MaxFailureSamples {
			c.Samples = append(c.Samples, starling.FailureSample{Node: r.Node, Region: region, Reason: r.Reason})
		}
	}
	out.Progress.Count(r.ChunksDone, r.ChunksTotal)
}

// addSlowest keeps the slowest few without sorting for each machine.
func addSlowest(all []starling.SlowMachine, m starling.SlowMachine) []starling.SlowMachine {
	if n := len(all); n == starling.MaxSlowestMachines && m.FetchMS < all[n-1].FetchMS {
		return all
	}
	return starling.SlowestOf(append(all, m))
}

// countAccused adds what one machine says of others, each once.
func countAccused(sum map[starling.Distrust]*starling.Accused, region string, r *starling.MachineReport) {
	for i, d := range r.Distrusted {
		key := starling.Distrust{Node: d.Node, Cache: d.Cache}
		again := slices.ContainsFunc(r.Distrusted[:i], func(x starling.Distrust) bool { return x.Node == d.Node && x.Cache == d.Cache })
		a := sum[key]
		switch {
		case again:
		case a != nil:
			a.Accusers++
			if r.Node < a.By {
				a.By, a.Reason = r.Node, d.Reason
			}
		case len(sum) < maxAccusedPerApp:
			sum[key] = &starling.Accused{Node: d.Node, Region: region, Cache: d.Cache, Reason: d.Reason, By: r.Node, Accusers: 1}
		}
	}
}

// mostHeld keeps the releases that most machines hold, by digest.
func mostHeld(held map[starling.Digest]int) map[string]int {
	if len(held) == 0 {
		return nil
	}
	all := slices.SortedFunc(maps.Keys(held), func(a, b starling.Digest) int {
		return cmp.Or(cmp.Compare(held[b], held[a]), slices.Compare(a[:], b[:]))
	})
	out := map[string]int{}
	for _, d := range all[:min(len(all), maxHeldPerApp)] {
		out[d.String()] = held[d]
	}
	return out
}

// Last returns a machine's last report on each app, by app, and when it came.
func (t *Tally) Last(node string) (reports []starling.MachineReport, seen time.Time) {
	for _, app := range slices.Sorted(maps.Keys(t.apps)) {
		e := t.apps[app].entries[node]
		if e == nil || e.at.IsZero() {
			continue
		}
		reports = append(reports, e.report)
		if e.at.After(seen) {
			seen = e.at
		}
	}
	return reports, seen
}

// clip cuts s to n bytes without breaking a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const mark = "…"
	cut := n - len(mark)
	for cut > 0 && s[cut]&0xC0 == 0x80 {
		cut--
	}
	return s[:cut] + mark
}
