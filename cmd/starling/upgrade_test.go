package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
	"golang.org/x/sync/errgroup"
)

// previousBinary builds the program of the commit in packaging/previous, once: it is kept
// in bin/, as make build's are.
func previousBinary(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../packaging/previous")
	if err != nil {
		t.Fatal(err)
	}
	commit := strings.TrimSpace(string(b))
	bin, err := filepath.Abs("../../bin/previous/starling-" + commit)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	dir := t.TempDir()
	archive := exec.Command("git", "archive", "-o", filepath.Join(dir, "source.tar"), commit)
	archive.Dir = "../.."
	if out, err := archive.CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: whether the version before and this one share a cluster: its source, commit %s, is not in this clone's history: %v: %s", commit, err, out)
	}
	for _, words := range [][]string{
		{"tar", "-xf", "source.tar"},
		{"go", "build", "-ldflags=-X main.version=previous", "-o", "starling", "./cmd/starling"},
		{"mkdir", "-p", filepath.Dir(bin)},
		{"mv", "starling", bin + ".new"}, // perhaps from another file system
		{"mv", bin + ".new", bin},
	} {
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", words, err, out)
		}
	}
	return bin
}

// plainConfig takes out of an agent file what the version before does not know, as an
// operator has it before an upgrade.
func plainConfig(t *testing.T, p *world.Proc) {
	t.Helper()
	b, err := os.ReadFile(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	b = regexp.MustCompile(`(?s)\n *autopilot \{[^}]*\}`).ReplaceAll(b, nil)
	b = regexp.MustCompile(`\nservers = .*`).ReplaceAll(b, nil)
	if err := os.WriteFile(p.Config, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// traffic submits deployments at one server after the other for as long as a test lasts.
type traffic struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	acked map[string]string // deployment by idempotency key
	err   error
}

// maxTraffic bounds the deployments of a test.
const maxTraffic = 400

func (c *cluster) submitAll(apps []string, shas []string) *traffic {
	ctx, cancel := context.WithCancel(c.t.Context())
	tr := &traffic{stop: cancel, acked: map[string]string{}}
	servers := c.w.WithRole(starling.RoleServer)
	tr.done.Go(func() {
		for i := 0; i < maxTraffic && ctx.Err() == nil; i++ {
			sub := starling.Submission{App: apps[i%len(apps)], SHA: shas[i%len(shas)], IdempotencyKey: fmt.Sprintf("key-%d", i)}
			id, err := submitUntilAcked(ctx, servers[i%len(servers):], sub)
			tr.mu.Lock()
			if err == nil {
				tr.acked[sub.IdempotencyKey] = id
			} else if ctx.Err() == nil && tr.err == nil {
				tr.err = err
			}
			tr.mu.Unlock()
			select {
			case <-time.After(150 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return tr
}

// submitUntilAcked tries again, as a user would, while servers are away.
func submitUntilAcked(ctx context.Context, servers []*world.Proc, sub starling.Submission) (string, error) {
	deadline := time.Now().Add(30 * time.Second)
	for try := 0; ; try++ {
		api, err := servers[try%len(servers)].Client()
		if err != nil {
			return "", err
		}
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		d, err := api.Submit(one, sub)
		cancel()
		if err == nil {
			return d.ID, nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return "", fmt.Errorf("submit %s: %w", sub.IdempotencyKey, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// more waits until the servers have acknowledged a few more.
func (c *cluster) more(tr *traffic) {
	c.t.Helper()
	count := func() int {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return len(tr.acked)
	}
	before := count()
	c.eventually(time.Minute, func() error {
		if n := count(); n < before+4 {
			return fmt.Errorf("%d deployments acknowledged since the exchange", n-before)
		}
		return nil
	})
}

// ended stops the traffic, waits until all that was acknowledged has ended well, each by
// one deployment, and returns how many there were.
func (c *cluster) ended(tr *traffic) int {
	c.t.Helper()
	tr.stop()
	tr.done.Wait()
	if tr.err != nil {
		c.t.Fatal(tr.err)
	}
	api := c.client(c.w.WithRole(starling.RoleServer)[0])
	for key, id := range tr.acked {
		c.eventually(time.Minute, func() error {
			d, err := api.Deployment(c.t.Context(), id)
			if err != nil {
				return err
			}
			if !d.Phase.Terminal() {
				return fmt.Errorf("%s is still %s", id, d.Phase)
			}
			if d.Phase != starling.PhaseSucceeded || d.IdempotencyKey != key {
				c.t.Fatalf("%s (%s) ended as %s: %s", id, key, d.Phase, d.Reason)
			}
			return nil
		})
	}
	return len(tr.acked)
}

// exchange stops processes in good order and starts them as another program.
func (c *cluster) exchange(bin string, procs ...*world.Proc) {
	c.t.Helper()
	var stopping errgroup.Group
	for _, p := range procs {
		stopping.Go(func() error { return p.Signal(syscall.SIGTERM, 20*time.Second) })
	}
	if err := stopping.Wait(); err != nil {
		c.t.Fatal(err)
	}
	for _, p := range procs {
		p.Bin = bin
		c.again(p)
	}
	c.sameState()
}

// sameState waits until every server is there and holds what the first one knows to have
// ended, and the same apps, in the same words.
func (c *cluster) sameState() {
	c.t.Helper()
	c.eventually(time.Minute, func() error {
		if err := c.w.Crashed(); err != nil {
			c.t.Fatal(err)
		}
		var first map[string]string
		for _, p := range c.w.WithRole(starling.RoleServer) {
			state, err := stateAt(c.t.Context(), c.client(p))
			if err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			if first == nil {
				first = state
			}
			for id, text := range first {
				if state[id] != text {
					return fmt.Errorf("%s has another %s:\n%s\n%s", p.Name, id, text, state[id])
				}
			}
		}
		return nil
	})
}

// stateAt is one server's own copy of what has ended and of the apps, by name, in the
// words of this program.
func stateAt(ctx context.Context, api *client.Client) (map[string]string, error) {
	if l, err := api.Leader(ctx); err != nil || l.Name == "" {
		return nil, errors.Join(errors.New("nobody leads"), err)
	}
	ds, err := api.Deployments(ctx, starling.DeploymentFilter{Limit: 1000})
	if err != nil {
		return nil, err
	}
	apps, err := api.Apps(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	add := func(id string, v any) error {
		b, err := json.Marshal(v)
		out[id] = string(b)
		return err
	}
	for _, d := range ds {
		if d.Phase.Terminal() {
			err = errors.Join(err, add(d.ID, d))
		}
	}
	for _, a := range apps {
		err = errors.Join(err, add(a.Name, a))
	}
	return out, err
}

// levelInUse reads a server's gauge.
func levelInUse(t *testing.T, p *world.Proc) string {
	t.Helper()
	resp, err := http.Get("http://" + p.HTTP + "/v1/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^starling_level_in_use (\d+)$`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("%s has no gauge of the level in use", p.Name)
	}
	return string(m[1])
}

// The program of the version before and this one run mixed over the same data, first on
// the way up, one process at a time, then back down, with deployments going on: nothing
// acknowledged is lost, all of it ends well, and at every step all servers come to the
// same state.
func TestRollingUpgradeAndBack(t *testing.T) {
	if testing.Short() {
		t.Skip("a world of processes, each exchanged twice")
	}
	old := previousBinary(t)
	c := asProcesses(t, world.Size{Regions: 1, Servers: 3, Caches: 1, Workers: 1, Machines: 2}, old)
	r := newRepo(t)
	apps := []string{"a1", "a2", "a3"}
	api := c.client(c.w.WithRole(starling.RoleServer)[0])
	for _, name := range apps {
		c.apply(api, r.app(name, nil))
	}
	var shas []string
	for i := range 5 {
		shas = append(shas, r.commit(release(fmt.Sprint(i), true)))
	}
	tr := c.submitAll(apps, shas)
	servers, rest := c.w.WithRole(starling.RoleServer), c.w.Procs[3:]

	mixed := rest[:3] // cache, worker and a machine: the other one stays old
	for _, procs := range [][]*world.Proc{servers[:1], servers[1:2], mixed, servers[2:]} {
		c.exchange("", procs...)
		c.more(tr)
	}
	for _, p := range servers { // what they do by themselves must leave the way back open
		if in := levelInUse(t, p); in != "1" {
			t.Fatalf("level %s is in use at %s, though nobody asked for anything new", in, p.Name)
		}
	}
	for _, procs := range [][]*world.Proc{servers[:1], mixed, servers[1:2], servers[2:]} {
		c.exchange(old, procs...)
		c.more(tr)
	}
	n := c.ended(tr)
	c.sameState()
	t.Logf("%d deployments", n)
}
