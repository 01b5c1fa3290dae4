package raftfsm

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
)

// fleet plays commands about machines against one state and checks it after each entry.
type fleet struct {
	*generator
	fsm   *FSM
	twin  *FSM // applies the same log, and is never restored
	index uint64
	max   int
}

func (f *fleet) apply(kind Type, payload any) Result {
	f.clock = f.clock.Add(1e9)
	c, err := NewCommand(kind, f.clock, "ann", payload)
	if err != nil {
		f.rt.Fatal(err)
	}
	f.index++
	log := &raft.Log{Index: f.index, Data: entryOf(f.rt, c)}
	f.twin.Apply(log)
	return f.fsm.Apply(log).([]Result)[0]
}

func (f *fleet) facts() MachineFacts {
	n := f.below(60)
	return MachineFacts{Name: fmt.Sprintf("m%d", n), Zone: f.pick("", "a", "b"), Rack: f.pick("", "r1", "r2", "r3", "r4"),
		Gossip: fmt.Sprintf("10.0.0.%d:7473", n), Tags: map[string]string{"role": f.pick("web", "db")}}
}

// step plays one command, legal or not, and checks where a new machine was put.
func (f *fleet) step() {
	before := f.fsm.View()
	cells := before.Cells()
	cell := func() *starling.Cell {
		if len(cells) == 0 || f.one(20) {
			return &starling.Cell{Name: "c99"}
		}
		return cells[f.below(len(cells))]
	}
	switch f.below(12) {
	default:
		facts := f.facts()
		res := f.apply(TypeMachineRegister, MachineRegister{MachineFacts: facts, Max: f.max})
		if res.Created {
			f.near(before, res.Machine)
		}
	case 5, 6, 7:
		facts := f.facts()
		res := f.apply(TypeMachineEnrol, MachineEnrol{MachineFacts: facts, Key: starling.DigestOf([]byte(f.pick("k1", "k2"))),
			Token: f.pick("jt1", "jt2"), Hash: starling.DigestOf([]byte(f.pick("s", "s", "x"))), Max: f.max})
		if res.Created {
			f.near(before, res.Machine)
		}
	case 8:
		f.apply(TypeMachineStanding, MachineStanding{Name: f.facts().Name, Unknown: f.one(4),
			Standing: []starling.Standing{starling.StandingActive, starling.StandingDraining, starling.StandingRevoked}[f.below(3)]})
	case 9:
		f.apply(TypeMachineRemove, MachineRemove{Name: f.facts().Name, Force: f.one(2)})
	case 10:
		c := cell()
		f.apply(TypeCellSplit, CellSplit{c.Name, c.Version})
	case 11:
		a, b := cell(), cell()
		f.apply(TypeCellMerge, CellMerge{a.Name, a.Version, b.Name, b.Version, f.max})
	}
}

// near wants a machine that came where its rack is, else where its zone is, if there was room.
func (f *fleet) near(v View, m *starling.Machine) {
	mates := map[string]int{} // of its rack, by cell with room
	for other := range v.Machines("") {
		if c, ok := v.Cell(other.Cell); ok && m.Rack != "" && other.Rack == m.Rack && other.Zone == m.Zone && c.Machines < f.max {
			mates[c.Name]++
		}
	}
	old, was := v.Cell(m.Cell)
	for name, n := range mates {
		if n > mates[m.Cell] {
			f.rt.Fatalf("%s of rack %s is in %s, with %d of its rack; %s has room and %d", m.Name, m.Rack, m.Cell, mates[m.Cell], name, n)
		}
	}
	if len(mates) > 0 || was && old.Zone == m.Zone {
		return
	}
	for _, c := range v.Cells() {
		racks := m.Rack == "" || c.Racks < max(1, min(rackShares, soft(f.max)))
		if c.Zone == m.Zone && c.Machines < soft(f.max) && racks {
			f.rt.Fatalf("%s of zone %s is in %s; %s of its zone has room", m.Name, m.Zone, m.Cell, c.Name)
		}
		if len(v.Cells()) == 1 && c.Machines < f.max/4 && racks && !was {
			f.rt.Fatalf("%s has a cell of its own; %s has %d of %d machines", m.Name, c.Name, c.Machines, f.max)
		}
	}
}

// check compares all that is kept of cells with their machines.
func (f *fleet) check() {
	v := f.fsm.View()
	type count struct {
		machines int
		slots    map[int]string
		racks    map[string]int
	}
	cells := map[string]*count{}
	machines, uses := 0, map[string]int{}
	for m := range v.Machines("") {
		machines++
		uses[m.Token]++
		if (m.Cell == "") && m.Standing == starling.StandingActive && !f.wasRevoked(m) || m.Cell != "" && m.Standing == starling.StandingRevoked {
			f.rt.Fatalf("%+v", m)
		}
		if m.Cell == "" {
			continue
		}
		c := cells[m.Cell]
		if c == nil {
			c = &count{slots: map[int]string{}, racks: map[string]int{}}
			cells[m.Cell] = c
		}
		if other := c.slots[m.Slot]; other != "" || m.Slot < 0 || m.Slot >= starling.MaxCellMachines {
			f.rt.Fatalf("slot %d of %s is %s's and %q's", m.Slot, m.Cell, m.Name, other)
		}
		c.slots[m.Slot] = m.Name
		c.machines++
		if m.Rack != "" {
			c.racks[m.Zone+"/"+m.Rack]++
		}
	}
	all := v.Cells()
	if len(all) != len(cells) || machines != v.CountMachines() {
		f.rt.Fatalf("%d cells, %d with machines; %d machines, %d counted", len(all), len(cells), machines, v.CountMachines())
	}
	for _, c := range all {
		want := cells[c.Name]
		if c.Machines != want.machines || c.Racks != len(want.racks) || c.Machines > f.max || c.Version > v.Index() {
			f.rt.Fatalf("%+v, want %d machines (of %d) in racks %v", c, want.machines, f.max, want.racks)
		}
		bySlot := slices.Collect(v.MachinesOf(c.Name))
		if len(bySlot) != c.Machines || !slices.IsSortedFunc(bySlot, func(a, b *starling.Machine) int { return cmp.Compare(a.Slot, b.Slot) }) {
			f.rt.Fatalf("%s by slot: %v", c.Name, bySlot)
		}
	}
	for _, k := range v.JoinTokens() {
		if k.Uses > k.MaxUses || k.Uses < uses[k.ID] {
			f.rt.Fatalf("%+v, and %d machines", k, uses[k.ID])
		}
	}
}

// wasRevoked reports whether the events say that a machine was let in again.
func (f *fleet) wasRevoked(m *starling.Machine) bool {
	events, _ := f.fsm.View().EventsAfter(0, 0, MaxEventsKept)
	return slices.ContainsFunc(events, func(e starling.Event) bool {
		return e.Type == EventMachineStanding && e.Detail == m.Name+" is "+string(starling.StandingRevoked)
	})
}

func TestAnyFleetKeepsItsCells(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := &fleet{generator: newGenerator(rt), fsm: New("east"), twin: New("east"), max: []int{1, 2, 3, 8, 40}[newGenerator(rt).below(5)]}
		for _, id := range []string{"jt1", "jt2"} {
			k := starling.JoinToken{ID: id, Hash: starling.DigestOf([]byte("s")), MaxUses: 20, ExpiresAt: f.clock.Add(1e15)}
			if id == "jt2" {
				k.Tags, k.Zone = map[string]string{"role": "web"}, "a"
			}
			if res := f.apply(TypeJoinTokenCreate, JoinTokenCreate{k}); res.Err != nil {
				rt.Fatal(res.Err)
			}
		}
		for range 1 + rounds*f.below(40) {
			f.step()
			f.check()
			if f.one(10) {
				f.fsm = restored(rt, f.fsm)
			}
		}
		if !bytes.Equal(snapshotOf(rt, f.fsm), snapshotOf(rt, f.twin)) {
			rt.Fatal("a roster that was restored on the way differs from one that was not")
		}
		if m := f.fsm.View().ChangedSince("east", 0); m.Index != 0 {
			rt.Fatalf("machines are the region's own: %+v", m)
		}
	})
}

// members returns in which cell each machine is.
func members(v View) map[string]string {
	out := map[string]string{}
	for m := range v.Machines("") {
		out[m.Name] = m.Cell
	}
	return out
}

func (d *driver) register(name, zone, rack string, most int) Result {
	d.t.Helper()
	return d.must(d.cmd(TypeMachineRegister, MachineRegister{MachineFacts: MachineFacts{Name: name, Zone: zone, Rack: rack, Gossip: "h:1"}, Max: most}))[0]
}

func TestACellIsSplitBetweenRacks(t *testing.T) {
	d := newDriver(t)
	for i := range 30 { // side by side, as they start
		for _, rack := range []string{"r1", "r2", "r3"} {
			d.register(fmt.Sprintf("%s-%d", rack, i), "a", rack, 90)
		}
	}
	c := d.fsm.View().Cells()
	if len(c) != 1 || c[0].Machines != 90 || c[0].Racks != 3 {
		t.Fatalf("%+v", c)
	}
	next := d.must(d.cmd(TypeCellSplit, CellSplit{c[0].Name, c[0].Version}))[0].Cell
	at := members(d.fsm.View())
	if len(at) != 90 {
		t.Fatalf("%d machines", len(at))
	}
	for name, cell := range at {
		if (name[:2] == "r1") != (cell == "c1") {
			t.Fatalf("%s is in %s", name, cell)
		}
	}
	for _, c := range d.fsm.View().Cells() {
		if want := map[string][2]int{"c1": {30, 1}, "c2": {60, 2}}[c.Name]; want != [2]int{c.Machines, c.Racks} || c.Zone != "a" {
			t.Errorf("%+v", c)
		}
	}
	one, _ := d.fsm.View().Cell("c1")
	left := d.must(d.cmd(TypeCellMerge, CellMerge{next.Name, next.Version, one.Name, one.Version, 90}))[0].Cell
	if left.Machines != 90 || left.Racks != 3 || len(d.fsm.View().Cells()) != 1 || len(members(d.fsm.View())) != 90 {
		t.Errorf("merged: %+v", left)
	}
	if res := d.register("r4-0", "a", "r4", 90); res.Machine.Cell != "c3" {
		t.Errorf("the name of a cell was used again: %s", res.Machine.Cell)
	}
}

// A region that starts all at once has cells that are near together: its racks fill side by
// side, in no order.
func TestAStormLeavesRacksTogether(t *testing.T) {
	d := newDriver(t)
	const racks, each, most = 100, 40, 1_500
	for i := range racks * each {
		rack := (i * 7919) % racks // each in turn, spread
		d.register(fmt.Sprintf("m%d", i), fmt.Sprintf("z%d", rack%2), fmt.Sprintf("r%d", rack), most)
	}
	parts := map[string]map[string]bool{}
	for m := range d.fsm.View().Machines("") {
		if parts[m.Rack] == nil {
			parts[m.Rack] = map[string]bool{}
		}
		parts[m.Rack][m.Cell] = true
	}
	for rack, cells := range parts {
		if len(cells) > 1 {
			t.Errorf("rack %s is in cells %v", rack, cells)
		}
	}
	zones := map[string]map[string]bool{}
	for m := range d.fsm.View().Machines("") {
		if zones[m.Cell] == nil {
			zones[m.Cell] = map[string]bool{}
		}
		zones[m.Cell][m.Zone] = true
	}
	for _, c := range d.fsm.View().Cells() {
		t.Logf("%s in %s: %d machines in %d racks", c.Name, c.Zone, c.Machines, c.Racks)
		if c.Name != "c1" && len(zones[c.Name]) > 1 {
			t.Errorf("%s is in zones %v", c.Name, zones[c.Name])
		}
	}
}

func TestTheRosterIsBounded(t *testing.T) {
	d := newDriver(t)
	d.fsm.limits.machines = 2
	d.register("m1", "", "", 10)
	d.register("m2", "", "", 10)
	res := d.try(d.cmd(TypeMachineRegister, MachineRegister{MachineFacts: MachineFacts{Name: "m3", Gossip: "h:1"}, Max: 10}))[0]
	if !errors.Is(res.Err, starling.ErrConflict) {
		t.Errorf("a third machine: %v", res.Err)
	}
	d.register("m2", "a", "", 10)

	k := starling.JoinToken{Hash: starling.DigestOf([]byte("s")), MaxUses: 1, ExpiresAt: d.clock.AddDate(0, 1, 0)}
	create := func(id string) Result {
		k.ID = id
		return d.try(d.cmd(TypeJoinTokenCreate, JoinTokenCreate{k}))[0]
	}
	for i := range starling.MaxJoinTokens {
		if res := create(fmt.Sprintf("jt%d", i)); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	if res := create("more"); !errors.Is(res.Err, starling.ErrConflict) {
		t.Errorf("too many join tokens: %v", res.Err)
	}
	d.must(d.cmd(TypeJoinTokenRevoke, JoinTokenRevoke{"jt0"}))
	if res := create("more"); res.Err != nil {
		t.Errorf("a dead token made no room: %v", res.Err)
	}
}

func TestTooManyRevoked(t *testing.T) {
	d := newDriver(t)
	var cmds []Command
	flush := func() {
		if len(cmds) > 0 {
			d.must(cmds...)
		}
		cmds = nil
	}
	for i := range MaxRevokedMachines + 1 {
		name := fmt.Sprintf("m%d", i)
		cmds = append(cmds, d.cmd(TypeMachineRegister, MachineRegister{MachineFacts: MachineFacts{Name: name, Gossip: "h:1"}, Max: 1_500}))
		if len(cmds) == MaxEntryCommands {
			flush()
		}
	}
	flush()
	tx := begin(d.fsm.db.Load(), "east", d.fsm.limits, d.index+1) // one command each would walk what is revoked each time
	for i := range MaxRevokedMachines {
		old := tx.machine(fmt.Sprintf("m%d", i))
		m := *old.rec
		m.Standing = starling.StandingRevoked
		tx.move(old, &m, "")
	}
	d.index++
	if err := tx.commit(); err != nil {
		t.Fatal(err)
	}
	last := MachineStanding{Name: fmt.Sprintf("m%d", MaxRevokedMachines), Standing: starling.StandingRevoked}
	if res := d.try(d.cmd(TypeMachineStanding, last))[0]; !errors.Is(res.Err, starling.ErrConflict) {
		t.Errorf("one more: %v", res.Err)
	}
	if n := len(d.fsm.View().MachinesIn(starling.StandingRevoked)); n != MaxRevokedMachines {
		t.Errorf("%d revoked", n)
	}
}

func TestARestoredRegionKeepsItsMachines(t *testing.T) {
	d := newDriver(t)
	for i := range 5 {
		d.register(fmt.Sprintf("m%d", i), "a", "", 3)
	}
	before := members(d.fsm.View())
	v, err := d.fsm.View().Restored(bytesOf(d.fsm), d.clock, "ann")
	if err != nil {
		t.Fatal(err)
	}
	if after := members(v); fmt.Sprint(after) != fmt.Sprint(before) || v.CountMachines() != 5 {
		t.Errorf("%v, before %v", after, before)
	}
	for _, c := range v.Cells() {
		if c.Version <= IndexStep {
			t.Errorf("%s has version %d: its machines may have seen newer ones", c.Name, c.Version)
		}
	}
}
