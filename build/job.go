package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

const (
	reasonLines    = 10
	reasonLogBytes = 1200
	maxEnvBytes    = 64 << 10
)

// lostError ends a build whose result nobody wants any more.
type lostError struct{ err error }

func (e *lostError) Error() string { return "the lease is lost: " + e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// hungError says that a build did not end in time.
type hungError struct{ after time.Duration }

func (e *hungError) Error() string { return fmt.Sprintf("build hung: no end after %s", e.after) }

// build does one job and tells the leader. It is the job's owner: it logs the outcome,
// and returns when no process, goroutine or file of the job is left.
func (w *Worker) build(ctx context.Context, job *rpc.Job) {
	began := time.Now()
	log := w.log.With("deployment", job.Deployment, "app", job.App.Name, "sha", job.SHA, "attempt", job.Attempt)
	log.Info("build begins", "lease", job.Lease)
	out := newBuildLog()
	if !w.box.sandboxed() {
		fmt.Fprintf(out, "UNSANDBOXED: %s\n", w.box.why)
	}

	jobCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var beside sync.WaitGroup // heartbeats: until the leader knows the result
	list := newDraft(w.cfg.Blobs, w.draftEvery)
	beside.Go(func() { w.heartbeats(jobCtx, job, list, cancel) })
	streamed, stopStream := w.streamBeside(jobCtx, w.logOf(job), out, cancel)

	done, tidyUp, err := w.make(jobCtx, job, out, list)
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n") // the rest is from this log
		out.printf("%s", first)
	} else {
		out.printf("done: %s in %s", done.manifest, time.Since(began).Round(time.Millisecond))
	}
	text := out.finish()
	if jobCtx.Err() == nil { // else nobody waits for it
		digest, logErr := w.storeLog(jobCtx, text)
		if logErr != nil {
			log.Warn("the build log could not be stored", "err", logErr)
		}
		select {
		case <-streamed:
		case <-time.After(flushTimeout):
		}
		err = errors.Join(err, w.report(jobCtx, job, done, list, err, digest))
	}
	stopStream()
	cause := context.Cause(jobCtx)
	cancel(nil)
	<-streamed
	beside.Wait()
	if terr := tidyUp(); terr != nil { // last: the deployment need not wait for it
		log.Warn("removing a workspace", "err", terr)
	}
	switch {
	case cause != nil || err != nil && isLost(err):
		log.Info("build given up", "reason", cmp.Or(cause, err))
	case err != nil:
		log.Info("build failed", "reason", err, "took", time.Since(began))
	default:
		log.Info("build done", "artifact", done.digest, "bytes", done.manifest.Bytes(), "new_bytes", done.newBytes, "took", time.Since(began))
	}
}

// make turns the job's commit into an artifact in the caches. Its errors are fit for
// people. tidyUp, never nil, removes what it has left on disk.
func (w *Worker) make(ctx context.Context, job *rpc.Job, out *buildLog, list *draft) (_ *packed, tidyUp func() error, err error) {
	tidyUp = func() error { return nil }
	if err := w.checkJob(job); err != nil {
		return nil, tidyUp, err
	}
	ctx, cancel := context.WithDeadlineCause(ctx, job.Deadline, errors.New("the deadline of the deployment passed during the build"))
	defer cancel()
	unlock, err := w.caches.lock(ctx, job.App.Name)
	if err != nil {
		return nil, tidyUp, err
	}
	spec := job.App.Build
	ws := workspace{cache: filepath.Join(w.cfg.DataDir, "cache", job.App.Name)}
	tidyUp = func() error {
		defer unlock()
		return ws.remove(spec.DiskMB << 20 / 2)
	}
	if ws.dir, err = os.MkdirTemp(filepath.Join(w.cfg.DataDir, "work"), "job-"); err != nil {
		return nil, tidyUp, fmt.Errorf("workspace: %w", err)
	}
	if err := ws.make(); err != nil {
		return nil, tidyUp, err
	}

	guard := &diskGuard{dirs: []string{ws.dir, ws.cache}, limitBytes: spec.DiskMB << 20, minFree: w.cfg.MinFreeBytes}
	ctx, unwatch := guard.beside(ctx)
	defer unwatch()

	out.printf("fetching %s from %s", job.SHA, redact(job.App.Source.Git))
	at, err := w.mirrors.checkout(ctx, job.App.Source.Git, job.SHA, ws.dir, ws.src())
	if err != nil {
		return nil, tidyUp, preferCause(ctx, err)
	}
	commits := w.mirrors.since(ctx, job.App.Source.Git, job.Since, job.SHA)
	if err := w.runBuild(ctx, job, ws, guard, at, out); err != nil {
		return nil, tidyUp, err
	}
	p, err := w.pack(ctx, ws, spec.Output, list)
	if err != nil {
		return nil, tidyUp, preferCause(ctx, err)
	}
	p.commits = commits
	return p, tidyUp, nil
}

// preferCause returns why ctx ended, if it did, instead of what broke by that.
func preferCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// checkJob refuses what no build could be made of. The leader checks all this as well.
func (w *Worker) checkJob(job *rpc.Job) error {
	if job.App.Build == nil {
		return starling.Invalidf("build", "app %s has no build block", job.App.Name)
	}
	if err := starling.CheckSHA(job.SHA); err != nil {
		return err
	}
	if err := job.App.Validate(); err != nil {
		return err
	}
	size := 0
	for k, v := range job.App.Build.Env {
		size += len(k) + len(v) + 2
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			return starling.Invalidf("build.env", "%.80q cannot be set", k)
		}
	}
	if size > maxEnvBytes {
		return starling.Invalidf("build.env", "is longer than %d bytes", maxEnvBytes)
	}
	for _, arg := range job.App.Build.Command {
		if strings.Contains(arg, "\x00") {
			return starling.Invalidf("build.command", "holds a zero byte")
		}
	}
	return checkRepoURL(job.App.Source.Git, w.cfg.AllowFileRepos)
}

// runBuild runs the app's command and says in words why it failed.
func (w *Worker) runBuild(ctx context.Context, job *rpc.Job, ws workspace, guard *diskGuard, at time.Time, out *buildLog) error {
	spec := job.App.Build
	env := w.envWith(spec.Env)
	env["STARLING_SHA"] = job.SHA
	env["STARLING_APP"] = job.App.Name
	if _, set := env["SOURCE_DATE_EPOCH"]; !set { // reproducible-builds.org/specs/source-date-epoch
		env["SOURCE_DATE_EPOCH"] = strconv.FormatInt(at.Unix(), 10)
	}
	c := command{
		argv: spec.Command, ws: ws, env: env, mark: w.newMark(), network: spec.Network,
		memoryBytes: spec.MemoryMB << 20, diskBytes: spec.DiskMB << 20,
	}
	if err := w.confine(&c); err != nil {
		return err
	}
	out.printf("running %s", strings.Join(spec.Command, " "))
	out.begin()
	timeout := spec.Timeout.D()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &hungError{timeout})
	defer cancel()
	err := w.box.run(ctx, &c, out)
	if err == nil {
		return nil
	}
	exit, ok := errors.AsType[*exitError](err)
	if !ok {
		if hung, ok := errors.AsType[*hungError](err); ok {
			return withLog(hung.Error(), out)
		}
		return err
	}
	if lerr := guard.check(); lerr != nil {
		return lerr // it could write no more, and ended before the guard saw it
	}
	if exit.tooBig() {
		return &limitError{"disk", fmt.Sprintf("%d MB", spec.DiskMB)}
	}
	return withLog("build failed: "+exit.Error(), out)
}

// envWith returns the worker's variables and those of a build or hook, which win.
func (w *Worker) envWith(own map[string]string) map[string]string {
	env := make(map[string]string)
	maps.Copy(env, w.cfg.Env)
	maps.Copy(env, own)
	return env
}

// confine gives a command a cgroup of its own, if the worker may make any.
func (w *Worker) confine(c *command) (err error) {
	if w.cfg.CgroupDir != "" {
		c.cgroup, err = newCgroup(w.cfg.CgroupDir, c.mark, w.controllers, c.memoryBytes, maxProcesses)
	}
	return err
}

// withLog adds the last lines of the log to a reason.
func withLog(reason string, out *buildLog) error {
	if last := out.lastLines(reasonLines, reasonLogBytes); last != "" {
		reason += "\n" + last
	}
	return errors.New(reason)
}
