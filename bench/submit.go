package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// SubmitConfig measures how soon a submission is acknowledged by an idle region.
type SubmitConfig struct {
	Bin     string        // the starling binary
	Servers int           // 1, 3 or 5, each a process, fsync on
	Count   int           // submissions, one after the other
	Pause   time.Duration // between two, so that the region is idle
	Tell    trial.Progress
}

// SubmitResult is its result.
type SubmitResult struct {
	Servers int      `json:"servers"`
	Count   int      `json:"count"`
	AckMS   Quantile `json:"ack_ms"`
	// AckFollowerMS is the same when a follower is asked, which passes the request on.
	AckFollowerMS Quantile                  `json:"ack_follower_ms,omitzero"`
	IdleRSSMB     map[starling.Role]float64 `json:"idle_rss_mb"`

	latencies []latencies // for the report
}

// latencies is a distribution with its name.
type latencies struct {
	title string
	h     *hdrhistogram.Histogram
}

// Quantile is a distribution in a few figures.
type Quantile struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func quantileMS(h *hdrhistogram.Histogram) Quantile {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	return Quantile{ms(h.ValueAtQuantile(50)), ms(h.ValueAtQuantile(99)), ms(h.Max())}
}

// idleSettle is how long a world runs before its idle memory is read.
const idleSettle = 10 * time.Second

// maxSubmissions bounds SubmitConfig.Count: each needs an app of its own.
const maxSubmissions = 10_000

// Check refuses what cannot be measured.
func (c *SubmitConfig) Check() error {
	if c.Count < 1 || c.Count > maxSubmissions {
		return starling.Invalidf("--count", "%d is not within 1 and %d", c.Count, maxSubmissions)
	}
	size := world.Size{Regions: 1, Servers: c.Servers, Machines: 1}
	return size.Check()
}

// Run starts a region, submits, and stops it. Each app gets one submission: the
// measure is of the acknowledgement, not of a queue.
func (c SubmitConfig) Run(ctx context.Context) (*SubmitResult, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	res := &SubmitResult{Servers: c.Servers, Count: c.Count}
	size := world.Size{Regions: 1, Servers: c.Servers, Machines: 1}
	c.Tell.Tell("starting a region", 0, 0, "")
	err := inWorld(ctx, c.Bin, "", size, c.Tell, func(w *world.World, _ *client.Client) error {
		var err error
		c.Tell.Tell("idle, for its memory", 0, 0, "")
		if res.IdleRSSMB, err = idleRSS(ctx, w, idleSettle); err != nil {
			return err
		}
		leader, follower, err := leaderAndFollower(ctx, w)
		if err != nil {
			return err
		}
		if res.AckMS, err = c.measure(ctx, leader, "the leader", res); err != nil || follower == nil {
			return err
		}
		res.AckFollowerMS, err = c.measure(ctx, follower, "a follower", res)
		return err
	})
	return res, err
}

func (c SubmitConfig) measure(ctx context.Context, api *client.Client, asked string, res *SubmitResult) (Quantile, error) {
	h := newLatencies()
	res.latencies = append(res.latencies, latencies{"acknowledged by " + asked, h})
	for i := range c.Count {
		c.Tell.Tell("asking "+asked, float64(i), float64(c.Count), "submissions")
		app := starling.App{Name: fmt.Sprintf("bench-%d-%d", len(res.latencies), i),
			Source: starling.SourceSpec{Git: "/nowhere"}, Build: &starling.BuildSpec{Command: []string{"true"}}}
		app.SetDefaults()
		if _, err := api.ApplyApp(ctx, app, nil); err != nil {
			return Quantile{}, err
		}
		began := time.Now()
		if _, err := api.Submit(ctx, starling.Submission{App: app.Name, SHA: fmt.Sprintf("%040x", i)}); err != nil {
			return Quantile{}, err
		}
		if err := record(h, time.Since(began)); err != nil {
			return Quantile{}, err
		}
		select {
		case <-ctx.Done():
			return Quantile{}, ctx.Err()
		case <-time.After(c.Pause):
		}
	}
	return quantileMS(h), nil
}

// leaderAndFollower returns clients of the leader and of a follower, nil if there is none.
func leaderAndFollower(ctx context.Context, w *world.World) (leader, follower *client.Client, err error) {
	for _, p := range w.WithRole(starling.RoleServer) {
		c, err := p.Client()
		if err != nil {
			return nil, nil, err
		}
		status, err := c.Leader(ctx)
		if err != nil {
			return nil, nil, err
		}
		if status.Self {
			leader = c
		} else {
			follower = c
		}
	}
	if leader == nil {
		return nil, nil, fmt.Errorf("the region has no leader")
	}
	return leader, follower, nil
}
