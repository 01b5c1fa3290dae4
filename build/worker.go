package build

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling/rpc"
)

// Worker builds commits. Make one with New, then call Run once.
type Worker struct {
	cfg         Config
	log         *slog.Logger
	box         *box
	mirrors     *mirrors
	caches      *locks   // one per app
	controllers []string // of cgroups, if CgroupDir is set
	markPrefix  string   // of the marks of all builds below DataDir

	// Set to other values by tests only.
	heartbeatEvery time.Duration
	logPostEvery   time.Duration
	uploadFor      time.Duration
	draftEvery     time.Duration

	leasing chan struct{} // one token: leases are asked for one at a time, see lease
	mu      sync.Mutex
	holding map[string]struct{} // deployments being built
}

// New checks the configuration, makes the data directory and tries the sandbox, for
// which ctx bounds the time. It starts nothing.
func New(ctx context.Context, cfg Config) (*Worker, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	for _, d := range []string{"mirrors", "cache", "work"} {
		if err := os.MkdirAll(filepath.Join(cfg.DataDir, d), 0o700); err != nil {
			return nil, fmt.Errorf("build: data directory: %w", err)
		}
	}
	g, err := newGit(cfg.DataDir, &cfg)
	if err != nil {
		return nil, err
	}
	b, err := newBox(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(cfg.DataDir))
	w := &Worker{
		cfg:            cfg,
		log:            cfg.Logger,
		box:            b,
		mirrors:        &mirrors{dir: filepath.Join(cfg.DataDir, "mirrors"), git: g, locks: newLocks()},
		caches:         newLocks(),
		markPrefix:     fmt.Sprintf("%x-", sum[:8]),
		heartbeatEvery: rpc.HeartbeatEvery,
		logPostEvery:   logPostEvery,
		uploadFor:      uploadFor,
		draftEvery:     draftEvery,
		leasing:        make(chan struct{}, 1),
		holding:        make(map[string]struct{}),
	}
	w.leasing <- struct{}{}
	if cfg.CgroupDir != "" {
		if w.controllers, err = enableControllers(cfg.CgroupDir); err != nil {
			return nil, fmt.Errorf("build: %w", err)
		}
	}
	return w, nil
}

// Sandboxed reports whether builds run in a sandbox, and why not if they do not.
func (w *Worker) Sandboxed() (bool, string) { return w.box.sandboxed(), w.box.why }

// Run builds until ctx ends; then it kills what is being built, removes the
// workspaces and returns nil. The leader gives those jobs to others. Another error
// means that the worker could not begin: its data directory is in use or unusable.
func (w *Worker) Run(ctx context.Context) (err error) {
	lock, err := lockDir(w.cfg.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := w.sweep(); err != nil {
		return err
	}
	if !w.box.sandboxed() {
		w.log.Warn("builds run without a sandbox", "reason", w.box.why)
	}
	if os.Geteuid() == 0 {
		w.log.Warn("the worker runs as root: give it a user of its own")
	}
	if w.box.prlimit == "" {
		w.log.Warn("prlimit is not installed: the size of single files is not limited, only that of all")
	}
	var g errgroup.Group
	for slot := range w.cfg.Slots {
		g.Go(func() error { w.slot(ctx, slot); return nil })
	}
	if w.cfg.runsHooks() {
		g.Go(func() error { w.hooks(ctx); return nil })
	}
	g.Go(func() error { w.janitor(ctx); return nil })
	return g.Wait()
}

// lockDir makes sure that no other worker uses the directory.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "worker.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("build: data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errors.New("another worker uses it")
		}
		return nil, errors.Join(fmt.Errorf("build: data directory %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// sweep removes what a worker that was killed has left: processes and workspaces.
func (w *Worker) sweep() error {
	if err := killAll(func(all []proc) []proc { return marked(all, w.markPrefix) }); err != nil {
		return fmt.Errorf("build: stale builds: %w", err)
	}
	if w.cfg.CgroupDir != "" {
		if err := removeStale(w.cfg.CgroupDir, w.markPrefix); err != nil {
			return fmt.Errorf("build: stale builds: %w", err)
		}
	}
	if err := emptyDir(filepath.Join(w.cfg.DataDir, "work")); err != nil {
		return fmt.Errorf("build: stale workspaces: %w", err)
	}
	stale, err := filepath.Glob(filepath.Join(w.cfg.DataDir, "probe-*"))
	if err != nil {
		return fmt.Errorf("build: stale workspaces: %w", err)
	}
	for _, dir := range stale {
		if err := removeTree(dir); err != nil {
			return fmt.Errorf("build: stale workspaces: %w", err)
		}
	}
	if err := w.mirrors.unlockAll(); err != nil {
		return fmt.Errorf("build: mirrors: %w", err)
	}
	return nil
}

// slot leases and builds, one job after the other, until ctx ends.
func (w *Worker) slot(ctx context.Context, slot int) {
	for ctx.Err() == nil {
		job, err := w.lease(ctx, slot)
		if err != nil {
			return // ctx ended
		}
		w.build(ctx, job)
		w.release(job.Deployment)
	}
}

// lease waits for a job. Only one slot asks at a time: a leader takes back every job
// that a worker holds but does not list, so no list may be on its way while another
// answer brings a job.
func (w *Worker) lease(ctx context.Context, slot int) (*rpc.Job, error) {
	select {
	case <-w.leasing:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { w.leasing <- struct{}{} }()
	b := backoff{min: 100 * time.Millisecond, max: 5 * time.Second}
	quiet := false // told already that something is wrong
	for {
		began := time.Now()
		job, err := w.askForJob(ctx, slot)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case job != nil:
			w.mu.Lock()
			w.holding[job.Deployment] = struct{}{}
			w.mu.Unlock()
			return job, nil
		case err != nil:
			if !quiet {
				w.log.Warn("cannot lease jobs", "slot", slot, "err", err)
				quiet = true
			}
		case time.Since(began) >= time.Second: // a long poll that ended without a job
			b.tries, quiet = 0, false
			continue
		}
		if err := b.wait(ctx); err != nil {
			return nil, err
		}
	}
}

func (w *Worker) askForJob(ctx context.Context, slot int) (*rpc.Job, error) {
	if err := checkFree(w.cfg.DataDir, w.cfg.MinFreeBytes); err != nil {
		return nil, err
	}
	w.mu.Lock()
	holding := make([]string, 0, len(w.holding))
	for id := range w.holding {
		holding = append(holding, id)
	}
	w.mu.Unlock()
	slices.Sort(holding)
	ctx, cancel := context.WithTimeout(ctx, leaseWait+callTimeout)
	defer cancel()
	return w.cfg.Leader.Lease(ctx, rpc.LeaseRequest{Slot: slot, Holding: holding, WaitMS: leaseWait.Milliseconds()})
}

func (w *Worker) release(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.holding, id)
}

func (w *Worker) newMark() string { return w.markPrefix + rand.Text() }
