package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/client"
)

// Bounds of the load.
const (
	submitWithin   = 20 * time.Second // one try
	minRetry       = 50 * time.Millisecond
	maxRetry       = time.Second
	loadEvery      = time.Second // a region's submissions beside those that are struck
	maxOpenLoad    = 40          // deployments under way, over all regions, at which the load waits
	appsPerLoad    = 3
	appsPerLane    = 3
	contentBytes   = 96 << 10
	deployDeadline = 60 * time.Second
	buildTimeout   = 30 * time.Second
	cancelShare    = 0.1  // of the load
	twinShare      = 0.15 // of the load goes to two servers at once, with one key
)

// customers submit deployments and keep the account. Safe for concurrent use.
type customers struct {
	stage  *stage
	board  *board
	ledger *ledger
	dir    string // of content to push
	repo   string

	repoMu sync.Mutex
	pushes atomic.Int64

	errors atomic.Int64 // tries that were answered with an error of the server
	broken atomic.Int64 // tries without an answer: the server was gone or did not answer in time
}

// app is one to deploy: built from the repository, or of pushed artifacts.
func (c *customers) app(name, home string, built, runs bool) starling.App {
	a := starling.App{Name: name, Home: home, Deploy: starling.DeploySpec{
		Targets: "role == web", Deadline: starling.Duration(deployDeadline), Keep: 2,
		Strategy: starling.Strategy{Waves: []string{"50%", "100%"}, Bake: starling.Duration(200 * time.Millisecond), MaxFailed: "50%", AutoRevert: true},
	}}
	if built {
		a.Source.Git = c.repo
		a.Build = &starling.BuildSpec{Command: []string{"sh", "-c", "sleep 0.5; mkdir out && cp VERSION out/"}, Output: "out", Timeout: starling.Duration(buildTimeout)}
	}
	if runs {
		a.Deploy.Run = []string{"sleep", "1000000"}
		a.Deploy.Health = &starling.Health{Exec: []string{"test", "-f", "VERSION"}, Interval: starling.Duration(200 * time.Millisecond),
			HealthyAfter: starling.Duration(400 * time.Millisecond), Deadline: starling.Duration(20 * time.Second)}
	}
	a.SetDefaults()
	return a
}

// again calls f with servers of a region ("": of any) in random order until one has
// answered with success or with an error that no retry mends, or ctx ends.
func (c *customers) again(ctx context.Context, region string, random *rand.Rand, f func(context.Context, *client.Client) error) error {
	servers := c.stage.with(region, starling.RoleServer)
	pause := minRetry
	for {
		trying, cancel := context.WithTimeout(ctx, submitWithin)
		err := f(trying, servers[random.IntN(len(servers))].api)
		late := trying.Err() != nil
		cancel()
		var answered *client.Error
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errors.Join(ctx.Err(), err)
		case errors.As(err, &answered) && answered.Status < 500:
			return err
		case errors.As(err, &answered):
			c.errors.Add(1)
			c.stage.log.Info("answered with an error", "status", answered.Status, "detail", answered.Detail)
		case late || errors.Is(err, starling.ErrUnavailable):
			c.broken.Add(1)
		default:
			return err
		}
		if sleep(ctx, pause/2+rand.N(pause/2)) != nil {
			return errors.Join(ctx.Err(), err)
		}
		pause = min(2*pause, maxRetry)
	}
}

// submit asks for a deployment until it is acknowledged or refused. twin: two servers are
// asked at once. It returns the deployment's ID, "" if there is none.
func (c *customers) submit(ctx context.Context, sub starling.Submission, twin bool, random *rand.Rand) string {
	sub.IdempotencyKey = fmt.Sprintf("%s-%016x", sub.App, random.Uint64())
	c.ledger.submit(sub.IdempotencyKey, sub.App, deployDeadline, time.Now())
	var asked sync.WaitGroup
	ids := make([]string, 1, 2)
	if twin {
		ids = ids[:2]
	}
	for i := range ids {
		own := rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))
		asked.Go(func() {
			err := c.again(ctx, "", own, func(ctx context.Context, api *client.Client) error {
				d, err := api.Submit(ctx, sub)
				if err != nil {
					return err
				}
				ids[i] = d.ID
				c.ledger.acknowledge(sub.IdempotencyKey, d.ID, time.Now())
				return nil
			})
			if err != nil && ctx.Err() == nil {
				c.ledger.refuse(sub.IdempotencyKey, err.Error())
			}
		})
	}
	asked.Wait()
	return ids[0]
}

// push stores new random content in a region as an artifact.
func (c *customers) push(ctx context.Context, region string, random *rand.Rand) (starling.Digest, error) {
	n := c.pushes.Add(1)
	dir := filepath.Join(c.dir, strconv.FormatInt(n, 10))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return starling.Digest{}, err
	}
	defer os.RemoveAll(dir)
	blob := make([]byte, contentBytes)
	for i := range blob {
		blob[i] = byte(random.Uint32())
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "VERSION"), fmt.Appendln(nil, n), 0o644),
		os.WriteFile(filepath.Join(dir, "blob"), blob, 0o644),
	); err != nil {
		return starling.Digest{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return starling.Digest{}, err
	}
	defer root.Close()
	var digest starling.Digest
	err = c.again(ctx, region, random, func(ctx context.Context, api *client.Client) error {
		m, err := artifact.Pack(ctx, root, func(p artifact.Piece) error { return api.PutChunk(ctx, p.Digest, p.Data) })
		if err != nil {
			return err
		}
		encoded, err := m.Encode()
		if err != nil {
			return err
		}
		record, err := api.RegisterArtifact(ctx, "", encoded)
		if err == nil {
			digest = record.Digest
		}
		return err
	})
	return digest, err
}

// commit makes a new commit and returns its SHA.
func (c *customers) commit(ctx context.Context) (string, error) {
	c.repoMu.Lock()
	defer c.repoMu.Unlock()
	version := fmt.Appendln(nil, "built", c.pushes.Add(1))
	if err := os.WriteFile(filepath.Join(c.repo, "VERSION"), version, 0o644); err != nil {
		return "", err
	}
	if _, err := git(ctx, c.repo, "add", "VERSION"); err != nil {
		return "", err
	}
	if _, err := git(ctx, c.repo, "commit", "--quiet", "--message", "next"); err != nil {
		return "", err
	}
	return git(ctx, c.repo, "rev-parse", "HEAD")
}

// order is what a submission asks for: a commit to build, or an artifact pushed just now.
func (c *customers) order(ctx context.Context, app, region string, built bool, random *rand.Rand) (starling.Submission, error) {
	if built {
		sha, err := c.commit(ctx)
		return starling.Submission{App: app, SHA: sha}, err
	}
	digest, err := c.push(ctx, region, random)
	return starling.Submission{App: app, Artifact: digest}, err
}

// load submits to a region's apps, one after the other, until ctx ends. What is under way
// then goes on under until.
func (c *customers) load(ctx, until context.Context, region string, random *rand.Rand) error {
	var open sync.WaitGroup
	defer open.Wait()
	for i := 0; sleep(ctx, loadEvery/2+time.Duration(random.Int64N(int64(loadEvery)))) == nil; i++ {
		if c.ledger.open() >= maxOpenLoad {
			continue
		}
		sub, err := c.order(ctx, loadApp(region, i%appsPerLoad), region, false, random)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			return fmt.Errorf("push an artifact: %w", err)
		}
		own := rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))
		twin, cancel := random.Float64() < twinShare, random.Float64() < cancelShare
		open.Go(func() {
			id := c.submit(until, sub, twin, own)
			if id != "" && cancel {
				c.cancel(until, id, own)
			}
		})
	}
	return ctx.Err()
}

// cancel cancels a deployment. An answer of success binds; that of a lost answer is not known.
func (c *customers) cancel(ctx context.Context, id string, random *rand.Rand) {
	servers := c.stage.with("", starling.RoleServer)
	trying, stop := context.WithTimeout(ctx, submitWithin)
	defer stop()
	if _, err := servers[random.IntN(len(servers))].api.Act(trying, id, starling.ActionCancel); err == nil {
		c.ledger.cancel(id)
	}
}

func loadApp(region string, i int) string { return fmt.Sprintf("load-%s-%d", region, i) }
