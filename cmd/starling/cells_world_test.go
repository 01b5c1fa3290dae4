package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// staged is a push of a small prebuilt artifact of a version, for an app that is only placed.
func (c *cluster) staged(api *client.Client, version string, strategy starling.Strategy) starling.Submission {
	c.t.Helper()
	dir := c.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte(version+"\n"), 0o644); err != nil {
		c.t.Fatal(err)
	}
	app := starling.App{Name: "files", Deploy: starling.DeploySpec{Strategy: strategy}}
	app.SetDefaults()
	c.apply(api, app)
	record, _, err := push(c.t.Context(), api, "files", dir)
	if err != nil {
		c.t.Fatal(err)
	}
	return starling.Submission{App: "files", Artifact: record.Digest}
}

func (c *cluster) submit(api *client.Client, s starling.Submission) *starling.Deployment {
	c.t.Helper()
	d, err := api.Submit(c.t.Context(), s)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// succeeds waits for a deployment to end well with so many machines healthy and nobody missed.
func (c *cluster) succeeds(api *client.Client, d *starling.Deployment, machines int) {
	c.t.Helper()
	d = c.wait(api, d)
	if d.Phase != starling.PhaseSucceeded || d.Machines.Healthy != machines || d.Machines.Target != machines || d.Machines.Absent != 0 {
		c.t.Fatalf("%s ended as %s (%s): %+v", d.ID, d.Phase, d.Reason, d.Machines)
	}
}

// cells lists the sizes of a region's cells, once all machines are heard of.
func (c *cluster) cells(api *client.Client, ok func(sizes []int) bool) (cells []starling.CellStatus) {
	c.t.Helper()
	c.eventually(time.Minute, func() (err error) {
		if cells, err = api.Cells(c.t.Context()); err != nil {
			return err
		}
		var sizes []int
		for _, s := range cells {
			if s.Alive != s.Machines {
				return fmt.Errorf("%d of %d machines of cell %s are heard of", s.Alive, s.Machines, s.Name)
			}
			sizes = append(sizes, s.Machines)
		}
		slices.Sort(sizes)
		if !ok(sizes) {
			return fmt.Errorf("cells of %v machines", sizes)
		}
		return nil
	})
	return cells
}

func sum(sizes []int) (n int) {
	for _, s := range sizes {
		n += s
	}
	return n
}

// Machines come, and their cells are split; they go, and what is left of the cells is merged; all
// that in the midst of a deployment, of which no machine loses its goal.
func TestCellsSplitAndMergeInMidDeployment(t *testing.T) {
	t.Parallel()
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Caches: 1, Machines: 7, CellMax: 4, CellQuiet: "2s"})
	api := c.apis["r1"]
	bake := starling.Strategy{Waves: []string{"50%", "100%"}, Bake: starling.Duration(5 * time.Second)}
	d := c.submit(api, c.staged(api, "v1", bake))
	split := c.cells(api, func(sizes []int) bool { return len(sizes) >= 3 && sum(sizes) == 7 && slices.Max(sizes) < 4 })
	c.succeeds(api, d, 7)
	c.everywhere("files", "v1")

	d = c.submit(api, c.staged(api, "v2", bake))
	gone := 0
	for _, s := range split { // one machine of each cell stays, and it cannot stay alone
		nodes, err := api.FindNodes(t.Context(), starling.NodeFilter{Cell: s.Name})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes[1:] {
			c.end(n.Name)
			if err := api.RemoveNode(t.Context(), n.Name, true); err != nil {
				t.Fatal(err)
			}
			c.w.Forget(c.w.Named(n.Name))
			gone++
		}
	}
	c.cells(api, func(sizes []int) bool { return len(sizes) < len(split) && sum(sizes) == 7-gone })
	c.succeeds(api, d, 7-gone)
	c.everywhere("files", "v2")
}

// A machine that relays for its cell dies in mid-deployment: the others are told, and heard of, within seconds.
func TestRelayDiesInMidDeployment(t *testing.T) {
	t.Parallel()
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Caches: 1, Machines: 5})
	api := c.apis["r1"]
	cells := c.cells(api, func(sizes []int) bool { return slices.Equal(sizes, []int{5}) })
	speaker := cells[0].Speakers[0]
	relay := c.w.Named(speaker)
	d := c.submit(api, c.staged(api, "v1", starling.Strategy{
		Waves: []string{"50%", "100%"}, Bake: starling.Duration(4 * time.Second),
	}))
	c.until(api, d.ID, starling.PhaseRollingOut)
	c.end(speaker)
	began := time.Now()
	c.eventually(15*time.Second, func() error {
		cells, err := api.Cells(t.Context())
		if err == nil && (cells[0].Alive != 4 || len(cells[0].Speakers) != 1 || cells[0].Speakers[0] == speaker) {
			err = fmt.Errorf("%+v", cells[0])
		}
		return err
	})
	t.Logf("another speaks after %s", time.Since(began).Round(time.Millisecond))
	c.run(relay) // it is awaited, for a while
	c.succeeds(api, d, 5)
	c.everywhere("files", "v1")
}

// The least there can be: one server that is a cache, and one machine.
func TestRegionOfOneMachine(t *testing.T) {
	t.Parallel()
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Together: true, Machines: 1})
	api := c.apis["r1"]
	c.cells(api, func(sizes []int) bool { return slices.Equal(sizes, []int{1}) })
	c.succeeds(api, c.submit(api, c.staged(api, "v1", starling.Strategy{})), 1)
	c.everywhere("files", "v1")
}

// The key of a cell's gossip is changed in mid-deployment; a machine that is away meanwhile comes back.
func TestGossipKeyRotatesInMidDeployment(t *testing.T) {
	t.Parallel()
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Caches: 1, Machines: 4})
	api := c.apis["r1"]
	c.cells(api, func(sizes []int) bool { return slices.Equal(sizes, []int{4}) })
	m := c.w.WithRole(starling.RoleMachine)
	away := m[3]
	c.end(away.Name)
	d := c.submit(api, c.staged(api, "v1", starling.Strategy{
		Waves: []string{"50%", "100%"}, Bake: starling.Duration(4 * time.Second),
	}))
	if err := api.RotateCells(t.Context(), "", true); err != nil {
		t.Fatal(err)
	}
	ring := func(p *world.Proc) string {
		files, err := filepath.Glob(filepath.Join(filepath.Dir(p.Config), "data", "cells", "*", "keyring.json"))
		if err != nil || len(files) != 1 {
			t.Fatalf("keyrings of %s: %v, %v", p.Name, files, err)
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	old := ring(away)
	c.eventually(30*time.Second, func() error {
		for _, p := range m[:3] {
			if got := ring(p); got == old || strings.Count(got, ",") > 0 || got != ring(m[0]) {
				return errors.New(p.Name + " has not the new key alone")
			}
		}
		return nil
	})
	c.run(away)
	c.cells(api, func(sizes []int) bool { return slices.Equal(sizes, []int{4}) })
	if d = c.wait(api, d); d.Phase != starling.PhaseSucceeded {
		t.Fatalf("%s: %s", d.Phase, d.Reason)
	}
	c.everywhere("files", "v1")
	if ring(away) != ring(m[0]) {
		t.Error("the one that was away has another key")
	}
}

// A copy of a machine's disk that runs beside it ends and says why; the machine goes on.
func TestCloneOfAMachineEnds(t *testing.T) {
	t.Parallel()
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Together: true, Machines: 3})
	api := c.apis["r1"]
	c.cells(api, func(sizes []int) bool { return slices.Equal(sizes, []int{3}) })
	m := c.w.WithRole(starling.RoleMachine)[1]
	home := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(home, os.DirFS(filepath.Dir(m.Config))); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig([]string{filepath.Join(home, "agent.hcl")})
	if err != nil {
		t.Fatal(err)
	}
	any := 0
	cfg.Ports = &Ports{QUIC: &any, Gossip: &any}
	if err := cfg.finish(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	wantError(t, runAgent(ctx, cfg, logTo(t, filepath.Join(home, "agent.log")), nil), starling.ErrConflict,
		"another machine answers as "+m.Name+" at 127.0.0.1")
	c.succeeds(api, c.submit(api, c.staged(api, "v1", starling.Strategy{})), 3)
	c.everywhere("files", "v1")
}

// A machine that starts while no server and no cache is there goes on as before: it runs its
// release, and finds its cell. When the servers are back, it takes part.
func TestMachineStartsWithoutServers(t *testing.T) {
	t.Parallel()
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Caches: 1, Machines: 3})
	api := c.apis["r1"]
	c.cells(api, func(sizes []int) bool { return slices.Equal(sizes, []int{3}) })
	m := c.w.WithRole(starling.RoleMachine)[1]
	dir, ran := t.TempDir(), filepath.Join(t.TempDir(), "ran")
	serve := fmt.Sprintf("#!/bin/sh\n[ $PORT = %d ] && echo started >> %s\nexec sleep 100000\n", m.AppPort, ran)
	if err := os.WriteFile(filepath.Join(dir, "serve"), []byte(serve), 0o755); err != nil {
		t.Fatal(err)
	}
	app := starling.App{Name: "runs", Deploy: starling.DeploySpec{Run: []string{"./serve"}}}
	app.SetDefaults()
	c.apply(api, app)
	record, _, err := push(t.Context(), api, "runs", dir)
	if err != nil {
		t.Fatal(err)
	}
	c.succeeds(api, c.submit(api, starling.Submission{App: "runs", Artifact: record.Digest}), 3)

	server, cache := c.w.Named("r1-server-1"), c.w.Named("r1-cache-1")
	for _, p := range []*world.Proc{m, cache, server} {
		c.end(p.Name)
	}
	c.run(m)
	c.eventually(30*time.Second, func() error {
		b, err := os.ReadFile(ran)
		if err != nil {
			return err
		}
		if n := strings.Count(string(b), "started"); n != 2 {
			return fmt.Errorf("its release was started %d times", n)
		}
		log, err := os.ReadFile(m.Log)
		if err != nil {
			return err
		}
		if !strings.Contains(string(log), "joined the gossip") {
			return errors.New("it has not found its cell")
		}
		return nil
	})
	c.run(server)
	c.run(cache)
	c.cells(api, func(sizes []int) bool { return slices.Equal(sizes, []int{3}) })
	c.succeeds(api, c.submit(api, c.staged(api, "v1", starling.Strategy{})), 3)
}
