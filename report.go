package starling

import (
	"cmp"
	"slices"
)

// MachineState is where a machine stands with a goal.
type MachineState string

// The states, in the order in which a machine passes them.
const (
	MachineFetching   MachineState = "fetching"
	MachineStaged     MachineState = "staged"
	MachineActivating MachineState = "activating"
	MachineHealthy    MachineState = "healthy"
	MachineFailed     MachineState = "failed" // back on the release before
)

// MachineReport is one machine's word on one goal.
type MachineReport struct {
	Node       string       `json:"node"`
	App        string       `json:"app"`
	Generation Generation   `json:"generation"`
	State      MachineState `json:"state"`
	Running    Digest       `json:"running,omitzero"` // artifact of the current release
	ChunksDone int          `json:"chunks_done"`
	// ChunksTotal is the artifact's; 0: the manifest is not had yet.
	ChunksTotal int        `json:"chunks_total,omitempty"`
	Bytes       Bytes      `json:"bytes"`
	Reason      string     `json:"reason,omitempty"` // of a failure, MaxReasonBytes at most
	Kept        []Digest   `json:"kept,omitempty"`   // releases on disk
	Distrusted  []Distrust `json:"distrusted,omitempty"`
	FetchMS     int64      `json:"fetch_ms,omitempty"` // from the goal's fetch stage to the release on disk, or until now
	Bound       Bound      `json:"bound,omitempty"`    // what most of that time was spent on
}

// Bounds of what a merged report names.
const (
	MaxFailureSamples  = 5
	MaxAccusedSamples  = 8
	MaxSlowestMachines = 5
)

// FailureSample is one machine's failure, for people.
type FailureSample struct {
	Node   string `json:"node"`
	Region string `json:"region"`
	Reason string `json:"reason"`
}

// Counts is the merged state of the machines that a deployment targets. Staged and
// Failed are disjoint; Staged includes Healthy.
type Counts struct {
	Target  int             `json:"target"`
	Staged  int             `json:"staged"` // hold the artifact
	Due     int             `json:"due"`    // below the cutoff
	Healthy int             `json:"healthy"`
	Failed  int             `json:"failed"`
	Absent  int             `json:"absent"` // targets that gossip does not see
	Samples []FailureSample `json:"samples,omitempty"`
	// Distrusted are sources that machines found to be lying, those accused most first.
	Distrusted []Accused `json:"distrusted,omitempty"`
	// Slowest are the machines that took longest to fetch the artifact.
	Slowest []SlowMachine `json:"slowest,omitempty"`
}

// Add merges two disjoint counts.
func (c Counts) Add(o Counts) Counts {
	c.Target += o.Target
	c.Staged += o.Staged
	c.Due += o.Due
	c.Healthy += o.Healthy
	c.Failed += o.Failed
	c.Absent += o.Absent
	s := slices.Concat(c.Samples, o.Samples)
	slices.SortFunc(s, func(a, b FailureSample) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Node, b.Node))
	})
	c.Samples = s[:min(len(s), MaxFailureSamples)]
	c.Distrusted = MergeAccused(slices.Concat(c.Distrusted, o.Distrusted))
	c.Slowest = SlowestOf(slices.Concat(c.Slowest, o.Slowest))
	return c
}

// RegionReport is a region's word to an app's home about one goal.
type RegionReport struct {
	Region     string      `json:"region"`
	App        string      `json:"app"`
	Generation Generation  `json:"generation"`
	Revision   uint64      `json:"revision"` // of the goal that the counts are about
	Placing    Placing     `json:"placing"`
	Counts     Counts      `json:"counts"`
	Bytes      Bytes       `json:"bytes"`
	Marks      RegionMarks `json:"marks,omitzero"`
	Progress   Progress    `json:"progress,omitempty"` // of the machines in cells
	Fetch      Durations   `json:"fetch,omitempty"`    // of those that hold the artifact
}
