package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
	"github.com/starlingdeploy/starling/world"
)

// FleetConfig measures the servers of one region under a fleet of machines, all of which one
// process plays: the brains of package cell, which real machines run, with gossip in memory;
// and QUIC to the servers, with a certificate of its own for each that is connected.
type FleetConfig struct {
	Bin      string // the starling binary
	Servers  int    // 1, 3 or 5, each a process
	Machines int    // 1 to MaxFleetMachines
	Enrol    int    // of them come with a join token and a handshake of their own; the rest registers through shared connections
	CellMax  int    // machines of a cell; 0: the servers' default
	Churn    float64
	Steady   time.Duration // of which the servers' use is measured
	Dir      string        // where the servers' data goes
	Tell     trial.Progress
}

// Bounds of FleetConfig.
const (
	MaxFleetMachines = 150_000
	fleetWholeWithin = 3 * time.Minute // until a picture is whole again
)

const fleetCluster = "dev" // of a world

// FleetResult is its result. Figures of servers are of the one that used most, unless they say otherwise.
type FleetResult struct {
	Machines int            `json:"machines"`
	Servers  int            `json:"servers"`
	Cells    int            `json:"cells"`
	Computer trial.Computer `json:"computer"`

	Enrol      FleetEnrol      `json:"enrol"`
	Steady     FleetUse        `json:"steady"`
	Deployment FleetDeployment `json:"deployment"`
	Churn      FleetChurn      `json:"churn"`
	LeaderKill FleetKill       `json:"leader_kill"`
	// BenchCores is what playing the machines took in the steady state, which is not the servers'.
	BenchCores float64 `json:"bench_cores"`
	BenchRSSMB float64 `json:"bench_rss_mb"`

	histograms []latencies
}

// FleetEnrol is how the fleet came.
type FleetEnrol struct {
	Enrolled     int      `json:"enrolled"` // with a key, a join token and a handshake of their own
	EnrolledS    float64  `json:"enrolled_s"`
	MS           Quantile `json:"ms"`         // from a machine's first attempt to its place in a cell
	Busy         int      `json:"busy"`       // attempts that were told to come again
	Unanswered   int      `json:"unanswered"` // attempts that got no answer
	Registered   int      `json:"registered"` // through shared connections
	RegisteredS  float64  `json:"registered_s"`
	WholeS       float64  `json:"whole_s"` // from the last one's place until the leader saw all alive
	RaftEntries  uint64   `json:"raft_entries"`
	CPUS         float64  `json:"cpu_s"` // of all servers
	RSSMBMax     float64  `json:"rss_mb_max"`
	enrolLatency *hdrhistogram.Histogram
}

// FleetUse is what a server uses while nothing happens.
type FleetUse struct {
	Seconds     float64 `json:"seconds"`
	Cores       float64 `json:"cores"`       // of the server that used most
	CoresMean   float64 `json:"cores_mean"`  // of all
	RSSMB       float64 `json:"rss_mb"`      // of the largest
	Connections int     `json:"connections"` // relays that wait at the server with most
	RaftEntries uint64  `json:"raft_entries"`
	AsksPerS    float64 `json:"asks_per_s"` // among members of cells
}

// FleetDeployment is a deployment that only places, with an approval before it goes live.
type FleetDeployment struct {
	StagedS float64 `json:"staged_s"` // from the submission until the servers say that all machines hold it
	// ToldMS is from just before the approval was asked for until a machine had the goal that follows from it.
	ToldMS Quantile `json:"told_ms"`
	Told   int      `json:"told"`
	// LateMS is the longest that a machine waited for its turn meanwhile, because one process plays
	// all of them; it is in ToldMS.
	LateMS      float64 `json:"late_ms"`
	HealthyS    float64 `json:"healthy_s"` // from the approval until the deployment had succeeded
	RaftEntries uint64  `json:"raft_entries"`
	Posts       int64   `json:"posts"` // of machines to their speakers
	// Direct is polls of servers by machines that are no relays, which is what they do when their cell
	// has no news for them.
	Direct int64   `json:"direct"`
	CPUS   float64 `json:"cpu_s"` // of all servers
}

// FleetChurn is machines that end without a word and start again.
type FleetChurn struct {
	Machines    int     `json:"machines"`
	Seconds     float64 `json:"seconds"` // over which they ended
	WholeS      float64 `json:"whole_s"` // from when the last one had started again until the leader saw all alive
	RaftEntries uint64  `json:"raft_entries"`
	CPUS        float64 `json:"cpu_s"`
}

// FleetKill is the leader killed in the middle of a deployment.
type FleetKill struct {
	Told    int      `json:"told"`     // machines that had been told to go live by then
	LeaderS float64  `json:"leader_s"` // until another server led
	WholeS  float64  `json:"whole_s"`  // until that one saw all machines alive
	EndedS  float64  `json:"ended_s"`  // from the approval until the deployment had succeeded
	AllTold int      `json:"all_told"` // machines that were told in the end
	ToldMS  Quantile `json:"told_ms"`  // as in FleetDeployment
}

// fleet is a run.
type fleet struct {
	cfg     FleetConfig
	ctx     context.Context
	work    sync.WaitGroup // calls and cells
	world   *world.World
	region  string
	servers []*world.Proc
	addrs   []string // QUIC addresses
	creds   *pki.Credentials
	token   starling.JoinTokenText
	// endpoint is the shared one, of a server's identity: it may pass requests on.
	endpoint *transport.Endpoint
	issuing  sync.Mutex
	res      *FleetResult

	asks, posts atomic.Int64
	direct      atomic.Int64 // polls of servers by machines that are no relays
	late        atomic.Int64 // ns, the longest that a machine's turn waited for this process
	watch       atomic.Pointer[watch]

	mu       sync.Mutex
	cells    map[string]*fleetCell
	homes    map[*robot]*fleetCell        // of machines that have moved
	verified map[starling.Digest]verified // by what was signed
	polls    map[string]int               // under way, by server
	leader   *rpc.Client
	noted    error
}

// watch waits for a goal to reach machines.
type watch struct {
	app      string
	revision uint64
	began    time.Time
	left     atomic.Int64
	done     chan struct{}

	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

// Check refuses what cannot be measured.
func (c *FleetConfig) Check() error {
	switch {
	case c.Machines < 1 || c.Machines > MaxFleetMachines:
		return starling.Invalidf("--machines", "%d is not within 1 and %d", c.Machines, MaxFleetMachines)
	case c.Enrol < 0 || c.Enrol > c.Machines:
		return starling.Invalidf("--enrol", "%d is not within 0 and the %d machines", c.Enrol, c.Machines)
	case c.Churn < 0 || c.Churn > 0.5:
		return starling.Invalidf("--churn", "%g is not within 0 and 0.5", c.Churn)
	case c.Steady < time.Second || c.Steady > time.Hour:
		return starling.Invalidf("--steady", "%s is not within 1s and 1h", c.Steady)
	case c.CellMax < 0 || c.CellMax > starling.MaxCellMachines:
		return starling.Invalidf("--cell", "%d is not within 0 and %d", c.CellMax, starling.MaxCellMachines)
	}
	size := c.size()
	return size.Check()
}

func (c *FleetConfig) size() world.Size {
	return world.Size{Regions: 1, Servers: c.Servers, Caches: 1, CellMax: c.CellMax, Enrol: true}
}

// Run starts a region and plays a fleet to it.
func (c FleetConfig) Run(ctx context.Context) (*FleetResult, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	res := &FleetResult{Machines: c.Machines, Servers: c.Servers, Computer: trial.ThisComputer()}
	c.Tell.Tell("starting a region", 0, 0, "")
	err := inWorld(ctx, c.Bin, c.Dir, c.size(), c.Tell, func(w *world.World, api *client.Client) error {
		ctx, cancel := context.WithCancel(ctx)
		f := &fleet{
			cfg: c, ctx: ctx, world: w, res: res, servers: w.WithRole(starling.RoleServer),
			cells: map[string]*fleetCell{}, homes: map[*robot]*fleetCell{}, verified: map[starling.Digest]verified{}, polls: map[string]int{},
		}
		f.region = f.servers[0].Region
		err := f.run(ctx, api)
		cancel()
		f.work.Wait()
		return errors.Join(err, f.noted, f.close())
	})
	return res, err
}

func (f *fleet) close() error {
	for _, c := range f.cells {
		for _, r := range c.robots {
			if r.wire != nil {
				r.wire.close()
			}
		}
	}
	if f.endpoint == nil {
		return nil
	}
	return f.endpoint.Close()
}

func (f *fleet) run(ctx context.Context, api *client.Client) error {
	if err := f.prepare(ctx, api); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	for _, phase := range []struct {
		name string
		do   func(context.Context, *client.Client) error
	}{
		{"arrival", f.arrive}, {"steady state", f.rest}, {"deployment", f.deployOnce}, {"churn", f.churn}, {"leader's death", f.killLeader},
	} {
		if err := phase.do(ctx, api); err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
	}
	return nil
}

// prepare makes what the fleet needs: identities, a join token, an artifact.
func (f *fleet) prepare(ctx context.Context, api *client.Client) error {
	peers, err := api.RaftPeers(ctx)
	if err != nil {
		return err
	}
	for _, p := range peers {
		f.addrs = append(f.addrs, p.Addr)
	}
	if f.creds, err = f.issue("fleet", starling.RoleServer); err != nil {
		return err
	}
	if f.endpoint, err = transport.Listen(transport.Config{Bind: "127.0.0.1:0", Credentials: f.creds}); err != nil {
		return err
	}
	issued, err := api.CreateJoinToken(ctx, starling.NewJoinToken{Name: "fleet", Uses: f.cfg.Machines})
	if err != nil {
		return err
	}
	if f.token, err = starling.ParseJoinToken(issued.Text); err != nil {
		return err
	}
	if err := f.findLeader(ctx); err != nil {
		return err
	}
	app := starling.App{Name: fleetApp}
	app.Deploy.Strategy.Approval = true
	app.Deploy.Strategy.MaxFailed = "100%"
	app.SetDefaults()
	_, err = api.ApplyApp(ctx, app, nil)
	return err
}

const fleetApp = "fleet"

// push stores an artifact, another one for each seed.
func (f *fleet) push(ctx context.Context, api *client.Client, seed uint64) (starling.Digest, error) {
	dir, err := os.MkdirTemp(f.world.Dir, "push-")
	if err != nil {
		return starling.Digest{}, err
	}
	a, err := pushRandom(ctx, api, dir, 4096, seed, nil)
	if err != nil {
		return starling.Digest{}, fmt.Errorf("push %s: %w", filepath.Base(dir), err)
	}
	return a.Digest, nil
}

// cell returns a cell of the fleet, made if need be.
func (f *fleet) cell(name string) *fleetCell {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.cells[name]
	if c == nil {
		c = newFleetCell(f, name)
		f.cells[name] = c
		f.work.Go(func() { c.run(f.ctx) })
	}
	return c
}

// behind notes that a machine's turn came late, because this process plays too many.
func (f *fleet) behind(by time.Duration) {
	for {
		most := f.late.Load()
		if int64(by) <= most || f.late.CompareAndSwap(most, int64(by)) {
			return
		}
	}
}

// told notes that a machine has a goal, once for each watch.
func (f *fleet) told(r *robot, g *starling.Goal) {
	w := f.watch.Load()
	if w == nil || r.told == w || g.App != w.app || g.Revision < w.revision || !g.Stage.AtLeast(starling.StageActivate) {
		return
	}
	r.told = w
	w.mu.Lock()
	f.note(record(w.h, time.Since(w.began)))
	w.mu.Unlock()
	if w.left.Add(-1) == 0 {
		close(w.done)
	}
}
