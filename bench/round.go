package bench

import (
	"slices"

	"github.com/starlingdeploy/starling"
)

// Round is one distribution by one system.
type Round struct {
	System string `json:"system"` // starling, or a rival's name
	// Seconds from the start until each machine held every byte, in the machines' order; 0: it
	// was harmed by a fault.
	DoneS       []float64 `json:"done_s"`
	LastS       float64   `json:"last_s"`
	MedianS     float64   `json:"median_s"`
	CPUSPerGB   float64   `json:"cpu_s_per_gb"` // of all its processes, per 10^9 bytes delivered
	WireCopies  float64   `json:"wire_copies"`  // out of the seeds, headers included
	RSSMBMax    float64   `json:"rss_mb_max"`   // of the largest process
	CacheCopies float64   `json:"cache_copies,omitempty"`
	DurableS    float64   `json:"durable_s,omitempty"` // until the last had synced them to disk as well
	Samples     []Sample  `json:"samples,omitempty"`

	Machines []string       `json:"machines,omitempty"` // names
	Phase    starling.Phase `json:"phase,omitempty"`    // the deployment's last
	Faults   []*FaultResult `json:"faults,omitempty"`
	Delta    *DeltaResult   `json:"delta,omitempty"`
	Cells    *CellsResult   `json:"cells,omitempty"`
}

// finish derives the figures of a round from the machines' times.
func (r *Round) finish(bytes int64, cpuS float64) {
	var done []float64
	for _, s := range r.DoneS {
		if s > 0 {
			done = append(done, s)
		}
	}
	if len(done) == 0 {
		return
	}
	slices.Sort(done)
	r.LastS, r.MedianS = done[len(done)-1], done[(len(done)-1)/2]
	r.CPUSPerGB = cpuS / (float64(bytes) * float64(len(done)) / 1e9)
}

// Spread is a figure over several rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spread sums up f over the rounds of one system; with an even number the lower median.
func spread(rounds []*Round, system string, f func(*Round) float64) Spread {
	return spreadOf(slices.DeleteFunc(slices.Clone(rounds), func(r *Round) bool { return r.System != system }), f)
}
