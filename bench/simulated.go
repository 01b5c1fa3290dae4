package bench

import (
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/sim"
)

// SimulatedResult is the same distribution in the simulator, which is to come to the same:
// so it is checked against reality. Times are means over simulatedSeeds seeds.
type SimulatedResult struct {
	LastS       float64 `json:"last_s"`
	MedianS     float64 `json:"median_s"`
	CacheCopies float64 `json:"cache_copies"`
	LastOff     float64 `json:"last_off"` // measured over simulated, less 1
	MedianOff   float64 `json:"median_off"`
	PayloadMbit float64 `json:"payload_mbit"` // of a link, that the simulator counts with
}

// What the simulator is told of hosts in network namespaces.
const (
	simulatedSeeds = 5
	// Of a link's bytes, 5.4 % are headers of quic-go's packets and 1.4 % acknowledgements:
	// see docs/performance.md, "Where the time goes". The simulator knows chunks only.
	payloadShare      = 1 - 0.054 - 0.014
	simulatedChunk    = 1_206_000             // bytes, the mean that artifact's cutting gives
	simulatedLatency  = 50 * time.Microsecond // of a pair of virtual interfaces and two hosts' stacks, one way
	simulatedUploads  = 8                     // as blobcache.Server has
	simulatedMaxSpeed = 100_000               // Mbit/s
)

// checkSimulated refuses what the simulator has no like of.
func (c SwarmConfig) checkSimulated() error {
	switch {
	case !c.Simulate:
		return nil
	case c.RateMbit < 1 || c.RateMbit > simulatedMaxSpeed:
		return starling.Invalidf("--simulate", "needs links of a known --rate, 1 to %d Mbit/s", simulatedMaxSpeed)
	case len(c.Faults) > 0 || c.Delta > 0 || c.CapMbit > 0:
		return starling.Invalidf("--simulate", "knows no --faults, --delta or --cap")
	}
	return nil
}

// simulated runs the simulator with what was measured.
func (c SwarmConfig) simulated(res *SwarmResult) (*SimulatedResult, error) {
	rate := int64(float64(c.RateMbit) * bytesPerMbit * payloadShare)
	chunks := max(1, (c.Bytes+simulatedChunk/2)/simulatedChunk)
	out := &SimulatedResult{PayloadMbit: float64(c.RateMbit) * payloadShare}
	for i := range simulatedSeeds {
		r, err := sim.Run(sim.Config{
			Seed: c.Seed + uint64(i), Machines: c.Machines, Chunks: int(chunks), ChunkBytes: int(max(16, c.Bytes/chunks)), VarySizes: true,
			Zones: 1, Racks: 1, UpRate: rate, DownRate: rate, Caches: c.Caches, CacheRate: rate, CacheSlots: simulatedUploads,
			RackLatency: simulatedLatency, ZoneLatency: simulatedLatency, CellLatency: simulatedLatency,
		})
		if err != nil {
			return nil, err
		}
		// Sizes are drawn: the bytes come out a little different.
		scale := float64(c.Bytes) / float64(r.Bytes) / simulatedSeeds
		out.LastS += r.Last.Seconds() * scale
		out.MedianS += r.Median.Seconds() * scale
		out.CacheCopies += r.OriginCopies / simulatedSeeds
	}
	if out.LastS > 0 && out.MedianS > 0 {
		out.LastOff, out.MedianOff = res.LastS/out.LastS-1, res.MedianS/out.MedianS-1
	}
	return out, nil
}
