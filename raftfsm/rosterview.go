package raftfsm

import (
	"iter"
	"time"

	"github.com/starlingdeploy/starling"
)

// Machine returns a machine of the region.
func (v View) Machine(name string) (*starling.Machine, bool) {
	return find(get[starling.Machine](v.reader, tableMachines, byID, strKey(name)))
}

// Machines yields the region's machines whose names come after one, by name; "": all.
func (v View) Machines(after string) iter.Seq[*starling.Machine] {
	return func(yield func(*starling.Machine) bool) {
		for r := range scanFrom[starling.Machine](v.reader, tableMachines, byID, strKey(after)) {
			if r.rec.Name != after && !yield(r.rec) {
				return
			}
		}
	}
}

// MachinesOf yields the machines of a cell, by slot.
func (v View) MachinesOf(cell string) iter.Seq[*starling.Machine] {
	return func(yield func(*starling.Machine) bool) {
		for r := range scan[starling.Machine](v.reader, tableMachines, byCell, strKey(cell)) {
			if !yield(r.rec) {
				return
			}
		}
	}
}

// CountMachines counts the region's machines, whatever their standing.
func (v View) CountMachines() int { return v.meta.Machines }

// MachinesIn returns the machines that are draining or revoked, by name.
func (v View) MachinesIn(s starling.Standing) []*starling.Machine {
	return records(scan[starling.Machine](v.reader, tableMachines, byStanding, strKey(string(s))))
}

// Registered reports whether a registration would change nothing, and the machine that it
// is about. If so it need not be proposed.
func (v View) Registered(p *MachineRegister) (*starling.Machine, bool) {
	old, ok := v.Machine(p.Name)
	if !ok || old.Standing == starling.StandingRevoked {
		return old, false
	}
	m := *old
	return old, keepGranted(&m, p) == nil && sameMachine(old, &m)
}

// MayEnrol refuses a machine for its name or its token as MachineEnrol would, so that
// whoever has no good token writes nothing to the log.
func (v View) MayEnrol(p *MachineEnrol, now time.Time) error {
	_, _, err := admits(v.reader, p, now)
	return err
}

// Cell returns a cell of the region.
func (v View) Cell(name string) (*starling.Cell, bool) {
	return find(get[starling.Cell](v.reader, tableCells, byID, strKey(name)))
}

// Cells returns the region's cells, by name.
func (v View) Cells() []*starling.Cell {
	return records(scan[starling.Cell](v.reader, tableCells, byID, nil))
}

// JoinToken returns a join token of the region.
func (v View) JoinToken(id string) (*starling.JoinToken, bool) {
	return find(get[starling.JoinToken](v.reader, tableJoinTokens, byID, strKey(id)))
}

// JoinTokens returns the region's join tokens, by ID.
func (v View) JoinTokens() []*starling.JoinToken {
	return records(scan[starling.JoinToken](v.reader, tableJoinTokens, byID, nil))
}
