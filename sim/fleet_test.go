package sim

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"
)

// smallFleet is two regions of two cells each, 250 MB.
func smallFleet() Fleet {
	return Fleet{
		Seed: 1, Regions: 2, Cells: 2, CellMachines: 40, RackMachines: 10, Caches: 3, Chunks: 120, ChunkBytes: 2 << 20,
		MachineRate: 200 * mbit, CacheRate: 2000 * mbit, WANRate: 400 * mbit,
	}
}

func runFleet(t *testing.T, f Fleet) FleetResult {
	t.Helper()
	r, err := f.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range r.Regions {
		t.Logf("region %d: bound %s, median %s, last %s (%.3f), slow %s, placed %s; %.3f copies over the WAN, %.3f to each cell",
			i, g.Bound, g.Median, g.Last, g.Last.Seconds()/g.Bound.Seconds(), g.SlowLast, g.Placed, g.WANCopies, g.Copies)
	}
	if r.Unfinished > 0 {
		t.Errorf("%d machines never finish", r.Unfinished)
	}
	return r
}

// TestFleet holds regions, cells and their caches near the bound, with and without
// faults: one copy crosses to each region, about one leaves the caches for each cell.
func TestFleet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		faults       Faults
		wan          int64 // Mbit/s
		over, copies float64
	}{
		{"sound", Faults{}, 400, 1.45, 1.1},
		{"a link no faster than a machine's", Faults{}, 200, 1.5, 1.4},
		// A death is told after 3 s, of 10 that all of it takes.
		{"slow and dying machines", Faults{Slow: 0.02, SlowFactor: 0.1, Vanish: 0.02}, 400, 1.6, 1.4},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := smallFleet()
			f.Faults, f.WANRate = c.faults, c.wan*mbit
			r := runFleet(t, f)
			if r.Over > c.over || r.Copies > c.copies {
				t.Errorf("%.3f of the bound, %.3f copies to a cell; want %.2f and %.2f at most", r.Over, r.Copies, c.over, c.copies)
			}
			if r.WANCopies != 1 {
				t.Errorf("%.3f copies crossed to a region, want 1", r.WANCopies)
			}
			if c.faults.Slow > 0 && r.SlowLast < 5*r.Last {
				t.Errorf("machines of a tenth of the speed are done after %s, the others after %s", r.SlowLast, r.Last)
			}
		})
	}
}

// TestFleetIsItsSeeds: how many worlds are simulated at once changes nothing; the seed does.
func TestFleetIsItsSeeds(t *testing.T) {
	t.Parallel()
	f := smallFleet()
	f.Chunks, f.Faults = 60, Faults{Vanish: 0.02}
	one := runFleet(t, f)
	f.Parallel = 4
	var told float64
	f.Progress = func(done, total float64) { told = done / total }
	many := runFleet(t, f)
	if one.Hash != many.Hash || one.Last != many.Last || one.Steps != many.Steps {
		t.Errorf("%x after %d steps one by one, %x after %d at once", one.Hash, one.Steps, many.Hash, many.Steps)
	}
	if told < 0 || told > 1 {
		t.Errorf("progress came to %.2f", told)
	}
	f.Seed++
	if other := runFleet(t, f); other.Hash == one.Hash {
		t.Error("another seed gives the same run")
	}
}

// TestCellsApartAreLikeTogether: cells that have each a part of the caches' links end as
// those that queue there behind each other.
func TestCellsApartAreLikeTogether(t *testing.T) {
	t.Parallel()
	f := smallFleet()
	f.Chunks = 60
	apart := runFleet(t, f)
	f.Together = true
	together := runFleet(t, f)
	for i := range apart.Regions {
		a, b := apart.Regions[i], together.Regions[i]
		if off := a.Last.Seconds()/b.Last.Seconds() - 1; math.Abs(off) > 0.1 {
			t.Errorf("region %d: the last is done after %s apart, %s together", i, a.Last, b.Last)
		}
	}
	if together.WANCopies != 1 {
		t.Errorf("%.3f copies crossed to a region, want 1", together.WANCopies)
	}
}

// TestSample: a part of the cells is what these are among all.
func TestSample(t *testing.T) {
	t.Parallel()
	f := smallFleet()
	f.Chunks = 60
	all := runFleet(t, f)
	f.Sample = 1
	some := runFleet(t, f)
	if some.Machines != all.Machines/2 || some.Steps >= all.Steps || some.WANCopies != 1 {
		t.Errorf("%+v", some)
	}
	for i := range all.Regions {
		if a, b := all.Regions[i], some.Regions[i]; b.Bound != a.Bound || b.Last > a.Last || b.Last < a.Last*8/10 || math.Abs(a.Copies-b.Copies) > 0.1 {
			t.Errorf("region %d: %+v of all, %+v of one", i, a, b)
		}
	}
}

// TestRackLinks: rack links half as wide as their machines together.
func TestRackLinks(t *testing.T) {
	t.Parallel()
	f := smallFleet()
	f.Regions, f.RackMachines, f.RackRate = 1, 10, 5*200*mbit
	if r := runFleet(t, f); r.Over > 2 {
		t.Errorf("%.3f of the bound, want 2 at most", r.Over)
	}
}

func TestFleetIsChecked(t *testing.T) {
	for _, f := range []Fleet{
		{Regions: -1}, {Regions: MaxRegions + 1}, {Cells: -1}, {Cells: 1000, CellMachines: 1000}, {Caches: maxCaches + 1},
		{Replicas: -1}, {Sample: 2}, {Sample: -1}, {Cells: 2, Sample: 1, Together: true}, {WANRate: -1}, {WANLatency: -time.Second}, {Parallel: -1}, {Faults: Faults{Slow: 2}}, {RackMachines: -1},
	} {
		if _, err := f.Run(context.Background()); err == nil {
			t.Errorf("%+v is accepted", f)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := smallFleet().Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a run that is broken off: %v", err)
	}
}
