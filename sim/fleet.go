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
// The home is simulated first, with the pulls of the others' caches in it; what it gives is
// when each chunk comes to each region. The other regions, which have nothing else to do
// with each other, follow, each a world of its own; so the result is the same however many
// run at once. Zero fields take the defaults given.
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
	Parallel int           // regions simulated at once, each by one goroutine; default 1
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
	quanta          = 8    // of a chunk; links take turns between them
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
}

func (f *Fleet) validate() error {
	switch {
	case f.Regions < 1 || f.Regions > MaxRegions:
		return fmt.Errorf("sim: %d regions: want 1 to %d", f.Regions, MaxRegions)
	case f.Cells < 1 || f.CellMachines < 1 || f.CellMachines > MaxMachines/f.Cells:
		return fmt.Errorf("sim: %d cells of %d machines: want 1 to %d machines in a region", f.Cells, f.CellMachines, MaxMachines)
	case f.Caches < 1 || f.Replicas < 1:
		return errors.New("sim: a region without a cache, or a chunk that none holds")
	case f.WANRate < 0 || f.WANLatency < 0:
		return errors.New("sim: a rate or latency between regions is negative")
	case f.Parallel < 1:
		return errors.New("sim: want at least one region simulated at a time")
	}
	cfg := f.world(0)
	cfg.setDefaults()
	return cfg.validate()
}

// world is a region's configuration.
func (f *Fleet) world(region int) Config {
	return Config{
		Seed:     draw(f.Seed, uint64(region)),
		Machines: f.Cells * f.CellMachines, Cells: f.Cells, RackMachines: f.RackMachines,
		Chunks: f.Chunks, ChunkBytes: f.ChunkBytes, VarySizes: true,
		UpRate: f.MachineRate, DownRate: f.MachineRate, Caches: f.Caches, CacheRate: f.CacheRate, RackRate: f.RackRate,
		Replicas: f.Replicas, CacheSlots: fleetCacheSlots, CacheQueue: fleetCacheQueue,
		QuantumBytes: max(quantumLeast, f.ChunkBytes/quanta), Faults: f.Faults, Limit: f.Limit,
	}
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
	meter := meter{told: f.Progress, total: float64(f.Regions * f.Cells * f.CellMachines * f.Chunks)}
	pulling := max(1, fleetPulling<<20/f.ChunkBytes)
	home := site{content: f.Seed, wanRate: f.WANRate, pulling: pulling, progress: meter.add}
	for r := 1; r < f.Regions; r++ {
		home.away = append(home.away, away{latency: f.latency(r), arrivals: make([]time.Duration, f.Chunks)})
	}
	out := make([]RegionResult, f.Regions)
	out[0] = f.region(ctx, 0, &home)
	var wg sync.WaitGroup
	free := make(chan struct{}, f.Parallel)
	for r := 1; r < f.Regions; r++ {
		wg.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			out[r] = f.region(ctx, r, &site{number: r, content: f.Seed, arrivals: home.away[r-1].arrivals, pulling: pulling, progress: meter.add})
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return FleetResult{}, fmt.Errorf("sim: broken off: %w", err)
	}
	return f.result(out, &home), nil
}

// region simulates one region.
func (f *Fleet) region(ctx context.Context, number int, at *site) RegionResult {
	if ctx.Err() != nil {
		return RegionResult{}
	}
	cfg := f.world(number)
	cfg.setDefaults()
	w := newWorld(cfg, *at)
	w.run(ctx)
	at.bytes = w.jobs[0].fresh
	return f.regionResult(w)
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
