package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// use is what all servers together, and the largest of them, have used so far.
type use struct {
	at    time.Time
	index uint64
	cpu   []float64 // by server
	rssMB float64
}

func (f *fleet) use(ctx context.Context) (use, error) {
	u := use{at: time.Now()}
	var errs []error
	for _, p := range f.servers {
		one, err := usageOf([]int{p.PID()})
		if err != nil {
			return u, err
		}
		u.cpu = append(u.cpu, one.cpuS)
		u.rssMB = max(u.rssMB, one.rssMB)
		if u.index == 0 {
			status, err := leaderOf(ctx, p)
			errs = append(errs, err)
			u.index = status.Index
		}
	}
	if u.index == 0 {
		return u, errors.Join(errs...)
	}
	return u, nil
}

func leaderOf(ctx context.Context, p *world.Proc) (starling.LeaderStatus, error) {
	api, err := p.Client()
	if err != nil {
		return starling.LeaderStatus{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, fleetCallWithin)
	defer cancel()
	return api.Leader(ctx)
}

func (u *use) cpuSince(before *use) (sum, most float64) {
	for i := range u.cpu {
		d := u.cpu[i] - before.cpu[i]
		sum += d
		most = max(most, d)
	}
	return sum, most
}

// whole waits until the leader sees all machines alive, and returns for how long.
func (f *fleet) whole(ctx context.Context, api *client.Client) (float64, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, fleetWholeWithin)
	defer cancel()
	for {
		cells, err := api.Cells(ctx)
		alive := 0
		for _, c := range cells {
			alive += c.Alive
		}
		if err == nil && alive >= f.cfg.Machines {
			return time.Since(began).Seconds(), nil
		}
		f.cfg.Tell.Tell("until the leader sees all", float64(alive), float64(f.cfg.Machines), "machines")
		if sleep := sleepFor(ctx, askLeaderEvery); sleep != nil {
			return 0, fmt.Errorf("the leader sees %d of %d machines alive after %s: %w", alive, f.cfg.Machines, fleetWholeWithin, errors.Join(sleep, err))
		}
	}
}

// rest measures the servers while nothing happens.
func (f *fleet) rest(ctx context.Context, _ *client.Client) error {
	if err := sleepFor(ctx, min(f.cfg.Steady, 5*time.Second)); err != nil { // what came with the arrival dies down
		return err
	}
	own := []int{os.Getpid()}
	ownBefore, err := usageOf(own)
	if err != nil {
		return err
	}
	before, err := f.use(ctx)
	if err != nil {
		return err
	}
	asks := f.asks.Load()
	f.cfg.Tell.Tell("steady state", 0, 0, "")
	if err := sleepFor(ctx, f.cfg.Steady); err != nil {
		return err
	}
	after, err := f.use(ctx)
	if err != nil {
		return err
	}
	ownAfter, err := usageOf(own)
	if err != nil {
		return err
	}
	seconds := after.at.Sub(before.at).Seconds()
	sum, most := after.cpuSince(&before)
	connections := 0
	f.mu.Lock()
	for _, n := range f.polls {
		connections = max(connections, n)
	}
	f.mu.Unlock()
	f.res.Steady = FleetUse{
		Seconds: seconds, Cores: most / seconds, CoresMean: sum / seconds / float64(len(f.servers)), RSSMB: after.rssMB, Connections: connections,
		RaftEntries: after.index - before.index, AsksPerS: float64(f.asks.Load()-asks) / seconds,
	}
	f.res.BenchRSSMB = ownAfter.rssMB
	f.res.BenchCores = max(0, ownAfter.cpuS-ownBefore.cpuS-sum) / seconds // the servers are its children
	return nil
}

// submit brings a deployment to where it waits for its approval.
func (f *fleet) submit(ctx context.Context, api *client.Client, seed uint64) (*starling.Deployment, error) {
	digest, err := f.push(ctx, api, seed)
	if err != nil {
		return nil, err
	}
	d, err := api.Submit(ctx, starling.Submission{App: fleetApp, Artifact: digest})
	if err != nil {
		return nil, err
	}
	return f.until(ctx, api, d.ID, func(d *starling.Deployment) bool { return d.Phase == starling.PhaseAwaitingApproval })
}

// until waits for a deployment to come so far.
func (f *fleet) until(ctx context.Context, api *client.Client, id string, ok func(*starling.Deployment) bool) (*starling.Deployment, error) {
	ctx, cancel := context.WithTimeout(ctx, fleetWholeWithin)
	defer cancel()
	var last *starling.Deployment
	for {
		d, err := api.Deployment(ctx, id)
		if err == nil {
			last = d
			f.cfg.Tell.Tell("deployment "+string(d.Phase), float64(max(d.Machines.Staged, d.Machines.Healthy)), float64(f.cfg.Machines), "machines")
			if ok(d) {
				return d, nil
			}
			if d.Phase.Terminal() {
				return nil, fmt.Errorf("the deployment ended as %s: %s", d.Phase, d.Reason)
			}
		}
		if sleep := sleepFor(ctx, askLeaderEvery); sleep != nil {
			if last != nil {
				return nil, fmt.Errorf("the deployment is %s, machines %+v: %w", last.Phase, last.Machines, errors.Join(sleep, err))
			}
			return nil, errors.Join(sleep, err)
		}
	}
}

// approve lets a deployment go on, and watches who hears of it and when.
func (f *fleet) approve(ctx context.Context, api *client.Client, d *starling.Deployment) (*watch, error) {
	goal, err := api.Goal(ctx, fleetApp)
	if err != nil {
		return nil, err
	}
	w := &watch{app: fleetApp, revision: goal.Revision + 1, began: time.Now(), done: make(chan struct{}), h: newLatencies()}
	w.left.Store(int64(f.cfg.Machines))
	f.late.Store(0)
	f.watch.Store(w)
	_, err = api.Act(ctx, d.ID, starling.ActionApprove)
	return w, err
}

// success waits for an approved deployment to succeed, and returns how long after its approval it has.
func (f *fleet) success(ctx context.Context, api *client.Client, d *starling.Deployment, w *watch) (time.Duration, error) {
	if _, err := f.until(ctx, api, d.ID, func(d *starling.Deployment) bool { return d.Phase == starling.PhaseSucceeded }); err != nil {
		return 0, err
	}
	took := time.Since(w.began)
	select {
	case <-w.done:
	case <-time.After(2 * time.Second): // machines that were away have it with later goals
	case <-ctx.Done():
	}
	f.watch.Store(nil)
	return took, ctx.Err()
}

// toldIn returns how many machines had the goal, and when; the result shows that under a title.
func (f *fleet) toldIn(w *watch, title string) (int, Quantile) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f.res.histograms = append(f.res.histograms, latencies{title, w.h})
	return int(w.h.TotalCount()), quantileMS(w.h)
}

func (f *fleet) deployOnce(ctx context.Context, api *client.Client) error {
	before, err := f.use(ctx)
	if err != nil {
		return err
	}
	posts, direct := f.posts.Load(), f.direct.Load()
	out := &f.res.Deployment
	began := time.Now()
	d, err := f.submit(ctx, api, 1)
	if err != nil {
		return err
	}
	if d.Machines.Staged != f.cfg.Machines {
		return fmt.Errorf("%d of %d machines were staged when the approval was waited for", d.Machines.Staged, f.cfg.Machines)
	}
	out.StagedS = time.Since(began).Seconds()
	w, err := f.approve(ctx, api, d)
	if err != nil {
		return err
	}
	took, err := f.success(ctx, api, d, w)
	if err != nil {
		return err
	}
	after, err := f.use(ctx)
	if err != nil {
		return err
	}
	out.LateMS = float64(f.late.Load()) / 1e6
	out.Told, out.ToldMS = f.toldIn(w, "from an approval to a machine that has the goal")
	out.HealthyS, out.RaftEntries, out.Posts = took.Seconds(), after.index-before.index, f.posts.Load()-posts
	out.Direct = f.direct.Load() - direct
	out.CPUS, _ = after.cpuSince(&before)
	return nil
}

// churn ends a share of the machines, each at its time, and starts them again.
func (f *fleet) churn(ctx context.Context, api *client.Client) error {
	n := int(f.cfg.Churn * float64(f.cfg.Machines))
	before, err := f.use(ctx)
	if err != nil {
		return err
	}
	over := min(churnOver, f.cfg.Steady)
	f.mu.Lock()
	var all []*fleetCell
	for _, c := range f.cells {
		all = append(all, c)
	}
	f.mu.Unlock()
	var back sync.WaitGroup
	var failed atomic.Pointer[error]
	for range n {
		back.Add(1)
		c := all[rand.IntN(len(all))]
		f.work.Go(func() {
			defer back.Done()
			if err := f.restart(ctx, c, rand.N(over)); err != nil {
				failed.Store(&err)
			}
		})
	}
	f.cfg.Tell.Tell("churn", 0, 0, "")
	back.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	out := &f.res.Churn
	if out.WholeS, err = f.whole(ctx, api); err != nil {
		return err
	}
	after, err := f.use(ctx)
	if err != nil {
		return err
	}
	out.Machines, out.Seconds, out.RaftEntries = n, over.Seconds(), after.index-before.index
	out.CPUS, _ = after.cpuSince(&before)
	return nil
}

// restart ends some machine of a cell and starts it again.
func (f *fleet) restart(ctx context.Context, c *fleetCell, wait time.Duration) error {
	if err := sleepFor(ctx, wait); err != nil {
		return err
	}
	ended := make(chan *robot, 1)
	c.post(ctx, func() {
		for name := range c.robots { // any
			ended <- c.stop(name)
			return
		}
		ended <- nil
	})
	var r *robot
	select {
	case r = <-ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	if r == nil {
		return nil
	}
	if err := sleepFor(ctx, min(churnPause, f.cfg.Steady)); err != nil {
		return err
	}
	t, err := f.place(ctx, &r.node)
	if err == nil {
		f.start(r.node, t)
	}
	return err
}
