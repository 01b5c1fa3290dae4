package raftfsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// newer is a command of level 2: what it does has always been there, but its proposer says
// that its payload means something new.
func newer(t testing.TB) Command {
	t.Helper()
	c, err := NewCommand(TypeRegionUpsert, epoch, "", RegionUpsert{Region{Name: "west"}})
	if err != nil {
		t.Fatal(err)
	}
	c.Level = 2
	return c
}

func TestLevels(t *testing.T) {
	for typ, want := range map[Type]int{TypeSubmit: 1, TypeTokenRevoke: 1, "app.explode": Level + 1} {
		if got := LevelOf(typ); got != want {
			t.Errorf("%s: level %d, want %d", typ, got, want)
		}
	}
	c := newer(t)
	if c.Needs() != 2 || c.Stamped().Level != 2 {
		t.Errorf("%+v needs %d", c, c.Needs())
	}
	c.Level = 0
	b, err := json.Marshal(c.Stamped())
	if err != nil || bytes.Contains(b, []byte("level")) {
		t.Errorf("a command of level 1 must look as it always did: %s, %v", b, err)
	}
}

func TestWhatANewerProgramWroteStopsThisOne(t *testing.T) {
	later := newer(t)
	later.Level = Level + 1
	entries := map[string][]byte{
		"an unknown command":         []byte(`{"v":1,"commands":[{"type":"app.explode","at":"2026-01-02T03:00:00Z","data":{}}]}`),
		"a known one with a meaning": entryAsIs(t, EntryVersion, later),
		"a later form of entries":    entryAsIs(t, EntryVersion+1, newer(t)),
		"one of several":             entryAsIs(t, EntryVersion, newer(t), later),
	}
	for name, data := range entries {
		f := New("east")
		before := snapshotOf(t, f)
		func() {
			defer func() {
				if r, ok := recover().(string); !ok || !strings.Contains(r, "upgrade this server") {
					t.Errorf("%s: panic %v", name, r)
				}
			}()
			f.Apply(&raft.Log{Index: 1, Data: data})
			t.Errorf("%s was applied, or passed over", name)
		}()
		if !bytes.Equal(before, snapshotOf(t, f)) {
			t.Errorf("%s left a trace", name)
		}
		if err := CheckEntry(data); name != "an unknown command" && !errors.Is(err, ErrTooNew) {
			t.Errorf("%s: %v before the start", name, err)
		}
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "garbage": []byte("{"), "level 1": entryOf(t, Command{Type: TypeAppApply, At: epoch, Data: json.RawMessage(`{"level":9}`)}),
		"level 2": entryOf(t, newer(t)),
	} {
		if err := CheckEntry(data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func entryAsIs(t testing.TB, version int, cmds ...Command) []byte {
	t.Helper()
	b, err := json.Marshal(Entry{version, cmds})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheLevelInUse(t *testing.T) {
	f := New("east")
	c := newer(t)
	c.Level = 0
	f.Apply(&raft.Log{Index: 1, Data: entryOf(t, c)})
	first, _, _ := bytes.Cut(snapshotOf(t, f), []byte("\n"))
	if want := `{"format":"starling-state","version":1,"region":"east"}`; string(first) != want || f.View().Level() != 1 {
		t.Errorf("level %d, %s; programs of level 1 read %s", f.View().Level(), first, want)
	}
	if strings.Contains(string(snapshotOf(t, f)), "level") {
		t.Error("a state of level 1 must look as it always did")
	}
	f.Apply(&raft.Log{Index: 2, Data: entryOf(t, newer(t))})
	if f = restored(t, f); f.View().Level() != 2 {
		t.Errorf("level %d after a command of level 2 and a restore", f.View().Level())
	}
	snap := snapshotOf(t, f)
	if !bytes.HasPrefix(snap, []byte(`{"format":"starling-state","version":2,`)) {
		t.Errorf("programs of level 1 would read %.80s", snap)
	}
	if err := CheckSnapshot(bytes.NewReader(snap)); err != nil {
		t.Error(err)
	}
	newest := bytes.Replace(snap, []byte(`"version":2`), []byte(`"version":3`), 1)
	for what, err := range map[string]error{
		"check": CheckSnapshot(bytes.NewReader(newest)), "restore": New("east").Restore(io.NopCloser(bytes.NewReader(newest))),
	} {
		if !errors.Is(err, ErrTooNew) {
			t.Errorf("%s of a snapshot of level 3: %v", what, err)
		}
	}
	if err := New("east").Restore(io.NopCloser(strings.NewReader(`{"format":"starling-state","version":0,"region":"east"}` + "\n"))); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("version 0: %v", err)
	}
}

func TestWhatProgramsOfLevel1WouldForgetNeedsLevel2(t *testing.T) {
	for name, d := range map[string]starling.DeploySpec{
		"unit":    {SystemdUnit: "hello.service"},
		"restart": {Restart: &starling.Restart{Attempts: 1}},
		"regions": {Strategy: starling.Strategy{Regions: [][]string{{"eu"}}}},
		"freeze":  {Strategy: starling.Strategy{Freeze: []starling.Freeze{{Name: "x"}}}},
		"number":  {Strategy: starling.Strategy{MaxFailed: "3"}},
		"hooks":   {Hooks: starling.Hooks{Region: &starling.OnceHooks{Pre: []string{"x"}}}},
	} {
		app := starling.App{Name: "hello", Deploy: d}
		for _, payload := range []any{AppApply{App: app}, Mirror{starling.Mirror{Apps: []*starling.App{nil, &app}}}} {
			c, err := NewCommand(TypeAppApply, epoch, "", payload)
			if err != nil || c.Needs() != 2 {
				t.Errorf("%s in %T: level %d, %v", name, payload, c.Needs(), err)
			}
		}
	}
	c, err := NewCommand(TypeAppApply, epoch, "", AppApply{App: starling.App{Name: "hello", Deploy: starling.DeploySpec{Run: []string{"x"}}}})
	if err != nil || c.Needs() != 1 {
		t.Errorf("an app as it always was: level %d, %v", c.Needs(), err)
	}
}
