package control

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// machineBoard holds the last report of each machine on each app and merges them
// with the membership. It lives in the leader's memory, for one term.
type machineBoard struct {
	region string

	mu      sync.Mutex
	nodes   []starling.Node                     // members that are machines, sorted by name
	version uint64                              // of nodes
	apps    map[string]map[string]*machineEntry // by app and node
	tallies map[string]*machineTally            // by app
}

// machineEntry is a machine's last word on an app; State is empty before the first.
type machineEntry struct {
	report starling.MachineReport
	at     time.Time
}

// machineTally is the merged state of the machines that one revision of a goal targets.
type machineTally struct {
	generation starling.Generation
	revision   uint64
	version    uint64 // of the membership
	targets    []machineTarget
	absent     int

	fresh     bool // counts and bytes hold every report
	countedAt time.Time
	counts    starling.Counts
	bytes     starling.Bytes
}

// machineTarget is one live machine that a goal selects.
type machineTarget struct {
	entry *machineEntry
	due   bool
}

func newMachineBoard(region string) *machineBoard {
	return &machineBoard{
		region:  region,
		apps:    map[string]map[string]*machineEntry{},
		tallies: map[string]*machineTally{},
	}
}

// setMembers takes the present membership and forgets machines that left it.
func (b *machineBoard) setMembers(all []starling.Node) {
	var nodes []starling.Node
	for _, n := range all {
		if n.Has(starling.RoleMachine) {
			nodes = append(nodes, n)
		}
	}
	known := make(map[string]bool, len(nodes))
	for i := range nodes {
		known[nodes[i].Name] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = nodes
	b.version++
	for _, entries := range b.apps {
		for name := range entries {
			if !known[name] {
				delete(entries, name)
			}
		}
	}
}

// keepApps forgets apps that have no goal any more.
func (b *machineBoard) keepApps(goals []*starling.Goal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.apps) == 0 && len(b.tallies) == 0 {
		return
	}
	have := make(map[string]bool, len(goals))
	for _, g := range goals {
		have[g.App] = true
	}
	for app := range b.apps {
		if !have[app] {
			delete(b.apps, app)
		}
	}
	for app := range b.tallies {
		if !have[app] {
			delete(b.tallies, app)
		}
	}
}

// record takes a machine's report and tells whether it changed anything. A report on
// another generation than the goal's is dropped. One of a machine that gossip does
// not know yet fails with ErrUnavailable: it is to be sent again.
func (b *machineBoard) record(goal *starling.Goal, r starling.MachineReport, at time.Time) (bool, error) {
	if r.Generation != goal.Generation {
		return false, nil
	}
	r.Reason = clip(r.Reason, starling.MaxReasonBytes)
	r.Kept = r.Kept[:min(len(r.Kept), maxKeptPerReport)]
	r.Distrusted = plainDistrust(r.Distrusted)
	if !r.Bytes.Within(maxMachineBytes) {
		r.Bytes = starling.Bytes{} // nonsense must not spoil the sums
	}
	r.FetchMS = max(0, r.FetchMS)
	if !r.Bound.Valid() {
		r.Bound = ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := slices.BinarySearchFunc(b.nodes, r.Node, compareNodeName); !ok {
		return false, fmt.Errorf("machine %.80q is not in gossip yet: %w", r.Node, starling.ErrUnavailable)
	}
	e := b.entry(goal.App, r.Node)
	changed := e.report.State != r.State || e.report.Generation != r.Generation || e.report.Bytes != r.Bytes ||
		!slices.Equal(e.report.Distrusted, r.Distrusted)
	e.report, e.at = r, at
	if t := b.tallies[goal.App]; t != nil && changed {
		t.fresh = false
	}
	return changed, nil
}

func compareNodeName(n starling.Node, name string) int {
	switch {
	case n.Name < name:
		return -1
	case n.Name > name:
		return 1
	}
	return 0
}

func (b *machineBoard) entry(app, node string) *machineEntry {
	entries := b.apps[app]
	if entries == nil {
		entries = map[string]*machineEntry{}
		b.apps[app] = entries
	}
	e := entries[node]
	if e == nil {
		e = &machineEntry{}
		entries[node] = e
	}
	return e
}

// count returns the merged state of the machines that goal selects. With thousands
// of machines it may be up to recountLargeAfter old.
func (b *machineBoard) count(goal *starling.Goal, now time.Time) (starling.Counts, starling.Bytes) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tallies[goal.App]
	if t == nil || t.generation != goal.Generation || t.revision != goal.Revision || t.version != b.version {
		t = b.target(goal)
		b.tallies[goal.App] = t
	}
	if !t.fresh && (t.countedAt.IsZero() || len(t.targets) < recountLargeMachines || now.Sub(t.countedAt) >= recountLargeAfter) {
		t.recount(b.region, goal.Generation)
		t.fresh, t.countedAt = true, now
	}
	return t.counts, t.bytes
}

// target chooses the machines of a goal and those whose turn has come.
func (b *machineBoard) target(goal *starling.Goal) *machineTally {
	t := &machineTally{generation: goal.Generation, revision: goal.Revision, version: b.version}
	sel, err := starling.ParseSelector(goal.Deploy.Targets)
	if err != nil { // validated at submission; selecting nothing is the safe reading
		return t
	}
	active := goal.Stage.AtLeast(starling.StageActivate)
	for i := range b.nodes {
		n := &b.nodes[i]
		switch {
		case !sel.Matches(n):
		case !n.Alive:
			t.absent++
		default:
			due := active && goal.Cutoff.Selects(n.Name, goal.Deployment)
			t.targets = append(t.targets, machineTarget{b.entry(goal.App, n.Name), due})
		}
	}
	return t
}

// recount merges the reports. A machine that failed counts as due wherever its place
// is, for nothing more is awaited of it: a wave is settled when healthy and failed
// machines make up those due. Healthy are only those whose turn has come.
func (t *machineTally) recount(region string, gen starling.Generation) {
	c := starling.Counts{Target: len(t.targets), Absent: t.absent}
	var sum starling.Bytes
	accused := map[starling.Distrust]*starling.Accused{}
	for _, m := range t.targets {
		r := &m.entry.report
		if m.due {
			c.Due++
		}
		if r.Generation != gen {
			continue
		}
		sum = sum.Add(r.Bytes)
		countAccused(accused, region, r)
		if r.FetchMS > 0 {
			c.Slowest = starling.SlowestOf(append(c.Slowest, starling.SlowMachine{Node: r.Node, Region: region, FetchMS: r.FetchMS, Bound: r.Bound}))
		}
		switch r.State {
		case starling.MachineStaged, starling.MachineActivating:
			c.Staged++
		case starling.MachineHealthy:
			c.Staged++
			if m.due {
				c.Healthy++
			}
		case starling.MachineFailed:
			c.Failed++
			if !m.due {
				c.Due++
			}
			if len(c.Samples) < starling.MaxFailureSamples {
				c.Samples = append(c.Samples, starling.FailureSample{Node: r.Node, Region: region, Reason: r.Reason})
			}
		}
	}
	for _, a := range accused {
		c.Distrusted = append(c.Distrusted, *a)
	}
	c.Distrusted = starling.MergeAccused(c.Distrusted)
	sum.New, sum.WAN = 0, 0 // not a machine's to say
	t.counts, t.bytes = c, sum
}

// statuses adds to each member what it last reported as a machine.
func (b *machineBoard) statuses(members []starling.Node) []starling.NodeStatus {
	out := make([]starling.NodeStatus, len(members))
	at := make(map[string]int, len(members))
	for i, n := range members {
		out[i].Node = n
		at[n.Name] = i
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for app, entries := range b.apps {
		for name, e := range entries {
			i, ok := at[name]
			if !ok || e.at.IsZero() {
				continue
			}
			s := &out[i]
			if !e.report.Running.IsZero() {
				if s.Running == nil {
					s.Running = map[string]starling.Digest{}
				}
				s.Running[app] = e.report.Running
			}
			if e.report.State == starling.MachineFailed && (s.Problem == "" || app+": " < s.Problem) {
				s.Problem = clip(app+": "+e.report.Reason, starling.MaxReasonBytes)
			}
			if e.at.After(s.SeenAt) {
				s.SeenAt = e.at
			}
		}
	}
	return out
}
