package build

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	watchEvery     = 250 * time.Millisecond
	diskWatchEvery = time.Second
	diskWatchShare = 20 // a look at the disk may take 1/20 of the time
)

// limitError says which allowance a build or a hook has used up.
type limitError struct{ what, allowed string }

func (e *limitError) Error() string {
	return fmt.Sprintf("it filled its %s allowance of %s", e.what, e.allowed)
}

// watch returns a *limitError as soon as the task uses more memory or processes than it
// may, nil when ctx ends.
func (t *task) watch(ctx context.Context, r *runningTask) error {
	raised := make(map[int]uint64)
	for {
		all, err := listProcs()
		if err != nil {
			return fmt.Errorf("watching the build: %w", err)
		}
		members := r.family.look(all)
		var rss int64
		for _, p := range members {
			rss += p.rssBytes
			if raised[p.pid] != p.start {
				raised[p.pid] = p.start
				preferForOOM(p.pid)
			}
		}
		if len(members) > t.maxProcesses {
			return &limitError{"process", fmt.Sprint(t.maxProcesses)}
		}
		if rss > t.memoryBytes { // shared pages counted more than once: look closer
			var pss int64
			for _, p := range members {
				pss += proportionalBytes(p)
			}
			if pss > t.memoryBytes {
				return &limitError{"memory", fmt.Sprintf("%d MB", t.memoryBytes>>20)}
			}
		}
		if sleep(ctx, watchEvery) != nil {
			return nil
		}
	}
}

// preferForOOM makes a process of a build the kernel's first choice when the machine is
// out of memory. It is a help, not a promise: the process may have ended.
func preferForOOM(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("900"), 0)
}

// diskGuard watches what a build puts on disk.
type diskGuard struct {
	dirs       []string
	limitBytes int64
	minFree    int64
}

// watch returns an error as soon as the allowance is used up or the disk nearly full,
// nil when ctx ends.
func (g *diskGuard) watch(ctx context.Context) error {
	next := time.Now().Add(diskWatchEvery)
	for sleep(ctx, watchEvery) == nil {
		if err := checkFree(g.dirs[0], g.minFree); err != nil {
			return err
		}
		if time.Now().Before(next) {
			continue
		}
		began := time.Now()
		if err := g.check(); err != nil {
			return err
		}
		next = time.Now().Add(max(diskWatchEvery, diskWatchShare*time.Since(began)))
	}
	return nil
}

// beside watches until end is called. What watch returns is the cause by which the context ends.
func (g *diskGuard) beside(ctx context.Context) (_ context.Context, end func()) {
	ctx, stop := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := g.watch(ctx); err != nil {
			stop(err)
		}
	})
	return ctx, func() {
		stop(nil)
		watching.Wait()
	}
}

// check returns a *limitError if the allowance is used up.
func (g *diskGuard) check() error {
	used, err := diskUsage(g.dirs...)
	if err != nil {
		return err
	}
	if used > g.limitBytes {
		return &limitError{"disk", fmt.Sprintf("%d MB", g.limitBytes>>20)}
	}
	return nil
}
