package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
	"github.com/starlingdeploy/starling/world"
)

// Bounds of the clients.
const (
	clientsGCPercent  = 800 // they hold next to nothing, and should cost little
	slotsPerWorker    = 64  // clients that share a worker's QUIC connection, each with a slot of its own
	maxCycleFailures  = 50  // of one client, one after the other, before the measurement is given up
	cycleFailurePause = 100 * time.Millisecond
)

// round measures this system with each number of clients, in one region that lives as long.
func (c QueueConfig) round(ctx context.Context, samples map[int][]queueSample) error {
	size := world.Size{Regions: 1, Servers: c.Servers}
	c.Tell.Tell("starting a region", 0, 0, "")
	return inWorld(ctx, c.Bin, c.Dir, size, c.Tell, func(w *world.World, _ *client.Client) error {
		for i, n := range c.Clients {
			c.tell(ours, i, n)
			s, err := c.sample(ctx, w, n)
			if err != nil {
				return fmt.Errorf("%d clients: %w", n, errors.Join(err, w.Crashed()))
			}
			samples[n] = append(samples[n], s)
		}
		return nil
	})
}

// tell tells what is measured next.
func (c QueueConfig) tell(system string, measured, clients int) {
	c.Tell.Tell(fmt.Sprintf("%s, %d clients", system, clients), float64(measured), float64(len(c.Clients)), "measurements")
}

// queueClients are the clients of one measurement, and where they count.
type queueClients struct {
	api     *client.Client // of the leader
	http    string         // address of its API
	quic    string         // and of its internal protocol
	workers []*transport.Endpoint

	measuring atomic.Bool
	cycles    atomic.Int64 // ended while measuring
	failures  atomic.Int64 // cycles that were given up
	mu        sync.Mutex
	cycle     *hdrhistogram.Histogram
	submit    *hdrhistogram.Histogram
}

// sample runs n clients for a while and then counts for c.Duration.
func (c QueueConfig) sample(ctx context.Context, w *world.World, n int) (_ queueSample, err error) {
	defer debug.SetGCPercent(debug.SetGCPercent(clientsGCPercent))
	q := &queueClients{cycle: newLatencies(), submit: newLatencies()}
	defer func() { err = errors.Join(err, q.close()) }()
	if err := q.connect(ctx, w, n); err != nil {
		return queueSample{}, err
	}
	if err := q.apply(ctx, n); err != nil {
		return queueSample{}, err
	}
	g, run := errgroup.WithContext(ctx)
	over := make(chan struct{}) // closed when clients are to end after the cycle they are in
	for i := range n {
		g.Go(func() error { return q.run(run, i, over) })
	}
	var s queueSample
	measured := func() (err error) {
		defer close(over)
		s, err = q.measure(run, w, c.Duration)
		return err
	}()
	err = errors.Join(g.Wait(), measured)
	s.latencies = q.cycle
	s.cycleMS, s.submitMS, s.failures = quantileMS(q.cycle), quantileMS(q.submit), q.failures.Load()
	return s, err
}

// connect finds the leader and opens the ways to it.
func (q *queueClients) connect(ctx context.Context, w *world.World, clients int) error {
	api, _, err := leaderAndFollower(ctx, w)
	if err != nil {
		return err
	}
	status, err := api.Leader(ctx)
	if err != nil {
		return err
	}
	q.http, q.quic = status.HTTP, status.Addr
	if q.api, err = client.New(client.Config{Addr: "http://" + q.http}); err != nil {
		return err
	}
	for i := 0; i*slotsPerWorker < clients; i++ {
		creds, err := w.Issue(pki.Request{Name: fmt.Sprintf("bench-%d", i), Region: status.Region, Roles: []starling.Role{starling.RoleWorker}})
		if err != nil {
			return err
		}
		e, err := transport.Listen(transport.Config{Bind: "127.0.0.1:0", Credentials: creds})
		if err != nil {
			return err
		}
		q.workers = append(q.workers, e)
	}
	return nil
}

func (q *queueClients) close() error {
	var errs []error
	for _, w := range q.workers {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}

// apply makes an app for each client: one deployment of an app is under way at a time,
// so that jobs of one app would wait for each other.
func (q *queueClients) apply(ctx context.Context, n int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for i := range n {
		g.Go(func() error {
			app := starling.App{Name: queueApp(i), Source: starling.SourceSpec{Git: "/nowhere"},
				Build: &starling.BuildSpec{Command: []string{"true"}}}
			app.SetDefaults()
			_, err := q.api.ApplyApp(ctx, app, nil)
			return err
		})
	}
	return g.Wait()
}

func queueApp(i int) string { return fmt.Sprintf("queue-%d", i) }

// queueClient is one client: a user's connection to the API over TCP, and a stream of a
// worker's QUIC connection for its slot.
type queueClient struct {
	app    string
	place  int // among all clients
	user   wire
	worker wire
}

func (q *queueClients) client(i int) *queueClient {
	endpoint := q.workers[i/slotsPerWorker]
	return &queueClient{
		app: queueApp(i), place: i,
		user: wire{dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", q.http)
		}},
		worker: wire{dial: func(ctx context.Context) (net.Conn, error) {
			c, err := endpoint.Dial(ctx, q.quic, transport.KindControl)
			if err != nil {
				return nil, err
			}
			return c, nil
		}},
	}
}

// run is one client: cycle after cycle until over.
func (q *queueClients) run(ctx context.Context, i int, over <-chan struct{}) error {
	c := q.client(i)
	defer c.user.close()
	defer c.worker.close()
	cycle, submit := newLatencies(), newLatencies()
	defer func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.cycle.Merge(cycle)
		q.submit.Merge(submit)
	}()
	for n, failed := 0, 0; ; n++ {
		select {
		case <-over:
			return nil
		default:
		}
		began := time.Now()
		submitted, err := c.cycle(ctx, n)
		switch {
		case errors.Is(err, starling.ErrUnavailable) && failed < maxCycleFailures:
			failed++ // a busy computer may change its leader
			q.failures.Add(1)
			if err := pause(ctx, cycleFailurePause); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		failed = 0
		if !q.measuring.Load() {
			continue
		}
		q.cycles.Add(1)
		if err := errors.Join(record(cycle, time.Since(began)), record(submit, submitted)); err != nil {
			return err
		}
	}
}

// cycle submits a job, leases one, the oldest that waits, and ends it. What ends it in one
// step is that the build has failed; one that has not goes on to machines.
func (c *queueClient) cycle(ctx context.Context, n int) (submitted time.Duration, err error) {
	began := time.Now()
	job := starling.Submission{App: c.app, SHA: fmt.Sprintf("%08x%032x", c.place, n)}
	if err := c.user.post(ctx, "/v1/deployments", job, nil); err != nil {
		return 0, err
	}
	submitted = time.Since(began)
	var lease struct {
		Job *struct {
			Deployment string
			Lease      uint64
		}
	}
	for lease.Job == nil {
		ask := rpc.LeaseRequest{Slot: c.place % slotsPerWorker, WaitMS: 5000}
		if err := c.worker.post(ctx, pathOf(rpc.RouteLease, ""), ask, &lease); err != nil {
			return 0, err
		}
	}
	end := rpc.FailRequest{Lease: lease.Job.Lease, Reason: "the job has ended"}
	return submitted, c.worker.post(ctx, pathOf(rpc.RouteFail, lease.Job.Deployment), end, nil)
}

// pathOf returns the path of a route of the internal protocol.
func pathOf(route, deployment string) string {
	_, path, _ := strings.Cut(route, " ")
	return strings.Replace(path, "{id}", deployment, 1)
}

// measure counts for a while, once the clients have warmed up.
func (q *queueClients) measure(ctx context.Context, w *world.World, d time.Duration) (queueSample, error) {
	var s queueSample
	if err := pause(ctx, queueWarmUp); err != nil {
		return s, err
	}
	servers := pidsOf(w.WithRole(starling.RoleServer))
	before, err := q.reading(ctx, servers)
	if err != nil {
		return s, err
	}
	q.measuring.Store(true)
	if err := pause(ctx, d); err != nil {
		return s, err
	}
	q.measuring.Store(false)
	after, err := q.reading(ctx, servers)
	if err != nil {
		return s, err
	}
	cycles, seconds := float64(max(after.cycles, 1)), after.at.Sub(before.at).Seconds()
	s.cycles = float64(after.cycles) / seconds
	s.entries = float64(after.index-before.index) / seconds
	s.cpuMS = 1000 * (after.serverS - before.serverS) / cycles
	s.clientsMS = 1000 * (after.clientS - before.clientS) / cycles
	return s, nil
}

// queueReading is what is read before and after a measurement.
type queueReading struct {
	at               time.Time
	index            uint64
	cycles           int64
	serverS, clientS float64
}

func (q *queueClients) reading(ctx context.Context, servers []int) (queueReading, error) {
	r := queueReading{at: time.Now(), cycles: q.cycles.Load()}
	u, err := usageOf(servers)
	if err != nil {
		return r, err
	}
	r.serverS = u.cpuS
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return r, err
	}
	r.clientS = time.Duration(own.Utime.Nano() + own.Stime.Nano()).Seconds()
	status, err := q.api.Leader(ctx)
	r.index = status.Index
	return r, err
}

// pause waits for d.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
