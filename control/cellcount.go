package control

import (
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/rpc"
)

// count returns the merged state of the machines in cells that a goal selects. With many
// machines it may be up to recountLargeAfter old.
func (b *cellBoard) count(g *starling.Goal, now time.Time) rpc.CellApp {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.tallies[g.App]
	if t != nil && t.generation == g.Generation && t.revision == g.Revision {
		due := t.change != b.change || !t.until.IsZero() && !now.Before(t.until)
		if !due || len(b.cells) > 1 && now.Sub(t.countedAt) < recountLargeAfter && !b.small() {
			return t.merged
		}
	}
	t = &regionTally{generation: g.Generation, revision: g.Revision, change: b.change, countedAt: now}
	sel, err := starling.ParseSelector(g.Deploy.Targets)
	if err != nil { // validated at submission; selecting nothing is the safe reading
		return rpc.CellApp{}
	}
	for _, c := range b.cells {
		n := c.count(g, sel, now)
		t.merged = cell.AddApps(t.merged, n.merged)
		if !n.until.IsZero() && (t.until.IsZero() || n.until.Before(t.until)) {
			t.until = n.until
		}
	}
	b.tallies[g.App] = t
	return t.merged
}

// small reports whether counting all again costs nothing.
func (b *cellBoard) small() bool {
	n := 0
	for _, c := range b.cells {
		n += c.cell.Machines
	}
	return n < recountMachines
}

// count returns what the cell adds to the state of a goal.
func (c *cellState) count(g *starling.Goal, sel starling.Selector, now time.Time) *cellCount {
	n := c.counts[g.App]
	if n != nil && n.generation == g.Generation && n.revision == g.Revision && n.change == c.change && (n.until.IsZero() || now.Before(n.until)) {
		return n
	}
	n = &cellCount{generation: g.Generation, revision: g.Revision, change: c.change}
	for _, e := range c.accepted {
		part := e.on(g)
		if part == nil || part.Revision < g.Revision {
			part = c.behind(e.Alive, part, g, sel)
		}
		said := *part
		nameRegion(&said.Counts, c.region)
		n.merged = cell.AddApps(n.merged, said)
	}
	c.missing(n, g, sel, now)
	c.counts[g.App] = n
	return n
}

// on returns the report on a goal's generation, nil if there is none.
func (e *cellEntry) on(g *starling.Goal) *rpc.CellApp {
	for i := range e.Apps {
		if a := &e.Apps[i]; a.App == g.App && a.Generation == g.Generation {
			return a
		}
	}
	return nil
}

// behind makes a report on a goal that a part of the cell has not heard of yet, or only in
// an older revision: its machines are targets, and due as the goal says, and have got as
// far as was reported.
func (c *cellState) behind(alive starling.Slots, part *rpc.CellApp, g *starling.Goal, sel starling.Selector) *rpc.CellApp {
	out := rpc.CellApp{}
	if part != nil {
		out = *part
	}
	target, due := 0, 0
	for slot, m := range c.machines {
		if m != nil && alive.Has(slot) && c.targets(m, sel) {
			target++
			if dueNow(m, g) {
				due++
			}
		}
	}
	out.Counts.Target = target
	out.Counts.Due = due + out.Counts.Failed // which of them were due is not known: more is awaited than need be, for a moment
	return &out
}

// missing adds the machines that no report shows. Some are awaited for a while, the others are absent.
func (c *cellState) missing(n *cellCount, g *starling.Goal, sel starling.Selector, now time.Time) {
	for slot, m := range c.machines {
		if m == nil || c.alive.Has(slot) || !c.targets(m, sel) {
			continue
		}
		until := c.awaitedUntil(slot)
		if !now.Before(until) {
			n.merged.Counts.Absent++
			continue
		}
		n.merged.Counts.Target++
		if dueNow(m, g) {
			n.merged.Counts.Due++
		}
		if n.until.IsZero() || until.Before(n.until) {
			n.until = until
		}
	}
}

// awaitedUntil returns until when a machine that no report shows is awaited: one that has just
// come to the cell, and one of a cell that has fallen silent as a whole. That says nothing of its machines: the
// speaker may have died, and it takes gossip a while to find that out.
func (c *cellState) awaitedUntil(slot int) (until time.Time) {
	if came := c.came[slot]; !came.IsZero() {
		until = came.Add(arriveWithin)
	}
	if spoke := c.heardAt.Add(speakWithin); len(c.accepted) == 0 && c.seen.Has(slot) && spoke.After(until) {
		until = spoke
	}
	return until
}

// targets reports whether goals with a selector are for a machine.
func (c *cellState) targets(m *starling.Machine, sel starling.Selector) bool {
	if m.Standing != starling.StandingActive {
		return false
	}
	return sel.Matches(&starling.Node{Name: m.Name, Region: c.region, Zone: m.Zone, Rack: m.Rack, Tags: m.Tags})
}

func dueNow(m *starling.Machine, g *starling.Goal) bool {
	return g.Stage.AtLeast(starling.StageActivate) && g.Cutoff.Selects(m.Name, g.Deployment)
}

// nameRegion says of all machines that counts name where they are.
func nameRegion(c *starling.Counts, region string) {
	c.Samples, c.Distrusted, c.Slowest = slices.Clone(c.Samples), slices.Clone(c.Distrusted), slices.Clone(c.Slowest)
	for i := range c.Samples {
		c.Samples[i].Region = region
	}
	for i := range c.Distrusted {
		c.Distrusted[i].Region = region
	}
	for i := range c.Slowest {
		c.Slowest[i].Region = region
	}
}

// sameCellReport reports whether two reports lead to the same decisions and numbers.
func sameCellReport(a, b *rpc.CellReport) bool {
	return a.Version == b.Version && reflect.DeepEqual(a.Alive, b.Alive) && reflect.DeepEqual(a.Apps, b.Apps)
}

// progress tells how each cell stands with a goal, by name.
func (b *cellBoard) progress(g *starling.Goal, now time.Time) []starling.CellProgress {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []starling.CellProgress{}
	g = g.In(b.region)
	sel, err := starling.ParseSelector(g.Deploy.Targets)
	if err != nil { // validated at submission
		return out
	}
	for _, name := range slices.Sorted(maps.Keys(b.cells)) {
		c := b.cells[name]
		n := &c.count(g, sel, now).merged
		s := c.status(now)
		out = append(out, starling.CellProgress{
			Region: b.region, Cell: name, Zone: c.cell.Zone, Machines: c.cell.Machines, Alive: s.Alive, Speakers: s.Speakers, SilentMS: s.SilentMS,
			Counts: n.Counts, Progress: n.Progress, FetchMS: n.Fetch.Quantiles(),
		})
	}
	return out
}

// cellStatus is how a cell is heard.
type cellStatus struct {
	Alive    int      // machines that its reports show
	Speakers []string // whose reports count
	SilentMS int64    // since the last report; -1: none in this term
}

func (c *cellState) status(now time.Time) cellStatus {
	s := cellStatus{SilentMS: -1}
	for slot, m := range c.machines {
		if m != nil && c.alive.Has(slot) {
			s.Alive++
		}
	}
	for _, e := range c.accepted {
		s.Speakers = append(s.Speakers, e.Relay.Name)
	}
	if !c.heardAt.IsZero() {
		s.SilentMS = max(0, now.Sub(c.heardAt).Milliseconds())
	}
	return s
}

// alive returns how many machines the cells' reports show.
func (b *cellBoard) alive() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, c := range b.cells {
		for slot, m := range c.machines {
			if m != nil && c.alive.Has(slot) {
				n++
			}
		}
	}
	return n
}

// cellSums are what a leader knows of its cells at a moment.
type cellSums struct {
	cells, silent   int           // silent: without a report that counts
	machines, alive int           // alive: that a report shows
	oldest          time.Duration // since the last report of the cell that has been quiet longest, or since the term began
	heard           int           // reports in this term
}

func (b *cellBoard) sums(now time.Time) cellSums {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := cellSums{cells: len(b.cells), heard: b.heard}
	for _, c := range b.cells {
		st := c.status(now)
		s.machines += c.cell.Machines
		s.alive += st.Alive
		if len(c.accepted) == 0 {
			s.silent++
		}
		last := c.heardAt
		if last.IsZero() {
			last = b.since
		}
		s.oldest = max(s.oldest, now.Sub(last))
	}
	return s
}
