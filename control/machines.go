package control

import (
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/rpc"
)

// machineBoard holds the last report of each machine that gossips in the region's own pool,
// as programs do that know nothing of cells, and merges them with the membership. It lives
// in the leader's memory, for one term.
type machineBoard struct {
	mu    sync.Mutex
	tally *cell.Tally
}

func newMachineBoard(region string) *machineBoard {
	return &machineBoard{tally: cell.NewTally(region)}
}

// setMembers takes the present membership and forgets machines that left it.
func (b *machineBoard) setMembers(all []starling.Node) {
	var nodes []starling.Node
	for _, n := range all {
		if n.Has(starling.RoleMachine) {
			nodes = append(nodes, n)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tally.SetMembers(nodes)
}

// keepApps forgets apps that have no goal any more.
func (b *machineBoard) keepApps(goals []*starling.Goal, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tally.KeepApps(goals, now)
}

// record takes a machine's report and tells whether it changed anything. A report on
// another generation than the goal's is dropped. One of a machine that gossip does
// not know yet fails with ErrUnavailable: it is to be sent again.
func (b *machineBoard) record(goal *starling.Goal, r starling.MachineReport, at time.Time) (bool, error) {
	if r.Generation != goal.Generation {
		return false, nil
	}
	r.App = goal.App
	b.mu.Lock()
	defer b.mu.Unlock()
	change, err := b.tally.Record(r, at)
	return change != cell.Same, err
}

// count returns the merged state of the machines that goal selects.
func (b *machineBoard) count(goal *starling.Goal, now time.Time) rpc.CellApp {
	b.mu.Lock()
	defer b.mu.Unlock()
	merged, _ := b.tally.Count(goal, now)
	return merged
}

// statuses adds to each member what it last reported as a machine.
func (b *machineBoard) statuses(members []starling.Node) []starling.NodeStatus {
	out := make([]starling.NodeStatus, len(members))
	for i, n := range members {
		out[i].Node = n
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range out {
		reports, seen := b.tally.Last(out[i].Name)
		out[i].SeenAt = seen
		for _, r := range reports {
			addReport(&out[i], &r)
		}
	}
	return out
}

// addReport adds what a machine last reported on one app.
func addReport(s *starling.NodeStatus, r *starling.MachineReport) {
	if !r.Running.IsZero() {
		if s.Running == nil {
			s.Running = map[string]starling.Digest{}
		}
		s.Running[r.App] = r.Running
	}
	if r.State == starling.MachineFailed && (s.Problem == "" || r.App+": " < s.Problem) {
		s.Problem = clip(r.App+": "+r.Reason, starling.MaxReasonBytes)
	}
}
