package starling

import (
	"math"
	"math/bits"
	"slices"
	"time"
)

// Bounds of a region's fleet.
const (
	MaxMachinesPerRegion = 150_000
	MaxCellMachines      = 1_500 // of a cell, also while it waits to be split
	MaxJoinTokens        = 1_000 // of a region
	MaxMachineTags       = 32
)

// Standing is what the region makes of a machine that it knows.
type Standing string

// The standings. A machine that is removed is not known any more.
const (
	StandingActive   Standing = "active"
	StandingDraining Standing = "draining" // runs what it runs, and is no goal's target
	StandingRevoked  Standing = "revoked"  // its certificates are void
)

// Machine is a machine that a region knows: enrolled with a join token, or registered
// with a certificate that an operator made. It is recorded in the region's Raft when it
// comes, moves or goes, and never by a deployment.
type Machine struct {
	Name       string            `json:"name"`
	Zone       string            `json:"zone,omitempty"`
	Rack       string            `json:"rack,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Granted    []string          `json:"granted,omitempty"` // what its token says of it and it cannot change: keys of Tags, and "zone"; sorted
	Cell       string            `json:"cell,omitempty"`    // empty: none, since it is revoked, or was and has not been heard since
	Slot       int               `json:"slot"`              // its place in the cell's bitmaps, 0 to MaxCellMachines-1
	Gossip     string            `json:"gossip,omitempty"`  // host:port in its cell, as last registered: a seed for others
	Key        Digest            `json:"key,omitzero"`      // SHA-256 of its public key; zero: its certificate was made by hand
	Token      string            `json:"token,omitempty"`   // ID of the join token that it came with
	Standing   Standing          `json:"standing"`
	EnrolledAt time.Time         `json:"enrolled_at"`
}

// Cell is a set of machines that gossip in one pool and swarm together, near each other
// as far as their numbers allow. Its name is unique in its region.
type Cell struct {
	Name      string    `json:"name"`
	Zone      string    `json:"zone,omitempty"` // of most of its machines when it was made
	Machines  int       `json:"machines"`
	Racks     int       `json:"racks"`     // that they stand in; those that name none stand in none
	KeyEpoch  uint64    `json:"key_epoch"` // of its gossip key; grows with each rotation
	Version   uint64    `json:"version"`   // Raft index of the last change to who belongs to it, or to its key
	ChangedAt time.Time `json:"changed_at"`
}

// JoinToken lets machines enrol. Its secret is shown once and kept hashed.
type JoinToken struct {
	ID        string            `json:"id"` // public
	Name      string            `json:"name,omitempty"`
	Hash      Digest            `json:"hash"`           // of the secret; never leaves the servers
	Tags      map[string]string `json:"tags,omitempty"` // that every machine gets which comes with it
	Zone      string            `json:"zone,omitempty"` // that its machines must be in; empty: any
	Uses      int               `json:"uses"`           // machines that came with it, counted once each
	MaxUses   int               `json:"max_uses"`       // 1 to MaxMachinesPerRegion
	CreatedAt time.Time         `json:"created_at"`
	ExpiresAt time.Time         `json:"expires_at"`
	Revoked   bool              `json:"revoked,omitempty"`
}

// Slots is a set of a cell's slots, as a bitmap of MaxCellMachines bits at most.
type Slots []byte

// Set adds a slot. One out of bounds is ignored.
func (s *Slots) Set(slot int) {
	if slot < 0 || slot >= MaxCellMachines {
		return
	}
	for len(*s) <= slot/8 {
		*s = append(*s, 0)
	}
	(*s)[slot/8] |= 1 << (slot % 8)
}

// Clear takes a slot out.
func (s Slots) Clear(slot int) {
	if slot >= 0 && slot/8 < len(s) {
		s[slot/8] &^= 1 << (slot % 8)
	}
}

// Free returns the lowest slot that is not in the set, -1 if there is none.
func (s Slots) Free() int {
	for i, b := range s {
		if b != 0xff {
			return within(i*8 + bits.TrailingZeros8(^b))
		}
	}
	return within(len(s) * 8)
}

func within(slot int) int {
	if slot >= MaxCellMachines {
		return -1
	}
	return slot
}

// Has reports whether a slot is in the set.
func (s Slots) Has(slot int) bool {
	return slot >= 0 && slot/8 < len(s) && s[slot/8]&(1<<(slot%8)) != 0
}

// Disjoint reports whether two sets have no slot in common.
func (s Slots) Disjoint(o Slots) bool {
	for i := range min(len(s), len(o)) {
		if s[i]&o[i] != 0 {
			return false
		}
	}
	return true
}

// Union returns the slots of both.
func (s Slots) Union(o Slots) Slots {
	if len(s) < len(o) {
		s, o = o, s
	}
	out := slices.Clone(s)
	for i := range o {
		out[i] |= o[i]
	}
	return out
}

// progressSteps is how finely a Progress tells how far machines are: in twentieths.
const progressSteps = 20

// Progress counts machines by how much of an artifact they hold: place i those that hold
// i twentieths at least and less than i+1, the last one those that hold it all. It is nil
// or has progressSteps+1 places.
type Progress []int

// Count adds a machine that holds done of total chunks.
func (p *Progress) Count(done, total int) {
	if *p == nil {
		*p = make(Progress, progressSteps+1)
	}
	i := 0
	if total > 0 {
		i = min(progressSteps, max(0, done)*progressSteps/total)
	}
	(*p)[i]++
}

// Add merges the counts of disjoint sets of machines.
func (p Progress) Add(o Progress) Progress {
	if p.wrong() {
		p = nil
	}
	if o.wrong() {
		return p
	}
	if p == nil {
		return slices.Clone(o)
	}
	out := slices.Clone(p)
	for i := range o {
		out[i] += o[i]
	}
	return out
}

func (p Progress) wrong() bool { return len(p) != 0 && len(p) != progressSteps+1 }

// The buckets of a Durations: each is durationGrowth times as wide as the one before, the
// first ends at a millisecond, the last holds what takes longer than all others.
const (
	durationGrowth  = 1.2
	durationBuckets = 96 // up to about 9 hours
)

// Durations is a mergeable sketch of durations with a relative error of 10 % at most: counts in
// buckets of equal width on a logarithmic scale (Masson, Rim and Lee: DDSketch, VLDB
// 2019). Its length is that of the highest bucket in use.
type Durations []int

// Count adds a duration in milliseconds.
func (d *Durations) Count(ms int64) {
	i := 0
	if ms > 1 {
		i = min(durationBuckets-1, int(math.Ceil(math.Log(float64(ms))/math.Log(durationGrowth))))
	}
	for len(*d) <= i {
		*d = append(*d, 0)
	}
	(*d)[i]++
}

// Add merges two sketches.
func (d Durations) Add(o Durations) Durations {
	if len(d) < len(o) {
		d, o = o, d
	}
	d = slices.Clone(d[:min(len(d), durationBuckets)])
	for i := range min(len(o), len(d)) {
		d[i] += o[i]
	}
	return d
}

// Quantile returns the duration in milliseconds below which a share q of them lies, 0 if
// there are none.
func (d Durations) Quantile(q float64) int64 {
	total := 0
	for _, n := range d {
		total += n
	}
	if total == 0 {
		return 0
	}
	rank := min(total-1, max(0, int(q*float64(total))))
	for i, n := range d {
		if rank -= n; rank < 0 {
			return int64(math.Pow(durationGrowth, float64(i)-0.5))
		}
	}
	return 0
}

// Quantiles are some of a distribution, in milliseconds.
type Quantiles struct {
	P50 int64 `json:"p50"`
	P90 int64 `json:"p90"`
	P99 int64 `json:"p99"`
}

// Quantiles returns the usual ones, nil of nothing.
func (d Durations) Quantiles() *Quantiles {
	if len(d) == 0 {
		return nil
	}
	return &Quantiles{d.Quantile(0.5), d.Quantile(0.9), d.Quantile(0.99)}
}

// FleetProgress is how far the machines of a region are with a deployment.
type FleetProgress struct {
	Region   string     `json:"region"`
	Progress Progress   `json:"progress"`
	FetchMS  *Quantiles `json:"fetch_ms,omitempty"` // of the machines that hold the artifact
}

// CellProgress is how one cell stands with a deployment.
type CellProgress struct {
	Region   string `json:"region"`
	Cell     string `json:"cell"`
	Zone     string `json:"zone,omitempty"`
	Machines int    `json:"machines"` // that belong to it
	Alive    int    `json:"alive"`    // that a report shows
	// Speakers are the machines that report for it, more than one while it is in parts.
	Speakers []string   `json:"speakers,omitempty"`
	SilentMS int64      `json:"silent_ms"` // since its last report; -1: none under this leader
	Counts   Counts     `json:"counts"`
	Progress Progress   `json:"progress,omitempty"`
	FetchMS  *Quantiles `json:"fetch_ms,omitempty"` // of the machines that hold the artifact
}
