package bench

import (
	"context"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/sim"
)

// SimConfig simulates how one artifact reaches many machines: the brains are the real
// ones, the clock and the links are not (see package sim).
type SimConfig struct {
	Machines int   // 1 to sim.MaxMachines
	Bytes    int64 // of the artifact, in chunks of simChunkBytes
	RateMbit int   // of each link and of the one cache, each way; 0: 1,000
	Seed     uint64
	Faults   sim.Faults
}

// SimResult is its result. But for WallS it is the same for the same configuration.
type SimResult struct {
	Machines    int     `json:"machines"`
	Bytes       int64   `json:"bytes"`
	RateMbit    int     `json:"rate_mbit"`
	BoundS      float64 `json:"bound_s"`  // the least possible, see sim.Result
	LastS       float64 `json:"last_s"`   // the last sound machine holds every byte
	MedianS     float64 `json:"median_s"` // of the sound machines
	CacheCopies float64 `json:"cache_copies"`
	Unfinished  int     `json:"unfinished"` // machines that could finish and did not
	Accused     int     `json:"accused"`    // machines that others distrust
	Steps       int64   `json:"steps"`      // of all brains
	WallS       float64 `json:"wall_s"`     // that the simulation took
}

const (
	simChunkBytes  = 1 << 20 // about what cutting by content gives
	simDefaultMbit = 1000
	bytesPerMbit   = 125_000
)

// Run simulates. It cannot be broken off: ctx is looked at before it begins.
func (c SimConfig) Run(ctx context.Context) (*SimResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.RateMbit == 0 {
		c.RateMbit = simDefaultMbit
	}
	if c.Machines < 1 || c.Machines > sim.MaxMachines {
		return nil, starling.Invalidf("machines", "%d: want 1 to %d", c.Machines, sim.MaxMachines)
	}
	if c.Bytes < 1 || c.Bytes > starling.MaxChunks*simChunkBytes {
		return nil, starling.Invalidf("bytes", "%d: want 1 to %d", c.Bytes, int64(starling.MaxChunks)*simChunkBytes)
	}
	if c.RateMbit < 0 {
		return nil, starling.Invalidf("rate", "%d Mbit/s", c.RateMbit)
	}
	chunks := (c.Bytes + simChunkBytes - 1) / simChunkBytes
	rate := int64(c.RateMbit) * bytesPerMbit
	began := time.Now()
	r, err := sim.Run(sim.Config{
		Seed: c.Seed, Machines: c.Machines, Chunks: int(chunks), ChunkBytes: int(max(16, c.Bytes/chunks)),
		UpRate: rate, DownRate: rate, Faults: c.Faults,
	})
	if err != nil {
		return nil, err
	}
	return &SimResult{
		Machines: r.Machines, Bytes: r.Bytes, RateMbit: c.RateMbit,
		BoundS: r.Bound.Seconds(), LastS: r.Last.Seconds(), MedianS: r.Median.Seconds(),
		CacheCopies: r.OriginCopies, Unfinished: r.Unfinished, Accused: len(r.Accused), Steps: r.Steps,
		WallS: time.Since(began).Seconds(),
	}, nil
}
