package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// fixedPool is a pool whose members do not change.
type fixedPool struct {
	nodes   []starling.Node
	changed chan struct{}
}

func (f *fixedPool) Members() []starling.Node { return slices.Clone(f.nodes) }
func (f *fixedPool) Changed() <-chan struct{} { return f.changed }

func node(name, addr string, alive bool, roles ...starling.Role) starling.Node {
	return starling.Node{Name: name, Addr: addr, Alive: alive, Roles: roles, Region: "r1"}
}

func TestSurroundingsAreEachProcessOnce(t *testing.T) {
	s := newSurroundings()
	s.told = []starling.Node{
		node("both", "1:1", true, starling.RoleServer, starling.RoleCache), node("gone", "1:2", false, starling.RoleCache),
	}
	s.before = []starling.Node{node("m1", "2:0", true, starling.RoleMachine), node("m9", "2:9", true, starling.RoleMachine)}
	s.region = &fixedPool{nodes: []starling.Node{node("gone", "1:2", true, starling.RoleCache)}}
	s.cell = &fixedPool{nodes: []starling.Node{
		node("both", "1:1", true, starling.RoleMachine), node("m1", "2:1", true, starling.RoleMachine),
		node("same-host", "2:2", true, starling.RoleMachine),
	}}
	s.told = append(s.told, node("same-host", "1:3", true, starling.RoleServer))
	var got []string
	for _, n := range s.Members() {
		line := n.Name + " " + n.Addr
		for _, r := range n.Roles {
			line += " " + string(r)
		}
		if !n.Alive {
			line += " dead"
		}
		got = append(got, line)
	}
	want := []string{
		"both 1:1 machine server cache", // one process
		"gone 1:2 cache",                // alive, as the region's pool knows better
		"m1 2:1 machine",                // where it is now, not where it was before
		"m9 2:9 machine",                // of the cell before, until there is company in the new one
		"same-host 1:3 server", "same-host 2:2 machine",
	}
	if !slices.Equal(got, want) {
		t.Errorf("members\n got %q\nwant %q", got, want)
	}
}

func TestSurroundingsPassChangesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newSurroundings(), &fixedPool{changed: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		go s.follow(ctx, p)
		changed := s.Changed()
		synctest.Wait()
		select {
		case <-changed:
			t.Fatal("changed by itself")
		default:
		}
		p.changed <- struct{}{}
		<-changed
		cancel()
		synctest.Wait()
	})
}

// asked is a leader that notes what it is asked.
type asked struct{ goals chan uint64 }

func (a asked) Goals(ctx context.Context, index uint64, _ string, _ time.Duration) (rpc.Goals, error) {
	a.goals <- index
	<-ctx.Done()
	return rpc.Goals{}, ctx.Err()
}
func (a asked) ReportMachine(context.Context, []starling.MachineReport) error { return nil }

func TestGuideWaitsAndTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuide()
		began := time.Now()
		if _, err := g.Goals(t.Context(), 1, "", 30*time.Second); !errors.Is(err, starling.ErrUnavailable) || time.Since(began) != 30*time.Second {
			t.Errorf("with nobody to ask: %v after %s", err, time.Since(began))
		}
		if err := g.ReportMachine(t.Context(), nil); !errors.Is(err, starling.ErrUnavailable) {
			t.Errorf("with nobody to report to: %v", err)
		}
		first, second := asked{make(chan uint64, 1)}, asked{make(chan uint64, 1)}
		ended := make(chan error)
		go func() {
			_, err := g.Goals(t.Context(), 2, "", 30*time.Second)
			ended <- err
		}()
		synctest.Wait()
		g.follow(first)
		if got := <-first.goals; got != 0 {
			t.Errorf("asked for goals after %d, which is of another's order", got)
		}
		g.follow(second) // what the first is asked ends at once
		began = time.Now()
		if err := <-ended; !errors.Is(err, context.Canceled) || time.Since(began) > 0 {
			t.Errorf("the one before answered %v after %s", err, time.Since(began))
		}
	})
}

func TestTicketIsKept(t *testing.T) {
	dir := t.TempDir()
	if _, err := readTicket(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without one: %v", err)
	}
	want := rpc.Ticket{Region: "r1", Cell: "c1", Slot: 3, Key: bytes.Repeat([]byte{1}, 32), KeyEpoch: 2, Seeds: []string{"10.0.0.1:7472"}}
	if err := writeTicket(dir, want); err != nil {
		t.Fatal(err)
	}
	if got, err := readTicket(dir); err != nil || got.Cell != "c1" || !bytes.Equal(got.Key, want.Key) || got.KeyEpoch != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	if info, err := os.Stat(filepath.Join(dir, ticketFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file with the key in it: %v, %v", info.Mode(), err)
	}
	for _, bad := range []string{"{", `{"cell":"../x","region":"r1"}`} {
		if err := os.WriteFile(filepath.Join(dir, ticketFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, func() error { _, err := readTicket(dir); return err }(), nil, "delete it to have it made anew")
	}
}

func TestCellKeysAreAllDifferent(t *testing.T) {
	region := bytes.Repeat([]byte{7}, 32)
	seen := map[string]string{}
	for what, of := range map[string]struct {
		key          []byte
		region, cell string
		epoch        uint64
	}{
		"one": {region, "r1", "c1", 1}, "another region": {region, "r2", "c1", 1}, "another cell": {region, "r1", "c2", 1},
		"another epoch": {region, "r1", "c1", 2}, "another region's key": {bytes.Repeat([]byte{8}, 32), "r1", "c1", 1},
	} {
		key, err := cellKey(of.key, of.region, of.cell, of.epoch)
		if err != nil || len(key) != 32 {
			t.Fatalf("%s: %x, %v", what, key, err)
		}
		if other, ok := seen[string(key)]; ok {
			t.Errorf("%s has the key of %s", what, other)
		}
		seen[string(key)] = what
	}
}
