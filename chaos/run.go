package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/lab"
)

// Config is a run.
type Config struct {
	Bin      string // the starling binary
	Self     string // the program that answers to ExecCommand
	Regions  int
	Servers  int // 3 or 5, in each region, as Caches and Workers
	Caches   int
	Workers  int
	Machines int           // dealt to the regions in turn
	Duration time.Duration // how long faults go on; what they leave is waited for after that
	Seed     uint64
	Kinds    []Kind // nil: all
	Dir      string // where the data goes; "": where temporary files go
	Keep     bool   // the processes' logs, also without a broken promise
	Log      *slog.Logger
	Tell     trial.Progress
}

// Bounds of a run.
const (
	MaxDuration = 24 * time.Hour

	phaseWithin  = 20 * time.Second // for a deployment to come to a boundary
	endWithin    = 5 * time.Second  // after a fault, until the lane goes on
	quorumWithin = 30 * time.Second // after a fault on a server, until the lane goes on
	settleWithin = 60 * time.Second // until all regions and machines agree in the end
)

// Check refuses what cannot be run.
func (c *Config) Check() error {
	if err := c.size().Check(); err != nil {
		return err
	}
	switch {
	case c.Servers < 3:
		return starling.Invalidf("--servers", "%d: a minority must be able to fail: use 3 or 5", c.Servers)
	case c.Caches < 1 || c.Workers < 1 || c.Machines < c.Regions:
		return starling.Invalidf("--machines", "each region needs a cache, a worker and a machine")
	case c.Duration < time.Second || c.Duration > MaxDuration:
		return starling.Invalidf("--duration", "%s is not within 1s and %s", c.Duration, MaxDuration)
	}
	return nil
}

// run is one run under way.
type run struct {
	*Config
	cells     []Cell
	leftOut   []string // kinds that this computer does not allow
	stage     *stage
	board     *board
	ledger    *ledger
	customers *customers
	machines  *generations
	began     time.Time

	mu      sync.Mutex
	strikes []Strike
	missed  map[Cell]int // tries at which the deployment did not come to the boundary, or nobody was there
}

// Run runs regions of processes with faults for Duration and judges what came of it. The
// process must have come through lab.Isolate. An error says that there is no judgement;
// what the judgement is, Result.Verdict says.
func (c Config) Run(ctx context.Context) (res *Result, err error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if !lab.Isolated() {
		return nil, errors.New("chaos: not isolated")
	}
	if c.Kinds == nil {
		c.Kinds = Kinds
	}
	dir, err := os.MkdirTemp(c.Dir, "starling-chaos-")
	if err != nil {
		return nil, err
	}
	r := &run{Config: &c, cells: Cells(c.Kinds, c.Regions), ledger: newLedger(), machines: newGenerations(), missed: map[Cell]int{}}
	r.board = newBoard(r.ledger)
	defer func() {
		if c.Keep || res != nil && res.Verdict() != nil {
			c.Log.Info("the logs of all processes are kept", "dir", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	c.Tell.Tell("starting all processes", 0, 0, "")
	if r.stage, err = newStage(&c, dir); err != nil {
		return nil, err
	}
	defer func() {
		if closing := r.stage.close(); closing != nil { // the judgement stands
			c.Log.Warn("the end of the processes", "err", closing)
		}
	}()
	if _, err := r.stage.world.Ready(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(r.rehearse(), r.prepare(ctx, dir)); err != nil {
		return nil, err
	}
	c.Tell.Tell("faults", 0, c.Duration.Seconds(), "s")
	c.Log.Info("ready", "processes", len(r.stage.actors), "cells", len(r.cells), "seed", c.Seed)
	return r.observed(ctx)
}

// rehearse leaves out the kinds that cannot be done here.
func (r *run) rehearse() error {
	a := r.stage.actors[0]
	leave := func(why string, kinds ...Kind) {
		r.cells = slices.DeleteFunc(r.cells, func(c Cell) bool { return slices.Contains(kinds, c.Kind) })
		r.leftOut = append(r.leftOut, fmt.Sprintf("%s: %s", join(kinds), why))
		r.Log.Warn("left out", "kinds", join(kinds), "why", why)
	}
	if err := r.stage.step(a, time.Second); err != nil {
		leave(err.Error(), Clock)
	} else if err := r.stage.step(a, 0); err != nil {
		return err
	}
	if r.stage.syncs.Seen(a.host.Name) == 0 {
		leave("no sync of a server was seen", SlowSync, SyncError)
	}
	if len(r.cells) == 0 {
		return starling.Invalidf("--faults", "none of them can be done on this computer")
	}
	return nil
}

// prepare makes the repository and the apps.
func (r *run) prepare(ctx context.Context, dir string) error {
	r.customers = &customers{stage: r.stage, board: r.board, ledger: r.ledger, dir: filepath.Join(dir, "content"), repo: filepath.Join(dir, "app.git")}
	if err := os.Mkdir(r.customers.repo, 0o755); err != nil {
		return err
	}
	if _, err := git(ctx, r.customers.repo, "init", "--quiet", "--initial-branch=main"); err != nil {
		return err
	}
	for i := range r.Regions {
		region := regionName(i)
		api := r.stage.with(region, starling.RoleServer)[0].api
		var apps []starling.App
		for k := range appsPerLoad {
			apps = append(apps, r.customers.app(loadApp(region, k), region, false, false))
		}
		for _, l := range []lane{{i, true}, {i, false}} {
			for k := range appsPerLane {
				apps = append(apps, r.customers.app(l.app(true, k), region, true, true), r.customers.app(l.app(false, k), region, false, true))
			}
		}
		for _, a := range apps {
			if _, err := api.ApplyApp(ctx, a, nil); err != nil {
				return fmt.Errorf("app %s: %w", a.Name, err)
			}
		}
	}
	return nil
}

func regionName(i int) string { return fmt.Sprintf("r%d", i+1) }

// app names an app of a lane.
func (l lane) app(built bool, i int) string {
	who, what := "others", "pushed"
	if l.servers {
		who = "servers"
	}
	if built {
		what = "built"
	}
	return fmt.Sprintf("%s-%s-%s-%d", who, what, regionName(l.region), i)
}

// observed runs the faults while all servers are watched, and judges.
func (r *run) observed(ctx context.Context) (*Result, error) {
	watching, stop := context.WithCancel(ctx)
	g, watching := errgroup.WithContext(watching)
	for _, a := range r.stage.with("", starling.RoleServer) {
		g.Go(func() error { return r.board.follow(watching, a.api) })
		g.Go(func() error { return r.board.probe(watching, a) })
	}
	g.Go(func() error { return r.stage.supervise(watching) })
	g.Go(func() error { return r.machines.follow(watching, r.stage.with("", starling.RoleMachine)) })
	var res *Result
	g.Go(func() error {
		defer stop()
		if err := r.harm(watching); err != nil {
			return err
		}
		r.Tell.Tell("waiting for all to agree", 0, 0, "")
		var err error
		res, err = r.conclude(watching)
		return err
	})
	err := g.Wait()
	if res != nil && errors.Is(err, context.Canceled) && ctx.Err() == nil {
		err = nil // the watchers were stopped
	}
	return res, err
}

// harm runs all lanes and the load until Duration has passed, and waits for what they submitted.
func (r *run) harm(ctx context.Context) error {
	r.began = time.Now()
	g, ctx := errgroup.WithContext(ctx)
	during, stop := context.WithTimeout(ctx, r.Duration)
	defer stop()
	for i := range r.Regions {
		random := rand.New(rand.NewPCG(r.Seed, 1000+uint64(i)))
		g.Go(func() error { return over(r.customers.load(during, ctx, regionName(i), random), during) })
	}
	for i, l := range lanes(r.Regions) {
		random := rand.New(rand.NewPCG(r.Seed, 2000+uint64(i)))
		g.Go(func() error { return over(r.goThrough(during, ctx, l, random), during) })
	}
	return g.Wait()
}

// over returns nil for the error of something that ended because its time was over.
func over(err error, during context.Context) error {
	if errors.Is(during.Err(), context.DeadlineExceeded) && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// goThrough strikes at a lane's cells, one after the other, until during ends.
func (r *run) goThrough(during, until context.Context, l lane, random *rand.Rand) error {
	var open sync.WaitGroup // submissions whose answer is awaited
	defer open.Wait()
	n := 0
	for round := 0; ; round++ {
		cells := l.deal(r.cells, r.Regions, r.Seed, round)
		if len(cells) == 0 && round > r.Regions {
			<-during.Done() // these kinds have nothing for this lane
		}
		for _, c := range cells {
			if during.Err() != nil {
				return during.Err()
			}
			if err := r.one(during, until, l, c, n, &open, random); err != nil {
				return fmt.Errorf("%s in %s: %w", c, regionName(l.region), err)
			}
			n++
		}
		if during.Err() != nil {
			return during.Err()
		}
	}
}

// one submits a deployment, strikes when it comes to the boundary, heals, and waits for
// its end and for its region's health.
func (r *run) one(during, until context.Context, l lane, c Cell, n int, open *sync.WaitGroup, random *rand.Rand) error {
	region := regionName(l.region)
	built := c.Boundary == Boundary(starling.PhaseBuilding) || c.Boundary == Boundary(starling.PhaseQueued)
	sub, err := r.customers.order(during, l.app(built, n%appsPerLane), region, built, random)
	if err != nil {
		if during.Err() != nil {
			return during.Err()
		}
		return err
	}
	own := rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))
	answered := make(chan string, 1)
	open.Go(func() { answered <- r.customers.submit(until, sub, false, own) })
	id := ""
	if c.Boundary == Submit {
		if err := sleep(during, time.Duration(random.Int64N(int64(4*time.Millisecond)))); err != nil {
			return err
		}
	} else {
		select {
		case id = <-answered:
		case <-during.Done():
			return during.Err()
		}
		coming, cancel := context.WithTimeout(during, phaseWithin)
		there := id != "" && r.board.entered(coming, id, starling.Phase(c.Boundary))
		cancel()
		if !there {
			r.miss(c)
			return during.Err()
		}
	}
	if err := r.blow(during, c, region, random); err != nil {
		return err
	}
	if c.Boundary == Submit {
		select {
		case id = <-answered:
		case <-during.Done():
			return during.Err()
		}
	}
	ending, cancel := context.WithTimeout(during, endWithin)
	defer cancel()
	if id != "" {
		r.board.ended(ending, id)
	}
	if l.servers {
		r.whole(during, region)
	}
	return nil
}

func (r *run) miss(c Cell) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missed[c]++
}

// blow strikes, holds and heals, even if during ends meanwhile.
func (r *run) blow(during context.Context, c Cell, region string, random *rand.Rand) error {
	leader, _ := r.board.leader(region)
	victims, err := r.stage.choose(c.Target, region, leader, random)
	if err != nil {
		r.miss(c)
		return nil
	}
	b := plan(c, region, victims, random)
	if c.Kind == Clock && c.Target == Follower && random.IntN(2) == 0 {
		if leaders, err := r.stage.choose(Leader, region, leader, random); err == nil {
			b.from = leaders[0]
			b.Detail += ", a new leader is chosen"
		}
	}
	b.began = time.Now()
	b.AtS = b.began.Sub(r.began).Seconds()
	failed := r.stage.strike(b)
	if failed == nil {
		_ = sleep(during, b.hold) // cut short at the end of the run
	}
	err = r.stage.heal(b)
	b.end = time.Now()
	r.Tell.Tell("faults", min(b.end.Sub(r.began), r.Duration).Seconds(), r.Duration.Seconds(), "s")
	if failed != nil {
		r.Log.Warn("could not strike", "what", c.String(), "victim", b.Victim, "err", failed)
		r.miss(c)
		return err
	}
	b.HeldS = b.end.Sub(b.began).Seconds()
	r.Log.Info("struck", "what", c.String(), "victim", b.Victim, "detail", b.Detail, "held", b.end.Sub(b.began).Round(time.Millisecond))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strikes = append(r.strikes, b.Strike)
	return err
}

// whole waits until all servers of a region answer and have about the same state.
func (r *run) whole(ctx context.Context, region string) {
	ctx, cancel := context.WithTimeout(ctx, quorumWithin)
	defer cancel()
	for {
		low, high, err := r.indexes(ctx, region)
		_, silent := r.board.leader(region)
		if err == nil && high-low < 50 && silent < leaderlessOver || sleep(ctx, probeEvery) != nil {
			return
		}
	}
}

func (r *run) indexes(ctx context.Context, region string) (low, high uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	var all []uint64
	for _, a := range r.stage.with(region, starling.RoleServer) {
		status, err := a.api.Leader(ctx)
		if err != nil {
			return 0, 0, err
		}
		all = append(all, status.Index)
	}
	return slices.Min(all), slices.Max(all), nil
}
