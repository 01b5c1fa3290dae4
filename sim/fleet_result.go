package sim

import (
	"slices"
	"time"
)

// FleetResult is what came out.
type FleetResult struct {
	Machines   int
	Bytes      int64
	Regions    []RegionResult
	Bound      time.Duration // the longest of the regions', or the home's caches' for all copies that leave them
	Last       time.Duration // the last sound machine of all
	Median     time.Duration // of the regions' medians
	Over       float64       // the worst region's Last over its Bound
	SlowLast   time.Duration // the last slow machine
	Unfinished int
	WANCopies  float64 // the most that crossed to a region
	Copies     float64 // the most that left a region's caches for machines, per cell
	Steps      int64
	Hash       uint64 // of all regions', in order
}

// RegionResult is one region's part. Times are counted from the moment at which the home
// held the artifact and all machines were told of it.
type RegionResult struct {
	// Bound is the least possible, as in Result; and no less than the time of one copy over
	// the link to the home, with its latency.
	Bound        time.Duration
	Last, Median time.Duration // of the sound machines
	SlowLast     time.Duration // the last slow machine
	Unfinished   int
	Placed       time.Duration // when the caches held every chunk as often as they are to
	Latency      time.Duration // from the home
	WANCopies    float64       // that crossed to it
	Copies       float64       // that left its caches for machines, per cell
	Wasted       float64       // part of what machines were to get, that was sent and not needed
	Steps        int64
	Hash         uint64
}

func (f *Fleet) regionResult(w *world) RegionResult {
	r := w.result()
	out := RegionResult{
		Bound: r.Bound, Last: r.Last, Median: r.Median, Unfinished: r.Unfinished, Steps: r.Steps, Hash: r.Hash,
		Placed: w.placed, Copies: r.OriginCopies / float64(f.Cells),
		Wasted: float64(r.Wasted) / (float64(r.Bytes) * float64(r.Machines)),
	}
	for i := range w.machines {
		if m := &w.machines[i]; m.fault == slow {
			out.SlowLast = max(out.SlowLast, m.done[0])
		}
	}
	if w.site.number > 0 {
		out.Latency = f.latency(w.site.number)
		out.Bound = max(out.Bound, span(r.Bytes, f.WANRate)+out.Latency)
	}
	return out
}

func (f *Fleet) result(regions []RegionResult, home *site) FleetResult {
	bytes := home.bytes
	out := FleetResult{Machines: f.Regions * f.Cells * f.CellMachines, Bytes: bytes, Regions: regions}
	out.Bound = span(bytes*int64(f.Cells+f.Regions-1), f.CacheRate*int64(f.Caches))
	medians := make([]time.Duration, 0, len(regions))
	for i := range regions {
		r := &regions[i]
		if i > 0 {
			r.WANCopies = float64(home.away[i-1].bytes) / float64(bytes)
		}
		out.Bound = max(out.Bound, r.Bound)
		out.Last, out.SlowLast = max(out.Last, r.Last), max(out.SlowLast, r.SlowLast)
		out.Over = max(out.Over, r.Last.Seconds()/r.Bound.Seconds())
		out.Unfinished += r.Unfinished
		out.WANCopies, out.Copies = max(out.WANCopies, r.WANCopies), max(out.Copies, r.Copies)
		out.Steps += r.Steps
		out.Hash = fold(out.Hash, r.Hash)
		medians = append(medians, r.Median)
	}
	slices.Sort(medians)
	out.Median = medians[len(medians)/2]
	return out
}
