package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// distribution is one deployment of one artifact to the machines of a world.
type distribution struct {
	cfg      SwarmConfig
	stand    *stand // nil: loopback
	world    *world.World
	api      *client.Client
	artifact starling.Digest
	account  *account
	faults   *injector
	round    *Round
	all      time.Time // with faults: when the machines that are awaited had all
	began    time.Time // when the machines could begin; by the leader's clock, which is this computer's
}

const (
	// pollEvery is how often the deployment's state is asked for; the times themselves come
	// from the machines' logs.
	pollEvery = 100 * time.Millisecond
	// faultEvery is how often it is looked whether a fault is due.
	faultEvery = 20 * time.Millisecond
	// endWithin is how long a deployment with faults may go on after the machines that can
	// have all: a cell whose speaker died is awaited for 30 s, and a slow machine may need hours.
	endWithin = 45 * time.Second
)

// benchApp is what is deployed: files that are only placed. With faults, any number of
// machines may fail.
func benchApp(faults bool) starling.App {
	app := starling.App{Name: "bench"}
	if faults {
		app.Deploy.Strategy.MaxFailed = "100%"
	}
	app.SetDefaults()
	return app
}

func (d *distribution) run(ctx context.Context) error {
	if d.stand == nil {
		return d.deploy(ctx)
	}
	if err := d.stand.shape(d.cfg.RateMbit); err != nil {
		return err
	}
	recorded, err := d.stand.watch(ctx, d.deploy)
	if err != nil {
		return err
	}
	if !d.all.IsZero() {
		recorded.cut(d.all)
	}
	d.round.Samples = recorded.since(d.began)
	d.round.WireCopies = d.stand.wireCopies(d.round.Samples, d.cfg.Bytes)
	if len(d.round.Faults) > 0 { // those that are gone report nothing
		d.round.CacheCopies = d.round.WireCopies
	}
	return nil
}

func (d *distribution) deploy(ctx context.Context) error {
	before, err := d.account.usage()
	if err != nil {
		return err
	}
	submitted, err := d.api.Submit(ctx, starling.Submission{App: "bench", Artifact: d.artifact})
	if err != nil {
		return err
	}
	var after usage
	var end *starling.Deployment
	if len(d.cfg.Faults) > 0 {
		after, end, err = d.followFaults(ctx, submitted.ID)
	} else {
		after, end, err = d.follow(ctx, submitted.ID)
	}
	if err != nil {
		return err
	}
	if err := d.read(); err != nil {
		return err
	}
	r := d.round
	r.Phase = end.Phase
	r.CacheCopies = float64(end.Bytes.CacheOut) / float64(d.cfg.Bytes)
	r.RSSMBMax = after.rssMaxMB
	r.finish(d.cfg.Bytes, after.cpuS-before.cpuS)
	return nil
}

// follow waits for the deployment's success.
func (d *distribution) follow(ctx context.Context, id string) (usage, *starling.Deployment, error) {
	end, err := d.api.Wait(ctx, id, pollEvery, d.tell)
	if err != nil {
		return usage{}, nil, err
	}
	if end.Phase != starling.PhaseSucceeded || end.Machines.Healthy != d.cfg.Machines {
		return usage{}, nil, fmt.Errorf("the deployment ended as %s with %d of %d machines: %s", end.Phase, end.Machines.Healthy, d.cfg.Machines, end.Reason)
	}
	d.began = machinesBegan(end)
	after, err := d.account.usage()
	return after, end, err
}

// tell tells how far the deployment is.
func (d *distribution) tell(v *starling.Deployment) {
	d.cfg.Tell.Tell("distributing", float64(max(v.Machines.Staged, v.Machines.Healthy)), float64(d.cfg.Machines), "machines")
}

// machinesBegan returns when a deployment's machines could begin, to the millisecond as
// logs have it; zero: not yet.
func machinesBegan(v *starling.Deployment) time.Time {
	switch v.Phase {
	case starling.PhaseQueued, starling.PhaseBuilding:
		return time.Time{}
	case starling.PhaseReplicating: // machines fetch from here on
		return v.PhaseAt.Truncate(time.Millisecond)
	}
	t := v.Timings
	return v.CreatedAt.Add(time.Duration(t.QueuedMS+t.BuildMS) * time.Millisecond).Truncate(time.Millisecond)
}

// followFaults carries out the script until the machines that can have all; then the
// deployment has some time to end.
func (d *distribution) followFaults(ctx context.Context, id string) (after usage, v *starling.Deployment, err error) {
	tick := time.NewTicker(faultEvery)
	defer tick.Stop()
	var polled time.Time
	for {
		select {
		case <-ctx.Done():
			return after, nil, d.unfinished(ctx.Err())
		case <-tick.C:
		}
		if !d.began.IsZero() {
			if err := d.faults.tick(time.Since(d.began)); err != nil {
				return after, nil, err
			}
		}
		if time.Since(polled) < pollEvery {
			continue
		}
		polled = time.Now()
		if v, err = d.api.Deployment(ctx, id); err != nil {
			return after, nil, err
		}
		d.tell(v)
		if err := d.countedOnce(v); err != nil {
			return after, nil, err
		}
		if d.began.IsZero() {
			d.began = machinesBegan(v)
			continue
		}
		if d.all.IsZero() && len(d.missing()) == 0 {
			d.all = time.Now()
			if after, err = d.account.usage(); err != nil {
				return after, nil, err
			}
		}
		found, err := d.cutOver(ctx)
		if err != nil {
			return after, nil, err
		}
		if !d.all.IsZero() && found && (v.Phase.Terminal() || time.Since(d.all) > endWithin) {
			return after, v, nil
		}
		if v.Phase.Terminal() && v.Phase != starling.PhaseSucceeded {
			return after, nil, d.unfinished(fmt.Errorf("the deployment ended as %s: %s", v.Phase, v.Reason))
		}
	}
}

// missing names the machines that are awaited and do not hold all.
func (d *distribution) missing() []string {
	var out []string
	for _, p := range d.faults.awaited() {
		b, err := os.ReadFile(p.Log)
		if err != nil || loggedAt(b, msgFetched, d.began).IsZero() {
			out = append(out, p.Name)
		}
	}
	return out
}

func (d *distribution) unfinished(err error) error {
	if d.began.IsZero() {
		return err
	}
	return fmt.Errorf("%w; without all: %v", err, d.missing())
}

// read takes the machines' times from their logs; of harmed ones they do not count.
func (d *distribution) read() error {
	for _, p := range d.world.WithRole(starling.RoleMachine) {
		d.round.Machines = append(d.round.Machines, p.Name)
		if d.faults.harmed[p] {
			d.round.DoneS = append(d.round.DoneS, 0)
			continue
		}
		b, err := os.ReadFile(p.Log)
		if err != nil {
			return err
		}
		at := loggedAt(b, msgFetched, d.began)
		if at.IsZero() {
			return fmt.Errorf("%s does not say that it holds all", p.Name)
		}
		d.round.DoneS = append(d.round.DoneS, at.Sub(d.began).Seconds())
		if at := loggedAt(b, msgComplete, d.began); !at.IsZero() {
			d.round.DurableS = max(d.round.DurableS, at.Sub(d.began).Seconds())
		}
	}
	d.round.Faults = d.faults.results
	return d.judgeRestarts()
}

func (d *distribution) judgeRestarts() error {
	if len(d.faults.restarts) == 0 {
		return nil
	}
	var perByte []float64
	for i, p := range d.world.WithRole(starling.RoleMachine) {
		if d.faults.harmed[p] {
			continue
		}
		n, err := d.faults.received(d.stand.machineHosts()[i])
		if err != nil {
			return err
		}
		perByte = append(perByte, float64(n)/float64(d.cfg.Bytes))
	}
	slices.Sort(perByte)
	return d.faults.judgeRestarts(d.began, perByte[len(perByte)/2])
}
