package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// asProcesses runs a world of real processes: this test binary plays the agent, or
// another program that they begin with.
func asProcesses(t *testing.T, size world.Size, begin ...string) *cluster {
	t.Helper()
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w, err := world.New(bin, t.TempDir(), size)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range w.Procs {
		p.Bin = cmp.Or(begin...)
		if p.Bin != "" {
			plainConfig(t, p)
		}
	}
	c := &cluster{t: t, w: w}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, p := range w.Procs {
				t.Logf("%s:\n%s", p.Name, p.Tail())
			}
		}
	})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if c.apis, err = w.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// kill ends a process as a crash would; again starts it as a reboot would.
func (c *cluster) kill(p *world.Proc) {
	c.t.Helper()
	if err := p.Kill(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) again(p *world.Proc) {
	c.t.Helper()
	if err := c.w.StartOne(p); err != nil {
		c.t.Fatal(err)
	}
}

// leader returns the process that leads a region and a client of one that does not.
func (c *cluster) leader() (leader *world.Proc, other *client.Client) {
	c.t.Helper()
	c.eventually(30*time.Second, func() error {
		leader, other = nil, nil
		for _, p := range c.w.WithRole(starling.RoleServer) {
			api := c.client(p)
			s, err := api.Leader(c.t.Context())
			switch {
			case err != nil:
				return err
			case s.Self:
				leader = p
			default:
				other = api
			}
		}
		if leader == nil || other == nil {
			return fmt.Errorf("nobody leads")
		}
		return nil
	})
	return leader, other
}

// until waits for a deployment to reach a phase.
func (c *cluster) until(api *client.Client, id string, want starling.Phase) {
	c.t.Helper()
	c.eventually(time.Minute, func() error {
		d, err := api.Deployment(c.t.Context(), id)
		if err != nil {
			return err
		}
		if d.Phase != want {
			return fmt.Errorf("%s is %s: %s", id, d.Phase, d.Reason)
		}
		return nil
	})
}

// Kill -9 of every part, one after the other, each in the middle of a deployment:
// the leader, the worker, a cache, a machine. Each deployment ends well, a leader's
// death costs no build, and what was killed comes back by itself.
func TestKills(t *testing.T) {
	if testing.Short() {
		t.Skip("a world of processes, four times killed in part")
	}
	c := asProcesses(t, world.Size{Regions: 1, Servers: 3, Caches: 2, Workers: 1, Machines: 3})
	r := newRepo(t)
	slow := func(a *starling.App) { // long enough to be hit, short enough to wait for
		a.Build.Command = []string{"sh", "-c", "echo begun; sleep 4; cp -R src out"}
	}
	leader, api := c.leader()
	c.apply(api, r.app("hello", slow))
	begin := func(version string) *starling.Deployment {
		t.Helper()
		d, err := api.Submit(t.Context(), starling.Submission{App: "hello", SHA: r.commit(release(version, true))})
		if err != nil {
			t.Fatal(err)
		}
		c.until(api, d.ID, starling.PhaseBuilding)
		// Until the worker has its lease there is no build that a leader's death could cost.
		c.eventually(10*time.Second, func() error {
			log, err := os.ReadFile(c.w.WithRole(starling.RoleWorker)[0].Log)
			if err == nil && !regexp.MustCompile(`"build begins".*`+regexp.QuoteMeta(d.ID)).Match(log) {
				err = fmt.Errorf("%s is not being built yet", d.ID)
			}
			return err
		})
		return d
	}
	well := func(d *starling.Deployment, version string, attempts int) {
		t.Helper()
		if d = c.wait(api, d); d.Phase != starling.PhaseSucceeded || d.Attempt != attempts {
			t.Fatalf("%s %s after %d builds, want %d: %s", d.ID, d.Phase, d.Attempt, attempts, d.Reason)
		}
		c.everywhere("hello", version)
	}

	d := begin("leader")
	c.kill(leader)
	well(d, "leader", 1)
	c.again(leader)

	worker := c.w.WithRole(starling.RoleWorker)[0]
	d = begin("worker")
	c.kill(worker)
	c.again(worker)
	well(d, "worker", 2)

	cache := c.w.WithRole(starling.RoleCache)[0]
	d = begin("cache")
	c.kill(cache)
	well(d, "cache", 1)
	c.again(cache)

	machine := c.w.WithRole(starling.RoleMachine)[0]
	d = begin("machine")
	c.kill(machine)
	if d = c.wait(api, d); d.Phase != starling.PhaseSucceeded {
		t.Fatalf("with a machine down: %s: %s", d.Phase, d.Reason)
	}
	c.again(machine)
	c.everywhere("hello", "machine")

	d = c.deploy(api, "hello", r.commit(release("all", true)), starling.PhaseSucceeded)
	if d.Machines.Healthy != 3 {
		t.Errorf("with everything back, %d of 3 machines are healthy", d.Machines.Healthy)
	}
	for _, p := range c.w.Procs {
		if strings.Contains(p.Tail(), "DATA RACE") {
			t.Errorf("%s: a data race:\n%s", p.Name, p.Tail())
		}
	}
}
