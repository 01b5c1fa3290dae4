package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// SwarmConfig measures how one artifact reaches many machines: one cache, one server,
// each machine a process, over loopback.
type SwarmConfig struct {
	Bin      string // the starling binary
	Machines int
	Bytes    int64
	Seed     uint64
}

// SwarmResult is its result. Times count from the moment the machines may fetch.
type SwarmResult struct {
	Machines    int     `json:"machines"`
	Bytes       int64   `json:"bytes"`
	RateMbit    int     `json:"rate_mbit"` // per link; 0: unshaped
	LastS       float64 `json:"last_s"`    // the last machine holds every byte, verified and synced
	MedianS     float64 `json:"median_s"`
	MBPerS      float64 `json:"mb_per_s"` // all machines together, 10^6 bytes
	CPUSPerGB   float64 `json:"cpu_s_per_gb"`
	CacheCopies float64 `json:"cache_copies"` // of the artifact that left the cache
	RSSMBMax    float64 `json:"rss_mb_max"`   // the largest machine or cache
}

// pollEvery is how often the state is asked for, and so the error of the times.
const pollEvery = 20 * time.Millisecond

// Run starts a world, pushes random content, deploys it and stops the world.
func (c SwarmConfig) Run(ctx context.Context) (*SwarmResult, error) {
	res := &SwarmResult{Machines: c.Machines, Bytes: c.Bytes}
	size := world.Size{Regions: 1, Servers: 1, Caches: 1, Machines: c.Machines}
	err := inWorld(ctx, c.Bin, size, func(w *world.World, api *client.Client) error {
		record, err := pushRandom(ctx, api, w.Dir, c.Bytes, c.Seed)
		if err != nil {
			return err
		}
		return c.deploy(ctx, w, api, record, res)
	})
	return res, err
}

// pushRandom stores random content of n bytes as an artifact.
func pushRandom(ctx context.Context, api *client.Client, dir string, n int64, seed uint64) (*starling.Artifact, error) {
	content := filepath.Join(dir, "content")
	if err := os.Mkdir(content, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(content)
	if err := writeRandom(filepath.Join(content, "blob"), n, seed); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(content)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	m, err := artifact.Pack(ctx, root, func(p artifact.Piece) error { return api.PutChunk(ctx, p.Digest, p.Data) })
	if err != nil {
		return nil, err
	}
	encoded, err := m.Encode()
	if err != nil {
		return nil, err
	}
	return api.RegisterArtifact(ctx, "", encoded)
}

func (c SwarmConfig) deploy(ctx context.Context, w *world.World, api *client.Client, record *starling.Artifact, res *SwarmResult) error {
	app := starling.App{Name: "bench"}
	app.SetDefaults()
	if _, err := api.ApplyApp(ctx, app, nil); err != nil {
		return err
	}
	movers := append(w.WithRole(starling.RoleMachine), w.WithRole(starling.RoleCache)...)
	before, err := usageOf(movers)
	if err != nil {
		return err
	}
	d, err := api.Submit(ctx, starling.Submission{App: app.Name, Artifact: record.Digest})
	if err != nil {
		return err
	}
	var began time.Time
	end, err := api.Wait(ctx, d.ID, pollEvery, func(d *starling.Deployment) {
		if began.IsZero() && (d.Phase == starling.PhaseStaging || d.Phase == starling.PhaseRollingOut) {
			began = d.PhaseAt // the leader's clock is this computer's
		}
		if staged := d.Machines.Staged; res.MedianS == 0 && staged >= (c.Machines+1)/2 {
			res.MedianS = time.Since(began).Seconds()
		}
		if res.LastS == 0 && d.Machines.Staged == c.Machines {
			res.LastS = time.Since(began).Seconds()
		}
	})
	if err != nil {
		return err
	}
	if end.Phase != starling.PhaseSucceeded || end.Machines.Healthy != c.Machines {
		return fmt.Errorf("the deployment ended as %s with %d of %d machines: %s", end.Phase, end.Machines.Healthy, c.Machines, end.Reason)
	}
	after, err := usageOf(movers)
	if err != nil {
		return err
	}
	delivered := float64(c.Bytes) * float64(c.Machines)
	res.MBPerS = delivered / 1e6 / res.LastS
	res.CPUSPerGB = (after.cpuS - before.cpuS) / (delivered / 1e9)
	res.CacheCopies = float64(end.Bytes.CacheOut) / float64(c.Bytes)
	res.RSSMBMax = after.rssMaxMB
	return nil
}
