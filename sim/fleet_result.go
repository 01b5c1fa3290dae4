package sim

import (
	"slices"
	"time"
)

// FleetResult is what came out.
type FleetResult struct {
	Machines   int // that were simulated
	Bytes      int64
	Regions    []RegionResult
	Bound      time.Duration // the longest of the regions', or the home's caches' for all copies that leave them
	Last       time.Duration // the last sound machine of all
	Median     time.Duration // of the regions' medians
	Over       float64       // the worst region's Last over its Bound
	SlowLast   time.Duration // the last slow machine
	Unfinished int           // machines that can finish and have not
	Accused    int           // machines that others distrust
	WANCopies  float64       // the most that crossed to a region
	Copies     float64       // the most that left a region's caches for machines, per cell
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
	Accused      int
	Placed       time.Duration // when the caches held every chunk as often as they are to
	Latency      time.Duration // from the home
	WANCopies    float64       // that crossed to it
	Copies       float64       // that left its caches for machines, per cell
	Wasted       float64       // part of what machines were to get, that was sent and not needed
	Steps        int64
	Hash         uint64
}

// part is what came out of one world.
type part struct {
	done                     []time.Duration // sound machines' times
	slowLast, placed         time.Duration
	accused                  int
	unfinished, machines     int
	fresh, toMachines, waste int64
	upRate, takers           int64 // see world.bound
	steps                    int64
	hash                     uint64
}

func (w *world) part() part {
	p := part{
		unfinished: w.left, machines: len(w.machines), placed: w.placed, fresh: w.jobs[0].fresh,
		toMachines: w.hauled[toMachines], waste: w.wasted, hash: w.hash,
	}
	p.upRate, p.takers = w.capacity()
	for i := range w.machines {
		m := &w.machines[i]
		p.steps += m.steps
		if m.accusers > 0 {
			p.accused++
		}
		switch {
		case m.fault == slow:
			p.slowLast = max(p.slowLast, m.done[0])
		case m.fault == sound && m.done[0] > 0:
			p.done = append(p.done, m.done[0])
		}
	}
	return p
}

// region puts a region's parts together.
func (r *fleetRun) region(n int) RegionResult {
	var out RegionResult
	var done []time.Duration
	var toMachines, waste, upRate, takers int64
	for _, p := range r.parts[n] {
		done = append(done, p.done...)
		out.SlowLast, out.Placed = max(out.SlowLast, p.slowLast), max(out.Placed, p.placed)
		out.Unfinished += p.unfinished
		out.Accused += p.accused
		out.Steps += p.steps
		out.Hash = fold(out.Hash, p.hash)
		toMachines, waste, upRate, takers = toMachines+p.toMachines, waste+p.waste, upRate+p.upRate, takers+p.takers
	}
	slices.Sort(done)
	if len(done) > 0 {
		out.Last, out.Median = done[len(done)-1], done[len(done)/2]
	}
	bytes := r.parts[n][0].fresh
	cacheUp := r.CacheRate * int64(r.Caches)
	out.Bound = max(span(bytes, r.MachineRate), span(bytes*int64(r.Cells), cacheUp),
		span(bytes*takers, upRate+cacheUp*int64(r.Sample)/int64(r.Cells)))
	if r.RackRate > 0 {
		out.Bound = max(out.Bound, span(bytes, r.RackRate))
	}
	if n > 0 {
		from := &r.home.away[n-1]
		out.Latency, out.WANCopies = from.latency, float64(from.bytes)/float64(bytes)
		out.Bound = max(out.Bound, span(bytes, r.WANRate)+from.latency)
	}
	out.Copies = float64(toMachines) / float64(bytes) / float64(r.Sample)
	out.Wasted = float64(waste) / float64(bytes) / float64(r.Sample*r.CellMachines)
	return out
}

func (r *fleetRun) result() FleetResult {
	bytes := r.parts[0][0].fresh
	out := FleetResult{Machines: r.Regions * r.Sample * r.CellMachines, Bytes: bytes}
	out.Bound = span(bytes*int64(r.Cells+r.Regions-1), r.CacheRate*int64(r.Caches))
	var medians []time.Duration
	for n := range r.parts {
		g := r.region(n)
		out.Regions = append(out.Regions, g)
		out.Bound = max(out.Bound, g.Bound)
		out.Last, out.SlowLast = max(out.Last, g.Last), max(out.SlowLast, g.SlowLast)
		out.Over = max(out.Over, g.Last.Seconds()/g.Bound.Seconds())
		out.Unfinished += g.Unfinished
		out.Accused += g.Accused
		out.WANCopies, out.Copies = max(out.WANCopies, g.WANCopies), max(out.Copies, g.Copies)
		out.Steps += g.Steps
		out.Hash = fold(out.Hash, g.Hash)
		medians = append(medians, g.Median)
	}
	slices.Sort(medians)
	out.Median = medians[len(medians)/2]
	return out
}
