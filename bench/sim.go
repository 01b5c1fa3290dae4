package bench

import (
	"context"
	"fmt"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/sim"
)

// SimConfig simulates how one artifact reaches the machines of several regions, in cells:
// the brains are the real ones, the clock and the links are not (see sim.Fleet).
type SimConfig struct {
	Machines    int           // of all regions; dealt out evenly, rounded up
	Regions     int           // 0: 1
	CellSize    int           // machines in a cell, at most; 0: 1,250
	Caches      int           // in each region; 0: 8
	Bytes       int64         // of the artifact
	ChunkBytes  int64         // 0: 1 MiB, and up to 6 where that would be more than simMaxArrivals
	RateMbit    int           // of each machine's link, each way; 0: 1,000
	CacheMbit   int           // of each cache's; 0: ten times RateMbit
	WANMbit     int           // of each region's link to the home; 0: twice RateMbit
	WANLatency  time.Duration // of the farthest region, one way; 0: 80 ms
	RackSize    int           // machines in a rack; 0: 40
	RackMbit    int           // of a rack's link, each way; 0: not a bottleneck
	Together    bool          // see sim.Fleet
	Sample      int           // likewise; 0: all cells
	Parallelism int           // worlds simulated at once; 0: 1
	Seed        uint64
	Faults      sim.Faults
	Tell        trial.Progress
}

// SimResult is its result. But for WallS, CPUS and RSSMB it is the same for the same
// configuration, whatever the parallelism.
type SimResult struct {
	Machines    int     `json:"machines"` // that were simulated
	Bytes       int64   `json:"bytes"`
	ChunkBytes  int64   `json:"chunk_bytes"`
	Cells       int     `json:"cells"`         // in each region
	Sample      int     `json:"cells_sampled"` // of those, that were simulated
	CellSize    int     `json:"cell_machines"`
	RateMbit    int     `json:"rate_mbit"`
	WANMbit     int     `json:"wan_mbit"`
	BoundS      float64 `json:"bound_s"`         // the least possible, see sim.FleetResult
	LastS       float64 `json:"last_s"`          // the last sound machine holds every byte
	MedianS     float64 `json:"median_s"`        // of the sound machines, of the median region
	LastOver    float64 `json:"last_over_bound"` // the worst region's
	SlowLastS   float64 `json:"slow_last_s"`     // the last slow machine; 0: there is none
	WANCopies   float64 `json:"wan_copies"`      // that crossed to a region, at most
	CacheCopies float64 `json:"cache_copies"`    // that left a region's caches for machines, per cell, at most
	Unfinished  int     `json:"unfinished"`      // machines that could finish and did not
	Accused     int     `json:"accused"`         // machines that others distrust
	Steps       int64   `json:"steps"`           // of all brains
	WallS       float64 `json:"wall_s"`          // that the simulation took
	CPUS        float64 `json:"cpu_s"`           // likewise
	RSSMB       float64 `json:"rss_mb"`          // the largest that the process was

	Regions []SimRegion `json:"regions"`
}

// SimRegion is one region's part; the first is the home.
type SimRegion struct {
	BoundS      float64 `json:"bound_s"`
	LastS       float64 `json:"last_s"`
	MedianS     float64 `json:"median_s"`
	LastOver    float64 `json:"last_over_bound"`
	SlowLastS   float64 `json:"slow_last_s"`
	PlacedS     float64 `json:"placed_s"` // its caches hold every chunk as often as they are to
	LatencyMS   float64 `json:"latency_ms"`
	WANCopies   float64 `json:"wan_copies"`
	CacheCopies float64 `json:"cache_copies"`
	Wasted      float64 `json:"wasted"` // part of the bytes, that was sent and not needed
	Unfinished  int     `json:"unfinished"`
}

const (
	simChunkBytes   = 1 << 20 // about what cutting by content gives
	simMaxChunk     = 6 << 20
	simLargest      = 16 << 20   // four times production's largest: beyond, the brain's own bounds in bytes decide
	simMaxArrivals  = 50_000_000 // of chunks at machines, before chunks stand for several
	simDefaultMbit  = 1000
	simDefaultCell  = 1250
	simDefaultCache = 8
	bytesPerMbit    = 125_000
	// simGarbage lets the heap grow to so many per cent of what is alive: that is little, and
	// a walk over it costs more than the memory.
	simGarbage = 400
)

func (c *SimConfig) setDefaults() {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&c.Regions, 1}, {&c.CellSize, simDefaultCell}, {&c.Caches, simDefaultCache}, {&c.RateMbit, simDefaultMbit}, {&c.Parallelism, 1},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.CacheMbit == 0 {
		c.CacheMbit = 10 * c.RateMbit
	}
	if c.WANMbit == 0 {
		c.WANMbit = 2 * c.RateMbit
	}
	if c.ChunkBytes == 0 {
		c.ChunkBytes = simChunkBytes
		for c.ChunkBytes < simMaxChunk && float64(c.Machines)*float64(c.Bytes)/float64(c.ChunkBytes) > simMaxArrivals {
			c.ChunkBytes = min(2*c.ChunkBytes, simMaxChunk)
		}
	}
}

// Check refuses what cannot be simulated.
func (c SimConfig) Check() error {
	c.setDefaults()
	most := starling.MaxChunks * int64(simChunkBytes)
	switch {
	case c.Regions < 1 || c.Regions > sim.MaxRegions:
		return starling.Invalidf("regions", "%d: want 1 to %d", c.Regions, sim.MaxRegions)
	case c.Machines < c.Regions || c.Machines > sim.MaxMachines*c.Regions:
		return starling.Invalidf("machines", "%d in %d regions: want 1 to %d in each", c.Machines, c.Regions, sim.MaxMachines)
	case c.CellSize < 1 || c.Caches < 1 || c.RackSize < 0 || c.Parallelism < 1:
		return starling.Invalidf("cell-size", "machines of a cell, caches and what runs at once must be 1 or more")
	case c.Bytes < 1 || c.Bytes > most:
		return starling.Invalidf("bytes", "%d: want 1 to %d", c.Bytes, most)
	case c.ChunkBytes < 16 || c.ChunkBytes > simLargest || c.Bytes/c.ChunkBytes >= starling.MaxChunks:
		return starling.Invalidf("chunk", "%d: want 16 to %d, and no more than %d chunks", c.ChunkBytes, simLargest, starling.MaxChunks)
	case c.RateMbit < 0 || c.CacheMbit < 0 || c.WANMbit < 0 || c.RackMbit < 0 || c.WANLatency < 0:
		return starling.Invalidf("rate", "rates and latencies must not be negative")
	}
	if f := c.fleet(); c.Sample < 0 || c.Sample > f.Cells || c.Together && c.Sample > 0 {
		return starling.Invalidf("sample", "%d of %d cells; and not together", c.Sample, f.Cells)
	}
	return nil
}

// fleet is what is simulated.
func (c *SimConfig) fleet() sim.Fleet {
	perRegion := (c.Machines + c.Regions - 1) / c.Regions
	cells := (perRegion + c.CellSize - 1) / c.CellSize
	chunks := (c.Bytes + c.ChunkBytes - 1) / c.ChunkBytes
	return sim.Fleet{
		Seed: c.Seed, Regions: c.Regions, Cells: cells, CellMachines: (perRegion + cells - 1) / cells,
		RackMachines: c.RackSize, Caches: c.Caches, Chunks: int(chunks), ChunkBytes: int(max(16, c.Bytes/chunks)),
		MachineRate: int64(c.RateMbit) * bytesPerMbit, CacheRate: int64(c.CacheMbit) * bytesPerMbit,
		RackRate: int64(c.RackMbit) * bytesPerMbit, WANRate: int64(c.WANMbit) * bytesPerMbit, WANLatency: c.WANLatency,
		Faults: c.Faults, Parallel: c.Parallelism, Together: c.Together, Sample: c.Sample,
		Progress: func(done, total float64) { c.Tell.Tell("simulating", done, total, "chunks") },
	}
}

// Run simulates.
func (c SimConfig) Run(ctx context.Context) (*SimResult, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	c.setDefaults()
	defer debug.SetGCPercent(debug.SetGCPercent(simGarbage))
	f := c.fleet()
	if c.Sample == 0 {
		c.Sample, f.Sample = f.Cells, f.Cells
	}
	began := time.Now()
	before, err := ownCost()
	if err != nil {
		return nil, err
	}
	r, err := f.Run(ctx)
	if err != nil {
		return nil, err
	}
	after, err := ownCost()
	if err != nil {
		return nil, err
	}
	out := &SimResult{
		Machines: r.Machines, Bytes: r.Bytes, ChunkBytes: c.ChunkBytes, Cells: f.Cells, Sample: c.Sample, CellSize: f.CellMachines,
		RateMbit: c.RateMbit, WANMbit: c.WANMbit,
		BoundS: r.Bound.Seconds(), LastS: r.Last.Seconds(), MedianS: r.Median.Seconds(), LastOver: r.Over, SlowLastS: r.SlowLast.Seconds(),
		WANCopies: r.WANCopies, CacheCopies: r.Copies, Unfinished: r.Unfinished, Accused: r.Accused, Steps: r.Steps,
		WallS: time.Since(began).Seconds(), CPUS: (after.cpu - before.cpu).Seconds(), RSSMB: after.rssMB,
	}
	for _, g := range r.Regions {
		out.Regions = append(out.Regions, SimRegion{
			BoundS: g.Bound.Seconds(), LastS: g.Last.Seconds(), MedianS: g.Median.Seconds(), LastOver: g.Last.Seconds() / g.Bound.Seconds(),
			SlowLastS: g.SlowLast.Seconds(), PlacedS: g.Placed.Seconds(), LatencyMS: g.Latency.Seconds() * 1000,
			WANCopies: g.WANCopies, CacheCopies: g.Copies, Wasted: g.Wasted, Unfinished: g.Unfinished,
		})
	}
	return out, nil
}

// cost is what this process has used.
type cost struct {
	cpu   time.Duration
	rssMB float64 // at most, 10^6 bytes
}

func ownCost() (cost, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return cost{}, fmt.Errorf("what this process has used: %w", err)
	}
	return cost{
		cpu:   time.Duration(u.Utime.Nano() + u.Stime.Nano()),
		rssMB: float64(u.Maxrss) * 1024 / 1e6, // Linux counts KiB
	}, nil
}
