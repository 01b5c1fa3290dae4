package control

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// Reign is all that a region's leader keeps in memory, for one term, and all that it
// decides. It reads no clock, does no I/O and starts no goroutine: the server drives it
// on wall time, the simulator of the control plane on virtual time. Decide, Commands and
// Refused are for one goroutine, the rest for any.
type Reign struct {
	conf  ReignConfig
	since time.Time

	jobs     *beats // of builds
	hooks    *hookBoard
	logs     *logBoard
	drafts   *draftBoard
	machines *machineBoard
	cells    *cellBoard
	caches   *cacheBoard
	marks    *markBoard
	home     *homeBoard
	progress *progressBoard
	curves   *curveBoard
	dirs     *directories
	wants    *wantList
	decider  *Decider
	zones    zones
	keeper   cellKeeper
	*Succession
	placing   placingSeen
	refused   map[string]time.Time // decisions not to repeat before a time
	beginNext time.Time            // see beginning

	mu      sync.Mutex
	members []starling.Node // sorted by name
	moved   bool            // they have changed since they were last held against the roster
	inCells map[string]bool // those that are machines in cells
}

// ReignConfig says for whom a leader decides.
type ReignConfig struct {
	Region   string
	Regions  map[string][]string // QUIC addresses of the other regions' servers, as configured
	Replicas int                 // caches that hold each chunk
	CellMax  int                 // machines of a cell; 0: starling.MaxCellMachines
	// CellQuiet is how long a cell must not have changed before it is split or merged; 0: a minute.
	CellQuiet time.Duration
	// TakeoverAfter is how long a region must be silent before the others may vote for one
	// to take over its apps; 0: they never do.
	TakeoverAfter time.Duration
	Term          string    // of this leader, different from the region's other leaders'
	Settled       time.Time // before this the membership may be incomplete: nothing is reported
}

// NewReign returns what a leader knows at the beginning of its term: nothing.
func NewReign(conf ReignConfig, since time.Time) *Reign {
	return &Reign{
		conf: conf, since: since,
		jobs:       newBeats(),
		hooks:      newHookBoard(),
		logs:       newLogBoard(),
		drafts:     newDraftBoard(),
		machines:   newMachineBoard(conf.Region),
		cells:      newCellBoard(conf.Region, since),
		caches:     newCacheBoard(),
		marks:      newMarkBoard(),
		home:       newHomeBoard(),
		progress:   newProgressBoard(),
		curves:     newCurveBoard(),
		dirs:       newDirectories(),
		wants:      newWantList(conf.Term, since),
		decider:    NewDecider(),
		keeper:     cellKeeper{most: cmp.Or(conf.CellMax, starling.MaxCellMachines), quiet: cmp.Or(conf.CellQuiet, cellQuiet)},
		Succession: NewSuccession(conf.Region, conf.Term, conf.TakeoverAfter, since),
		refused:    map[string]time.Time{},
	}
}

// SetMembers takes the region's present membership, sorted by name.
func (r *Reign) SetMembers(all []starling.Node) {
	r.mu.Lock()
	r.members, r.moved = all, true
	counted := r.machinesAmong(all)
	r.mu.Unlock()
	r.machines.setMembers(counted)
	r.caches.setMembers(all)
}

// lookAtFleet takes in the roster. A member of the region's own gossip that is a machine and
// belongs to a cell is counted there.
func (r *Reign) lookAtFleet(v raftfsm.View, goals []*starling.Goal, now time.Time) {
	changed := r.cells.look(v, goals, now)
	r.mu.Lock()
	if changed || r.moved {
		r.inCells = map[string]bool{}
		for _, n := range r.members {
			if m, ok := v.Machine(n.Name); ok && n.Has(starling.RoleMachine) && (m.Cell != "" || m.Standing == starling.StandingRevoked) {
				r.inCells[n.Name] = true
			}
		}
		r.machines.setMembers(r.machinesAmong(r.members))
		r.moved = false
	}
	r.mu.Unlock()
	r.machines.keepApps(goals, now)
}

// machinesAmong returns the members that are not counted in cells. The caller holds mu.
func (r *Reign) machinesAmong(all []starling.Node) []starling.Node {
	return slices.DeleteFunc(slices.Clone(all), func(n starling.Node) bool { return r.inCells[n.Name] })
}

func (r *Reign) nodes() []starling.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members
}

// liveWorkers counts the workers of this region.
func (r *Reign) liveWorkers() int {
	workers := 0
	for _, n := range r.nodes() {
		if n.Alive && n.Has(starling.RoleWorker) {
			workers++
		}
	}
	return workers
}

// Decide is one look: the region's own affairs, then those of the apps homed here.
func (r *Reign) Decide(v raftfsm.View, now time.Time) []Decision {
	if d, ok := r.begin(v, now); ok {
		return []Decision{d}
	}
	goals := v.Goals()
	r.lookAtFleet(v, goals, now)
	r.caches.keepGoals(goals, v.Placed)
	r.marks.keepGoals(goals)
	r.wants.update(v, r.dirs, r.conf.Region, min(r.conf.Replicas, r.caches.count()))
	out := append(r.regional(v, now), r.decisions(v)...)
	out = append(out, r.keeper.decide(v, now)...)
	obs := r.observe(v, now)
	if r.Supported(v, now) != nil {
		// What ends here now might end otherwise where the apps are taken over, and nobody
		// would see it: the deadline waits until a majority of regions can be heard.
		return out
	}
	return append(out, r.decider.Decide(v, obs)...)
}

// observe gathers what the decider needs, this region's own reports included.
func (r *Reign) observe(v raftfsm.View, now time.Time) Observations {
	active := v.Active()
	for _, d := range active {
		if d.Generation.IsZero() { // no goal yet
			continue
		}
		if report, ok := r.reportOn(v, d.App, now); ok && report.Generation == d.Generation {
			report.Marks.Now = now
			r.home.record(report, now)
		}
	}
	r.drafts.keep(active)
	reports := r.home.keep(active)
	for _, d := range active {
		r.curves.note(d, reports[d.App], now)
	}
	return Observations{
		Now: now, Since: r.since,
		Heard:     r.jobs.lastHeard(buildLeases(active)),
		HookHeard: r.hooks.lastHeard(hookLeases(active)),
		Reports:   reports,
		Workers:   r.liveWorkers(),
		Zone:      r.zones.find,
	}
}

// Commands makes commands of decisions, but for those refused a moment ago: the state
// would change with every refusal and the leader would never rest.
func (r *Reign) Commands(decisions []Decision, now time.Time, actor string) ([]raftfsm.Command, error) {
	for key, until := range r.refused {
		if !now.Before(until) {
			delete(r.refused, key)
		}
	}
	var cmds []raftfsm.Command
	for _, d := range decisions {
		data, err := json.Marshal(d.Payload)
		if err != nil {
			return nil, fmt.Errorf("command %s: %w", d.Type, err)
		}
		if _, ok := r.refused[string(d.Type)+string(data)]; !ok {
			c := raftfsm.Command{Type: d.Type, At: now, Actor: actor, Data: data}
			if _, ok := d.Payload.(beginning); ok {
				c.Level = raftfsm.Level
			}
			cmds = append(cmds, c)
		}
	}
	return cmds, nil
}

// Refused notes that the state machine refused a command.
func (r *Reign) Refused(c raftfsm.Command, now time.Time) {
	if c.Type == raftfsm.TypeRegionUpsert && c.Level > 1 { // a server of the version before is there
		r.beginNext = now.Add(refusedRetryAfter)
		return
	}
	r.refused[string(c.Type)+string(c.Data)] = now.Add(refusedRetryAfter)
}

// Heartbeat renews a worker's lease, or fails with ErrFenced if that is over.
func (r *Reign) Heartbeat(v raftfsm.View, worker, id string, req rpc.HeartbeatRequest, now time.Time) error {
	d, err := r.leased(v, worker, id, req.Lease)
	if err != nil {
		return err
	}
	r.jobs.beat(d.ID, d.Lease, now)
	return r.drafts.heard(d.ID, req, now)
}

// leased returns the deployment that a worker is building under a lease, or ErrFenced
// if that is over.
func (r *Reign) leased(v raftfsm.View, worker, id string, lease uint64) (*starling.Deployment, error) {
	d, ok := v.Deployment(id)
	switch {
	case !ok:
		return nil, fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
	case d.Home != r.conf.Region:
		return nil, fmt.Errorf("the home of deployment %s is %s: %w", id, d.Home, starling.ErrFenced)
	case d.Phase != starling.PhaseBuilding || lease == 0 || d.Lease != lease:
		return nil, fmt.Errorf("lease %d of deployment %s is over: it is %s: %w", lease, id, d.Phase, starling.ErrFenced)
	case !holds(d, worker):
		return nil, fmt.Errorf("deployment %s is leased to %s: %w", id, d.Worker, starling.ErrForbidden)
	}
	return d, nil
}

// holds reports whether d was leased to a slot of a worker.
func holds(d *starling.Deployment, worker string) bool {
	return strings.HasPrefix(d.Worker, worker+"/")
}

// Complete makes the command that ends a build well. inForce is false for what the state
// machine must tell: the retry of a completion, or a lease that is over.
func (r *Reign) Complete(v raftfsm.View, worker, id string, req rpc.CompleteRequest) (done raftfsm.JobComplete, inForce bool, err error) {
	d, err := r.leased(v, worker, id, req.Lease)
	if err != nil && !errors.Is(err, starling.ErrFenced) {
		return done, false, err
	}
	inForce = err == nil
	if !inForce {
		if d, _ = v.Deployment(id); d == nil || !holds(d, worker) {
			return done, false, err
		}
	}
	a := req.Artifact
	a.Actor, a.Region, a.App, a.SHA = d.Actor, r.conf.Region, d.App, d.SHA
	if v.Level() < raftfsm.LevelOrigins {
		req.Commits = nil
	}
	return raftfsm.JobComplete{
		ID: d.ID, Lease: req.Lease, Artifact: a, NewBytes: req.NewBytes, UploadMS: max(0, req.UploadMS), Log: req.Log, Sandboxed: req.Sandboxed, Commits: req.Commits,
	}, inForce, nil
}

// Wants returns what the region's caches are to hold.
func (r *Reign) Wants() rpc.Wants {
	r.wants.mu.Lock()
	defer r.wants.mu.Unlock()
	return r.wants.wants
}

// CacheReport takes a cache's word on all that it holds.
func (r *Reign) CacheReport(report rpc.CacheReport, now time.Time) error {
	return r.caches.record(report, now)
}

// MachineReports takes a machine's word on its goals and tells whether it is news.
func (r *Reign) MachineReports(v raftfsm.View, reports []starling.MachineReport, now time.Time) (bool, error) {
	changed := false
	for i := range reports {
		g, ok := v.Goal(reports[i].App)
		if !ok {
			continue // a goal that was given up, or is not here yet: the machine will say it again
		}
		news, err := r.machines.record(g, reports[i], now)
		if err != nil {
			return changed, err
		}
		changed = changed || news
	}
	return changed, nil
}

// RegionReports takes another region's word on the apps homed here.
func (r *Reign) RegionReports(v raftfsm.View, reports []starling.RegionReport, now time.Time) error {
	for _, report := range reports {
		if err := checkReport(&report); err != nil {
			return err
		}
		if d, ok := v.UnderWay(report.App); ok && takesPart(d, report.Region) {
			r.home.record(report, now)
		}
	}
	return nil
}

// ReportsFor lists this region's reports on the unsettled goals of a home.
func (r *Reign) ReportsFor(v raftfsm.View, home string, now time.Time) []starling.RegionReport {
	var out []starling.RegionReport
	for _, g := range v.Goals() {
		if g.Home != home || len(out) == rpc.MaxReports {
			continue
		}
		if d, ok := v.Deployment(g.Deployment); ok && d.Phase.Terminal() {
			continue
		}
		if report, ok := r.reportOn(v, g.App, now); ok {
			out = append(out, report)
		}
	}
	return out
}

// Batch is what another region gets that has seen this one's changes up to index.
func (r *Reign) Batch(v raftfsm.View, index uint64) rpc.MirrorBatch {
	b := rpc.MirrorBatch{Mirror: v.ChangedSince(r.conf.Region, index), Placed: v.PlacedAll(), Directory: r.directory()}
	b.Drafts, _ = r.drafts.all()
	return b
}

// Learn takes another region's batch, asked for from index cursor on. news: it says
// something of the region itself that was not known. worth: it holds records to commit.
func (r *Reign) Learn(b rpc.MirrorBatch, cursor uint64, now time.Time) (news, worth bool) {
	before := r.dirs.at()
	r.dirs.learn(b, now)
	return r.dirs.at() != before, b.Mirror.Index > cursor && !emptyMirror(&b.Mirror)
}

// directory describes this region to others.
func (r *Reign) directory() rpc.Directory {
	d := rpc.Directory{Region: r.conf.Region, Servers: []starling.Node{}, Caches: []starling.Node{}}
	for _, n := range r.nodes() {
		if n.Has(starling.RoleServer) && len(d.Servers) < maxServersPerRegion {
			d.Servers = append(d.Servers, n)
		}
		if n.Has(starling.RoleCache) && len(d.Caches) < maxCachesPerRegion {
			d.Caches = append(d.Caches, n)
		}
	}
	d.Workers = r.liveWorkers()
	d.Machines = r.cells.alive()
	r.mu.Lock()
	for _, n := range r.machinesAmong(r.members) {
		if n.Alive && n.Has(starling.RoleMachine) {
			d.Machines++
		}
	}
	r.mu.Unlock()
	byName := func(a, b starling.Node) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(d.Servers, byName)
	slices.SortFunc(d.Caches, byName)
	return d
}
