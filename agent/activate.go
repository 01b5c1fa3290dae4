package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/starlingdeploy/starling"
)

// standing is what an app runs on this machine: a goal's release and, if it has a
// run command or a unit, the keeper that keeps it up. It belongs to the loop, or to the
// single operation on the app that is under way.
type standing struct {
	goal *starling.Goal // nil: nothing
	svc  keeper         // nil: placed on disk only
}

// operator changes what an app runs. Its methods are the only code that moves the
// current link and starts or stops children; one runs at a time for an app.
type operator struct {
	dir    appDir
	node   *starling.Node
	env    map[string]string
	out    *logFile
	bus    systemd
	log    *slog.Logger
	notify func() // a service's status has changed
}

// outcome ends an operation.
type outcome struct {
	now    standing
	err    error // why the goal failed here; nil: it is reached
	broken bool  // interrupted by a newer goal or the end of the agent: neither reached nor failed
}

// errSuperseded interrupts an activation.
var errSuperseded = errors.New("a newer goal has come")

// activate brings the machine from what stands to goal, whose release is on disk.
// The order: pre-hook, stop, switch, start, health, post-hook. Where one fails,
// the release before comes back. life outlives ctx, which a newer goal ends.
func (o *operator) activate(life, ctx context.Context, goal *starling.Goal, was standing) outcome {
	env := environmentOf(o.env, o.node, goal, string(o.dir))
	if err := o.hook(ctx, "pre-hook", goal.Deploy.Hooks.Pre, goal, env); err != nil {
		return outcome{now: was, err: err, broken: ctx.Err() != nil} // nothing was touched
	}
	if ctx.Err() != nil {
		return outcome{now: was, err: ctx.Err(), broken: true}
	}
	if was.svc != nil {
		was.svc.stop()
		was.svc = nil
	}
	svc, err := o.bringUp(ctx, goal, env)
	if err == nil {
		return outcome{now: standing{goal: goal, svc: svc}}
	}
	if svc != nil {
		svc.stop()
	}
	broken := ctx.Err() != nil
	if life.Err() != nil {
		return outcome{now: was, err: err, broken: true} // the next start puts the link back
	}
	now, backErr := o.goBack(life, was, broken)
	if backErr != nil {
		err = fmt.Errorf("%w; and the release before: %w", err, backErr)
	}
	return outcome{now: now, err: err, broken: broken}
}

// bringUp switches to goal's release and returns once it does well. On an error
// the service that it returns, if any, is still to be stopped.
func (o *operator) bringUp(ctx context.Context, goal *starling.Goal, env environment) (keeper, error) {
	if err := o.dir.switchTo(goal.Artifact); err != nil {
		return nil, err
	}
	svc, err := o.startRelease(goal, env, false, false)
	if err != nil {
		return nil, err
	}
	switch {
	case svc != nil:
		if err = svc.awaitTrial(ctx); err == nil {
			err = svc.keep()
		}
	case goal.Deploy.Health != nil:
		err = o.checker(goal, env).await(ctx)
	}
	if err != nil {
		return svc, err
	}
	return svc, o.hook(ctx, "post-hook", goal.Deploy.Hooks.Post, goal, env)
}

// goBack restores what stood before a failed activation. Unless it is in a hurry
// it waits for that to be healthy, to tell if it is not; it is kept up in any case.
func (o *operator) goBack(ctx context.Context, was standing, hurry bool) (standing, error) {
	if was.goal == nil {
		return standing{}, o.dir.removeCurrent()
	}
	now, err := o.resume(was.goal, false)
	if err != nil || hurry || now.svc == nil {
		return now, err
	}
	return now, now.svc.awaitUp(ctx)
}

// resume makes goal's release current again and starts it, already past its trial. With
// adopt a unit that runs it still is left alone.
func (o *operator) resume(goal *starling.Goal, adopt bool) (standing, error) {
	adopt = adopt && o.dir.leadsTo(goal.Artifact) // else the unit may run another release
	if err := o.dir.switchTo(goal.Artifact); err != nil {
		return standing{goal: goal}, err
	}
	svc, err := o.startRelease(goal, environmentOf(o.env, o.node, goal, string(o.dir)), true, adopt)
	return standing{goal: goal, svc: svc}, err
}

// withdraw stops what runs and leaves nothing current.
func (o *operator) withdraw(life context.Context, was standing) outcome {
	if was.svc != nil {
		was.svc.stop()
		was.svc = nil
	}
	if err := o.dir.removeCurrent(); err != nil {
		now, backErr := o.goBack(life, was, true)
		return outcome{now: now, err: errors.Join(err, backErr)}
	}
	return outcome{}
}

// restore brings back what the record says runs, after a start of the agent.
func (o *operator) restore(ctx context.Context, running *starling.Goal) outcome {
	n, err := killOrphans(ctx, o.dir)
	if n > 0 {
		o.log.Warn("processes of an earlier run were still there", "killed", n)
	}
	if err != nil {
		return outcome{err: err}
	}
	if running == nil {
		return outcome{err: o.dir.removeCurrent()}
	}
	now, err := o.resume(running, true)
	return outcome{now: now, err: err}
}

// startRelease starts goal's unit or run command; without either it returns nil.
func (o *operator) startRelease(goal *starling.Goal, env environment, kept, adopt bool) (keeper, error) {
	log := o.log.With("generation", goal.Generation.String(), "artifact", goal.Artifact.Short())
	var check *checker
	if goal.Deploy.Health != nil {
		check = o.checker(goal, env)
	} else if least := goal.Deploy.Strategy.MinHealthyTime; least.D() > settleTime {
		check = checkOfRunning(least)
	}
	if unit := goal.Deploy.SystemdUnit; unit != "" {
		return startUnit(o.bus, unit, check, log, kept, adopt, o.notify), nil
	}
	if len(goal.Deploy.Run) == 0 {
		return nil, nil
	}
	bounds := goal.Deploy.LogsOrDefault()
	o.out.bound(int64(bounds.MaxMB)<<20, bounds.Files)
	c := serviceConfig{
		cmd:     command{argv: goal.Deploy.Run, dir: o.dir.tree(goal.Artifact), env: env.list()},
		out:     o.out,
		check:   check,
		log:     log,
		kept:    kept,
		changed: o.notify,
		deploy:  &goal.Deploy,
	}
	svc, err := startService(c)
	if err != nil {
		return nil, err // not a keeper that is nil
	}
	return svc, nil
}

func (o *operator) checker(goal *starling.Goal, env environment) *checker {
	return &checker{spec: *goal.Deploy.Health, dir: o.dir.tree(goal.Artifact), env: env}
}

// hook runs argv in the directory of goal's release; an empty one is no hook.
func (o *operator) hook(ctx context.Context, what string, argv []string, goal *starling.Goal, env environment) error {
	if len(argv) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, goal.Deploy.Hooks.Timeout.D())
	defer cancel()
	return runToEnd(ctx, what, command{argv: argv, dir: o.dir.tree(goal.Artifact), env: env.list()}, o.out)
}
