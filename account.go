package starling

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// SourceKind says how near a source of chunks was to the machine that got them.
type SourceKind string

// The kinds. A place that is not named is no common place: two machines without a
// rack are not in the same rack.
const (
	SourceCache  SourceKind = "cache"
	SourceRack   SourceKind = "rack"   // a machine of the same rack
	SourceZone   SourceKind = "zone"   // a machine of the same zone
	SourceRegion SourceKind = "region" // a machine elsewhere in the region
	SourceLocal  SourceKind = "local"  // a release on the machine's own disk
)

// Nearness returns how near a machine is to another one of its region.
func Nearness(a, b *Node) SourceKind {
	switch {
	case a.Zone == b.Zone && a.Rack == b.Rack && a.Rack != "":
		return SourceRack
	case a.Zone == b.Zone && a.Zone != "":
		return SourceZone
	}
	return SourceRegion
}

// Bound is what the speed of a chunk, or the time of a download, was bounded by.
type Bound string

// The bounds. Only the machine itself measures: what it says of others is inferred
// from what it saw of them (see docs/engineers.md).
const (
	BoundOwnLink  Bound = "own_link"  // this machine's link, or its download cap
	BoundPeerLink Bound = "peer_link" // the sending machine, or the way from it
	BoundCache    Bound = "cache"     // the sending cache, or the way from it
	BoundDisk     Bound = "disk"      // this machine's disk
	BoundCPU      Bound = "cpu"       // this process's CPU
	BoundWaiting  Bound = "waiting"   // nothing was asked for: nobody in sight had what was missing, or its turn had not come
	BoundPrepare  Bound = "prepare"   // the manifest, the directory, and clones of other releases
	BoundUnknown  Bound = "unknown"   // chunks that are still on their way
)

// Bounds lists all bounds in the order in which accounts show them.
var Bounds = [...]Bound{BoundOwnLink, BoundPeerLink, BoundCache, BoundDisk, BoundCPU, BoundWaiting, BoundPrepare, BoundUnknown}

// Bounds of an account. With all of them reached it is well under MaxAccountBytes.
const (
	MaxAccountBytes   = 1 << 20 // as JSON
	MaxAccountSources = 256     // what others gave is added up by kind
	MaxTraceChunks    = 20_000  // the first ones; the sums hold all
	MaxDistrustBytes  = 200     // of a reason
)

// Account is one machine's word on how one artifact came to it.
type Account struct {
	Node      string    `json:"node"`
	Region    string    `json:"region"`
	Zone      string    `json:"zone,omitempty"`
	Rack      string    `json:"rack,omitempty"`
	Artifact  Digest    `json:"artifact"`
	Chunks    int       `json:"chunks"` // of the artifact
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at,omitzero"` // zero: under way
	TookMS    int64     `json:"took_ms"`           // at work, pauses between two attempts left out

	Bytes Bytes `json:"bytes"` // what moved; new and wan are not a machine's to say
	// HeldBytes were on disk already, from an attempt before a restart.
	HeldBytes int64 `json:"held_bytes"`
	// BestBytesPerSecond is the best rate that this machine has held for a while since it
	// started: what own_link is measured by. CapBytesPerSecond is its download cap, 0: none.
	BestBytesPerSecond int64 `json:"best_bytes_per_second"`
	CapBytesPerSecond  int64 `json:"cap_bytes_per_second"`

	Time    []BoundTime     `json:"time"`    // took_ms by bound; one entry for each of Bounds, in its order
	Sources []SourceAccount `json:"sources"` // the order is that of trace.source
	Trace   ChunkTrace      `json:"trace"`
}

// BoundTime is the part of a download that was bounded by one thing.
type BoundTime struct {
	Bound  Bound `json:"bound"`
	MS     int64 `json:"ms"`
	Chunks int   `json:"chunks"`
}

// SourceAccount is what one source gave.
type SourceAccount struct {
	Name     string         `json:"name"` // empty: several, beyond MaxAccountSources
	Kind     SourceKind     `json:"kind"`
	Zone     string         `json:"zone,omitempty"`
	Rack     string         `json:"rack,omitempty"`
	Bytes    int64          `json:"bytes"`
	Chunks   int            `json:"chunks"`
	ActiveMS int64          `json:"active_ms"`          // with at least one chunk asked of it
	WaitMS   int64          `json:"wait_ms"`            // from request to first byte, summed over requests
	Failures map[string]int `json:"failures,omitempty"` // by reason
	// Distrusted says why nothing more is asked of it.
	Distrusted string `json:"distrusted,omitempty"`
}

// BytesPerSecond is the mean rate at which the source gave while it was asked.
func (s *SourceAccount) BytesPerSecond() int64 {
	if s.ActiveMS <= 0 {
		return 0
	}
	return s.Bytes * 1000 / s.ActiveMS
}

// ChunkTrace tells, in columns of one length and in order of arrival, where each chunk
// came from. Local clones are not in it.
type ChunkTrace struct {
	Chunk   []int32 `json:"chunk"`   // index in the manifest
	Source  []int32 `json:"source"`  // index in sources
	TookMS  []int32 `json:"took_ms"` // from the request until it was checked and written
	Bound   []int32 `json:"bound"`   // index in time
	Omitted int     `json:"omitted"` // chunks beyond MaxTraceChunks
}

// Main returns the bound that most of the time was spent on.
func (a *Account) Main() Bound {
	var most BoundTime
	for _, t := range a.Time {
		if t.MS > most.MS {
			most = t
		}
	}
	return most.Bound
}

// DecodeAccount reads what the machine node says of an artifact. It trusts nothing in it.
func DecodeAccount(b []byte, node string, artifact Digest) (*Account, error) {
	if len(b) > MaxAccountBytes {
		return nil, fmt.Errorf("account: %d bytes, more than %d: %w", len(b), MaxAccountBytes, ErrCorrupt)
	}
	var a Account
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("account: %w: %w", ErrCorrupt, err)
	}
	if a.Node != node || a.Artifact != artifact {
		return nil, fmt.Errorf("account: of %.80q and %s: %w", a.Node, a.Artifact.Short(), ErrCorrupt)
	}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("account: %w: %w", ErrCorrupt, err)
	}
	return &a, nil
}

// check refuses what would break or deceive a reader.
func (a *Account) check() error {
	n := len(a.Trace.Chunk)
	switch {
	case !a.Bytes.Within(1 << 62), a.HeldBytes < 0, a.TookMS < 0, a.Trace.Omitted < 0:
		return Invalidf("bytes", "a count is negative")
	case len(a.Time) > 4*len(Bounds), len(a.Sources) > 2*MaxAccountSources:
		return Invalidf("sources", "too many")
	case len(a.Trace.Source) != n, len(a.Trace.TookMS) != n, len(a.Trace.Bound) != n:
		return Invalidf("trace", "its columns differ in length")
	}
	for i := range n {
		if s, t := a.Trace.Source[i], a.Trace.Bound[i]; s < 0 || int(s) >= len(a.Sources) || t < 0 || int(t) >= len(a.Time) {
			return Invalidf("trace", "row %d leads nowhere", i)
		}
	}
	for i := range a.Time {
		if !plainWord(string(a.Time[i].Bound)) || a.Time[i].MS < 0 {
			return Invalidf("time", "entry %d", i)
		}
	}
	for i := range a.Sources {
		s := &a.Sources[i]
		if s.Bytes < 0 || s.ActiveMS < 0 || s.WaitMS < 0 || !plainWord(string(s.Kind)) {
			return Invalidf("sources", "entry %d", i)
		}
		if s.Name != "" {
			if err := CheckName("sources.name", s.Name); err != nil {
				return err
			}
		}
		for reason := range s.Failures {
			if !plainWord(reason) {
				return Invalidf("sources.failures", "entry %d", i)
			}
		}
		s.Zone, s.Rack, s.Distrusted = plainText(s.Zone), plainText(s.Rack), plainText(s.Distrusted)
	}
	a.Region, a.Zone, a.Rack = plainText(a.Region), plainText(a.Zone), plainText(a.Rack)
	return nil
}

// plainWord reports whether s is one of our words, or what a later version may add.
func plainWord(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// plainText makes a machine's text fit for a terminal: one line, MaxDistrustBytes at most.
func plainText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
	if len(s) > MaxDistrustBytes {
		s = s[:MaxDistrustBytes]
	}
	return strings.ToValidUTF8(s, "")
}

// Distrust is a machine's word that a source lies.
type Distrust struct {
	Node   string `json:"node"`
	Cache  bool   `json:"cache,omitempty"` // Node is meant as a cache; machines may have the same name
	Reason string `json:"reason"`
}

// MaxDistrusted bounds the sources that one machine's report names.
const MaxDistrusted = 64

// Plain returns d fit for storage and terminals; false if it names nobody.
func (d Distrust) Plain() (Distrust, bool) {
	d.Reason = plainText(d.Reason)
	return d, CheckName("distrusted.node", d.Node) == nil
}

// Accused is a source that machines distrust. Accusers may lie as well: one that is
// accused by many is more surely bad than one that is accused by one.
type Accused struct {
	Node     string `json:"node"`
	Region   string `json:"region"`
	Cache    bool   `json:"cache,omitempty"`
	Reason   string `json:"reason"`
	By       string `json:"by"`       // one of those who say so
	Accusers int    `json:"accusers"` // how many do
}

func (a *Accused) sameAs(b *Accused) bool {
	return a.Region == b.Region && a.Node == b.Node && a.Cache == b.Cache
}

// MergeAccused adds up what disjoint groups of machines say, those accused most
// first, MaxAccusedSamples at most. It reorders all.
func MergeAccused(all []Accused) []Accused {
	slices.SortFunc(all, func(a, b Accused) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Node, b.Node), compareBool(a.Cache, b.Cache), cmp.Compare(a.By, b.By))
	})
	out := all[:0]
	for _, a := range all {
		if n := len(out); n > 0 && out[n-1].sameAs(&a) {
			out[n-1].Accusers += a.Accusers
			continue
		}
		out = append(out, a)
	}
	slices.SortStableFunc(out, func(a, b Accused) int { return cmp.Compare(b.Accusers, a.Accusers) })
	return out[:min(len(out), MaxAccusedSamples)]
}

// KeepAccused returns now with those of before whom nobody accuses any more: whoever
// did may have restarted, and nothing is forgiven.
func KeepAccused(now, before []Accused) []Accused {
	out := slices.Clip(now)
	for _, b := range before {
		if len(out) < MaxAccusedSamples && !slices.ContainsFunc(out, func(a Accused) bool { return a.sameAs(&b) }) {
			out = append(out, b)
		}
	}
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// SlowMachine is a machine that took long to fetch an artifact.
type SlowMachine struct {
	Node    string `json:"node"`
	Region  string `json:"region"`
	FetchMS int64  `json:"fetch_ms"`
	Bound   Bound  `json:"bound"` // what most of that time was spent on
}

// SlowestOf returns the slowest, MaxSlowestMachines at most, the slowest first. It reorders all.
func SlowestOf(all []SlowMachine) []SlowMachine {
	slices.SortFunc(all, func(a, b SlowMachine) int {
		return cmp.Or(cmp.Compare(b.FetchMS, a.FetchMS), cmp.Compare(a.Region, b.Region), cmp.Compare(a.Node, b.Node))
	})
	return all[:min(len(all), MaxSlowestMachines)]
}

// Valid reports whether b is one of Bounds, or a word that a later version may add.
func (b Bound) Valid() bool { return plainWord(string(b)) }

// Why answers why a deployment takes, or took, as long as it does.
type Why struct {
	Deployment string   `json:"deployment"`
	App        string   `json:"app"`
	Artifact   Digest   `json:"artifact"`
	Phase      Phase    `json:"phase"`
	PhaseMS    int64    `json:"phase_ms"` // since it began; 0 after the end
	Reason     string   `json:"reason"`
	WaitsFor   []string `json:"waits_for"` // of the present phase; empty: nothing, or not known here
	// Answer says the same in whole sentences, with what can change it.
	Answer   []string    `json:"answer,omitempty"`
	Timings  Timings     `json:"timings"`
	Bytes    Bytes       `json:"bytes"` // by source
	Machines Counts      `json:"machines"`
	Regions  []RegionWhy `json:"regions"`
	Fence    *Fence      `json:"fence,omitempty"`   // once it has failed or was cancelled
	Account  *Account    `json:"account,omitempty"` // of the machine that was asked for
}

// RegionWhy is one region's part in a deployment.
type RegionWhy struct {
	Placing
	// Heard is false for a region that has not reported to this leader, and after the
	// end: then what follows is not known.
	Heard    bool  `json:"heard"`
	SilentMS int64 `json:"silent_ms"` // since its last report
	Bytes    Bytes `json:"bytes"`
	Target   int   `json:"target"`
	Staged   int   `json:"staged"`
	Healthy  int   `json:"healthy"`
	Failed   int   `json:"failed"`
}
