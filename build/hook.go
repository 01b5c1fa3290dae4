package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/rpc"
)

// Bounds of hooks.
const (
	hookHeadBytes  = 192 << 10 // kept of the output's beginning
	hookTailBytes  = starling.MaxHookLogBytes - hookHeadBytes - 256
	hookDownloads  = 4               // chunks at once
	hookLeasePause = 5 * time.Second // between tries, at most, while no leader grants any
	hookReportFor  = 2 * time.Minute // retries of telling the end of a hook, even past the deadline
	hookReasonRoom = 256             // bytes of a reason that the leader adds to
)

// HookLeader is what a worker needs of the leader of its region to run hooks; *rpc.Client
// satisfies it.
type HookLeader interface {
	HookLease(ctx context.Context, req rpc.HookLeaseRequest) (*rpc.HookJob, error)
	HookHeartbeat(ctx context.Context, id string, req rpc.HookCall) error
	HookLog(ctx context.Context, id string, req rpc.HookLogRequest) (int64, error)
	HookEnd(ctx context.Context, id string, req rpc.HookEndRequest) error
}

// Artifacts reads from the caches of the region; *blobcache.Region satisfies it.
type Artifacts interface {
	Chunk(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error)
	Manifest(ctx context.Context, artifact starling.Digest) (envelope []byte, err error)
}

// runsHooks reports whether this worker runs hooks beside its builds.
func (c *Config) runsHooks() bool { return c.Hooks != nil && c.Artifacts != nil && c.Verify != nil }

// hooks leases and runs hooks, one after the other, until ctx ends: beside the builds, since
// a deployment that waits for a hook should not wait for a build of another.
func (w *Worker) hooks(ctx context.Context) {
	b := backoff{min: 100 * time.Millisecond, max: hookLeasePause}
	for ctx.Err() == nil {
		began := time.Now()
		job, err := w.askForHook(ctx)
		switch {
		case job != nil:
			b.tries = 0
			w.runHook(ctx, job)
			continue
		case err == nil && time.Since(began) >= time.Second: // a long poll that ended without a hook
			b.tries = 0
			continue
		case err != nil && ctx.Err() == nil:
			w.log.Debug("cannot lease hooks", "err", err) // that of builds says so louder
		}
		if b.wait(ctx) != nil {
			return
		}
	}
}

func (w *Worker) askForHook(ctx context.Context) (*rpc.HookJob, error) {
	if err := checkFree(w.cfg.DataDir, w.cfg.MinFreeBytes); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseWait+callTimeout)
	defer cancel()
	return w.cfg.Hooks.HookLease(ctx, rpc.HookLeaseRequest{WaitMS: leaseWait.Milliseconds()})
}

// runHook runs a hook and tells how it ended. It returns when nothing of it is left.
func (w *Worker) runHook(ctx context.Context, job *rpc.HookJob) {
	began := time.Now()
	call := rpc.HookCall{Hook: job.Run.Name(), Lease: job.Run.Lease}
	log := w.log.With("deployment", job.Deployment, "app", job.App.Name, "hook", call.Hook, "attempt", job.Run.Attempt)
	log.Info("hook begins", "lease", call.Lease)
	out := newLog(hookHeadBytes, hookTailBytes)
	if !w.box.sandboxed() {
		fmt.Fprintf(out, "UNSANDBOXED: %s\n", w.box.why)
	}
	jobCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var beside sync.WaitGroup
	beside.Go(func() { w.hookHeartbeats(jobCtx, job.Deployment, call, cancel) })
	streamed, stopStream := w.streamBeside(jobCtx, func(ctx context.Context, offset int64, data []byte) (int64, error) {
		return w.cfg.Hooks.HookLog(ctx, job.Deployment, rpc.HookLogRequest{HookCall: call, Offset: offset, Data: data})
	}, out, cancel)

	err := w.doHook(jobCtx, job, out)
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n") // the rest is from this log
		out.printf("hook %s: %s", call.Hook, first)
	} else {
		out.printf("hook %s done in %s", call.Hook, time.Since(began).Round(time.Millisecond))
	}
	text := out.finish()
	if jobCtx.Err() == nil { // else nobody waits for it
		select {
		case <-streamed:
		case <-time.After(flushTimeout):
		}
		end := rpc.HookEndRequest{HookCall: call, Failed: err != nil, Output: text, Sandboxed: w.box.sandboxed()}
		if err != nil {
			end.Reason = clip(err.Error(), starling.MaxReasonBytes-hookReasonRoom)
		}
		err = errors.Join(err, w.tellHookEnd(jobCtx, job, end))
	}
	stopStream()
	cause := context.Cause(jobCtx)
	cancel(nil)
	<-streamed
	beside.Wait()
	switch {
	case cause != nil || err != nil && isLost(err):
		log.Info("hook given up", "reason", cmp.Or(cause, err))
	case err != nil:
		log.Info("hook failed", "reason", err, "took", time.Since(began))
	default:
		log.Info("hook done", "took", time.Since(began))
	}
}

func (w *Worker) tellHookEnd(ctx context.Context, job *rpc.HookJob, end rpc.HookEndRequest) error {
	ctx, cancel := context.WithTimeout(ctx, hookReportFor)
	defer cancel()
	return w.deliver(ctx, func(ctx context.Context) error { return w.cfg.Hooks.HookEnd(ctx, job.Deployment, end) })
}

// hookHeartbeats renews the lease until ctx ends, as heartbeats does for builds.
func (w *Worker) hookHeartbeats(ctx context.Context, id string, call rpc.HookCall, cancel context.CancelCauseFunc) {
	every := min(rpc.HookHeartbeatEvery, w.heartbeatEvery*2)
	for sleep(ctx, every) == nil {
		err := w.call(ctx, func(ctx context.Context) error { return w.cfg.Hooks.HookHeartbeat(ctx, id, call) })
		if err != nil && isLost(err) {
			cancel(&lostError{err})
			return
		}
		if err != nil && ctx.Err() == nil {
			w.log.Debug("heartbeat of a hook", "deployment", id, "hook", call.Hook, "err", err)
		}
	}
}

// doHook lays the artifact out and runs the hook in it. Its errors are fit for people.
func (w *Worker) doHook(ctx context.Context, job *rpc.HookJob, out *buildLog) error {
	hooks, argv := job.Run.Of(&job.App.Deploy.Hooks), job.Run.Command(&job.App.Deploy.Hooks)
	if hooks == nil || len(argv) == 0 {
		return starling.Invalidf("hook", "app %s has no hook %s", job.App.Name, job.Run.Name())
	}
	ctx, cancel := context.WithDeadlineCause(ctx, job.Deadline, errors.New("the deadline of the deployment passed during the hook"))
	defer cancel()
	dir, err := os.MkdirTemp(filepath.Join(w.cfg.DataDir, "work"), "hook-")
	if err != nil {
		return fmt.Errorf("workspace: %w", err)
	}
	ws := workspace{dir: dir, cache: filepath.Join(dir, "cache")}
	defer func() {
		if left := removeTree(dir); left != nil { // how the hook ended stands; the next start of the worker tries again
			w.log.Warn("cannot remove the workspace of a hook", "dir", dir, "err", left)
		}
	}()
	if err := ws.make(); err != nil {
		return err
	}
	m, err := w.layOut(ctx, ws, job.Artifact)
	if err != nil {
		return preferCause(ctx, fmt.Errorf("artifact %s: %w", job.Artifact.Short(), err))
	}
	limits := starling.BuildSpec{MemoryMB: starling.DefaultMemoryMB, DiskMB: starling.DefaultDiskMB}
	if job.App.Build != nil {
		limits = *job.App.Build
	}
	guard := &diskGuard{dirs: []string{dir}, limitBytes: limits.DiskMB<<20 + m.Bytes(), minFree: w.cfg.MinFreeBytes}
	ctx, unwatch := guard.beside(ctx)
	defer unwatch()
	c := command{
		argv: argv, ws: ws, env: w.hookEnv(job, hooks), mark: w.newMark(), network: !hooks.NoNetwork,
		memoryBytes: limits.MemoryMB << 20, diskBytes: guard.limitBytes,
	}
	if err := w.confine(&c); err != nil {
		return err
	}
	out.printf("hook %s on worker %s of region %s, attempt %d: %s", job.Run.Name(), w.cfg.Name, w.cfg.Region, job.Run.Attempt, strings.Join(argv, " "))
	return w.runBounded(ctx, &c, hooks.Timeout.D(), out)
}

// runBounded runs a hook's command and says in words why it failed.
func (w *Worker) runBounded(ctx context.Context, c *command, timeout time.Duration, out *buildLog) error {
	out.begin()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &hungError{timeout})
	defer cancel()
	err := w.box.run(ctx, c, out)
	if exit, ok := errors.AsType[*exitError](err); ok {
		return withLog(exit.Error(), out)
	}
	if _, ok := errors.AsType[*hungError](err); ok {
		return withLog(fmt.Sprintf("no end after %s: killed", timeout), out)
	}
	return err
}

// hookEnv returns the variables of a hook beside those of every build.
func (w *Worker) hookEnv(job *rpc.HookJob, hooks *starling.OnceHooks) map[string]string {
	env := w.envWith(hooks.Env)
	for k, v := range map[string]string{
		"APP": job.App.Name, "DEPLOYMENT": job.Deployment, "REGION": job.Run.Region, "SHA": job.SHA,
		"ARTIFACT": job.Artifact.String(), "ROLLBACK_OF": job.RollbackOf,
		"HOOK": job.Run.Name(), "HOOK_ATTEMPT": strconv.Itoa(job.Run.Attempt),
		"HOOK_KEY": job.Deployment + "/" + job.Run.Name(), "HOOK_TOKEN": strconv.FormatUint(job.Run.Lease, 10),
	} {
		env["STARLING_"+k] = v
	}
	return env
}

// layOut fetches an artifact from the region's caches and puts its files where a build's
// checkout would be.
func (w *Worker) layOut(ctx context.Context, ws workspace, digest starling.Digest) (_ *starling.Manifest, err error) {
	var envelope []byte
	err = retry(ctx, w.uploadFor, func(ctx context.Context) (err error) {
		envelope, err = w.cfg.Artifacts.Manifest(ctx, digest)
		return err
	})
	if err != nil {
		return nil, err
	}
	m, _, err := w.cfg.Verify(envelope, digest)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(ws.dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	tree, err := artifact.CreateTree(root, digest, m)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(w.fill(ctx, tree, m), tree.Close()); err != nil {
		return nil, err
	}
	if err := os.Remove(ws.src()); err != nil { // it is empty
		return nil, err
	}
	return m, os.Rename(filepath.Join(ws.dir, artifact.FilesDir), ws.src())
}

// fill fetches all chunks of an artifact, each checked as it is written.
func (w *Worker) fill(ctx context.Context, tree *artifact.Tree, m *starling.Manifest) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(hookDownloads)
	for i, chunk := range m.Chunks {
		g.Go(func() error {
			return retry(gctx, w.uploadFor, func(ctx context.Context) error {
				data, err := w.cfg.Artifacts.Chunk(ctx, chunk.Digest, nil)
				if err != nil {
					return err
				}
				return tree.WriteChunk(i, data)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return tree.Finish(ctx)
}
