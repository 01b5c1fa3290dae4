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
	// VarySizes makes chunks between a quarter and four times the mean, as
	// content-defined cutting does; otherwise all are equal.
	VarySizes bool
	Zones     int // default 3
	Racks     int // in each zone; default 4

	// Rates in bytes a second.
	UpRate, DownRate int64 // of a machine; default 125 MB/s each (1 Gbit/s)
	Caches           int   // default 1
	CacheRate        int64 // of one cache's uplink; default UpRate

	RackLatency  time.Duration // one way; default 100 µs
	ZoneLatency  time.Duration // one way; default 250 µs
	CellLatency  time.Duration // one way, between zones; default 1 ms
	UploadSlots  int           // chunks sent at once by a machine or cache; default swarm.UploadSlots
	UploadQueue  int           // requests that wait before one is told busy; default swarm.UploadQueueChunks for machines, unbounded for caches
	QuantumBytes int           // default 128 KiB

	StartSpread time.Duration // machines begin evenly within it; default 0
	Held        float64       // share of the chunks that every machine has already
	// DetectAfter is how long links to a dead machine seem to stand; default 1 s.
	DetectAfter time.Duration
	// MembersAfter is how long gossip takes to tell of a death or a return; default 3 s.
	MembersAfter time.Duration

	Slow       int     // machines whose links are SlowFactor times as fast
	SlowFactor float64 // default 0.1
	// Liars hold nothing, announce everything, and answer requests so:
	Corrupt   int // by wrong bytes
	Claim     int // by "missing"
	Stall     int // not at all
	Outages   []Outage
	CacheDown []Outage // of caches, by index

	// Limit ends a run that does not; default 1 h of virtual time.
	Limit time.Duration
	// Record keeps the events and effects of the machine of this number (from 1).
	Record int
}

// MaxMachines bounds a world.
const MaxMachines = 100_000

// Outage takes a machine (or cache) away at a time and brings it back, with what it
// had on disk, after another; For 0: never.
type Outage struct {
	Machine int
	At, For time.Duration
}

func (c *Config) setDefaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	dur := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	rate := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Machines, 8)
	def(&c.Chunks, 500)
	def(&c.ChunkBytes, 1<<20)
	def(&c.Zones, 3)
	def(&c.Racks, 4)
	def(&c.Caches, 1)
	def(&c.UploadSlots, swarm.UploadSlots)
	def(&c.UploadQueue, swarm.UploadQueueChunks)
	def(&c.QuantumBytes, 128<<10)
	rate(&c.UpRate, 125_000_000)
	rate(&c.DownRate, 125_000_000)
	rate(&c.CacheRate, c.UpRate)
	dur(&c.RackLatency, 100*time.Microsecond)
	dur(&c.ZoneLatency, 250*time.Microsecond)
	dur(&c.CellLatency, time.Millisecond)
	dur(&c.DetectAfter, time.Second)
	dur(&c.MembersAfter, 3*time.Second)
	dur(&c.Limit, time.Hour)
	if c.SlowFactor == 0 {
		c.SlowFactor = 0.1
	}
}

func (c *Config) validate() error {
	switch {
	case c.Machines < 1 || c.Machines > MaxMachines:
		return fmt.Errorf("sim: %d machines: want 1 to %d", c.Machines, MaxMachines)
	case c.Chunks < 1 || c.ChunkBytes < 16:
		return errors.New("sim: want at least one chunk of 16 bytes")
	case c.Caches < 0 || c.Zones < 1 || c.Racks < 1 || c.UploadSlots < 1 || c.QuantumBytes < 1:
		return errors.New("sim: a count is negative")
	case c.UpRate < 1 || c.DownRate < 1 || c.CacheRate < 1 || c.SlowFactor <= 0:
		return errors.New("sim: a rate is not positive")
	case c.Held < 0 || c.Held > 1:
		return fmt.Errorf("sim: share held %g is not within 0 and 1", c.Held)
	case c.Slow+c.Corrupt+c.Claim+c.Stall > c.Machines:
		return errors.New("sim: more machines with faults than machines")
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

// Result is what came out.
type Result struct {
	Machines int
	Bytes    int64 // of the artifact, less what all machines held
	// Bound is the least possible time without faults: bytes over the slowest
	// downlink, over the caches' uplinks, or all machines' bytes over all uplinks,
	// whichever is longest (Mundinger, Weber and Weiss, 2008, without its term for
	// the last chunks).
	Bound        time.Duration
	Last         time.Duration // when the last honest, living machine was done
	Median       time.Duration
	Unfinished   int     // honest, living machines not done at the end
	OriginCopies float64 // bytes that left the caches over Bytes
	Wasted       int64   // bytes sent and not needed: cancelled, twice, corrupt
	Steps        int64   // brain steps
	Hash         uint64  // of all events and effects in order
	PerMachine   []Machine
	Record       []swarm.Record
}

// Machine is one machine's part.
type Machine struct {
	Name       string
	Faulty     bool // lies: not expected to matter
	Done       time.Duration
	FromPeers  int64 // bytes
	FromCaches int64
	Sent       int64
	Steps      int64
}
