package starling

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// Generation orders the goals of one app. It only ever grows. Epoch changes when
// the app's home moves; Sequence counts within it.
type Generation struct {
	Epoch    uint64 `json:"epoch"`
	Sequence uint64 `json:"sequence"`
}

// Compare returns -1, 0 or 1 as g is older than, equal to or newer than o.
func (g Generation) Compare(o Generation) int {
	return cmp.Or(cmp.Compare(g.Epoch, o.Epoch), cmp.Compare(g.Sequence, o.Sequence))
}

// Next returns the generation after g in the same epoch.
func (g Generation) Next() Generation { return Generation{g.Epoch, g.Sequence + 1} }

// IsZero reports whether g is before every goal.
func (g Generation) IsZero() bool { return g == Generation{} }

func (g Generation) String() string { return fmt.Sprintf("%d.%d", g.Epoch, g.Sequence) }

// Cutoff is a share of the machines, in 1/CutoffAll parts.
type Cutoff uint32

// CutoffAll selects every machine.
const CutoffAll Cutoff = 1_000_000

// Selects reports whether machine is among the share c for a deployment. The same
// machine gets another place for each deployment, so that no machine is always first.
func (c Cutoff) Selects(machine, deployment string) bool {
	h := sha256.New()
	h.Write([]byte(deployment))
	h.Write([]byte{0})
	h.Write([]byte(machine))
	v := binary.BigEndian.Uint64(h.Sum(nil))
	return v%uint64(CutoffAll) < uint64(c)
}

// Stage says how far machines may go with a goal.
type Stage string

// The stages of a goal. Each allows what the one before it allows.
const (
	StageFetch    Stage = "fetch"    // machines fetch and verify, while the caches still replicate
	StageActivate Stage = "activate" // machines below the cutoff activate
)

// Goal is what machines should run for an app. Within a generation only Stage, Cutoff,
// Ahead and Revision change, which only rise, and Held, which only shrinks.
type Goal struct {
	App        string     `json:"app"`
	Home       string     `json:"home"`
	Generation Generation `json:"generation"`
	Revision   uint64     `json:"revision"` // counts changes within the generation
	Deployment string     `json:"deployment"`
	Artifact   Digest     `json:"artifact"`
	Origin     string     `json:"origin"` // region that held the artifact first
	Stage      Stage      `json:"stage"`
	Cutoff     Cutoff     `json:"cutoff"`
	// Ahead are the cutoffs of regions that are further than Cutoff. What machines get is
	// the goal as it is in their region, without it.
	Ahead    map[string]Cutoff `json:"ahead,omitempty"`
	Deploy   DeploySpec        `json:"deploy"`
	Priority int               `json:"priority,omitempty"` // the deployment's: whose chunks go first
	Deadline time.Time         `json:"deadline,omitzero"`  // the deployment's: of equal priorities the nearer goes first; zero: none
	// Previous is the release that a machine keeps running above the cutoff; zero: none.
	Previous Digest `json:"previous,omitzero"`
	// Held are regions whose machines do not activate yet, whatever the cutoff, by name.
	Held []string `json:"held,omitempty"`
}

// In returns the goal as it is in a region: g itself where none is ahead.
func (g *Goal) In(region string) *Goal {
	if len(g.Ahead) == 0 {
		return g
	}
	here := *g
	here.Cutoff, here.Ahead = max(g.Cutoff, g.Ahead[region]), nil
	return &here
}

// GoalsIn returns goals as they are in a region: the same slice where none is ahead.
func GoalsIn(goals []*Goal, region string) []*Goal {
	if !slices.ContainsFunc(goals, func(g *Goal) bool { return len(g.Ahead) > 0 }) {
		return goals
	}
	out := make([]*Goal, len(goals))
	for i, g := range goals {
		out[i] = g.In(region)
	}
	return out
}

var stageRank = map[Stage]int{StageFetch: 1, StageActivate: 2}

// AtLeast reports whether s allows what o allows.
func (s Stage) AtLeast(o Stage) bool { return stageRank[s] >= stageRank[o] }

// Supersedes reports whether g may replace old: a newer generation, or a later
// revision of the same one.
func (g *Goal) Supersedes(old *Goal) bool {
	if old == nil {
		return true
	}
	if c := g.Generation.Compare(old.Generation); c != 0 {
		return c > 0
	}
	return g.Revision > old.Revision
}
