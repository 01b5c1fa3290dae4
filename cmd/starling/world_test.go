package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// TestMain lets the test binary be the starling binary: worlds run it as `agent`.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		main()
	}
	os.Exit(m.Run())
}

// logTo writes a process's log to a file, shown when the test fails.
func logTo(t *testing.T, name string) *slog.Logger {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		if !t.Failed() {
			return
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		t.Logf("%s:\n%s", filepath.Base(filepath.Dir(name)), b[max(0, len(b)-6000):])
	})
	return slog.New(slog.NewTextHandler(f, nil))
}

// cluster is a world whose processes all live in this one.
type cluster struct {
	t    *testing.T
	w    *world.World
	apis map[string]*client.Client // of each region's first server

	mu   sync.Mutex
	stop map[string]func() // by name; waits until the process has ended
}

// inProcess runs a world within the test, on real sockets, and waits until it is ready.
func inProcess(t *testing.T, size world.Size) *cluster {
	t.Helper()
	w, err := world.New("", t.TempDir(), size)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, w: w, stop: map[string]func(){}}
	t.Cleanup(func() {
		var all sync.WaitGroup
		for _, p := range w.Procs {
			all.Go(func() { c.end(p.Name) })
		}
		all.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, p := range w.Procs {
		c.run(p)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if c.apis, err = w.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// run starts one process of the world.
func (c *cluster) run(p *world.Proc) {
	c.t.Helper()
	cfg, err := loadConfig([]string{p.Config})
	if err == nil {
		err = cfg.finish()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	if cfg.Server != nil {
		cfg.Server.NotifyLocal = true // whoever is told is in this process too
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	log := logTo(c.t, p.Log)
	go func() {
		defer close(ended)
		if err := runAgent(ctx, cfg, log, nil); err != nil {
			c.t.Errorf("%s: %v", p.Name, err)
		}
	}()
	c.mu.Lock()
	c.stop[p.Name] = func() { cancel(); <-ended }
	c.mu.Unlock()
}

// end stops one process in good order; ending it again does nothing.
func (c *cluster) end(name string) {
	c.mu.Lock()
	stop := c.stop[name]
	delete(c.stop, name)
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
}

func (c *cluster) client(p *world.Proc) *client.Client {
	c.t.Helper()
	api, err := client.New(client.Config{Addr: "http://" + p.HTTP})
	if err != nil {
		c.t.Fatal(err)
	}
	return api
}

// repo is a git repository whose build copies files to out/.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	r := &repo{t: t, dir: t.TempDir()}
	r.git("init", "--quiet", "--initial-branch=main")
	return r
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir, "-c", "user.name=T", "-c", "user.email=t@starling.example"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files and returns the commit's SHA.
func (r *repo) commit(files map[string]string) string {
	r.t.Helper()
	for name, content := range files {
		p := filepath.Join(r.dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("add", "--all")
	r.git("commit", "--quiet", "--message", "change")
	return r.git("rev-parse", "HEAD")
}

// app returns a spec that copies src/ to the release, runs its serve script on web
// machines and asks its check script for health.
func (r *repo) app(name string, change func(*starling.App)) starling.App {
	a := starling.App{
		Name: name, Source: starling.SourceSpec{Git: r.dir},
		Build: &starling.BuildSpec{Command: []string{"sh", "-c", "cp -R src out"}, Output: "out"},
		Deploy: starling.DeploySpec{
			Targets: "role == web", Run: []string{"./serve"}, Deadline: starling.Duration(2 * time.Minute),
			Health: &starling.Health{
				Exec: []string{"./check"}, Interval: starling.Duration(50 * time.Millisecond),
				HealthyAfter: starling.Duration(200 * time.Millisecond), Deadline: starling.Duration(5 * time.Second),
			},
			Strategy: starling.Strategy{AutoRevert: true},
		},
	}
	if change != nil {
		change(&a)
	}
	a.SetDefaults()
	return a
}

// release is the source of a version: its check passes unless it is broken.
func release(version string, healthy bool) map[string]string {
	check := "#!/bin/sh\nexit 0\n"
	if !healthy {
		check = "#!/bin/sh\necho \"this one is broken\" >&2\nexit 1\n"
	}
	return map[string]string{
		"src/serve":   "#!/bin/sh\nexec sleep 100000\n",
		"src/check":   check,
		"src/version": version + "\n",
	}
}

func (c *cluster) apply(api *client.Client, app starling.App) {
	c.t.Helper()
	if _, err := api.ApplyApp(c.t.Context(), app, nil); err != nil {
		c.t.Fatalf("apply: %v", err)
	}
}

// wait follows a deployment to its end.
func (c *cluster) wait(api *client.Client, d *starling.Deployment) *starling.Deployment {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	end, err := api.Wait(ctx, d.ID, 50*time.Millisecond, nil)
	if err != nil {
		c.t.Fatalf("wait for %s: %v", d.ID, err)
	}
	return end
}

// deploy submits a commit and expects an end.
func (c *cluster) deploy(api *client.Client, app, sha string, want starling.Phase) *starling.Deployment {
	c.t.Helper()
	d, err := api.Submit(c.t.Context(), starling.Submission{App: app, SHA: sha})
	if err != nil {
		c.t.Fatalf("submit: %v", err)
	}
	d = c.wait(api, d)
	if d.Phase != want {
		c.t.Fatalf("%s ended as %s, want %s: %s", d.ID, d.Phase, want, d.Reason)
	}
	return d
}

// current reads the version that a machine's current release holds; "" if none.
func current(p *world.Proc, app string) string {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(p.Config), "data", "machine", "apps", app, "current", "version"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// everywhere expects every machine to hold a version as its current one, soon.
func (c *cluster) everywhere(app, version string) {
	c.t.Helper()
	c.eventually(20*time.Second, func() error {
		for _, m := range c.w.WithRole(starling.RoleMachine) {
			if got := current(m, app); got != version {
				return fmt.Errorf("%s has %q, want %q", m.Name, got, version)
			}
		}
		return nil
	})
}

func (c *cluster) eventually(within time.Duration, f func() error) {
	c.t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("after %s: %v", within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func wantError(t *testing.T, err error, sentinel error, part string) {
	t.Helper()
	if err == nil || sentinel != nil && !errors.Is(err, sentinel) || !strings.Contains(err.Error(), part) {
		t.Errorf("error %v, want %v with %q", err, sentinel, part)
	}
}
