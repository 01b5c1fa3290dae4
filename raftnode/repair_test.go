package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// keeper is a server on the real state machine.
type keeper struct {
	*Node
	name, dir string
	fsm       *raftfsm.FSM
}

func keep(t *testing.T, g *gossip, name, dir string, expect int) *keeper {
	t.Helper()
	conf := testConfig(t, g, name, dir, expect)
	k := &keeper{name: name, dir: dir, fsm: raftfsm.New("r1")}
	conf.FSM, conf.Level = k.fsm, func() int { return k.fsm.View().Level() }
	conf.Recoveries = func() int { return k.fsm.View().Recoveries() }
	var err error
	if k.Node, err = Open(conf); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// lead returns the server that leads and can commit.
func lead(t *testing.T, servers ...*keeper) *keeper {
	t.Helper()
	var found *keeper
	eventually(t, "a leader", func() bool {
		for _, k := range servers {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := k.Barrier(ctx)
			cancel()
			if err == nil {
				found = k
				return true
			}
		}
		return false
	})
	return found
}

// apply commits an app under a name.
func apply(t *testing.T, name string, servers ...*keeper) {
	t.Helper()
	cmd, err := raftfsm.NewCommand(raftfsm.TypeAppApply, time.Now(), "test", raftfsm.AppApply{App: starling.App{Name: name}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "commit of "+name, func() bool {
		res, err := lead(t, servers...).Propose(t.Context(), cmd)
		if err == nil && res[0].Err != nil {
			t.Fatal(res[0].Err)
		}
		return err == nil
	})
}

func haveApps(t *testing.T, want string, servers ...*keeper) {
	t.Helper()
	for _, k := range servers {
		eventually(t, k.name+" has apps "+want, func() bool {
			var names []string
			for _, a := range k.fsm.View().Apps() {
				names = append(names, a.Name)
			}
			return strings.Join(names, " ") == want
		})
	}
}

func threeKeepers(t *testing.T, g *gossip) []*keeper {
	t.Helper()
	var out []*keeper
	for _, name := range []string{"s1", "s2", "s3"} {
		out = append(out, keep(t, g, name, t.TempDir(), 3))
	}
	return out
}

// A snapshot is restored in place: on every server, for those that come later, and for
// those that start again.
func TestRestoreInPlace(t *testing.T) {
	g := newGossip()
	servers := threeKeepers(t, g)
	apply(t, "early", servers...)
	leader := lead(t, servers...)
	var taken bytes.Buffer
	if err := leader.fsm.View().WriteSnapshot(&taken); err != nil {
		t.Fatal(err)
	}
	apply(t, "late", servers...)
	haveApps(t, "early late", servers...)

	leader = lead(t, servers...)
	view, err := leader.fsm.View().Restored(&taken, time.Now(), "op")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range servers {
		if !k.IsLeader() {
			if err := k.Restore(t.Context(), view.Index(), view.WriteSnapshot); !errors.Is(err, starling.ErrNotLeader) {
				t.Errorf("a follower restores: %v", err)
			}
			break
		}
	}
	broken := errors.New("the disk is full")
	if err := leader.Restore(t.Context(), view.Index(), func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a snapshot that cannot be spooled: %v", err)
	}
	g.speaks("s2", "1")
	eventually(t, "the leader knows", func() bool { return leader.levelOf("s2") == 1 || leader.name == "s2" })
	if leader.name != "s2" {
		if err := leader.Restore(t.Context(), view.Index(), view.WriteSnapshot); !errors.Is(err, starling.ErrConflict) {
			t.Errorf("with a server that is too old: %v", err)
		}
	}
	g.speaks("s2", fmt.Sprint(raftfsm.Level))
	eventually(t, "the leader knows", func() bool { return leader.levelOf("s2") == raftfsm.Level })
	eventually(t, "restored", func() bool {
		leader = lead(t, servers...)
		return leader.Restore(t.Context(), view.Index(), view.WriteSnapshot) == nil
	})
	haveApps(t, "early", servers...)
	apply(t, "new", servers...)
	haveApps(t, "early new", servers...)
	for _, k := range servers {
		if i := k.fsm.View().Index(); i <= view.Index() || i != k.Stats().AppliedIndex {
			t.Errorf("%s: index %d is not above the restored %d, or not Raft's own %d", k.name, i, view.Index(), k.Stats().AppliedIndex)
		}
	}
	for _, k := range servers {
		if first, err := k.stores.logs.FirstIndex(); err != nil || first <= view.Index() {
			t.Errorf("%s: the log begins at %d, %v: a gap is left", k.name, first, err)
		}
	}
	if files, err := filepath.Glob(filepath.Join(leader.dir, "restore-*")); err != nil || len(files) > 0 {
		t.Errorf("left on disk: %v, %v", files, err)
	}

	four := keep(t, g, "s4", t.TempDir(), 0)
	haveApps(t, "early new", four)
	if raceDetector {
		return // a server at another address: see race_on_test.go
	}
	if err := leader.Close(); err != nil {
		t.Fatal(err)
	}
	haveApps(t, "early new", keep(t, g, leader.name, leader.dir, 3))
}

// Two of three servers are gone for good. The third is made a cluster of one from its
// files, and grows again with new servers.
func TestRecoverFromLostQuorum(t *testing.T) {
	g := newGossip()
	servers := threeKeepers(t, g)
	apply(t, "kept", servers...)
	haveApps(t, "kept", servers...)
	leader := lead(t, servers...)
	if err := leader.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	apply(t, "also", servers...)
	haveApps(t, "also kept", servers...)
	before := leader.Stats().LastIndex
	r := Recovery{Name: leader.name, Region: "r1", DataDir: leader.dir, Addr: string(leader.directory.addr), Actor: "op", Logger: quiet}
	if _, err := Recover(r, time.Now()); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("recovery under a running server: %v", err)
	}
	for _, k := range servers {
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		if k != leader {
			g.set(k.name, PeerFailed)
		}
	}

	s, err := Survey(r)
	if err != nil || s.LastIndex < before || fmt.Sprint(s.Servers) != "[s1 s2 s3]" || s.State.Records["apps"] != 2 {
		t.Errorf("survey: %+v, %v", s, err)
	}
	for name, change := range map[string]func(*Recovery){
		"no part of a cluster": func(r *Recovery) { r.DataDir = t.TempDir() },
		"another's files":      func(r *Recovery) { r.Name = "s9" },
		"another region":       func(r *Recovery) { r.Region = "r2" },
	} {
		bad := r
		change(&bad)
		if _, err := Recover(bad, time.Now()); err == nil {
			t.Errorf("%s: recovered", name)
		}
	}
	after, err := Recover(r, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Survey(r); err != nil || fmt.Sprint(again.Servers) != fmt.Sprintf("[%s]", leader.name) || again.State.Index != after.State.Index {
		t.Errorf("survey after the recovery: %+v, %v", again, err)
	}
	one := keep(t, g, leader.name, leader.dir, 3)
	haveApps(t, "also kept", one)
	if i := lead(t, one).fsm.View().Index(); i <= before {
		t.Errorf("index %d is not above %d", i, before)
	}
	apply(t, "new", one)
	all := []*keeper{one, keep(t, g, "s4", t.TempDir(), 0), keep(t, g, "s5", t.TempDir(), 0)}
	haveApps(t, "also kept new", all...)
	eventually(t, "three voters", func() bool { return one.Stats().Voters == 3 })
	apply(t, "more", all...)
	haveApps(t, "also kept more new", all...)
}

// The servers that were given up come back, both at once, with their old files: most of
// the old configuration. They stop before they can do harm, and say what to do.
func TestServersLeftBehindStop(t *testing.T) {
	g := newGossip()
	servers := threeKeepers(t, g)
	apply(t, "kept", servers...)
	haveApps(t, "kept", servers...)
	for _, k := range servers {
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		g.edit(func(m map[string]Peer) { delete(m, k.name) })
	}
	left := servers[2]
	if _, err := Recover(Recovery{Name: left.name, Region: "r1", DataDir: left.dir, Addr: string(left.directory.addr), Actor: "op", Logger: quiet}, time.Now()); err != nil {
		t.Fatal(err)
	}
	one := keep(t, g, left.name, left.dir, 3)
	apply(t, "new", one)
	four := keep(t, g, "s4", t.TempDir(), 0)
	haveApps(t, "kept new", one, four)

	for _, k := range servers[:2] {
		back := keep(t, g, k.name, k.dir, 3)
		select {
		case <-back.Failed():
		case <-time.After(30 * time.Second):
			t.Fatalf("%s takes part again", k.name)
		}
		if err := back.Err(); err == nil || !strings.Contains(err.Error(), "recovered without server "+k.name) || !strings.Contains(err.Error(), "erase") {
			t.Errorf("%s stops with %v", k.name, err)
		}
	}
	// Should one not hear of the others, the leader will not have it.
	g.edit(func(m map[string]Peer) { m["deaf"] = peer("deaf", PeerAlive, tagBoot, "1") })
	eventually(t, "the leader refuses it", func() bool { return errors.Is(one.related("deaf"), starling.ErrConflict) })
	if err := one.related("s4"); err != nil {
		t.Errorf("a server that came later: %v", err)
	}
	apply(t, "more", one, four)
	haveApps(t, "kept more new", one, four)
}
