package raftfsm

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
)

// cellChoices bounds how many cells are looked at for one machine.
const cellChoices = 32

// rackShares is how many racks share what a cell gives to its whole zone.
const rackShares = 32

// slot is a part of a key for small numbers that are not negative.
func (k key) slot(n int) key { return append(k, byte(n>>8), byte(n)) }

// soft is how far a cell fills with machines that have none of their rack in it.
func soft(most int) int { return max(1, 2*most/3) }

// assign chooses a machine's cell, a new one if none will do; see roster.go.
func (t *tx) assign(zone, rack string, most int) string {
	if rack != "" {
		if c := t.cellOfRack(zone, rack, most); c != "" {
			return c
		}
	}
	// As many racks as leave room for a share each.
	racks := max(1, min(rackShares, soft(most)))
	fits := func(c *starling.Cell) bool { return rack == "" || c.Racks < racks }
	tried := 0
	for o := range t.txn.scanBackFrom(tableCells, byZone, newKey().str(zone).slot(soft(most))) {
		c := o.(*row[starling.Cell]).rec
		if tried++; c.Zone != zone || tried > cellChoices {
			break
		}
		if fits(c) {
			return c.Name
		}
	}
	if only := t.onlyCell(); only != nil && only.Machines < most/4 && fits(only) {
		return only.Name
	}
	return t.openCell(zone)
}

// onlyCell returns the cell of a region that has one.
func (t *tx) onlyCell() (only *starling.Cell) {
	for r := range scan[starling.Cell](t.reader, tableCells, byID, nil) {
		if only != nil {
			return nil
		}
		only = r.rec
	}
	return only
}

// cellOfRack returns the cell with room that has most machines of a rack.
func (t *tx) cellOfRack(zone, rack string, most int) string {
	var best *rackShare
	tried := 0
	for r := range scan[rackShare](t.reader, tableRacks, byID, newKey().str(zone).str(rack)) {
		if tried++; tried > cellChoices {
			break
		}
		c := get[starling.Cell](t.reader, tableCells, byID, strKey(r.rec.cell))
		if c != nil && c.rec.Machines < most && (best == nil || r.rec.machines > best.machines) {
			best = r.rec
		}
	}
	if best == nil {
		return ""
	}
	return best.cell
}

func (t *tx) openCell(zone string) string {
	t.meta.Cells++
	c := &starling.Cell{Name: fmt.Sprintf("c%d", t.meta.Cells), Zone: zone, KeyEpoch: 1, Version: t.index, ChangedAt: t.now}
	put(t, tableCells, nil, &row[starling.Cell]{rec: c})
	put(t, tableSlots, nil, &row[slots]{rec: &slots{cell: c.Name}})
	t.emit(starling.Event{Type: EventCellOpened, Detail: c.Name})
	return c.Name
}

// move stores m in place of old, which may be nil, as a member of cell to, "" for none.
// m.Cell and m.Slot are set; a place that it has already is kept.
func (t *tx) move(old *row[starling.Machine], m *starling.Machine, to string) {
	stays := old != nil && old.rec.Cell == to && to != ""
	if stays {
		m.Cell, m.Slot = to, old.rec.Slot
		if old.rec.Zone == m.Zone && old.rec.Rack == m.Rack { // nothing that concerns its cell
			put(t, tableMachines, old, &row[starling.Machine]{rec: m})
			return
		}
	}
	if old != nil && old.rec.Cell != "" {
		t.changeCell(old.rec.Cell, func(c *starling.Cell, used starling.Slots) starling.Slots {
			c.Racks += t.countRack(old.rec, c.Name, -1)
			if !stays {
				c.Machines--
				used.Clear(old.rec.Slot)
			}
			return used
		})
	}
	m.Cell = to
	if !stays {
		m.Slot = 0
	}
	if to != "" {
		t.changeCell(to, func(c *starling.Cell, used starling.Slots) starling.Slots {
			c.Racks += t.countRack(m, c.Name, 1)
			if !stays {
				m.Slot = used.Free()
				used.Set(m.Slot)
				c.Machines++
			}
			return used
		})
	}
	put(t, tableMachines, old, &row[starling.Machine]{rec: m})
	if old != nil && old.rec.Cell != "" && !stays {
		t.closeEmpty(old.rec.Cell)
	}
}

// changeCell changes a cell and its taken slots, which it may change in place.
func (t *tx) changeCell(name string, f func(*starling.Cell, starling.Slots) starling.Slots) {
	old := get[starling.Cell](t.reader, tableCells, byID, strKey(name))
	taken := get[slots](t.reader, tableSlots, byID, strKey(name))
	if old == nil || taken == nil {
		t.fault("change", tableCells, fmt.Errorf("cell %q is not there", name)) // cannot be
		return
	}
	c := *old.rec
	used := f(&c, slices.Clone(taken.rec.used))
	c.Version, c.ChangedAt = t.index, t.now
	put(t, tableCells, old, &row[starling.Cell]{rec: &c})
	put(t, tableSlots, taken, &row[slots]{rec: &slots{name, used}})
}

func (t *tx) closeEmpty(name string) {
	c := get[starling.Cell](t.reader, tableCells, byID, strKey(name))
	if c == nil || c.rec.Machines > 0 {
		return
	}
	drop(t, tableCells, c)
	if taken := get[slots](t.reader, tableSlots, byID, strKey(name)); taken != nil {
		drop(t, tableSlots, taken)
	}
	t.emit(starling.Event{Type: EventCellClosed, Detail: name})
}

// countRack counts a machine's rack in a cell and returns by how many racks the cell
// changes: 1, 0 or -1.
func (t *tx) countRack(m *starling.Machine, cell string, by int) int {
	if m.Rack == "" {
		return 0
	}
	old := get[rackShare](t.reader, tableRacks, byID, rackKey(m.Zone, m.Rack, cell))
	share := rackShare{zone: m.Zone, rack: m.Rack, cell: cell}
	if old != nil {
		share = *old.rec
	}
	share.machines += by
	if share.machines == 0 {
		drop(t, tableRacks, old)
		return -1
	}
	put(t, tableRacks, old, &row[rackShare]{rec: &share})
	if old == nil {
		return 1
	}
	return 0
}

// cellAt returns a cell if it is as it was at a version.
func (t *tx) cellAt(name string, version uint64) (*starling.Cell, error) {
	c := get[starling.Cell](t.reader, tableCells, byID, strKey(name))
	switch {
	case c == nil:
		return nil, fmt.Errorf("%w: there is no cell %.80q", starling.ErrNotFound, name)
	case c.rec.Version != version:
		return nil, fmt.Errorf("%w: cell %s has changed since version %d", starling.ErrConflict, name, version)
	}
	return c.rec, nil
}

func (t *tx) cellSplit(p *CellSplit) (Result, error) {
	c, err := t.cellAt(p.Cell, p.Version)
	if err != nil {
		return Result{}, err
	}
	if c.Machines < 2 {
		return Result{}, fmt.Errorf("%w: cell %s has %d machines", starling.ErrConflict, c.Name, c.Machines)
	}
	members := collect(scan[starling.Machine](t.reader, tableMachines, byCell, strKey(c.Name)))
	slices.SortFunc(members, func(a, b *row[starling.Machine]) int { return byPlace(a.rec, b.rec) })
	cut := cutBetweenRacks(members)
	to := t.openCell(mostlyIn(members[cut:]))
	t.moveAll(members[cut:], to)
	left := mostlyIn(members[:cut])
	t.changeCell(c.Name, func(c *starling.Cell, used starling.Slots) starling.Slots {
		c.Zone = left
		return used
	})
	t.emit(starling.Event{Type: EventCellSplit, Detail: fmt.Sprintf("%s: %d of %d machines to %s", c.Name, len(members)-cut, len(members), to)})
	return Result{Cell: t.cellOf(&starling.Machine{Cell: to}), Created: true}, nil
}

func byPlace(a, b *starling.Machine) int {
	return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Rack, b.Rack), cmp.Compare(a.Name, b.Name))
}

// cutBetweenRacks returns where to cut members in order of their place: between two racks
// nearest to the middle, but not so that less than a quarter is left on a side.
func cutBetweenRacks(members []*row[starling.Machine]) int {
	n := len(members)
	for off := range n/4 + 1 {
		for _, at := range []int{n/2 - off, n/2 + off} {
			if at > 0 && at < n && (members[at-1].rec.Rack != members[at].rec.Rack || members[at-1].rec.Zone != members[at].rec.Zone) {
				return at
			}
		}
	}
	return n / 2
}

// mostlyIn returns the zone of most members in order of their place, the first of several.
func mostlyIn(members []*row[starling.Machine]) string {
	best, most, run := "", 0, 0
	for i, m := range members {
		if i == 0 || members[i-1].rec.Zone != m.rec.Zone {
			run = 0
		}
		if run++; run > most {
			best, most = m.rec.Zone, run
		}
	}
	return best
}

func (t *tx) moveAll(members []*row[starling.Machine], to string) {
	for _, old := range members {
		m := *old.rec
		t.move(old, &m, to)
	}
}

func (t *tx) cellMerge(p *CellMerge) (Result, error) {
	from, err := t.cellAt(p.Cell, p.Version)
	if err != nil {
		return Result{}, err
	}
	into, err := t.cellAt(p.Into, p.IntoVersion)
	if err != nil {
		return Result{}, err
	}
	most := min(p.Max, starling.MaxCellMachines)
	if from.Name == into.Name || from.Machines+into.Machines > most {
		return Result{}, fmt.Errorf("%w: cells %s and %s have %d machines, %d at most can be one", starling.ErrConflict,
			from.Name, into.Name, from.Machines+into.Machines, most)
	}
	t.moveAll(collect(scan[starling.Machine](t.reader, tableMachines, byCell, strKey(from.Name))), into.Name)
	t.emit(starling.Event{Type: EventCellMerged, Detail: fmt.Sprintf("%s: %d machines to %s", from.Name, from.Machines, into.Name)})
	return Result{Cell: t.cellOf(&starling.Machine{Cell: into.Name})}, nil
}

func (t *tx) cellRotate(p *CellRotate) (Result, error) {
	one := get[starling.Cell](t.reader, tableCells, byID, strKey(p.Cell))
	switch {
	case p.All == (p.Cell != ""):
		return Result{}, starling.Invalidf("cell", "name one cell, or say all")
	case !p.All && one == nil:
		return Result{}, fmt.Errorf("%w: there is no cell %.80q", starling.ErrNotFound, p.Cell)
	}
	cells, what := []*row[starling.Cell]{one}, p.Cell
	if p.All {
		cells = collect(scan[starling.Cell](t.reader, tableCells, byID, nil))
		what = fmt.Sprintf("all %d cells", len(cells))
	}
	var res Result
	for _, old := range cells {
		c := *old.rec
		c.KeyEpoch++
		c.Version = t.index
		put(t, tableCells, old, &row[starling.Cell]{rec: &c})
		if !p.All {
			res.Cell = &c
		}
	}
	t.emit(starling.Event{Type: EventCellRotated, Detail: what})
	return res, nil
}
