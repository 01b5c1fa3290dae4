package sim

import (
	"errors"
	"fmt"
	"time"

	"github.com/starlingdeploy/starling/swarm"
)

// Config describes a world. Zero fields take the defaults given.
type Config struct {
	Seed       uint64
	Machines   int // 1..MaxMachines; default 8
	Chunks     int // of the artifact; default 500
	ChunkBytes int // mean; default 1 MiB
	// VarySizes makes chunks between an eighth and 15 eighths of the mean, as
	// content-defined cutting does; otherwise all are equal.
	VarySizes bool
	Priority  int   // of the artifact
	Also      []Job // artifacts beside the first, for the same machines
	Cells     int   // swarms of their own that share the caches; machines are dealt out evenly; default 1
	Zones     int   // default 3
	Racks     int   // in each zone; default 4
	// RackMachines, if not 0, fills racks with so many machines each, one after the other;
	// each cell has racks of its own, all in one zone. Racks does not count then.
	RackMachines int

	// Rates in bytes a second.
	UpRate, DownRate int64 // of a machine; default 125 MB/s each (1 Gbit/s)
	Caches           int   // default 1; -1: none
	CacheRate        int64 // of one cache's uplink; default UpRate
	RackRate         int64 // of a rack's link to its zone, each way; 0: not a bottleneck
	ZoneRate         int64 // of a zone's link to the others, each way; 0: not a bottleneck

	RackLatency time.Duration // one way; default 100 µs
	ZoneLatency time.Duration // one way; default 250 µs
	CellLatency time.Duration // one way, between zones; default 1 ms
	UploadSlots int           // chunks sent at once by a machine; default swarm.UploadSlots
	CacheSlots  int           // and by a cache; default UploadSlots
	// CacheQueue is how many chunks machines may have asked of a cache and not had, before
	// the next one is told busy; 0: no bound.
	CacheQueue int
	// Replicas is how many caches hold a chunk, the first of its rendezvous order; 0: all.
	Replicas     int
	UploadQueue  int // requests that wait before one is told busy, at machines; default swarm.UploadQueueChunks
	QuantumBytes int // default 128 KiB
	// UrgentFirst lets requests for artifacts of higher priority overtake others in
	// the queue of an uplink.
	UrgentFirst bool

	StartSpread time.Duration // machines begin evenly within it; default 0
	Held        float64       // share of the chunks that every machine has already
	// DetectAfter is how long links to a dead machine seem to stand; default 6 s, as
	// the transport's idle time-out.
	DetectAfter time.Duration
	// MembersAfter is how long gossip takes to tell of a death or a return; default 3 s.
	MembersAfter time.Duration

	Faults    Faults
	Outages   []Outage // of machines
	CacheDown []Outage // of caches

	// Limit ends a run that does not; default 1 h of virtual time.
	Limit time.Duration
	// SampleEvery has the progress noted at this interval; 0: not.
	SampleEvery time.Duration
	// Record keeps the events and effects of the machine of this number (from 1).
	Record int
}

// MaxMachines bounds a world.
const MaxMachines = 100_000

// Job is an artifact beside the first.
type Job struct {
	At         time.Duration // when the machines are told of it
	Chunks     int           // default 500
	ChunkBytes int           // default 1 MiB
	Priority   int
}

// Faults are shares of the machines, 0 to 1 each and in sum; the seed chooses which
// machines. A share above 0 is one machine at least.
type Faults struct {
	Slow       float64 // links SlowFactor times as fast, both ways
	SlowFactor float64 // default 0.01

	// These hold nothing, take nothing, and announce everything.
	Stall   float64 // never answer a request, though the link stands
	Lie     float64 // answer "missing"
	Corrupt float64 // answer with wrong bytes

	// These are honest until a moment between From and To.
	Freeze float64 // then send no chunk any more, though the link stands
	Vanish float64 // then are gone for good without a word
	Churn  float64 // then are gone for Away, and come back with what they held
	Late   float64 // only then begin

	// One-way partitions. Both kinds hear everything.
	Muffled float64 // chunks that they send to every other machine of two are lost
	Mute    float64 // what they announce is lost

	From, To time.Duration // default: 0.2 and 0.8 of the bound
	Away     time.Duration // default 1 s
}

// shares lists the faults' shares, in the order in which spoil deals them out.
func (f *Faults) shares() []float64 {
	return []float64{f.Slow, f.Stall, f.Lie, f.Corrupt, f.Freeze, f.Vanish, f.Churn, f.Late, f.Muffled, f.Mute}
}

// Outage takes a machine (or cache) away at a time and brings it back, with what it
// had on disk, after another; For 0: never.
type Outage struct {
	Machine int
	At, For time.Duration
}

func def[T int | int64 | float64 | time.Duration](p *T, v T) {
	if *p == 0 {
		*p = v
	}
}

func (c *Config) setDefaults() {
	def(&c.Machines, 8)
	def(&c.Chunks, 500)
	def(&c.ChunkBytes, 1<<20)
	def(&c.Zones, 3)
	def(&c.Racks, 4)
	def(&c.Caches, 1)
	def(&c.UploadSlots, swarm.UploadSlots)
	def(&c.CacheSlots, c.UploadSlots)
	def(&c.Cells, 1)
	def(&c.UploadQueue, swarm.UploadQueueChunks)
	def(&c.QuantumBytes, 128<<10)
	def(&c.UpRate, 125_000_000)
	def(&c.DownRate, 125_000_000)
	def(&c.CacheRate, c.UpRate)
	def(&c.RackLatency, 100*time.Microsecond)
	def(&c.ZoneLatency, 250*time.Microsecond)
	def(&c.CellLatency, time.Millisecond)
	def(&c.DetectAfter, 6*time.Second)
	def(&c.MembersAfter, 3*time.Second)
	def(&c.Limit, time.Hour)
	def(&c.Faults.SlowFactor, 0.01)
	def(&c.Faults.Away, time.Second)
	c.Also = append([]Job(nil), c.Also...)
	for i := range c.Also {
		def(&c.Also[i].Chunks, 500)
		def(&c.Also[i].ChunkBytes, 1<<20)
	}
	c.Caches = max(c.Caches, 0)
}

func (c *Config) validate() error {
	switch {
	case c.Machines < 1 || c.Machines > MaxMachines:
		return fmt.Errorf("sim: %d machines: want 1 to %d", c.Machines, MaxMachines)
	case c.Chunks < 1 || c.ChunkBytes < 16:
		return errors.New("sim: want at least one chunk of 16 bytes")
	case c.Cells < 1 || c.Cells > c.Machines:
		return fmt.Errorf("sim: %d cells of %d machines", c.Cells, c.Machines)
	case c.Caches > maxCaches:
		return fmt.Errorf("sim: %d caches: want %d at most", c.Caches, maxCaches)
	case c.CacheSlots < 1 || c.CacheQueue < 0 || c.Replicas < 0 || c.RackMachines < 0:
		return errors.New("sim: a count is negative")
	case c.Zones < 1 || c.Racks < 1 || c.UploadSlots < 1 || c.QuantumBytes < 1:
		return errors.New("sim: a count is negative")
	case c.UpRate < 1 || c.DownRate < 1 || c.CacheRate < 1 || c.RackRate < 0 || c.ZoneRate < 0 || c.Faults.SlowFactor <= 0:
		return errors.New("sim: a rate is not positive")
	case c.Held < 0 || c.Held > 1:
		return fmt.Errorf("sim: share held %g is not within 0 and 1", c.Held)
	case c.Faults.From < 0 || c.Faults.To < c.Faults.From:
		return errors.New("sim: faults end before they begin")
	}
	sum := 0.0
	for _, s := range c.Faults.shares() {
		if s < 0 || s > 1 {
			return fmt.Errorf("sim: a share of %g of the machines", s)
		}
		sum += s
	}
	if sum > 1 {
		return errors.New("sim: more machines with faults than machines")
	}
	for _, j := range c.Also {
		if j.Chunks < 1 || j.ChunkBytes < 16 || j.At < 0 {
			return errors.New("sim: a job without content, or before the beginning")
		}
	}
	for _, o := range c.Outages {
		if o.Machine < 0 || o.Machine >= c.Machines {
			return fmt.Errorf("sim: outage of machine %d: there is none", o.Machine)
		}
	}
	for _, o := range c.CacheDown {
		if o.Machine < 0 || o.Machine >= c.Caches {
			return fmt.Errorf("sim: outage of cache %d: there is none", o.Machine)
		}
	}
	return nil
}
