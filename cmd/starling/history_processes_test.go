package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/history"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/world"
)

// What clients see of three server processes that are killed and frozen, and of the two
// that are left when the leader is killed and its disk removed, is what one server without
// faults could have shown them: above all, everything that was acknowledged.
func TestHistoriesOfProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("a world of processes")
	}
	t.Parallel()
	span, seed := historySpan(5 * time.Second)
	c, workers := withoutWorkers(t, world.Size{Regions: 1, Servers: 3, Caches: 2, Workers: 2})
	_, api := c.leader()
	apps := []string{"a00", "b00", "c00", "d00"}
	for _, app := range apps {
		a := starling.App{Name: app, Source: starling.SourceSpec{Git: "https://git.example/x.git"},
			Build: &starling.BuildSpec{Command: []string{"make"}}, Deploy: starling.DeploySpec{Targets: "role == nobody"}}
		a.SetDefaults()
		c.apply(api, a)
	}
	load := &history.Load{Seed: seed, Apps: apps, Clients: 5, Workers: workers, Record: history.NewRecorder()}
	for _, p := range c.w.WithRole(starling.RoleServer) {
		api, err := client.New(client.Config{Addr: "http://" + p.HTTP, HTTP: history.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		load.APIs = append(load.APIs, api)
	}
	judge(t, load, seed, span, func(ctx context.Context) { c.faults(ctx, rand.New(rand.NewPCG(seed, 1))) })
}

// withoutWorkers runs a world whose workers are not processes: the test speaks for them.
func withoutWorkers(t *testing.T, size world.Size) (*cluster, []history.Worker) {
	t.Helper()
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w, err := world.New(bin, t.TempDir(), size)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, w: w}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, p := range w.WithRole(starling.RoleServer) {
				b, _ := os.ReadFile(p.Log)
				for _, l := range strings.Split(string(b), "\n") {
					if strings.Contains(l, "part=raft") && !strings.Contains(l, "decode incoming") {
						t.Logf("RAFT %s", l)
					}
				}
			}
		}
	})
	var workers []history.Worker
	for _, p := range w.Procs {
		if p.Role != starling.RoleWorker {
			c.again(p)
			continue
		}
		cfg, err := loadConfig([]string{p.Config})
		if err == nil {
			err = cfg.finish()
		}
		if err != nil {
			t.Fatal(err)
		}
		node, err := newProcess(cfg, logTo(t, p.Log))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := node.close(); err != nil {
				t.Error(err)
			}
		})
		workers = append(workers, history.Worker{Name: p.Name + "/0", RPC: node.servers, Build: node.pretend})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if c.apis, err = w.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return c, workers
}

// pretend stores an artifact of one small file as the result of a job.
func (p *process) pretend(ctx context.Context, job *rpc.Job) (starling.Digest, error) {
	data := fmt.Appendf(nil, "%s under %d", job.SHA, job.Lease)
	m := starling.Manifest{Version: 1, Chunker: "none",
		Files:  []starling.File{{Path: "f", Kind: starling.KindFile, Size: int64(len(data))}},
		Chunks: []starling.Chunk{{Digest: starling.DigestOf(data), Size: len(data)}},
	}
	b, err := m.Encode()
	if err != nil {
		return starling.Digest{}, err
	}
	envelope, err := artifact.Sign(b, p.credentials)
	if err != nil {
		return starling.Digest{}, err
	}
	if err := p.caches.Put(ctx, m.Chunks[0].Digest, data); err != nil {
		return starling.Digest{}, err
	}
	d := starling.DigestOf(b)
	return d, p.caches.PutManifest(ctx, d, envelope)
}

// faults kills and freezes one server after the other. In the end the leader is killed for
// good and its disk removed.
func (c *cluster) faults(ctx context.Context, rnd *rand.Rand) {
	for wait(ctx, time.Duration(300+rnd.IntN(700))*time.Millisecond) {
		l := c.leads(ctx)
		servers := c.w.WithRole(starling.RoleServer)
		span := time.Duration(300+rnd.IntN(2500)) * time.Millisecond
		harm := []string{"kill", "kill", "freeze", "freeze", "freeze"}[rnd.IntN(5)]
		if l == nil || rnd.IntN(4) == 0 {
			l = servers[rnd.IntN(len(servers))]
		}
		c.t.Logf("%s %s for %s", harm, l.Name, span)
		if harm == "freeze" {
			c.freeze(l, syscall.SIGSTOP)
			wait(ctx, span)
			c.freeze(l, syscall.SIGCONT)
			continue
		}
		if err := l.Kill(); err != nil {
			c.t.Error(err)
		}
		wait(ctx, span/2)
		if err := c.w.StartOne(l); err != nil {
			c.t.Error(err)
		}
	}
	var l *world.Proc
	for end := time.Now().Add(20 * time.Second); l == nil && time.Now().Before(end); {
		l = c.leads(context.WithoutCancel(ctx))
	}
	if l == nil {
		c.t.Error("nobody leads after the last fault")
		return
	}
	c.t.Logf("kill %s, the leader, and remove its disk", l.Name)
	if err := l.Kill(); err != nil {
		c.t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(filepath.Dir(l.Config), "data")); err != nil {
		c.t.Error(err)
	}
}

func (c *cluster) freeze(p *world.Proc, sig syscall.Signal) {
	if err := syscall.Kill(p.PID(), sig); err != nil {
		c.t.Errorf("%s to %s: %v", sig, p.Name, err)
	}
}

// leads asks every server once who leads; nil if none says that it does.
func (c *cluster) leads(ctx context.Context) *world.Proc {
	for _, p := range c.w.WithRole(starling.RoleServer) {
		call, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		s, err := c.client(p).Leader(call)
		cancel()
		if err == nil && s.Self {
			return p
		}
	}
	return nil
}
