package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
)

// How the fleet comes and goes.
const (
	enrolInFlight    = 128 // machines that enrol at one time
	registerInFlight = 64
	rackMachines     = 40
	fleetZones       = 3
	comeAgain        = 250 * time.Millisecond // least pause after an attempt in vain; doubled each time
	comeAgainMost    = 10 * time.Second
	maxAttempts      = 40
	churnOver        = 20 * time.Second // over which machines end
	churnPause       = 20 * time.Second // until one starts again: its cell has found out
	askLeaderEvery   = 50 * time.Millisecond
)

// robotNode is the node of the i-th machine.
func robotNode(region string, i int) starling.Node {
	return starling.Node{
		Name: fmt.Sprintf("m%06d", i), Region: region, Zone: string(rune('a' + i/rackMachines%fleetZones)), Rack: fmt.Sprintf("r%d", i/rackMachines),
		Roles: []starling.Role{starling.RoleMachine}, Addr: fmt.Sprintf("10.%d.%d.%d:7471", i>>16, i>>8&255, i&255), Alive: true,
	}
}

// arrive has all machines come.
func (f *fleet) arrive(ctx context.Context, api *client.Client) error {
	before, err := f.use(ctx)
	if err != nil {
		return err
	}
	e := &f.res.Enrol
	e.enrolLatency = newLatencies()
	began := time.Now()
	if err := f.enrolAll(ctx, f.cfg.Enrol); err != nil {
		return err
	}
	e.Enrolled, e.EnrolledS, e.MS = f.cfg.Enrol, time.Since(began).Seconds(), quantileMS(e.enrolLatency)
	f.res.histograms = append(f.res.histograms, latencies{"from a machine's first attempt to enrol to its place", e.enrolLatency})
	began = time.Now()
	g, registering := errgroup.WithContext(ctx)
	g.SetLimit(registerInFlight)
	var done atomic.Int64
	for i := f.cfg.Enrol; i < f.cfg.Machines; i++ {
		g.Go(func() error {
			n := robotNode(f.region, i)
			t, err := f.place(registering, &n)
			if err != nil {
				return err
			}
			f.start(n, t)
			f.cfg.Tell.Tell("registering", float64(done.Add(1)), float64(f.cfg.Machines-f.cfg.Enrol), "machines")
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	e.Registered, e.RegisteredS = f.cfg.Machines-f.cfg.Enrol, time.Since(began).Seconds()
	if e.WholeS, err = f.whole(ctx, api); err != nil {
		return err
	}
	after, err := f.use(ctx)
	if err != nil {
		return err
	}
	e.RaftEntries, e.RSSMBMax = after.index-before.index, after.rssMB
	e.CPUS, _ = after.cpuSince(&before)
	f.mu.Lock()
	f.res.Cells = len(f.cells)
	f.mu.Unlock()
	return nil
}

// enrolAll has n machines start at once, as far as this computer can play them.
func (f *fleet) enrolAll(ctx context.Context, n int) error {
	next := make(chan int)
	g, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	done := 0
	for range min(n, enrolInFlight) {
		g.Go(func() (err error) {
			d, err := transport.NewEnrolDialer("127.0.0.1", nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, d.Close()) }()
			for i := range next {
				began := time.Now()
				node := robotNode(f.region, i)
				t, busy, unanswered, err := f.tryEnrol(ctx, d, &node)
				if err != nil {
					return err
				}
				f.start(node, t)
				mu.Lock()
				done++
				f.res.Enrol.Busy += busy
				f.res.Enrol.Unanswered += unanswered
				f.note(record(f.res.Enrol.enrolLatency, time.Since(began)))
				f.cfg.Tell.Tell("enrolling", float64(done), float64(n), "machines")
				mu.Unlock()
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(next)
		for i := range n {
			select {
			case next <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return g.Wait()
}

// tryEnrol tries until the machine is in, with back-off.
func (f *fleet) tryEnrol(ctx context.Context, d *transport.EnrolDialer, n *starling.Node) (t *rpc.Ticket, busy, unanswered int, err error) {
	csr, err := newCSR() // one for all attempts: an answer may be lost
	if err != nil {
		return nil, 0, 0, err
	}
	pause := comeAgain
	for try := range maxAttempts {
		t, err = f.enrol(ctx, d, f.addrs[(rand.IntN(len(f.addrs))+try)%len(f.addrs)], n, csr)
		if err == nil {
			return t, busy, unanswered, nil
		}
		wait := pause/2 + rand.N(pause)
		var full *starling.BusyError
		switch {
		case ctx.Err() != nil:
			return nil, busy, unanswered, ctx.Err()
		case errors.As(err, &full):
			busy++
			wait = max(wait, full.After)
		case errors.Is(err, starling.ErrUnavailable):
			unanswered++
		default:
			return nil, busy, unanswered, err
		}
		if err := sleepFor(ctx, wait); err != nil {
			return nil, busy, unanswered, err
		}
		pause = min(2*pause, comeAgainMost)
	}
	return nil, busy, unanswered, fmt.Errorf("%s: %d attempts in vain: %w", n.Name, maxAttempts, err)
}

// place registers a machine, at the next leader if that is another one.
func (f *fleet) place(ctx context.Context, n *starling.Node) (t *rpc.Ticket, err error) {
	pause := comeAgain
	for range maxAttempts {
		if t, err = f.register(ctx, n); err == nil || ctx.Err() != nil || starling.IsInvalid(err) || errors.Is(err, starling.ErrForbidden) {
			return t, err
		}
		f.cfg.Tell.Tell("registering: "+err.Error(), 0, 0, "")
		if err := sleepFor(ctx, pause/2+rand.N(pause)); err != nil {
			return nil, err
		}
		if err := f.findLeader(ctx); err != nil && !errors.Is(err, starling.ErrUnavailable) {
			return nil, err
		}
		pause = min(2*pause, comeAgainMost)
	}
	return nil, fmt.Errorf("%s: %d attempts in vain: %w", n.Name, maxAttempts, err)
}

func sleepFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start begins a machine's life in its cell.
func (f *fleet) start(n starling.Node, t *rpc.Ticket) {
	n.Tags = t.Tags
	c := f.cell(t.Cell)
	c.post(f.ctx, func() { c.enter(&robot{node: n, brain: cell.NewBrain(n, rand.Uint64(), nil, nil)}, t) })
}

// move has a machine register again, and enter the cell that it is told.
func (f *fleet) move(from *fleetCell, r *robot) {
	t, err := f.place(f.ctx, &r.node)
	if err != nil {
		return // the run has ended
	}
	from.post(f.ctx, func() {
		if from.robots[r.node.Name] != r {
			return
		}
		to := f.cell(t.Cell)
		if to == from {
			from.enter(r, t)
			return
		}
		from.leave(r)
		f.mu.Lock()
		f.homes[r] = to
		f.mu.Unlock()
		f.work.Go(func() { to.post(f.ctx, func() { to.enter(r, t) }) })
	})
}

// forward passes on what was under way for a machine when it moved.
func (f *fleet) forward(from *fleetCell, r *robot, ev cell.Event) {
	f.mu.Lock()
	to := f.homes[r]
	f.mu.Unlock()
	if to != nil && to != from {
		f.work.Go(func() { to.post(f.ctx, func() { to.step(r, ev) }) })
	}
}

// leave takes a robot out of the pool, in good order.
func (c *fleetCell) leave(r *robot) {
	delete(c.robots, r.node.Name)
	delete(c.words, r.node.Name)
	c.nodes = slices.DeleteFunc(c.nodes, func(n starling.Node) bool { return n.Name == r.node.Name })
	r.tick = time.Time{}
	c.stale = true
}
