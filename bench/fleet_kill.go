package bench

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

const watchEvery = 5 * time.Millisecond // that it is looked at how many machines have a goal

// killLeader ends the leader in the middle of a deployment: half of the machines have been told to go live.
func (f *fleet) killLeader(ctx context.Context, api *client.Client) error {
	if len(f.servers) < 3 {
		return nil // nobody would lead
	}
	d, err := f.submit(ctx, api, 2)
	if err != nil {
		return err
	}
	status, err := api.Leader(ctx)
	if err != nil {
		return err
	}
	leader := f.world.Named(status.Name)
	if leader == nil {
		return fmt.Errorf("the leader %q is no process of the world", status.Name)
	}
	w, err := f.approve(ctx, api, d)
	if err != nil {
		return err
	}
	if err := f.half(ctx, w); err != nil {
		return err
	}
	out := &f.res.LeaderKill
	began := time.Now()
	out.Told = f.cfg.Machines - int(w.left.Load())
	if err := leader.Signal(syscall.SIGKILL, fleetCallWithin); err != nil {
		return err
	}
	var rest []*world.Proc
	for _, p := range f.servers {
		if p != leader {
			rest = append(rest, p)
		}
	}
	f.servers = rest
	if api, err = rest[0].Client(); err != nil {
		return err
	}
	if err := f.another(ctx, leader.Name); err != nil {
		return err
	}
	out.LeaderS = time.Since(began).Seconds()
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := f.whole(both, api)
		out.WholeS = time.Since(began).Seconds()
		return err
	})
	g.Go(func() error {
		took, err := f.success(both, api, d, w)
		out.EndedS = took.Seconds()
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	out.AllTold, out.ToldMS = f.toldIn(w, "from an approval to a machine that has the goal, the leader killed meanwhile")
	return nil
}

// half waits until half of the machines have a goal.
func (f *fleet) half(ctx context.Context, w *watch) error {
	ctx, cancel := context.WithTimeout(ctx, fleetWholeWithin)
	defer cancel()
	for w.left.Load() > int64(f.cfg.Machines/2) {
		if err := sleepFor(ctx, watchEvery); err != nil {
			return fmt.Errorf("%d of %d machines have not been told: %w", w.left.Load(), f.cfg.Machines, err)
		}
	}
	return nil
}

// another waits until another server leads than the one of that name.
func (f *fleet) another(ctx context.Context, before string) error {
	ctx, cancel := context.WithTimeout(ctx, fleetWholeWithin)
	defer cancel()
	for {
		now, err := leaderOf(ctx, f.servers[0])
		if err == nil && now.Name != "" && now.Name != before {
			return nil
		}
		if err := sleepFor(ctx, askLeaderEvery); err != nil {
			return fmt.Errorf("nobody leads after %s: %w", before, err)
		}
	}
}
