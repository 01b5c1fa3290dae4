package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/starlingdeploy/starling"
)

// Kind is what a fault does to its victim.
type Kind string

// The kinds.
const (
	Kill      Kind = "kill"        // kill -9, started again afterwards
	Stop      Kind = "stop"        // SIGSTOP, then SIGCONT
	Isolate   Kind = "isolate"     // nothing gets from or to it
	Mute      Kind = "mute"        // nothing that it sends arrives
	Deafen    Kind = "deafen"      // nothing that is sent to it arrives
	DiskFull  Kind = "disk-full"   // its file system shrinks to what it holds
	Clock     Kind = "clock"       // its wall clock is stepped, and back
	SlowSync  Kind = "slow-fsync"  // each fsync takes longer
	SyncError Kind = "fsync-error" // each fsync fails with EIO
)

// Kinds lists all kinds.
var Kinds = []Kind{Kill, Stop, Isolate, Mute, Deafen, DiskFull, Clock, SlowSync, SyncError}

// Target is who is harmed.
type Target string

// The targets, all of the deployment's home region. Servers are all of its servers at once,
// which leaves no quorum; Region is cut off from the other regions.
const (
	Leader   Target = "leader"
	Follower Target = "follower"
	Servers  Target = "servers"
	Worker   Target = "worker"
	Cache    Target = "cache"
	Machine  Target = "machine"
	Region   Target = "region"
)

// Boundary is when a fault strikes: Submit, between a submission and its answer, or at
// the moment when the deployment enters a phase.
type Boundary string

// Submit is the boundary before the first phase.
const Submit Boundary = "submit"

// Boundaries lists all of them in the order in which a deployment passes them.
var Boundaries = []Boundary{
	Submit, Boundary(starling.PhaseQueued), Boundary(starling.PhaseBuilding),
	Boundary(starling.PhaseReplicating), Boundary(starling.PhaseStaging), Boundary(starling.PhaseRollingOut),
}

// Cell is one kind of fault at one boundary to one target: what coverage counts.
type Cell struct {
	Kind     Kind
	Target   Target
	Boundary Boundary
}

func (c Cell) String() string { return fmt.Sprintf("%s %s at %s", c.Kind, c.Target, c.Boundary) }

// targets returns whom a kind may befall. Only servers and caches have disks of their own here.
func (k Kind) targets() []Target {
	switch k {
	case Isolate, Mute, Deafen:
		return []Target{Leader, Follower, Worker, Cache, Machine, Region}
	case DiskFull, SlowSync, SyncError:
		return []Target{Leader, Follower, Cache}
	case Kill, Stop:
		return []Target{Leader, Follower, Servers, Worker, Cache, Machine}
	default:
		return []Target{Leader, Follower, Worker, Cache, Machine}
	}
}

// Cells lists all cells of some kinds, in order. A region is not to be cut off where
// there is no other.
func Cells(kinds []Kind, regions int) []Cell {
	var out []Cell
	for _, k := range kinds {
		for _, t := range k.targets() {
			if t == Region && regions < 2 {
				continue
			}
			for _, b := range Boundaries {
				out = append(out, Cell{k, t, b})
			}
		}
	}
	return out
}

// ParseKinds reads names of kinds with commas between them; "": all.
func ParseKinds(text string) ([]Kind, error) {
	var out []Kind
	for name := range strings.SplitSeq(text, ",") {
		k := Kind(strings.TrimSpace(name))
		switch {
		case k == "":
		case !slices.Contains(Kinds, k):
			return nil, starling.Invalidf("--faults", "%.40q: no such kind, these are: %s", k, join(Kinds))
		case !slices.Contains(out, k):
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return slices.Clone(Kinds), nil
	}
	return out, nil
}

func join[T ~string](names []T) string {
	var out []string
	for _, n := range names {
		out = append(out, string(n))
	}
	return strings.Join(out, ", ")
}

// lane is a sequence of faults of which one is over before the next begins: so a region
// keeps a quorum but where all servers are the target, and beside servers at most one other
// process is harmed.
type lane struct {
	region  int
	servers bool
}

// onServers reports whether a target's faults belong to the lane of the servers.
func (t Target) onServers() bool { return t == Leader || t == Follower || t == Servers || t == Region }

// lanes returns two for each region.
func lanes(regions int) []lane {
	var out []lane
	for r := range regions {
		out = append(out, lane{r, true}, lane{r, false})
	}
	return out
}

// deal returns the cells of a lane in the order in which it is to go through them in a
// round: every cell is in one region's lane, another one's in the next round, in another
// order. The same seed deals alike.
func (l lane) deal(cells []Cell, regions int, seed uint64, round int) []Cell {
	mine := slices.DeleteFunc(slices.Clone(cells), func(c Cell) bool { return c.Target.onServers() != l.servers })
	random := rand.New(rand.NewPCG(seed, uint64(2*(round/regions))+uint64(btoi(l.servers))))
	random.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
	var out []Cell
	for i, c := range mine {
		if (i+round)%regions == l.region {
			out = append(out, c)
		}
	}
	return out
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
