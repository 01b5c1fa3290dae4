package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
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
	round    *Round
	began    time.Time // when the machines could begin; by the leader's clock, which is this computer's
}

// pollEvery is how often the deployment's state is asked for; the times themselves come from the machines' logs.
const pollEvery = 100 * time.Millisecond

func (d *distribution) run(ctx context.Context) error {
	app := starling.App{Name: "bench"}
	app.SetDefaults()
	if _, err := d.api.ApplyApp(ctx, app, nil); err != nil {
		return err
	}
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
	d.round.Samples = recorded.since(d.began)
	d.round.WireCopies = d.stand.wireCopies(d.round.Samples, d.cfg.Bytes)
	return nil
}

func (d *distribution) deploy(ctx context.Context) error {
	before, err := usageOf(pidsOf(d.world.Procs))
	if err != nil {
		return err
	}
	submitted, err := d.api.Submit(ctx, starling.Submission{App: "bench", Artifact: d.artifact})
	if err != nil {
		return err
	}
	end, err := d.api.Wait(ctx, submitted.ID, pollEvery, func(v *starling.Deployment) {
		if d.began.IsZero() && (v.Phase == starling.PhaseStaging || v.Phase == starling.PhaseRollingOut) {
			d.began = v.PhaseAt
		}
	})
	if err != nil {
		return err
	}
	after, err := usageOf(pidsOf(d.world.Procs))
	if err != nil {
		return err
	}
	if err := d.read(); err != nil {
		return err
	}
	if end.Phase != starling.PhaseSucceeded || end.Machines.Healthy != d.cfg.Machines {
		return fmt.Errorf("the deployment ended as %s with %d of %d machines: %s", end.Phase, end.Machines.Healthy, d.cfg.Machines, end.Reason)
	}
	r := d.round
	r.CacheCopies = float64(end.Bytes.CacheOut) / float64(d.cfg.Bytes)
	r.RSSMBMax = after.rssMaxMB
	r.finish(d.cfg.Bytes, after.cpuS-before.cpuS)
	return nil
}

// read takes the machines' times from their logs.
func (d *distribution) read() error {
	for _, p := range d.world.WithRole(starling.RoleMachine) {
		b, err := os.ReadFile(p.Log)
		if err != nil {
			return err
		}
		d.round.DoneS = append(d.round.DoneS, max(0, loggedAt(b, "artifact fetched").Sub(d.began).Seconds()))
		d.round.DurableS = max(d.round.DurableS, loggedAt(b, "artifact complete").Sub(d.began).Seconds())
	}
	return nil
}

var loggedTime = regexp.MustCompile(`time=(\S+)`)

// loggedAt returns when a process first logged a message; zero: never.
func loggedAt(log []byte, msg string) time.Time {
	lines := bufio.NewScanner(bytes.NewReader(log))
	want := []byte(`msg="` + msg + `"`)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), want) {
			continue
		}
		if m := loggedTime.FindSubmatch(lines.Bytes()); m != nil {
			if at, err := time.Parse(time.RFC3339Nano, string(m[1])); err == nil {
				return at
			}
		}
	}
	return time.Time{}
}
