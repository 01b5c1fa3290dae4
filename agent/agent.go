package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
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
	return &Agent{conf: conf, log: conf.Logger, apps: map[string]*app{}, catalog: &catalog{}}, nil
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
	defer lock.Close()

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
	client := blobcache.NewClient(capReads(a.conf.DialBlob, newLimiter(a.conf.DownloadBytesPerSecond)))
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
		case <-tick.C:
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
			stopping.Go(svc.stop)
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
		out:    newLogFile(p.dir.join(outputName), maxLogBytes, p.log),
		notify: func() { a.run.post(serviceChanged{p: p}) },
	}
	a.apps[name] = p
	return p
}

// load reads what earlier runs have left.
func (a *Agent) load() error {
	entries, err := os.ReadDir(filepath.Join(a.conf.DataDir, appsDir))
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || starling.CheckName("app", e.Name()) != nil {
			continue
		}
		if err := a.app(e.Name()).load(); err != nil {
			return fmt.Errorf("load app %s: %w", e.Name(), err)
		}
	}
	return nil
}

// load reads the record and opens the releases that it names.
func (p *app) load() error {
	rec, err := loadRecord(p.dir)
	switch {
	case errors.Is(err, starling.ErrCorrupt):
		// Only a broken disk does that. The servers know the goal; caches and peers the rest.
		p.log.Error("the record is set aside; this machine begins anew", "error", err)
		if err := os.Rename(p.dir.join(recordName), p.dir.join(recordName+".corrupt")); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		p.rec = rec
	}
	if p.rec.Goal != nil {
		p.choose()
	}
	known := map[string]bool{}
	for _, e := range slices.Clone(p.rec.Releases) {
		known[filepath.Base(p.dir.release(e.Artifact))] = true
		if e.Complete {
			p.openComplete(e.Artifact)
		}
	}
	return p.sweep(known)
}

// openComplete opens a release that the record calls complete. One that is of no
// use will be fetched again if it is wanted.
func (p *app) openComplete(d starling.Digest) {
	rel, err := openRelease(p.dir, d)
	if err == nil && !rel.tree.Finished() {
		err = errors.Join(starling.ErrCorrupt, rel.close())
	}
	switch {
	case err == nil:
		p.releases[d] = rel
		p.a.catalog.add(rel)
	case errors.Is(err, starling.ErrNotFound), errors.Is(err, starling.ErrCorrupt), starling.IsInvalid(err):
		p.log.Error("a release on disk is of no use", "artifact", d.Short(), "error", err)
		p.rec.release(d).Complete = false
		if r := p.rec.Running; r != nil && r.Artifact == d {
			p.rec.Running = nil
		}
		p.version++
	default: // it may run nevertheless
		p.log.Error("a release cannot be read, nor served to others", "artifact", d.Short(), "error", err)
	}
}

// sweep removes what the record does not know.
func (p *app) sweep(known map[string]bool) error {
	entries, err := os.ReadDir(p.dir.join(releasesDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		if !known[e.Name()] {
			path := p.dir.join(releasesDir, e.Name())
			p.a.run.work(func() {
				if err := removeTree(path); err != nil {
					p.log.Warn("leftovers cannot be removed", "path", path, "error", err)
				}
			})
		}
	}
	return nil
}

// startDownload begins to fetch g's artifact for p.
func (a *Agent) startDownload(p *app, g *starling.Goal) *download {
	sel, _ := starling.ParseSelector(g.Deploy.Targets) // parsed well: it chose this machine
	ctx, cancel := context.WithCancel(a.run.ctx)
	d := &download{
		f: a.flock, dir: p.dir, artifact: g.Artifact, sel: sel, verify: a.conf.Verify,
		log: p.log.With("artifact", g.Artifact.Short()), ctx: ctx, cancel: cancel,
		progress: p.publish,
	}
	d.complete = func() {
		d.log.Info("artifact complete", "cache_bytes", d.bytes.CacheOut, "peer_bytes", d.bytes.Peer, "local_bytes", d.bytes.Local)
		if p.rec.release(d.artifact) == nil {
			p.rec.use(d.artifact, time.Now())
		}
		p.rec.release(d.artifact).Complete = true
		p.releases[d.artifact] = d.rel
		p.changedRecord()
	}
	d.gone = func() {
		delete(a.flock.downloads, d.artifact)
		p.download = nil
		if p.rec.Goal.Artifact == d.artifact {
			p.bytes = d.bytes
		}
		if !d.finished {
			a.flock.end(d.artifact) // another app may hold all of it: then it begins again with that
			a.abandon(d)
		}
		for _, q := range a.apps { // another app may wait for the same artifact
			q.reconcile()
		}
	}
	a.flock.downloads[g.Artifact] = d
	d.start()
	return d
}

// abandon closes what an unfinished download has made; it stays on disk for now.
func (a *Agent) abandon(d *download) {
	if d.rel == nil {
		return
	}
	a.catalog.remove(d.rel)
	if err := d.rel.close(); err != nil {
		d.log.Warn("a release was not closed well", "error", err)
	}
}

// steerSwarm takes part in the swarms of the artifacts that goals ask for, and in no other.
func (a *Agent) steerSwarm() {
	wanted := map[starling.Digest]bool{}
	for _, name := range slices.Sorted(maps.Keys(a.apps)) {
		p := a.apps[name]
		g := p.rec.Goal
		if g == nil || !g.Stage.AtLeast(starling.StageFetch) || p.wanted().IsZero() {
			continue
		}
		if rel := p.releases[g.Artifact]; rel != nil && !a.flock.taking(g.Artifact) {
			sel, _ := starling.ParseSelector(g.Deploy.Targets) // parsed well: it chose this machine
			a.flock.begin(rel, sel)
		}
		wanted[g.Artifact] = true
	}
	for _, d := range slices.Collect(maps.Keys(a.flock.parts)) {
		if !wanted[d] {
			a.flock.end(d)
		}
	}
}
