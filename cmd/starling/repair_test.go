package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/world"
)

// push deploys a prebuilt version of an app that is only placed on disk.
func (c *cluster) push(app, version string) {
	c.t.Helper()
	dir := c.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte(version+"\n"), 0o644); err != nil {
		c.t.Fatal(err)
	}
	digest := strings.Fields(mustCLI(c.t, "artifact", "push", dir, "--app", app))[0]
	mustCLI(c.t, "deploy", app, "--artifact", digest, "--json")
}

// use makes the commands that follow talk to a server.
func (c *cluster) use(p *world.Proc) { c.t.Setenv("STARLING_ADDR", "http://"+p.HTTP) }

// restart stops a process in good order and starts it with its present configuration.
func (c *cluster) restart(procs ...*world.Proc) {
	c.t.Helper()
	for _, p := range procs {
		if err := p.Signal(syscall.SIGTERM, 20*time.Second); err != nil {
			c.t.Fatal(err)
		}
		c.again(p)
	}
}

// serves waits until a server's region has a leader.
func (c *cluster) serves(p *world.Proc) {
	c.t.Helper()
	c.eventually(30*time.Second, func() error {
		s, err := c.client(p).Leader(c.t.Context())
		if err == nil && s.Name == "" {
			err = fmt.Errorf("%s knows no leader", p.Name)
		}
		return err
	})
}

// lose kills a server for good.
func (c *cluster) lose(p *world.Proc) {
	c.t.Helper()
	c.kill(p)
	c.w.Forget(p)
}

// A region's only server burns down after a deployment that its last snapshot does not
// know. A new one, with another name and address, is given the snapshot. The machines of
// both regions turn to the release of the snapshot, under a newer generation than the one
// that they had, and both follow the new server from there on.
func TestRegionIsRestoredOntoNewMachines(t *testing.T) {
	if testing.Short() {
		t.Skip("two regions of processes, one rebuilt")
	}
	m := readManual(t, "Back up and restore")
	c := asProcesses(t, world.Size{Regions: 2, Servers: 1, Caches: 1, Machines: 2})
	old, other := c.w.Named("r1-server-1"), c.w.Named("r2-server-1")
	file := filepath.Join(t.TempDir(), "r1.snapshot")
	name := []string{"us-east.snapshot", file}

	c.use(old)
	app := starling.App{Name: "hello", Deploy: starling.DeploySpec{Targets: "role == web"}}
	c.apply(c.apis["r1"], app)
	c.push("hello", "one")
	c.everywhere("hello", "one")
	m.run("starling operator snapshot save us-east.snapshot", name...)
	if out := m.run("starling operator snapshot inspect us-east.snapshot", name...); !strings.Contains(out, "region r1 at index") || !strings.Contains(out, "0 deployments under way") {
		t.Errorf("inspect prints %s", out)
	}
	c.push("hello", "two")
	c.everywhere("hello", "two")
	refuseSnapshots(t, m, c, file, other)

	c.lose(old)
	fresh, err := c.w.AddServer("r1", "r1-new-1")
	if err != nil {
		t.Fatal(err)
	}
	c.again(fresh)
	c.serves(fresh)
	c.use(fresh)
	m.run("starling operator snapshot restore us-east.snapshot", name...)
	c.restart(c.w.Named("r1-cache-1"), c.w.Named("r1-machine-1"), other)

	c.everywhere("hello", "one")
	c.push("hello", "three")
	c.everywhere("hello", "three")
	d, err := c.client(other).Deployments(t.Context(), starling.DeploymentFilter{App: "hello"})
	if err != nil || len(d) < 2 || d[0].Generation.Sequence < 1<<32 || d[0].Phase != starling.PhaseSucceeded {
		t.Errorf("the other region sees %+v, %v", d, err)
	}
}

// refuseSnapshots offers files that must not be restored.
func refuseSnapshots(t *testing.T, m *manual, c *cluster, file string, other *world.Proc) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), b...)
	flipped[len(b)/2] ^= 1
	for what, content := range map[string][]byte{"cut off": b[:len(b)-10], "changed": flipped, "something else": []byte("hello\n")} {
		bad := filepath.Join(t.TempDir(), "bad")
		if err := os.WriteFile(bad, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, errs, code := m.try("starling operator snapshot restore us-east.snapshot", "us-east.snapshot", bad); code != exitFailed || !strings.Contains(errs, "cannot be restored") {
			t.Errorf("a snapshot that is %s: exit %d: %s", what, code, errs)
		}
	}
	_, errs, code := cli(t, "operator", "snapshot", "restore", file, "--addr", "http://"+other.HTTP)
	if code != exitFailed || !strings.Contains(errs, "it is of region") {
		t.Errorf("another region's snapshot: exit %d: %s", code, errs)
	}
	c.everywhere("hello", "two")
}

// holds fails unless a server itself, not the leader that it would ask, can show a record.
func (c *cluster) holds(p *world.Proc, path string) error {
	res, err := http.Get("http://" + p.HTTP + path + "?stale")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s at %s: %s", path, p.Name, res.Status)
	}
	return nil
}

// Two of three servers are gone for good; the third is made the only one from its files,
// two new ones join and get their votes, and one of the three leaves again, in good order.
func TestQuorumIsLostAndFound(t *testing.T) {
	if testing.Short() {
		t.Skip("a region of processes, most of it lost")
	}
	lost, grow := readManual(t, "Quorum is lost"), readManual(t, "Grow, shrink, replace")
	c := asProcesses(t, world.Size{Regions: 1, Servers: 3})
	servers := c.w.WithRole(starling.RoleServer)
	left := servers[2]
	c.apply(c.apis["r1"], starling.App{Name: "kept"})
	c.eventually(20*time.Second, func() error { return c.holds(left, "/v1/apps/kept") })
	c.lose(servers[0])
	c.lose(servers[1])
	if err := left.Signal(syscall.SIGTERM, 20*time.Second); err != nil {
		t.Fatal(err)
	}

	config := []string{"/etc/starling/agent.hcl", left.Config}
	out := lost.run("starling operator raft recover --config=/etc/starling/agent.hcl", config...)
	if !strings.Contains(out, "servers [r1-server-1 r1-server-2 r1-server-3]") || !strings.Contains(out, "WARNING") {
		t.Errorf("recover without --yes prints %s", out)
	}
	out = lost.run("starling operator raft recover --config=/etc/starling/agent.hcl --yes", config...)
	if !strings.Contains(out, "never start one of [r1-server-1 r1-server-2] again") {
		t.Errorf("recover prints %s", out)
	}
	if err := c.w.Configure(); err != nil {
		t.Fatal(err)
	}
	c.again(left)
	c.serves(left)
	c.use(left)
	if out := lost.run("starling operator raft list-peers"); strings.Contains(out, "r1-server-1") || !strings.Contains(out, "r1-server-3") {
		t.Errorf("after the recovery:\n%s", out)
	}
	mustCLI(t, "app", "show", "kept")
	for _, name := range []string{"r1-new-1", "r1-new-2"} {
		p, err := c.w.AddServer("r1", name)
		if err != nil {
			t.Fatal(err)
		}
		c.again(p)
	}
	c.eventually(time.Minute, func() error {
		if out, errs, _ := lost.try("starling operator autopilot health"); !strings.Contains(out, "healthy: true; 1 more may fail") {
			return fmt.Errorf("not grown yet:\n%s%s", out, errs)
		}
		return nil
	})
	c.apply(c.client(c.w.Named("r1-new-2")), starling.App{Name: "new"})

	leftBehind(t, c, servers[0])
	throughFollower(t, c)

	// The one that leaves leads, as a rule: it has been there longest.
	grow.run("starling server leave --addr https://s5.example:7470", "https://s5.example:7470", "http://"+left.HTTP)
	select {
	case <-left.Exited():
	case <-time.After(20 * time.Second):
		t.Fatal("a server that has left goes on")
	}
	next := c.w.Named("r1-new-1")
	c.w.Forget(left)
	c.serves(next)
	c.use(next)
	c.eventually(20*time.Second, func() error {
		if out, errs, _ := grow.try("starling operator raft list-peers"); strings.Contains(out, "r1-server-3") || strings.Count(out, "true") < 2 {
			return fmt.Errorf("%s%s", out, errs)
		}
		return nil
	})
	c.eventually(20*time.Second, func() error {
		if out, errs, code := grow.try("starling operator autopilot health"); code != 0 {
			return fmt.Errorf("%s%s", out, errs)
		}
		return nil
	})
	mustCLI(t, "app", "show", "new")
	// A name that gossip has never seen cannot leave; one that failed can.
	if _, errs, code := grow.try("starling server force-leave s3"); code != exitFailed || !strings.Contains(errs, "no such member") {
		t.Errorf("force-leave of nobody: exit %d: %s", code, errs)
	}
}

// leftBehind starts a server that was given up with its old files: it ends by itself.
func leftBehind(t *testing.T, c *cluster, old *world.Proc) {
	t.Helper()
	c.w.Procs = append(c.w.Procs, old)
	if err := c.w.Configure(); err != nil {
		t.Fatal(err)
	}
	c.again(old)
	select {
	case <-old.Exited():
	case <-time.After(30 * time.Second):
		t.Fatal("a server from before the recovery takes part again")
	}
	if !strings.Contains(old.Tail(), "recovered without server r1-server-1") {
		t.Errorf("it ends with %s", old.Tail())
	}
	c.w.Forget(old)
}

// throughFollower saves and restores at a server that does not lead: it passes both on.
func throughFollower(t *testing.T, c *cluster) {
	t.Helper()
	_, follower := c.leader()
	var saved bytes.Buffer
	if err := follower.SaveSnapshot(t.Context(), &saved); err != nil {
		t.Fatal(err)
	}
	c.eventually(20*time.Second, func() error { // nobody may lead for a moment
		info, err := follower.RestoreSnapshot(t.Context(), bytes.NewReader(saved.Bytes()))
		if err == nil && info.Region != "r1" {
			t.Errorf("restored %+v", info)
		}
		return err
	})
	mustCLI(t, "app", "show", "new")
}
