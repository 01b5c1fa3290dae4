package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// cellBoard holds what the cells of the region report of themselves, and counts machines
// by it and by the roster. It lives in the leader's memory, for one term.
type cellBoard struct {
	region string
	since  time.Time // of the term

	mu       sync.Mutex
	primed   bool // the roster has been looked at once
	turn     int  // of the cells, whose members are read again
	draining []*starling.Machine
	cells    map[string]*cellState
	roster   uint64 // grows with the cells and their members
	change   uint64 // grows with that, and with what is accepted
	tallies  map[string]*regionTally
	heard    int // reports taken in this term
}

// cellState is one cell as the leader sees it.
type cellState struct {
	region   string
	cell     *starling.Cell
	machines []*starling.Machine // by slot; nil: there is none
	came     []time.Time         // when each was first seen there; zero: at the beginning of the term

	reports  map[string]*cellEntry // by relay; maxReportsPerCell at most
	heardAt  time.Time             // of the last report; zero: none in this term
	accepted []*cellEntry          // that count, disjoint
	alive    starling.Slots        // of all that count
	seen     starling.Slots        // the same when there were any last
	change   uint64                // grows with all of this
	counts   map[string]*cellCount // by app
}

// cellEntry is the last report of one relay.
type cellEntry struct {
	rpc.CellReport
	at time.Time
}

// cellCount is what a cell adds to the state of a goal.
type cellCount struct {
	generation starling.Generation
	revision   uint64
	change     uint64    // of the cell
	until      time.Time // before this a machine is awaited that will be absent then; zero: none
	merged     rpc.CellApp
}

// regionTally is the sum over all cells for one revision of a goal.
type regionTally struct {
	generation starling.Generation
	revision   uint64
	change     uint64
	countedAt  time.Time
	until      time.Time // as cellCount's, the earliest
	merged     rpc.CellApp
}

func newCellBoard(region string, since time.Time) *cellBoard {
	return &cellBoard{region: region, since: since, cells: map[string]*cellState{}, tallies: map[string]*regionTally{}}
}

// look takes in who belongs to which cell, forgets what has fallen silent, and drops the
// counts of goals that are gone. It tells whether the roster has changed.
func (b *cellBoard) look(v raftfsm.View, goals []*starling.Goal, now time.Time) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	here := map[string]bool{}
	roster := b.roster
	cells := v.Cells()
	stale := b.restanding(v)
	if len(cells) > 0 { // what a machine says of itself changes without its cell: one after the other is read again
		b.turn = (b.turn + 1) % len(cells)
		stale[cells[b.turn].Name] = true
	}
	for _, c := range cells {
		here[c.Name] = true
		b.accept(b.refresh(v, c, now, stale[c.Name]), now, false) // some reports may be late by now, or silent
	}
	for name := range b.cells {
		if !here[name] {
			delete(b.cells, name)
			b.change++
			b.roster++
		}
	}
	b.primed = true
	b.keepApps(goals)
	return b.roster != roster
}

func (b *cellBoard) keepApps(goals []*starling.Goal) {
	if len(b.tallies) == 0 {
		return
	}
	have := make(map[string]bool, len(goals))
	for _, g := range goals {
		have[g.App] = true
	}
	gone := func(app string) bool { return !have[app] }
	maps.DeleteFunc(b.tallies, func(app string, _ *regionTally) bool { return gone(app) })
	for _, c := range b.cells {
		maps.DeleteFunc(c.counts, func(app string, _ *cellCount) bool { return gone(app) })
	}
}

// restanding returns the cells of machines that began or ceased to be drained.
func (b *cellBoard) restanding(v raftfsm.View) map[string]bool {
	stale := map[string]bool{}
	draining := v.MachinesIn(starling.StandingDraining)
	if slices.Equal(draining, b.draining) {
		return stale
	}
	here := make(map[*starling.Machine]bool, len(draining))
	for _, m := range draining {
		here[m] = true
	}
	for _, m := range b.draining {
		if !here[m] {
			stale[m.Cell] = true
		}
		delete(here, m)
	}
	for m := range here {
		stale[m.Cell] = true
	}
	b.draining = draining
	return stale
}

// refresh takes in a cell's record and members if it is not that which is known, or if
// they may have changed without it.
func (b *cellBoard) refresh(v raftfsm.View, record *starling.Cell, now time.Time, stale bool) *cellState {
	c := b.cells[record.Name]
	if c == nil {
		c = &cellState{region: b.region, reports: map[string]*cellEntry{}, counts: map[string]*cellCount{}}
		b.cells[record.Name] = c
	} else if c.cell == record && !stale || c.cell.Version > record.Version { // who asks may have looked at the state a while ago
		return c
	}
	old, came, was := c.machines, c.came, c.cell
	c.cell, c.machines, c.came = record, nil, nil
	for m := range v.MachinesOf(record.Name) {
		if m.Slot < 0 || m.Slot >= starling.MaxCellMachines {
			continue
		}
		for len(c.machines) <= m.Slot {
			c.machines, c.came = append(c.machines, nil), append(c.came, time.Time{})
		}
		c.machines[m.Slot] = m
		switch {
		case m.Slot < len(old) && old[m.Slot] != nil && old[m.Slot].Name == m.Name:
			c.came[m.Slot] = came[m.Slot]
		case b.primed:
			c.came[m.Slot] = now
		}
	}
	if was == record && slices.Equal(old, c.machines) {
		return c
	}
	c.change++
	b.change++
	b.roster++
	return c
}

// cellHeard is what becomes of a cell's report.
type cellHeard struct {
	seeds []string // members of parts of the cell that the relay does not see
	whole bool     // the report builds on one that is not known: it is to be said again
	news  bool     // it may lead to decisions
}

// record takes a relay's word on its cell. ErrFenced: the relay does not belong to it.
func (b *cellBoard) record(v raftfsm.View, r rpc.CellReport, now time.Time) (cellHeard, error) {
	if err := checkCellReport(&r, b.region); err != nil {
		return cellHeard{}, err
	}
	m, ok := v.Machine(r.Relay.Name)
	record, there := v.Cell(r.Cell)
	if !ok || !there || m.Cell != r.Cell || m.Standing == starling.StandingRevoked {
		return cellHeard{}, fmt.Errorf("machine %.80q is not of cell %.80q: it must register again: %w", r.Relay.Name, r.Cell, starling.ErrFenced)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heard++
	c := b.refresh(v, record, now, false)
	old := c.reports[r.Relay.Name]
	var before *rpc.CellReport
	if old != nil {
		before = &old.CellReport
	}
	if r, ok = cell.Whole(before, r); !ok {
		return cellHeard{whole: true}, nil
	}
	if old == nil && len(c.reports) >= maxReportsPerCell {
		c.forgetOldest()
	}
	c.reports[r.Relay.Name] = &cellEntry{r, now}
	c.heardAt = now
	out := cellHeard{news: old == nil || !sameCellReport(&old.CellReport, &r)}
	b.accept(c, now, out.news)
	for _, e := range c.reports {
		apart := e.Relay.Name != r.Relay.Name && e.Gossip != "" && !r.Alive.Has(c.slotOf(e.Relay.Name))
		if apart && len(out.seeds) < rpc.MaxTicketSeeds {
			out.seeds = append(out.seeds, e.Gossip)
		}
	}
	slices.Sort(out.seeds)
	return out, nil
}

func (c *cellState) forgetOldest() {
	oldest := slices.MinFunc(slices.Collect(maps.Values(c.reports)), func(x, y *cellEntry) int {
		return cmp.Or(x.at.Compare(y.at), cmp.Compare(x.Relay.Name, y.Relay.Name))
	})
	delete(c.reports, oldest.Relay.Name)
}

// slotOf returns a member's slot, -1 if it is none.
func (c *cellState) slotOf(name string) int {
	return slices.IndexFunc(c.machines, func(m *starling.Machine) bool { return m != nil && m.Name == name })
}

// accept chooses the reports that count: that of the best speaker, and of others that see
// none of the machines which those before them saw. news: what one of them says has changed.
func (b *cellBoard) accept(c *cellState, now time.Time, news bool) {
	var said []cell.Said
	for name, e := range c.reports {
		if now.Sub(e.at) >= rpc.CellSilentAfter {
			delete(c.reports, name)
			continue
		}
		said = append(said, cell.Said{Relay: name, Alive: e.Alive, At: e.at})
	}
	var accepted []*cellEntry
	for _, i := range cell.Merge(c.cell.Name, said, now) {
		accepted = append(accepted, c.reports[said[i].Relay])
	}
	sameRelay := func(x, y *cellEntry) bool { return x.Relay.Name == y.Relay.Name }
	if !news && slices.EqualFunc(accepted, c.accepted, sameRelay) {
		c.accepted = accepted
		c.arrived()
		return
	}
	c.accepted, c.alive = accepted, nil
	for _, e := range accepted {
		c.alive = c.alive.Union(e.Alive)
	}
	if len(accepted) > 0 {
		c.seen = c.alive
	}
	c.arrived()
	c.change++
	b.change++
}

// arrived notes who has been seen in the cell: once it is not any more, it is not awaited.
func (c *cellState) arrived() {
	for slot := range c.came {
		if c.alive.Has(slot) {
			c.came[slot] = time.Time{}
		}
	}
}

// known reports whether every cell has spoken that was there when the term began, or has
// had the time to.
func (b *cellBoard) known(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.primed {
		return false
	}
	if now.Sub(b.since) > rpc.CellSilentAfter {
		return true
	}
	for _, c := range b.cells {
		if c.heardAt.IsZero() && c.inherited() {
			return false
		}
	}
	return true
}

// inherited reports whether any member was there when the term began.
func (c *cellState) inherited() bool {
	for i, m := range c.machines {
		if m != nil && c.came[i].IsZero() {
			return true
		}
	}
	return false
}

// sees reports whether a cell shows a member alive that was recorded as m.
func (b *cellBoard) sees(m *starling.Machine, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.cells[m.Cell]
	if c == nil {
		return false
	}
	return slices.ContainsFunc(c.accepted, func(e *cellEntry) bool {
		return now.Sub(e.at) <= rpc.CellSilentAfter && e.Alive.Has(m.Slot)
	})
}

// speakers lists the gossip addresses of those who speak for a machine's cell, but for itself.
func (b *cellBoard) speakers(m *starling.Machine) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	if c := b.cells[m.Cell]; c != nil {
		for _, e := range c.accepted {
			if e.Relay.Name != m.Name && e.Gossip != "" {
				out = append(out, e.Gossip)
			}
		}
	}
	return out
}

// relaysFor lists those who report for a machine's cell, those first who see it.
func (b *cellBoard) relaysFor(m *starling.Machine, now time.Time) []starling.Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	var near, far []starling.Node
	if c := b.cells[m.Cell]; c != nil {
		for _, e := range c.accepted {
			switch {
			case now.Sub(e.at) > rpc.CellSilentAfter:
			case e.Alive.Has(m.Slot):
				near = append(near, e.Relay)
			default:
				far = append(far, e.Relay)
			}
		}
	}
	return append(near, far...)
}
