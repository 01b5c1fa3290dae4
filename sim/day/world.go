package day

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/control"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// Rhythms of the leader. It looks where something has changed, as the server does, but
// waits longer for company, which costs up to two seconds at each step.
const (
	lookRest  = 2 * time.Second
	lookEvery = 5 * time.Second
	beatEvery = 5 * time.Second // of all builds at once, within rpc.LeaseTTL
	homeName  = "home"
)

// epoch is midnight.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is one day.
type world struct {
	queue
	conf Config
	rng  *rand.Rand

	fsm      *raftfsm.FSM
	index    uint64
	reign    *control.Reign
	desk     *control.LeaseDesk
	asks     []*ask
	lookAt   time.Duration // the next look; -1: none is due
	lastLook time.Duration

	workers []*worker
	regions []*region
	caches  []string // of the home
	held    map[starling.Digest]bool
	fates   []*fate
	byID    map[string]*fate
	ended   int
	failed  error

	commands   map[raftfsm.Type]int
	working    meter
	longest    int // queue
	most       int // under way at once
	underWay   int
	queued     int
	refusedNow int
}

func newWorld(c Config) *world {
	w := &world{
		conf: c, rng: rand.New(rand.NewPCG(c.Seed, 0xda7)), fsm: raftfsm.New(homeName), desk: control.NewLeaseDesk(),
		held: map[starling.Digest]bool{}, byID: map[string]*fate{}, commands: map[raftfsm.Type]int{},
		working: newMeter(c.Span), lookAt: -1,
	}
	names := map[string][]string{}
	for i := range c.Regions {
		r := w.newRegion(fmt.Sprintf("region-%02d", i))
		w.regions = append(w.regions, r)
		names[r.name] = []string{r.name + ".example:7471"}
	}
	w.reign = control.NewReign(control.ReignConfig{Region: homeName, Regions: names, Replicas: 2, Term: "day"}, epoch)
	return w
}

func (w *world) wall() time.Time { return epoch.Add(w.now) }

func (w *world) fail(err error) {
	if w.failed == nil {
		w.failed = err
	}
}

// begin sets the scene: members, apps, what people will submit.
func (w *world) begin() {
	var members []starling.Node
	add := func(name string, role starling.Role) {
		members = append(members, starling.Node{Name: name, Region: homeName, Addr: name + ".example:7471", Alive: true, Roles: []starling.Role{role}})
	}
	for i := range 3 {
		name := fmt.Sprintf("cache-%d", i)
		w.caches = append(w.caches, name)
		add(name, starling.RoleCache)
		add(fmt.Sprintf("server-%d", i), starling.RoleServer)
	}
	for i := range w.conf.Workers {
		k := &worker{w: w, name: fmt.Sprintf("worker-%04d", i)}
		w.workers = append(w.workers, k)
		add(k.name, starling.RoleWorker)
		w.after(time.Duration(i)*time.Millisecond, k.seek)
	}
	slices.SortFunc(members, func(a, b starling.Node) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	w.reign.SetMembers(members)
	// With something of this level in use leaders pick jobs, as in any region with enrolled machines.
	w.commit(raftfsm.TypeMachineRegister, raftfsm.MachineRegister{MachineFacts: raftfsm.MachineFacts{Name: "m1", Gossip: "10.0.0.1:7472"}, Max: 3})
	for i := range w.conf.Apps {
		w.commit(raftfsm.TypeAppApply, raftfsm.AppApply{App: appOf(appName(i))})
	}
	w.submissions()
	w.beat()
	w.look(0)
}

func appName(i int) string { return fmt.Sprintf("app-%04d", i) }

// commit puts one command of people or workers into the state.
func (w *world) commit(t raftfsm.Type, payload any) raftfsm.Result {
	c, err := raftfsm.NewCommand(t, w.wall(), "day", payload)
	if err != nil {
		w.fail(err)
		return raftfsm.Result{Err: err}
	}
	return w.enter([]raftfsm.Command{c})[0]
}

// enter applies one entry.
func (w *world) enter(cmds []raftfsm.Command) []raftfsm.Result {
	data, err := raftfsm.Encode(cmds)
	if err != nil {
		w.fail(err)
		return make([]raftfsm.Result, len(cmds))
	}
	w.index++
	results := w.fsm.Apply(&raft.Log{Index: w.index, Data: data}).([]raftfsm.Result)
	for i, r := range results {
		w.commands[cmds[i].Type]++
		if r.Err == nil && r.Deployment != nil {
			w.observe(r.Deployment)
		}
	}
	w.look(lookRest)
	return results
}

// look has the leader look soon, at most once in lookRest.
func (w *world) look(rest time.Duration) {
	at := max(w.now+rest, w.lastLook+lookRest)
	if w.lookAt >= 0 && w.lookAt <= at {
		return
	}
	w.lookAt = at
	w.at(at, func() {
		if w.lookAt == at {
			w.lookAt, w.lastLook = -1, w.now
			w.decide()
			w.look(lookEvery)
		}
	})
}

// decide is one round of the leader's loop.
func (w *world) decide() {
	v := w.fsm.View()
	cmds, err := w.reign.Commands(w.reign.Decide(v, w.wall()), w.wall(), "server:leader")
	if err != nil {
		w.fail(err)
		return
	}
	for part := range slices.Chunk(cmds, raftfsm.MaxEntryCommands) {
		for i, r := range w.enter(part) {
			if r.Err != nil {
				w.reign.Refused(part[i], w.wall())
				w.refusedNow++
			}
		}
	}
	w.reportCaches()
	w.grant()
}

// reportCaches lets the home's caches say that they hold what was built, which they do from
// the moment that a worker has uploaded it.
func (w *world) reportCaches() {
	wants := w.reign.Wants().Wants
	news := false
	for _, want := range wants {
		news = news || !w.held[want.Artifact]
	}
	if !news {
		return
	}
	held := make(map[starling.Digest]bool, len(wants))
	report := rpc.CacheReport{}
	for _, want := range wants {
		held[want.Artifact] = true
		report.Holds = append(report.Holds, rpc.CacheHold{Artifact: want.Artifact, ChunksDone: 1, ChunksTotal: 1, Complete: true, Caches: w.caches})
	}
	w.held = held
	for _, name := range w.caches {
		report.Name = name
		if err := w.reign.CacheReport(report, w.wall()); err != nil {
			w.fail(err)
		}
	}
	w.look(lookRest)
}

// observe follows a deployment that a command has changed.
func (w *world) observe(d *starling.Deployment) {
	f := w.byID[d.ID]
	if f == nil {
		return
	}
	if d.Phase != f.phase {
		w.count(f.phase, -1)
		w.count(d.Phase, 1)
		f.was, f.phase = f.phase, d.Phase
	}
	switch {
	case d.Phase.Terminal() && !f.over:
		f.over, f.dep = true, d
		w.ended++
		if late := d.EndedAt.Sub(d.Deadline); late > 2*lookEvery {
			w.fail(fmt.Errorf("deployment %s ended %s after its deadline", d.ID, late))
		}
		for _, p := range f.parts {
			p.stop()
		}
		f.parts = nil
	case d.Phase.Terminal():
		w.fail(fmt.Errorf("deployment %s has ended twice", d.ID))
	case !d.Generation.IsZero():
		w.steer(f, d)
	}
}

// count keeps how many are queued and under way.
func (w *world) count(p starling.Phase, n int) {
	switch {
	case p == starling.PhaseQueued:
		w.queued += n
		w.longest = max(w.longest, w.queued)
	case p != "" && !p.Terminal():
		w.underWay += n
		w.most = max(w.most, w.underWay)
	}
}
