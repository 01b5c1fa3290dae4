package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// hookRunner runs hooks as a worker does, each once told to go on.
type hookRunner struct {
	pass chan struct{}

	mu  sync.Mutex
	ran []string // in the order of their ends
}

func (h *hookRunner) act(ctx context.Context, n starling.Node, c *rpc.Client) error {
	job, err := c.HookLease(ctx, rpc.HookLeaseRequest{WaitMS: 1000})
	if err != nil || job == nil {
		return err
	}
	call := rpc.HookCall{Hook: job.Run.Name(), Lease: job.Run.Lease}
	line := []byte(fmt.Sprintf("%s by %s/%s\n", call.Hook, n.Region, n.Name))
	h.again(ctx, func() error {
		_, err := c.HookLog(ctx, job.Deployment, rpc.HookLogRequest{HookCall: call, Data: line})
		return err
	})
	select {
	case <-h.pass:
	case <-ctx.Done():
		return ctx.Err()
	}
	h.mu.Lock()
	h.ran = append(h.ran, call.Hook) // before the home may go on
	h.mu.Unlock()
	h.again(ctx, func() error {
		return c.HookEnd(ctx, job.Deployment, rpc.HookEndRequest{HookCall: call, Output: line})
	})
	return nil
}

// again calls f until it succeeds: a leader may have died.
func (h *hookRunner) again(ctx context.Context, f func() error) {
	for ctx.Err() == nil && f() != nil {
		_ = sleep(ctx, decideEvery)
	}
}

func (h *hookRunner) done() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ran)
}

// TestHooksOfTwoRegions holds that a hook of another region is run by a worker there, under
// a lease of the home, that its region's machines wait for it while others begin, and that
// a new leader of the home goes on with all of it.
func TestHooksOfTwoRegions(t *testing.T) {
	w := newWorld(t, map[string]int{"us": 3, "eu": 1})
	us, eu := w.regions["us"], w.regions["eu"]
	w.eventually("leaders", func() bool { return us.leader() != nil && eu.leader() != nil })
	runners := map[string]*hookRunner{}
	for _, region := range []string{"us", "eu"} {
		runners[region] = &hookRunner{pass: make(chan struct{}, 8)}
		if region == "us" {
			w.join(node(region, "w1", starling.RoleWorker), w.worker)
		}
		w.join(node(region, "h1", starling.RoleWorker), runners[region].act)
		w.join(node(region, "c1", starling.RoleCache), w.cacheActor())
		w.join(node(region, "m1", starling.RoleMachine), w.machineActor())
	}
	app := starling.App{Name: "web", Source: starling.SourceSpec{Git: "https://git.example/web"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	app.Deploy.Hooks = starling.Hooks{
		Deployment: &starling.OnceHooks{Pre: []string{"./migrate"}, Post: []string{"./announce"}},
		Region:     &starling.OnceHooks{Pre: []string{"./warm"}, Post: []string{"./check"}},
	}
	app.SetDefaults()
	w.home(func(s *Server) error { _, err := s.ApplyApp(w.ctx, "ann", app, nil); return err })
	id := w.submit(starling.Submission{App: "web", SHA: strings.Repeat("1", 40)})

	w.await(id, starling.PhaseRollingOut)
	lead := func() (l *worldServer) {
		w.eventually("a leader of us", func() bool { l = us.leader(); return l != nil })
		return l
	}
	goal := func() *starling.Goal { g, _ := lead().cfg.FSM.View().Goal("web"); return g }
	for range 3 { // the deployment's and both of us; those of eu do not pass
		runners["us"].pass <- struct{}{}
	}
	w.eventually("us goes on alone", func() bool {
		g := goal()
		return g.Stage.AtLeast(starling.StageActivate) && !g.Holds("us") && lead().healthyIn("web", "us") == 1
	})
	if !goal().Holds("eu") || lead().healthyIn("web", "eu") != 0 {
		t.Errorf("eu's machines did not wait: %+v", goal())
	}

	// The home's leader dies in the middle of eu's hook.
	w.eventually("eu's hook runs", func() bool {
		d, ok := lead().Deployment(id)
		return ok && hookOf(d, "pre.region.eu").State == starling.HookRunning
	})
	dead := lead()
	dead.stop()
	us.members.alive(dead.node.Name, false)
	for range 2 {
		runners["eu"].pass <- struct{}{}
	}
	runners["us"].pass <- struct{}{}
	d := w.await(id, starling.PhaseSucceeded)
	for _, name := range []string{"pre.deployment", "pre.region.us", "pre.region.eu", "post.region.us", "post.region.eu", "post.deployment"} {
		if h := hookOf(d, name); h.State != starling.HookDone || h.Attempt > 2 { // the answer to a lease may be lost with a leader
			t.Errorf("%s: %+v", name, h)
		}
	}
	if got := runners["us"].done(); !slices.Equal(got, []string{"pre.deployment", "pre.region.us", "post.region.us", "post.deployment"}) {
		t.Errorf("us ran %v", got)
	}
	if got := runners["eu"].done(); !slices.Equal(got, []string{"pre.region.eu", "post.region.eu"}) {
		t.Errorf("eu ran %v", got)
	}
	w.home(func(s *Server) error {
		text, at := "", int64(0)
		for {
			part, err := s.BuildLog(w.ctx, id, at)
			if err != nil {
				return err
			}
			text, at = text+string(part.Data), part.Next
			if part.Done {
				break
			}
		}
		for _, want := range []string{"building 1", "pre.deployment by us/h1", "pre.region.eu by eu/h1", "post.deployment by us/h1"} {
			if strings.Count(text, want) != 1 {
				t.Errorf("the log lacks %q, or has it twice:\n%s", want, text)
			}
		}
		return nil
	})
}

func hookOf(d *starling.Deployment, name string) starling.HookRun {
	for _, h := range d.Hooks {
		if h.Name() == name {
			return h
		}
	}
	return starling.HookRun{}
}

// healthyIn counts the healthy machines of a region that a leader has heard of.
func (s *worldServer) healthyIn(app, region string) int {
	t, _ := s.leading()
	if t == nil {
		return 0
	}
	return t.home.of(app)[region].Counts.Healthy
}
