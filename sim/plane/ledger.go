package plane

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

const (
	endsWithin  = 10 * time.Second // after its deadline a deployment has ended
	healsWithin = 20 * time.Second // after a fault a region has a leader who has caught up
	settlesIn   = 3 * time.Second  // after its election a leader has looked at everything
	graceSlack  = 4 * time.Second  // that a deposed leader may go on hearing a worker
)

// ledger watches over one region from outside: it sees each entry when the first server
// applies it, and holds every server to it.
type ledger struct {
	w      *world
	region *region
	log    []entry // from index 1
	snaps  map[uint64][sha256.Size]byte
	fates  map[string]*fate // deployments homed here
	goals  map[string]*starling.Goal
	beats  map[string][]time.Duration // when heartbeats were answered, by deployment and lease
	tokens map[string]bool            // leases given, by deployment and lease
}

// fate is what has become of a deployment.
type fate struct {
	id, app, actor string
	phase          starling.Phase
	lease          uint64
	attempt        int
	deadline       time.Time
	region         *region // whose ledger this is of
	epoch          uint64
	moved          bool          // another region has taken it over
	open           bool          // counts as under way
	excused        time.Duration // the last moment at which the region could not end it
	without        int           // looks at which there was no leader for it
}

func newLedger(r *region) *ledger {
	return &ledger{
		w: r.w, region: r, snaps: map[uint64][sha256.Size]byte{}, fates: map[string]*fate{}, goals: map[string]*starling.Goal{},
		beats: map[string][]time.Duration{}, tokens: map[string]bool{},
	}
}

// mark sees a leader's first entry.
func (l *ledger) mark(index uint64, e entry) { l.enter(index, e) }

// enter holds an applied entry to what others applied there, and reports whether it is
// the first.
func (l *ledger) enter(index uint64, e entry) bool {
	n := uint64(len(l.log))
	switch {
	case index <= n:
		if o := l.log[index-1]; o.term != e.term || !bytes.Equal(o.data, e.data) {
			l.w.fail("region %s applied two entries at index %d, of terms %d and %d", l.region.name, index, o.term, e.term)
		}
		return false
	case index != n+1:
		l.w.fail("region %s applied entry %d after %d", l.region.name, index, n)
	}
	l.log = append(l.log, e)
	return true
}

// applied sees what an entry has done to a server's state.
func (l *ledger) applied(s *server, index uint64, e entry, v raftfsm.View, results []raftfsm.Result) {
	l.checkGoals(s, v)
	if !l.enter(index, e) {
		return
	}
	l.w.stats.Entries++
	l.w.hash(uint64(l.region.num), index, uint64(len(e.data)))
	for i := range results {
		l.w.tell("%s/%d %s %s", l.region.name, index, e.note.cmds[i].Type, outcome(e.note.cmds[i], results[i]))
		if results[i].Err == nil {
			l.checkCommand(&e.note.cmds[i], e.note)
		}
	}
	if l.w.plan.moves() {
		l.move(v)
	}
	changed := v.ChangedSince(l.region.name, index-1)
	for _, d := range changed.Deployments {
		l.see(d, index)
		l.w.counted(d)
	}
	for _, d := range changed.Deployments {
		l.checkAlone(d.App)
	}
}

func outcome(c raftfsm.Command, r raftfsm.Result) string {
	switch {
	case r.Err != nil:
		return fmt.Sprintf("refused: %v", r.Err)
	case c.Type == raftfsm.TypeMirror:
		return ""
	case r.Deployment != nil:
		return fmt.Sprintf("%s is %s, lease %d", r.Deployment.ID, r.Deployment.Phase, r.Deployment.Lease)
	}
	return string(c.Data[:min(len(c.Data), 120)])
}

// checkGoals holds that no server ever goes back to an older goal, and that a generation
// means one thing everywhere.
func (l *ledger) checkGoals(s *server, v raftfsm.View) {
	for _, g := range v.Goals() {
		old := s.goals[g.App]
		if old == g {
			continue
		}
		if old != nil && !g.Supersedes(old) {
			l.w.fail("the goal of %s at %s went from %s.%d to %s.%d", g.App, s.name, old.Generation, old.Revision, g.Generation, g.Revision)
		}
		if d, ok := v.Deployment(g.Deployment); ok && d.Home == l.region.name && d.Hold != nil && g.Generation == d.Hold.Generation && g.Revision != d.Hold.Revision {
			l.w.fail("the goal of %s at %s went on to %s.%d, though %s is paused at %d", g.App, s.name, g.Generation, g.Revision, d.ID, d.Hold.Revision)
		}
		s.goals[g.App] = g
		l.w.means(g)
	}
	for _, a := range v.Apps() {
		l.w.homed(a)
	}
}

// move notes deployments that are no longer this region's.
func (l *ledger) move(v raftfsm.View) {
	for _, f := range l.w.fates {
		if f.region != l.region || f.moved {
			continue
		}
		if d, ok := v.Deployment(f.id); ok && d.Home != l.region.name {
			f.moved = true
			l.w.count(f)
		}
	}
}

// checkCommand looks at commands that the state has accepted, before their effect is noted.
func (l *ledger) checkCommand(c *raftfsm.Command, n *note) {
	switch c.Type {
	case raftfsm.TypeJobComplete:
		var p raftfsm.JobComplete
		l.decode(c, &p)
		f := l.fates[p.ID]
		if f != nil && f.phase == starling.PhaseBuilding && p.Artifact.Digest != built(p.ID, f.lease) {
			l.w.fail("%s took the result of a stale worker: the lease in force is %d", p.ID, f.lease)
		}
	case raftfsm.TypeJobRequeue:
		var p raftfsm.JobRequeue
		l.decode(c, &p)
		l.w.stats.Requeues++
		if silent := c.At.Sub(n.since); silent <= rpc.LeaseTTL {
			l.w.fail("%s lost its worker %s after an election, without the grace of a lease", p.ID, silent)
		}
		for _, at := range l.beats[token(p.ID, p.Lease)] {
			if silent := n.at - at; silent >= 0 && silent < rpc.LeaseTTL-graceSlack {
				l.w.fail("%s lost its worker, whose heartbeat was answered %s before that was decided", p.ID, silent)
			}
		}
	}
}

func (l *ledger) decode(c *raftfsm.Command, into any) {
	if err := json.Unmarshal(c.Data, into); err != nil {
		l.w.fail("command %s: %v", c.Type, err)
	}
}

func token(id string, lease uint64) string { return fmt.Sprintf("%s/%d", id, lease) }

// heard notes that a worker's heartbeat was answered.
func (l *ledger) heard(id string, lease uint64) {
	key := token(id, lease)
	l.beats[key] = append(l.beats[key], l.w.now)
}

// see notes what has become of a deployment homed here.
func (l *ledger) see(d *starling.Deployment, index uint64) {
	f := l.fates[d.ID]
	if f == nil {
		f = &fate{id: d.ID, app: d.App, actor: d.Actor, phase: starling.PhaseQueued, deadline: d.Deadline, region: l.region, epoch: d.CurrentEpoch()}
		l.fates[d.ID] = f
		l.w.created(f)
	} else if d.CurrentEpoch() > f.epoch { // it was elsewhere meanwhile
		f.phase, f.epoch, f.moved, f.excused = starling.PhaseQueued, d.CurrentEpoch(), false, l.w.now
		l.w.watch(f)
	}
	again := d.Attempt > f.attempt || d.Phase == starling.PhaseQueued // a build was lost and queued again
	switch {
	case f.phase.Terminal() && d.Phase != f.phase:
		l.w.fail("%s had ended as %s and is %s", d.ID, f.phase, d.Phase)
	case rank(d.Phase) < rank(f.phase) && !(f.phase == starling.PhaseBuilding && again):
		l.w.fail("%s went back from %s to %s", d.ID, f.phase, d.Phase)
	}
	if d.Lease != f.lease && d.Phase == starling.PhaseBuilding {
		if d.Lease != index || l.tokens[token(d.ID, d.Lease)] {
			l.w.fail("%s got lease %d at index %d", d.ID, d.Lease, index)
		}
		l.tokens[token(d.ID, d.Lease)] = true
	}
	if d.Phase.Terminal() && !f.phase.Terminal() {
		l.w.ended(f, d)
	}
	f.phase, f.lease, f.attempt = d.Phase, d.Lease, d.Attempt
	l.w.count(f)
}

func rank(p starling.Phase) int {
	for i, q := range []starling.Phase{
		starling.PhaseQueued, starling.PhaseBuilding, starling.PhaseReplicating, starling.PhaseStaging,
		starling.PhaseAwaitingApproval, starling.PhaseRollingOut,
	} {
		if p == q {
			return i
		}
	}
	return 9
}

// checkAlone holds that one deployment of an app is under way at most.
func (l *ledger) checkAlone(app string) {
	var under []string
	for _, f := range l.w.fates {
		if f.region == l.region && f.app == app && f.phase != starling.PhaseQueued && !f.phase.Terminal() && !f.moved {
			under = append(under, f.id)
		}
	}
	if len(under) > 1 {
		l.w.fail("%s of app %s are under way at once", strings.Join(under, " and "), app)
	}
}

// snapshot holds that all servers have the same state at the same index.
func (l *ledger) snapshot(s *server, index uint64, b []byte) {
	sum := sha256.Sum256(b)
	if old, ok := l.snaps[index]; ok && old != sum {
		l.w.fail("the state of %s at index %d differs from another server's", s.name, index)
	}
	l.snaps[index] = sum
}

// overdue looks at a deployment that should have ended by the clock of whoever leads, and
// once more later if that cannot be held against the region yet.
func (l *ledger) overdue(f *fate) {
	w, r := l.w, l.region
	if f.phase.Terminal() || f.moved {
		return
	}
	lead := r.leader()
	if lead != nil && lead.reign.Supported(lead.fsm.View(), lead.clock()) != nil {
		f.excused = w.now // it may be taken over
	}
	well := r.wellSince >= 0 && w.now-r.wellSince >= healsWithin
	switch {
	case !well:
		w.after(5*time.Second, func() { l.overdue(f) })
	case lead == nil || w.now-lead.started < settlesIn:
		if f.without++; f.without > int(healsWithin/time.Second) {
			w.fail("region %s has a quorum for %s and no leader", r.name, w.now-r.wellSince)
		}
		w.after(time.Second, func() { l.overdue(f) })
	case w.now-f.excused < healsWithin && f.excused > 0:
		w.after(5*time.Second, func() { l.overdue(f) })
	case lead.clock().Sub(f.deadline) <= endsWithin:
		w.after(f.deadline.Add(endsWithin).Sub(lead.clock())+time.Second, func() { l.overdue(f) })
	default:
		w.fail("%s is %s, %s after its deadline, by the clock of %s", f.id, f.phase, lead.clock().Sub(f.deadline), lead.name)
	}
}
