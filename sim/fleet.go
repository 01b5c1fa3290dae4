package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Fleet is one artifact on its way to the machines of several regions, in cells, by the
// regions' caches. The home region's caches hold it at first. Each other region's caches
// get it over a link of the region's own to the home, each chunk once, by the cache that
// its digest puts first; the cache that is second gets it from the first. Machines fetch
// from the beginning: what their caches lack still, they wait for.
//
// The caches are simulated first, which gives when each chunk is where; then each cell, a
// world of its own, with its part of the caches' links: as much as it gets when all want as
// much. So the result is the same however many are simulated at once. Zero fields take the
// defaults given.
type Fleet struct {
	Seed         uint64
	Regions      int // 1..MaxRegions; default 1
	Cells        int // in each region; default 1
	CellMachines int // in each cell; default 1,250
	RackMachines int // in each rack, cells having racks of their own; default 40
	Caches       int // in each region; default 8
	Replicas     int // caches that hold a chunk; default 2
	Chunks       int // of the artifact; default 500
	ChunkBytes   int // mean; default 1 MiB. Sizes vary as content-defined cutting has it

	// Rates in bytes a second.
	MachineRate int64 // each way; default 125 MB/s (1 Gbit/s)
	CacheRate   int64 // each way; default 1.25 GB/s
	RackRate    int64 // of a rack's link, each way; 0: not a bottleneck
	WANRate     int64 // of each region's link to the home; default 250 MB/s

	// WANLatency is the farthest region's from the home, one way; the others' lie evenly
	// between a quarter of it and the whole. Default 80 ms.
	WANLatency time.Duration

	Faults   Faults
	Limit    time.Duration // of virtual time; default 24 h
	Parallel int           // cells or regions simulated at once, each by one goroutine; default 1
	// Together simulates the cells of a region, and its caches, in one world, event by event:
	// cells queue at the caches behind each other. It takes several times as long.
	Together bool
	// Sample simulates only so many cells of each region, for a look in a part of the time: they
	// have the part of the caches' links that is theirs among all. 0: all; not with Together.
	Sample int
	// Progress, if not nil, is told how many of so many chunks have come to machines. It is
	// called from one goroutine at a time.
	Progress func(done, total float64)
}

// MaxRegions bounds a fleet.
const MaxRegions = 100

const (
	fleetCacheSlots = 8    // as blobcache.Server has
	fleetCacheQueue = 1024 // likewise
	fleetPulling    = 16   // chunks of 1 MiB, that a cache asks of one place at once, as blobcache.Replicator has
	quanta          = 4    // of a chunk; links take turns between them
	quantumLeast    = 64 << 10
)

func (f *Fleet) setDefaults() {
	def(&f.Regions, 1)
	def(&f.Cells, 1)
	def(&f.CellMachines, 1250)
	def(&f.RackMachines, 40)
	def(&f.Caches, 8)
	def(&f.Replicas, 2)
	def(&f.Chunks, 500)
	def(&f.ChunkBytes, 1<<20)
	def(&f.MachineRate, 125_000_000)
	def(&f.CacheRate, 1_250_000_000)
	def(&f.WANRate, 250_000_000)
	def(&f.WANLatency, 80*time.Millisecond)
	def(&f.Limit, 24*time.Hour)
	def(&f.Parallel, 1)
	def(&f.Sample, f.Cells)
}

func (f *Fleet) validate() error {
	switch {
	case f.Regions < 1 || f.Regions > MaxRegions:
		return fmt.Errorf("sim: %d regions: want 1 to %d", f.Regions, MaxRegions)
	case f.Cells < 1 || f.CellMachines < 1 || f.CellMachines > MaxMachines/f.Cells:
		return fmt.Errorf("sim: %d cells of %d machines: want 1 to %d machines in a region", f.Cells, f.CellMachines, MaxMachines)
	case f.Caches < 1 || f.Replicas < 1:
		return errors.New("sim: a region without a cache, or a chunk that none holds")
	case f.Sample < 1 || f.Sample > f.Cells || f.Together && f.Sample < f.Cells:
		return fmt.Errorf("sim: a sample of %d cells of %d, which is not for cells together", f.Sample, f.Cells)
	case f.WANRate < 0 || f.WANLatency < 0:
		return errors.New("sim: a rate or latency between regions is negative")
	case f.Parallel < 1:
		return errors.New("sim: want at least one world simulated at a time")
	}
	cfg := f.world(0, f.Cells)
	return cfg.validate()
}

// world is the configuration of so many cells.
func (f *Fleet) world(seed uint64, cells int) Config {
	cfg := Config{
		Seed:     seed,
		Machines: cells * f.CellMachines, Cells: cells, RackMachines: f.RackMachines,
		Chunks: f.Chunks, ChunkBytes: f.ChunkBytes, VarySizes: true,
		UpRate: f.MachineRate, DownRate: f.MachineRate, Caches: f.Caches, CacheRate: f.CacheRate, RackRate: f.RackRate,
		Replicas: f.Replicas, CacheSlots: fleetCacheSlots, CacheQueue: fleetCacheQueue,
		QuantumBytes: max(quantumLeast, f.ChunkBytes/quanta), Faults: f.Faults, Limit: f.Limit,
	}
	cfg.setDefaults()
	return cfg
}

// latency is a region's from the home.
func (f *Fleet) latency(region int) time.Duration {
	if f.Regions == 2 {
		return f.WANLatency
	}
	return f.WANLatency/4 + f.WANLatency*3/4*time.Duration(region-1)/time.Duration(f.Regions-2)
}

// Run simulates until the last machine that can finish has done so, or ctx ends.
func (f Fleet) Run(ctx context.Context) (FleetResult, error) {
	f.setDefaults()
	if err := f.validate(); err != nil {
		return FleetResult{}, err
	}
	r := fleetRun{
		Fleet: f, free: make(chan struct{}, f.Parallel),
		meter: meter{told: f.Progress, total: float64(f.Regions * f.Sample * f.CellMachines * f.Chunks)},
	}
	if f.Together {
		r.together(ctx)
	} else {
		r.apart(ctx)
	}
	if err := ctx.Err(); err != nil {
		return FleetResult{}, fmt.Errorf("sim: broken off: %w", err)
	}
	return r.result(), nil
}

// fleetRun is one run of a fleet.
type fleetRun struct {
	Fleet
	free  chan struct{} // a place for each world that may run
	meter meter
	home  site
	parts [][]part // by region
}

// site returns a region's place.
func (r *fleetRun) site(number, cell int) site {
	at := site{
		number: number, first: int32((number*r.Cells + cell) * r.CellMachines), content: r.Seed,
		wanRate: r.WANRate, pulling: max(1, fleetPulling<<20/r.ChunkBytes), progress: r.meter.add,
	}
	return at
}

// begin makes the home's site and the places of what comes out.
func (r *fleetRun) begin(partsEach int) {
	r.home = r.site(0, 0)
	for n := range r.Regions {
		r.parts = append(r.parts, make([]part, partsEach))
		if n > 0 {
			r.home.away = append(r.home.away, away{latency: r.latency(n), arrivals: make([]time.Duration, r.Chunks)})
		}
	}
}

// together simulates the home, with the pulls of the others' caches in it, then the others.
func (r *fleetRun) together(ctx context.Context) {
	r.begin(1)
	region := func(n int, at site) {
		w := newWorld(r.world(draw(r.Seed, uint64(n)), r.Cells), at)
		w.run(ctx)
		r.parts[n][0] = w.part()
	}
	region(0, r.home)
	var wg sync.WaitGroup
	for n := 1; n < r.Regions; n++ {
		r.spawn(ctx, &wg, func() {
			at := r.site(n, 0)
			at.arrivals = r.home.away[n-1].arrivals
			region(n, at)
		})
	}
	wg.Wait()
}

// apart simulates the caches of all regions, then every cell.
func (r *fleetRun) apart(ctx context.Context) {
	r.begin(r.Sample)
	r.caches(ctx, r.home, r.Regions-1, r.Cells)
	var wg sync.WaitGroup
	for n := range r.Regions {
		at, others := r.site(n, 0), r.Regions-1
		if n > 0 {
			at.arrivals, others = r.home.away[n-1].arrivals, r.Replicas-1
			w := r.caches(ctx, at, others, r.Cells)
			at.stocked, at.arrivals = w.stockedAt(), nil
		}
		for c := range r.Sample {
			r.spawn(ctx, &wg, func() {
				at := at
				at.first = r.site(n, c).first
				cfg := r.world(draw(r.Seed, uint64(n), uint64(c)), 1)
				cfg.CacheRate = max(1, r.CacheRate/int64(r.Cells+others))
				w := newWorld(cfg, at)
				w.run(ctx)
				r.parts[n][c] = w.part()
			})
		}
	}
	wg.Wait()
}

// caches simulates the caches of a region alone, with the part of their links that is left
// for others copies beside those for the cells.
func (r *fleetRun) caches(ctx context.Context, at site, others, cells int) *world {
	cfg := r.world(r.Seed, 1)
	cfg.Machines = 0
	cfg.CacheRate = max(1, r.CacheRate*int64(max(others, 1))/int64(max(others, 1)+cells))
	w := newWorld(cfg, at)
	w.run(ctx)
	return w
}

// spawn runs f in a goroutine of its own, when there is a place.
func (r *fleetRun) spawn(ctx context.Context, wg *sync.WaitGroup, f func()) {
	wg.Go(func() {
		r.free <- struct{}{}
		defer func() { <-r.free }()
		if ctx.Err() == nil {
			f()
		}
	})
}

// meter adds up progress.
type meter struct {
	mu    sync.Mutex
	told  func(done, total float64)
	done  float64
	total float64
}

func (m *meter) add(chunks int64) {
	if m.told == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += float64(chunks)
	m.told(m.done, m.total)
}
