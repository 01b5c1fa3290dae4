package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/swarm"
)

// Pace of the loop.
const (
	memberPause = 200 * time.Millisecond // between two looks at the members
	loopTick    = time.Second            // progress on disk and in reports
)

// Agent is a machine. It is made by New and lives in Run.
type Agent struct {
	conf    Config
	log     *slog.Logger
	events  chan event
	run     *runner
	apps    map[string]*app
	flock   *flock
	catalog *catalog
	reports *reporter
	ledger  ledger
	meter   *meter
}

// event is what workers tell the loop, which alone calls apply. An event that the
// loop does not live to see is discarded, to free what it carries.
type event interface {
	apply()
	discard()
}

// light is embedded by events that carry nothing to be freed.
type light struct{}

func (light) discard() {}

// runner starts workers and takes their events.
type runner struct {
	ctx    context.Context // ends with the agent; every worker ends then
	events chan<- event
	wg     sync.WaitGroup
}

func (r *runner) work(do func()) { r.wg.Go(do) }

// post waits for the loop to have room.
func (r *runner) post(ev event) {
	select {
	case r.events <- ev:
	case <-r.ctx.Done():
		ev.discard()
	}
}

// New returns an agent. It touches nothing yet.
func New(conf Config) (*Agent, error) {
	if err := conf.check(); err != nil {
		return nil, err
	}
	return &Agent{conf: conf, log: conf.Logger, apps: map[string]*app{}, catalog: &catalog{},
		meter: newMeter(conf.DownloadBytesPerSecond)}, nil
}

// Run is the machine's life; call it once. It returns nil when ctx ends, after the
// releases' processes were stopped, and an error if the data directory cannot be
// used (ErrConflict: another agent uses it) or streams can no longer be accepted.
func (a *Agent) Run(ctx context.Context) error {
	if err := makeDirs(filepath.Join(a.conf.DataDir, appsDir)); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	lock, err := lockDataDir(a.conf.DataDir)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer func() {
		if err := unlockDataDir(lock); err != nil {
			a.log.Warn("the data directory was not unlocked well", "error", err)
		}
	}()

	group, inner := errgroup.WithContext(ctx)
	client := a.setUp(inner)
	defer client.Close()
	group.Go(func() error {
		if err := a.load(); err != nil {
			return err
		}
		group.Go(func() error { a.pollGoals(inner); return nil })
		group.Go(func() error { a.reports.run(inner); return nil })
		group.Go(func() error { return a.flock.acceptLinks(inner, a.conf.AcceptSwarm) })
		group.Go(func() error { return a.serveBlobs(inner) })
		a.loop(inner)
		return nil
	})
	err = group.Wait()
	a.cleanUp()
	if ctx.Err() != nil {
		return nil // the wish of the caller
	}
	return fmt.Errorf("agent: %w", err)
}

// cleanUp waits for the workers and closes what they have left.
func (a *Agent) cleanUp() {
	a.run.wg.Wait()
	for len(a.events) > 0 {
		(<-a.events).discard()
	}
	for _, r := range a.catalog.all() {
		if err := r.close(); err != nil {
			a.log.Warn("a release was not closed well", "error", err)
		}
	}
	for _, p := range a.apps {
		if err := p.ops.out.Close(); err != nil {
			p.log.Warn("a log was not closed well", "error", err)
		}
	}
}

func (a *Agent) setUp(ctx context.Context) *blobcache.Client {
	a.events = make(chan event, maxEventQueueEvents)
	a.run = &runner{ctx: ctx, events: a.events}
	a.reports = newReporter(a.conf.Leader, a.log)
	client := blobcache.NewClient(a.meter.dial(blobcache.NewLimit(a.conf.DownloadBytesPerSecond).Reads(blobcache.Dial(a.conf.DialBlob))))
	client.Role = starling.RoleMachine
	a.flock = newFlock(a, client)
	return client
}

// loop owns the apps and the flock: it applies events one after the other. When
// ctx ends it stops what runs.
func (a *Agent) loop(ctx context.Context) {
	defer a.tearDown()
	tick := time.NewTicker(loopTick)
	defer tick.Stop()
	members := time.NewTimer(0)
	members.Stop()
	defer members.Stop()
	defer a.flock.wake.Stop()
	changed := a.lookAtMembers()
	for _, p := range a.apps {
		p.reconcile()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-a.events:
			ev.apply()
		case <-a.flock.wake.C:
			a.flock.step(swarm.Tick{})
		case <-changed:
			changed = nil
			members.Reset(memberPause)
		case <-members.C:
			changed = a.lookAtMembers()
		case now := <-tick.C:
			a.meter.tick()
			a.flock.rest(now)
			for _, p := range a.apps {
				if d := p.download; d != nil {
					d.sync()
				}
			}
		}
	}
}

// lookAtMembers takes in the members; the channel closes when they change again.
func (a *Agent) lookAtMembers() <-chan struct{} {
	changed := a.conf.Members.Changed() // before the look, so that no change is missed
	a.flock.setMembers(a.conf.Members.Members())
	return changed
}

// tearDown stops every release and closes every link.
func (a *Agent) tearDown() {
	var stopping sync.WaitGroup
	for _, p := range a.apps {
		if svc := p.now.svc; svc != nil {
			stopping.Go(svc.leave)
		}
	}
	for _, l := range a.flock.links {
		a.flock.drop(l)
	}
	stopping.Wait()
}

// app returns an app's state, made if need be.
func (a *Agent) app(name string) *app {
	if p := a.apps[name]; p != nil {
		return p
	}
	p := &app{
		a: a, name: name, dir: appDir(filepath.Join(a.conf.DataDir, appsDir, name)), log: a.log.With("app", name),
		rec: &record{Version: recordVersion}, releases: map[starling.Digest]*release{}, removing: map[starling.Digest]bool{},
	}
	p.ops = operator{
		dir: p.dir, node: &a.conf.Node, env: a.conf.Env, log: p.log,
		out:    newLogFile(p.dir.join(outputName), starling.DefaultLogMB<<20, starling.DefaultLogFiles, p.log),
		bus:    systemd{a.conf.SystemBus},
		notify: func() { a.run.post(serviceChanged{p: p}) },
	}
	a.apps[name] = p
	return p
}

// steerSwarm takes part in the swarms of the artifacts that goals ask for, and in no other.
func (a *Agent) steerSwarm() {
	wanted := map[starling.Digest]bool{}
	urgent := map[starling.Digest]blobcache.Urgency{} // of the most urgent goal that wants it
	for _, name := range slices.Sorted(maps.Keys(a.apps)) {
		p := a.apps[name]
		g := p.rec.Goal
		if g == nil || !g.Stage.AtLeast(starling.StageFetch) || p.wanted().IsZero() {
			continue
		}
		urgent[g.Artifact] = blobcache.Urgency{Priority: g.Priority, Deadline: g.Deadline}.Max(urgent[g.Artifact])
		if rel := p.releases[g.Artifact]; rel != nil && !a.flock.taking(g.Artifact) {
			sel, _ := starling.ParseSelector(g.Deploy.Targets) // parsed well: it chose this machine
			a.flock.begin(rel, sel)
		}
		wanted[g.Artifact] = true
	}
	a.catalog.setUrgencies(urgent)
	for _, d := range slices.Collect(maps.Keys(a.flock.parts)) {
		if !wanted[d] {
			a.flock.end(d)
		}
	}
}
