package control

import (
	"cmp"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Rhythms of splits and merges. A cell that was just split has half of its room left, and
// one that was just merged has half of it too, so that neither is soon undone.
const (
	cellQuiet  = time.Minute // that a cell must have been as it is, before it is split or merged
	cellStepAs = 3           // of that quiet is the time between two steps: machines that move register anew meanwhile
)

// cellKeeper decides which cells to split and which to merge. It looks at nothing but the
// state; that one step waits for the one before, it may forget at an election.
type cellKeeper struct {
	most  int           // machines of a cell
	quiet time.Duration // as cellQuiet
	next  time.Time     // no step before
}

// decide returns the next step, if there is one: the fullest cell that is full is split,
// since machines of its racks find no room any more; or the smallest one that has at most
// a quarter of what it may is merged with the next of its zone, if both have at most half.
func (k *cellKeeper) decide(v raftfsm.View, now time.Time) []Decision {
	if now.Before(k.next) {
		return nil
	}
	cells := v.Cells()
	slices.SortStableFunc(cells, func(a, b *starling.Cell) int { return cmp.Compare(a.Machines, b.Machines) })
	d, ok := k.split(cells, now)
	if !ok {
		d, ok = k.merge(cells, now)
	}
	if !ok {
		return nil
	}
	k.next = now.Add(k.quiet / cellStepAs)
	return []Decision{d}
}

func (k *cellKeeper) isQuiet(c *starling.Cell, now time.Time) bool {
	return now.Sub(c.ChangedAt) >= k.quiet
}

func (k *cellKeeper) split(cells []*starling.Cell, now time.Time) (Decision, bool) {
	for _, c := range slices.Backward(cells) {
		if c.Machines < max(2, k.most) {
			break
		}
		// Beyond its bound it is not waited for: somebody has lowered it.
		if k.isQuiet(c, now) || c.Machines > k.most {
			return Decision{raftfsm.TypeCellSplit, raftfsm.CellSplit{Cell: c.Name, Version: c.Version}}, true
		}
	}
	return Decision{}, false
}

func (k *cellKeeper) merge(cells []*starling.Cell, now time.Time) (Decision, bool) {
	half, quarter := (k.most+1)/2, (k.most+3)/4
	smallest := map[string]*starling.Cell{} // of each zone
	for _, c := range cells {
		if c.Machines > half {
			break
		}
		if !k.isQuiet(c, now) {
			continue
		}
		s := smallest[c.Zone]
		if s == nil {
			smallest[c.Zone] = c
			continue
		}
		if s.Machines <= quarter && s.Machines+c.Machines <= half {
			return Decision{raftfsm.TypeCellMerge, raftfsm.CellMerge{
				Cell: s.Name, Version: s.Version, Into: c.Name, IntoVersion: c.Version, Max: k.most,
			}}, true
		}
	}
	return Decision{}, false
}
