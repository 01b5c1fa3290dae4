package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/starlingdeploy/starling"
)

const localRetry = 2 * time.Second // after this machine's disk failed us

// app is where one app stands on this machine. The loop owns it.
type app struct {
	a    *Agent
	name string
	dir  appDir
	log  *slog.Logger
	ops  operator

	rec     *record
	chosen  bool   // the goal's selector chooses this machine
	version uint64 // of rec; counts changes
	saved   uint64 // the version that is on disk
	saving  bool

	now      standing // what runs; lent to op while that is under way
	resumed  bool     // what ran before the start of the agent runs again
	pausing  bool     // later is under way
	op       *operation
	download *download
	releases map[starling.Digest]*release // complete ones
	removing map[starling.Digest]bool     // being removed from disk
	bytes    starling.Bytes               // moved for the goal
	book     *book                        // of the goal's download; nil: none yet
	problem  string                       // with the record, for people
}

// operation is a change of what runs, by one worker.
type operation struct {
	goal   *starling.Goal // nil: the restoring at a start, which nothing interrupts
	cancel context.CancelCauseFunc
}

// accept takes in a goal from the servers, if it is newer than what is known.
func (p *app) accept(g *starling.Goal) {
	old := p.rec.Goal
	if !g.Supersedes(old) {
		return
	}
	if old != nil && g.Generation == old.Generation && g.Artifact != old.Artifact {
		p.log.Error("a goal has changed its artifact within a generation; it is ignored",
			"generation", g.Generation.String(), "artifact", g.Artifact.Short(), "before", old.Artifact.Short())
		return
	}
	if old == nil || g.Generation != old.Generation {
		p.log.Info("new goal", "generation", g.Generation.String(), "artifact", g.Artifact.Short(), "deployment", g.Deployment)
		if !g.Artifact.IsZero() {
			p.rec.use(g.Artifact, time.Now())
		}
		p.bytes, p.book = starling.Bytes{}, nil
	}
	p.rec.Goal = withDefaults(g)
	p.choose()
	p.changedRecord()
}

// withDefaults returns a copy of g without zero time-outs: a server fills them in,
// but a machine must not spin if one does not.
func withDefaults(g *starling.Goal) *starling.Goal {
	c := *g
	if g.Deploy.Health != nil {
		h := *g.Deploy.Health
		c.Deploy.Health = &h
	}
	a := starling.App{Deploy: c.Deploy}
	a.SetDefaults()
	c.Deploy = a.Deploy
	return &c
}

// choose notes whether the goal's selector chooses this machine.
func (p *app) choose() {
	sel, err := starling.ParseSelector(p.rec.Goal.Deploy.Targets)
	p.chosen = err == nil && sel.Matches(&p.a.conf.Node)
}

// wanted returns the artifact that this machine is to run; zero: none.
func (p *app) wanted() starling.Digest {
	if !p.chosen {
		return starling.Digest{}
	}
	return p.rec.Goal.Artifact
}

// due reports whether the goal may be activated here now.
func (p *app) due() bool {
	g := p.rec.Goal
	node := &p.a.conf.Node
	return g.Stage.AtLeast(starling.StageActivate) && !g.Holds(node.Region) && g.Cutoff.Selects(node.Name, g.Deployment) && !p.failed()
}

// failed reports whether the goal's generation has failed here.
func (p *app) failed() bool {
	return p.rec.Failed != nil && p.rec.Failed.Generation == p.rec.Goal.Generation
}

// reconcile does the next thing that brings the machine nearer to the goal. It is
// called after every change and may be called at any time.
func (p *app) reconcile() {
	if p.rec.Goal == nil {
		return
	}
	p.steerDownload()
	p.steerRun()
	p.tidy()
	p.a.steerSwarm()
	p.publish()
}

// steerDownload starts and stops the download of the goal's artifact.
func (p *app) steerDownload() {
	g, want := p.rec.Goal, p.wanted()
	need := !want.IsZero() && g.Stage.AtLeast(starling.StageFetch) && !p.failed() && !p.rec.holds(want)
	if d := p.download; d != nil {
		if !need || d.artifact != want {
			d.end() // comes back when it has ended
		}
		return
	}
	if need && !p.removing[want] && p.a.flock.downloads[want] == nil {
		p.download = p.a.startDownload(p, g)
	}
}

// steerRun starts the operation that is due, or interrupts one that a newer goal
// has made void.
func (p *app) steerRun() {
	g, want, running := p.rec.Goal, p.wanted(), p.rec.Running
	switch {
	case p.op != nil:
		if p.op.goal != nil && p.op.goal.Generation != g.Generation {
			p.op.cancel(errSuperseded)
		}
	case !p.resumed:
		if !p.pausing {
			p.operate(nil, func(ctx context.Context, _ standing) outcome { return p.ops.restore(ctx, running) })
		}
	case !p.due() || p.saved < p.version: // no step before the goal that asks for it is on disk
	case want.IsZero():
		if p.now.goal != nil {
			p.operate(g, func(_ context.Context, was standing) outcome { return p.ops.withdraw(p.a.run.ctx, was) })
		}
	case running != nil && running.Generation == g.Generation:
	case p.rec.adoptable(g):
		p.log.Info("the goal's release runs already", "generation", g.Generation.String())
		p.now.goal, p.rec.Running = g, g
		p.changedRecord()
	case p.rec.holds(want):
		p.operate(g, func(ctx context.Context, was standing) outcome { return p.ops.activate(p.a.run.ctx, ctx, g, was) })
	}
}

// operate has a worker change what runs. goal is nil for the restoring at a start.
func (p *app) operate(goal *starling.Goal, do func(context.Context, standing) outcome) {
	ctx, cancel := context.WithCancelCause(p.a.run.ctx)
	was := p.now
	p.op, p.now = &operation{goal: goal, cancel: cancel}, standing{}
	p.a.run.work(func() {
		defer cancel(nil)
		p.a.run.post(operationDone{p: p, goal: goal, out: do(ctx, was)})
	})
}

// operationDone gives back what was lent to an operation.
type operationDone struct {
	p    *app
	goal *starling.Goal
	out  outcome
}

func (e operationDone) discard() {
	if e.out.now.svc != nil {
		e.out.now.svc.leave()
	}
}

func (e operationDone) apply() {
	p, out := e.p, e.out
	p.op, p.now = nil, out.now
	switch {
	case e.goal == nil:
		p.resumed = out.err == nil
		if out.err != nil {
			p.log.Error("what ran before cannot be restored; trying again", "error", out.err)
			p.later()
		}
		p.reconcile()
		return
	case out.broken:
		p.log.Info("activation interrupted", "generation", e.goal.Generation.String(), "error", out.err)
	case out.err != nil:
		p.log.Error("activation failed", "generation", e.goal.Generation.String(), "artifact", e.goal.Artifact.Short(), "error", out.err)
		p.rec.Failed = &failure{Generation: e.goal.Generation, Reason: clip(out.err.Error())}
	default:
		p.log.Info("goal reached", "generation", e.goal.Generation.String(), "artifact", e.goal.Artifact.Short())
	}
	p.rec.Running = out.now.goal
	p.changedRecord()
	p.reconcile()
}

// changedRecord has the record saved.
func (p *app) changedRecord() {
	p.version++
	p.save()
}

// save starts a worker that writes the record, unless one is under way, after
// which it goes on with what has changed since.
func (p *app) save() {
	if p.saving || p.saved == p.version {
		return
	}
	b, err := json.Marshal(p.rec)
	version := p.version
	p.saving = true
	p.a.run.work(func() {
		if err == nil {
			if err = makeDirs(string(p.dir)); err == nil {
				err = writeDurably(p.dir.join(recordName), b)
			}
		}
		p.a.run.post(recordSaved{p: p, version: version, err: err})
	})
}

type recordSaved struct {
	light
	p       *app
	version uint64
	err     error
}

func (e recordSaved) apply() {
	p := e.p
	p.saving = false
	if e.err != nil {
		p.log.Error("the record cannot be saved; trying again", "error", e.err)
		p.problem = e.err.Error()
		p.publish()
		p.later()
		return
	}
	p.problem = ""
	p.saved = e.version
	p.save()
	p.reconcile()
}

// later reconciles after a while: something local has failed.
func (p *app) later() {
	if p.pausing {
		return
	}
	p.pausing = true
	p.a.run.work(func() {
		select {
		case <-time.After(localRetry):
		case <-p.a.run.ctx.Done():
		}
		p.a.run.post(pauseOver{p: p})
	})
}

type pauseOver struct {
	light
	p *app
}

func (e pauseOver) apply() {
	e.p.pausing = false
	e.p.save()
	e.p.reconcile()
}

// serviceChanged says that the status of an app's service has changed.
type serviceChanged struct {
	light
	p *app
}

func (e serviceChanged) apply() { e.p.publish() }

// tidy removes releases beyond those to be kept.
func (p *app) tidy() {
	for _, d := range p.rec.surplus(max(1, p.rec.Goal.Deploy.Keep)) {
		if p.removing[d] || p.download != nil && p.download.artifact == d {
			continue
		}
		p.rec.forget(d)
		p.changedRecord()
		p.remove(p.dir.release(d), d)
	}
}

// remove has a worker remove a release's directory.
func (p *app) remove(dir string, d starling.Digest) {
	rel := p.releases[d]
	delete(p.releases, d)
	p.removing[d] = true
	if rel != nil {
		p.a.catalog.remove(rel)
	}
	p.a.run.work(func() {
		var err error
		if rel != nil {
			err = rel.close()
		}
		p.a.run.post(releaseRemoved{p: p, artifact: d, err: errors.Join(err, removeRelease(dir))})
	})
}

type releaseRemoved struct {
	light
	p        *app
	artifact starling.Digest
	err      error
}

func (e releaseRemoved) apply() {
	delete(e.p.removing, e.artifact)
	if e.err != nil {
		e.p.log.Warn("an old release was not removed; the next start tries again", "artifact", e.artifact.Short(), "error", e.err)
	} else {
		e.p.log.Info("old release removed", "artifact", e.artifact.Short())
	}
	e.p.reconcile()
}
