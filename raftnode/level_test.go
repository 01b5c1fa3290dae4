package raftnode

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// speaks makes gossip say what a server speaks; 0: nothing, as programs of level 1 do.
func (g *gossip) speaks(name, level string) {
	g.edit(func(m map[string]Peer) {
		p := m[name]
		p.Tags = maps.Clone(p.Tags)
		delete(p.Tags, tagLevel)
		if level != "" {
			p.Tags[tagLevel] = level
		}
		m[name] = p
	})
}

func TestNewCommandsWaitForTheLastServer(t *testing.T) {
	g := newGossip()
	servers := cluster(t, g, "s1", "s2", "s3")
	l := leader(t, servers...)
	var other *server
	for _, s := range servers {
		if s != l {
			other = s
		}
	}
	old, fresh := command(t, "old"), command(t, "new")
	fresh.Level = 2
	propose := func() []raftfsm.Result {
		t.Helper()
		res, err := l.Propose(t.Context(), old, fresh, old)
		if err != nil || len(res) != 3 || res[0].Err != nil || res[2].Err != nil || res[0].App == nil || res[2].App == nil {
			t.Fatalf("%+v, %v", res, err)
		}
		return res
	}
	eventually(t, "all announce what they speak", func() bool { return propose()[1].Err == nil })

	g.speaks(other.name, "")
	eventually(t, "a server of level 1 is known", func() bool { return propose()[1].Err != nil })
	before := len(l.fsm.all())
	res := propose()
	if err := res[1].Err; !errors.Is(err, starling.ErrConflict) || !errors.Is(err, ErrServerTooOld) || !strings.Contains(err.Error(), "server "+other.name) {
		t.Errorf("refused without naming the server: %v", err)
	}
	if n := len(l.fsm.all()) - before; n != 2 {
		t.Errorf("%d of three commands were committed, want the two of level 1", n)
	}
	if res, err := l.Propose(t.Context(), fresh); err != nil || res[0].Err == nil {
		t.Errorf("alone: %+v, %v", res, err)
	}
	// It may be dead: it comes back to the same log.
	g.set(other.name, PeerFailed)
	if propose()[1].Err == nil {
		t.Error("committed although a dead server cannot apply it")
	}
	g.speaks(other.name, "2")
	eventually(t, "dead, but of level 2", func() bool { return propose()[1].Err == nil })

	unknown := raftfsm.Command{Type: "app.explode", Data: []byte("{}")}
	if res, err := l.Propose(t.Context(), unknown); err != nil || !errors.Is(res[0].Err, starling.ErrConflict) {
		t.Errorf("unknown to the leader itself: %+v, %v", res, err)
	}
	if _, err := other.Propose(t.Context(), unknown); !errors.Is(err, starling.ErrNotLeader) {
		t.Errorf("at a follower: %v", err)
	}
}

func TestAServerThatSpeaksTooLittleIsNotAdded(t *testing.T) {
	g := newGossip()
	conf := testConfig(t, g, "s1", t.TempDir(), 1)
	conf.Level = func() int { return 2 }
	s := open(t, conf)
	leader(t, s)
	late := start(t, g, "s2", t.TempDir(), 0)
	g.speaks("s2", "1")
	eventually(t, "the leader knows", func() bool { return s.levelOf("s2") == 1 })
	if err := s.add(t.Context(), "s3", late.directory.addr, ""); !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), "upgrade it first") {
		t.Errorf("added a server that gossip has never seen: %v", err)
	}
	g.speaks("s2", "2")
	eventually(t, "added once upgraded", func() bool { return len(s.servers()) == 2 })
}

func TestAProgramThatSpeaksTooLittleDoesNotStart(t *testing.T) {
	g := newGossip()
	dir := t.TempDir()
	conf := testConfig(t, g, "s1", dir, 1)
	n, err := Open(conf)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Node: n, name: "s1", dir: dir, fsm: conf.FSM.(*fsm)}
	leader(t, s)
	if _, err := s.Propose(t.Context(), command(t, "x")); err != nil {
		t.Fatal(err)
	}
	// As a later program would: past this one's own check.
	later := []byte(`{"v":1,"commands":[{"type":"app.explode","level":3,"at":"2026-01-02T03:00:00Z","data":{}}]}`)
	if err := n.raft.Apply(later, maxEnqueueWait).Error(); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	again := testConfig(t, g, "s1", dir, 1)
	defer again.Layer.Close()
	if _, err := Open(again); !errors.Is(err, raftfsm.ErrTooNew) || !strings.Contains(err.Error(), dir) {
		t.Errorf("started on a log of level 3: %v", err)
	}
}

func TestAProgramThatSpeaksTooLittleDoesNotStartOnASnapshot(t *testing.T) {
	dir := t.TempDir()
	conf := Config{Name: "s1", DataDir: dir, Logger: quiet}
	conf.withDefaults()
	st, err := openStores(&conf, &hlog{to: quiet})
	if err != nil {
		t.Fatal(err)
	}
	sink, err := st.snaps.Create(raft.SnapshotVersionMax, 7, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write([]byte(`{"format":"starling-state","version":3,"region":"r1"}` + "\n")); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	if err := checkLevel(st); !errors.Is(err, raftfsm.ErrTooNew) {
		t.Errorf("a snapshot of level 3: %v", err)
	}
	if err := st.bolt.Close(); err != nil {
		t.Fatal(err)
	}
}
