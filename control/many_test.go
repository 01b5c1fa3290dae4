package control

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// crowd is a region with many deployments at once: state machine, desk, decisions and boards
// are the real ones; workers, caches and machines take the time that chance gives them.
type crowd struct {
	*bench
	term     *term
	rng      *rand.Rand
	machines []string
	workers  map[string]*crowdJob
	placedAt map[starling.Digest]time.Time
	busiest  int // deployments under way at once
}

type crowdJob struct {
	*rpc.Job
	ends time.Time
}

func newCrowd(t *testing.T, machines, workers int) *crowd {
	nodes := machineNodes("us", machines)
	c := &crowd{rng: rand.New(rand.NewPCG(1, 2)), machines: names(nodes), workers: map[string]*crowdJob{}, placedAt: map[starling.Digest]time.Time{}}
	nodes = append(nodes, node("us", "c1", starling.RoleCache), node("us", "c2", starling.RoleCache))
	for i := range workers {
		w := fmt.Sprintf("w%02d", i)
		c.workers[w] = nil
		nodes = append(nodes, node("us", w, starling.RoleWorker))
	}
	c.bench = newBench(t, "us", nil, nodes...)
	c.term = c.elect()
	return c
}

// step is two seconds of everybody's work, and a look.
func (c *crowd) step() {
	now := c.clock.Now()
	for _, w := range sortedKeys(c.workers) {
		client, job := clientOf(c.server, node("us", w, starling.RoleWorker)), c.workers[w]
		switch {
		case job == nil:
			got, err := client.Lease(context.Background(), rpc.LeaseRequest{})
			if err != nil {
				c.t.Fatal(err)
			}
			if got != nil {
				c.workers[w] = &crowdJob{got, now.Add(time.Duration(20+c.rng.IntN(30)) * time.Second)}
			}
		case now.Before(job.ends):
			if err := client.Heartbeat(context.Background(), job.Deployment, rpc.HeartbeatRequest{Lease: job.Lease}); err != nil {
				c.t.Fatal(err)
			}
		default:
			art := starling.Artifact{Digest: c.blobs.built(job.Deployment), Bytes: 10, Files: 1, Chunks: 10}
			if err := client.Complete(context.Background(), job.Deployment, rpc.CompleteRequest{Lease: job.Lease, Artifact: art}); err != nil {
				c.t.Fatal(err)
			}
			c.workers[w] = nil
		}
	}
	c.caches(now)
	c.activate()
	c.look(c.term)
	under := 0
	for _, d := range c.fsm.View().Active() {
		if d.Phase != starling.PhaseQueued {
			under++
		}
	}
	c.busiest = max(c.busiest, under)
	c.checkWants()
	c.clock.advance(2 * time.Second)
}

// checkWants holds that what is looked at again only where it has changed is what one finds who
// looks at everything.
func (c *crowd) checkWants() {
	c.t.Helper()
	var fresh claims
	fresh.take(c.fsm.View())
	c.term.wants.update(c.fsm.View(), c.term.dirs, "us", 2)
	if want := fresh.wants(c.term.dirs, "us"); !reflect.DeepEqual(c.term.Wants().Wants, want) {
		c.t.Fatalf("wanted are %d artifacts, not those %d:\n%+v\n%+v", len(c.term.Wants().Wants), len(want), c.term.Wants().Wants, want)
	}
}

// caches hold an artifact half a minute after it is wanted.
func (c *crowd) caches(now time.Time) {
	var holds []rpc.CacheHold
	for _, w := range c.term.Wants().Wants {
		at, known := c.placedAt[w.Artifact]
		if !known {
			at = now.Add(30 * time.Second)
			c.placedAt[w.Artifact] = at
		}
		hold := rpc.CacheHold{Artifact: w.Artifact, ChunksTotal: 10, Caches: []string{"c1", "c2"}}
		if !now.Before(at) {
			hold.ChunksDone, hold.Complete = 10, true
		}
		holds = append(holds, hold)
	}
	for _, name := range []string{"c1", "c2"} {
		if err := c.term.CacheReport(rpc.CacheReport{Name: name, Holds: holds}, now); err != nil {
			c.t.Fatal(err)
		}
	}
}

// activate lets one machine in three come along with each of its goals.
func (c *crowd) activate() {
	v := c.fsm.View()
	for _, m := range c.machines {
		var reports []starling.MachineReport
		for _, d := range v.Active() {
			g, ok := v.Goal(d.App)
			if !ok || d.Generation.IsZero() || c.rng.IntN(3) > 0 {
				continue
			}
			state := starling.MachineStaged
			if g.Stage.AtLeast(starling.StageActivate) && g.Cutoff.Selects(m, g.Deployment) {
				state = starling.MachineHealthy
			}
			reports = append(reports, starling.MachineReport{Node: m, App: g.App, Generation: g.Generation, State: state, Running: g.Artifact})
		}
		if _, err := c.term.MachineReports(v, reports, c.clock.Now()); err != nil {
			c.t.Fatal(err)
		}
	}
}

// A burst of 170 deployments within minutes, of 70 apps that all run on the same
// machines, and 30 more of one app: 50 are under way at once, each app's own go one after
// the other, all but the crowded app's succeed within the half hour, a hotfix that comes
// last is the first of those queued to be built and among the first to end, and nothing is left in memory.
func TestManyDeploymentsAtOnce(t *testing.T) {
	c := newCrowd(t, 12, 15)
	const apps, burst, crowded = 70, 170, 30
	waves := func(a *starling.App) {
		a.Deploy.Strategy.Waves, a.Deploy.Strategy.Bake = []string{"10%", "100%"}, starling.Duration(20*time.Second)
	}
	for i := range apps {
		c.app(fmt.Sprintf("app-%02d", i), waves)
	}
	c.app("crowded", waves)
	c.app("hot", waves)
	for i := range crowded {
		c.submit(fmt.Sprintf("crowded-%02d", i), "crowded", starling.Digest{})
	}
	for i := range burst {
		c.submit(fmt.Sprintf("d%03d", i), fmt.Sprintf("app-%02d", i%apps), starling.Digest{})
		if i%10 == 9 {
			c.step()
		}
	}
	for range 20 {
		c.step()
	}
	queued := map[string]bool{}
	for _, d := range c.fsm.View().Active() {
		if d.Phase == starling.PhaseQueued {
			queued[d.ID] = true
		}
	}
	c.must(raftfsm.TypeSubmit, raftfsm.Submit{ID: "hotfix", App: "hot", SHA: fmt.Sprintf("%040x", 1), Priority: starling.MaxPriority})
	if len(queued) < 100 {
		t.Fatalf("only %d are queued when the hotfix comes", len(queued))
	}
	for steps := 0; len(c.fsm.View().Active()) > 0; steps++ {
		c.step()
		if h := c.deployment("hotfix"); !h.Phase.Terminal() {
			sooner := 0
			for id := range queued {
				d := c.deployment(id)
				if d.Phase.Terminal() {
					sooner++
				}
				if d.Attempt > 0 && h.Attempt == 0 {
					t.Fatalf("%s is built before the hotfix", id)
				}
			}
			if sooner > len(c.workers)/3 {
				t.Fatalf("%d of those queued ended before the hotfix, which is %s", sooner, h.Phase)
			}
		}
		if steps > 1000 {
			t.Fatal("they do not end")
		}
	}
	ends := map[starling.Phase]int{}
	for i := range burst {
		d := c.deployment(fmt.Sprintf("d%03d", i))
		if ends[d.Phase]++; d.Phase != starling.PhaseSucceeded {
			t.Errorf("%s %s: %s", d.ID, d.Phase, d.Reason)
		}
	}
	if c.busiest < 50 {
		t.Errorf("%d were under way at once, want 50", c.busiest)
	}
	h := c.deployment("hotfix")
	t.Logf("%d under way at once; %v; the hotfix took %s; the crowded app's last: %s", c.busiest, ends,
		h.EndedAt.Sub(h.CreatedAt), c.deployment(fmt.Sprintf("crowded-%02d", crowded-1)).Reason)
	c.nothingIsLeft()
}

// nothingIsLeft holds that what the leader remembers is of what is under way alone.
func (c *crowd) nothingIsLeft() {
	c.t.Helper()
	c.look(c.term)
	for what, n := range map[string]int{
		"heartbeats": len(c.term.jobs.heard), "drafts": len(c.term.drafts.builds), "reports": len(c.term.home.reports),
		"bakes": len(c.term.decider.baked), "checkpoints": len(c.term.decider.kept), "refusals": len(c.term.refused),
	} {
		if n > 0 {
			c.t.Errorf("%d %s are remembered of nothing", n, what)
		}
	}
}
