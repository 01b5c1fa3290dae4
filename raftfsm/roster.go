package raftfsm

import (
	"github.com/starlingdeploy/starling"
)

// The roster is who the machines of a region are and which cell each belongs to. It is
// the region's own: other regions get no copy, and a takeover does not move it.
//
// A machine's cell is chosen when it comes, so that a cell is near together and need not
// be split while a whole region starts at once:
//
//  1. the cell that has most machines of its rack, up to p.Max machines;
//  2. the fullest cell of its zone below two thirds of p.Max, which leaves the last third
//     to those racks. A rack that is new to a cell counts as at least a 32nd of that, so
//     that racks which fill up side by side do not all end up in all cells;
//  3. the region's only cell, below a quarter of p.Max: few machines share one;
//  4. a new one.

// MachineFacts is what a machine says of itself.
type MachineFacts struct {
	Name   string            `json:"name"`
	Zone   string            `json:"zone,omitempty"`
	Rack   string            `json:"rack,omitempty"`
	Tags   map[string]string `json:"tags,omitempty"`
	Gossip string            `json:"gossip"` // host:port in its cell
}

// MachineEnrol makes a machine known that proves a join token: Hash is the SHA-256 of the
// secret that it gave. The token's tags are added to its own; ErrForbidden if one of them
// has another value, if its zone is not the token's, or if the token is wrong, expired,
// revoked or used up. The same machine again, by name and key, is as it was and uses
// nothing up. ErrConflict if the name is taken, ErrForbidden if it is revoked.
// Result: Machine, Cell, Created.
type MachineEnrol struct {
	MachineFacts
	Key   starling.Digest `json:"key"`   // SHA-256 of its public key
	Token string          `json:"token"` // ID
	Hash  starling.Digest `json:"hash"`
	Max   int             `json:"max"` // machines of a cell, 1 to starling.MaxCellMachines
}

// MachineRegister records where a machine is that has a certificate, and makes it known
// if it was not. One in another zone than before gets another cell. What its token
// granted it cannot change: ErrForbidden, as if it is revoked. The same again changes
// nothing (View.Registered tells beforehand). Result: Machine, Cell, Created.
type MachineRegister struct {
	MachineFacts
	Key starling.Digest `json:"key,omitzero"` // of its certificate, if that is known
	Max int             `json:"max"`
}

// MachineStanding changes what the region makes of a machine. A revoked one leaves its
// cell; when it may come back it gets a cell as it registers. MaxRevokedMachines and
// MaxDrainingMachines at most. With From, ErrConflict if it is neither that nor what it is
// to be. With Unknown a name that no machine has can be revoked too: one that has a
// certificate made by hand and never registered. Result: Machine.
type MachineStanding struct {
	Name     string            `json:"name"`
	Standing starling.Standing `json:"standing"`
	From     starling.Standing `json:"from,omitempty"`
	Unknown  bool              `json:"unknown,omitempty"`
}

// MachineRemove forgets a machine. One that still runs, and whose certificate is good,
// comes back when it registers. To forget a revoked one makes its certificates good again
// and is refused without Force. Result: Machine, as it was.
type MachineRemove struct {
	Name  string `json:"name"`
	Force bool   `json:"force,omitempty"`
}

// CellSplit moves about half of a cell's machines, in order of zone, rack and name, to a
// new one; the cut is between two racks if there is a place for it near the middle.
// Refused if the cell is not as it was at Version, or has one machine. Result: Cell, the
// new one.
type CellSplit struct {
	Cell    string `json:"cell"`
	Version uint64 `json:"version"`
}

// CellMerge moves all machines of a cell to another, up to Max, and closes it. Refused if
// one of them is not as it was. Result: Cell, the one that is left.
type CellMerge struct {
	Cell        string `json:"cell"`
	Version     uint64 `json:"version"`
	Into        string `json:"into"`
	IntoVersion uint64 `json:"into_version"`
	Max         int    `json:"max"`
}

// CellRotate gives a cell, or with All each cell, another gossip key. Result: Cell, if it is one.
type CellRotate struct {
	Cell string `json:"cell,omitempty"`
	All  bool   `json:"all,omitempty"`
}

// JoinTokenCreate adds a join token, for MaxJoinTokenLife at most. Those that are dead
// make room once there are starling.MaxJoinTokens. Result: JoinToken, Created.
type JoinTokenCreate struct {
	Token starling.JoinToken `json:"token"`
}

// JoinTokenRevoke revokes a join token; machines that came with it stay. Result: JoinToken.
type JoinTokenRevoke struct {
	ID string `json:"id"`
}

// rosterHandlerOf is handlerOf for machines, cells and join tokens.
func rosterHandlerOf(t Type) handler {
	switch t {
	case TypeMachineEnrol:
		return on((*tx).machineEnrol)
	case TypeMachineRegister:
		return on((*tx).machineRegister)
	case TypeMachineStanding:
		return on((*tx).machineStanding)
	case TypeMachineRemove:
		return on((*tx).machineRemove)
	case TypeCellSplit:
		return on((*tx).cellSplit)
	case TypeCellMerge:
		return on((*tx).cellMerge)
	case TypeCellRotate:
		return on((*tx).cellRotate)
	case TypeJoinTokenCreate:
		return on((*tx).joinTokenCreate)
	case TypeJoinTokenRevoke:
		return on((*tx).joinTokenRevoke)
	}
	return nil
}

// rackShare counts the machines of a rack in a cell. Derived, never in a snapshot.
type rackShare struct {
	zone, rack, cell string
	machines         int
}

// slots says which slots of a cell are taken. Derived, never in a snapshot.
type slots struct {
	cell string
	used starling.Slots
}

func rackKey(zone, rack, cell string) []byte { return newKey().str(zone).str(rack).str(cell) }

func rosterTables(s map[string]*tableSchema) {
	table(s, tableMachines, func(r *row[starling.Machine]) []byte { return strKey(r.rec.Name) },
		map[string]index[starling.Machine]{
			byCell: func(r *row[starling.Machine]) []byte {
				room := len(r.rec.Cell) + 3 + len(r.rec.Name) + 1 // with its ID, and no more: there are many
				return optional(r.rec.Cell != "", make(key, 0, room).str(r.rec.Cell).slot(r.rec.Slot))
			},
			byStanding: func(r *row[starling.Machine]) []byte {
				return optional(r.rec.Standing != starling.StandingActive, newKey().str(string(r.rec.Standing)))
			},
		})
	table(s, tableCells, func(r *row[starling.Cell]) []byte { return strKey(r.rec.Name) },
		map[string]index[starling.Cell]{
			byZone: func(r *row[starling.Cell]) []byte { return newKey().str(r.rec.Zone).slot(r.rec.Machines) },
		})
	table(s, tableJoinTokens, func(r *row[starling.JoinToken]) []byte { return strKey(r.rec.ID) }, nil)
	table(s, tableRacks, func(r *row[rackShare]) []byte { return rackKey(r.rec.zone, r.rec.rack, r.rec.cell) }, nil)
	table(s, tableSlots, func(r *row[slots]) []byte { return strKey(r.rec.cell) }, nil)
}

// rebuildRoster derives what is known of cells from their machines.
func (t *tx) rebuildRoster() {
	used := map[string]*starling.Slots{}
	for r := range scan[starling.Machine](t.reader, tableMachines, byCell, nil) {
		m := r.rec
		if used[m.Cell] == nil {
			used[m.Cell] = new(starling.Slots)
			put(t, tableSlots, nil, &row[slots]{rec: &slots{cell: m.Cell}})
		}
		used[m.Cell].Set(m.Slot)
		t.countRack(m, m.Cell, 1)
	}
	for _, r := range collect(scan[slots](t.reader, tableSlots, byID, nil)) {
		put(t, tableSlots, r, &row[slots]{rec: &slots{r.rec.cell, *used[r.rec.cell]}})
	}
}

// renewCells makes a restored state's cells newer than all that their machines have seen.
func (t *tx) renewCells() {
	for _, r := range collect(scan[starling.Cell](t.reader, tableCells, byID, nil)) {
		c := *r.rec
		c.Version, c.ChangedAt = t.step(), t.now
		put(t, tableCells, r, &row[starling.Cell]{rec: &c})
	}
}
