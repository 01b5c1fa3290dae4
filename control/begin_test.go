package control

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// A new region puts this program's level in use before there is an app: refused, for a server has
// not yet told that it speaks it, the leader tries again.
func TestANewRegionBeginsAtThisLevel(t *testing.T) {
	now := time.Now()
	fsm := raftfsm.New("r1")
	r := NewReign(ReignConfig{Region: "r1", Replicas: 1, Term: "s1/1"}, now)
	r.SetMembers([]starling.Node{{Name: "s1", Region: "r1", Addr: "10.0.0.1:7471", Alive: true, Roles: []starling.Role{starling.RoleServer}}})
	begins := func() (c raftfsm.Command, ok bool) {
		t.Helper()
		cmds, err := r.Commands(r.Decide(fsm.View(), now), now, "test")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cmds {
			if c.Type == raftfsm.TypeRegionUpsert && c.Level == raftfsm.Level {
				return c, true
			}
		}
		return c, false
	}
	c, ok := begins()
	if !ok {
		t.Fatal("a new region does not begin")
	}
	r.Refused(c, now)
	if _, ok := begins(); ok {
		t.Error("what was just refused is tried at once")
	}
	now = now.Add(refusedRetryAfter)
	if c, ok = begins(); !ok {
		t.Fatal("what was refused is not tried again")
	}
	applyCommand(t, fsm, c)
	if got := fsm.View().Level(); got != raftfsm.Level {
		t.Errorf("level %d is in use", got)
	}
	if _, ok := begins(); ok {
		t.Error("a region begins twice")
	}
}

// A region with apps is of before: what raises its level is an operator's doing.
func TestARegionOfBeforeDoesNotBegin(t *testing.T) {
	now := time.Now()
	fsm := raftfsm.New("r1")
	r := NewReign(ReignConfig{Region: "r1", Replicas: 1, Term: "s1/1"}, now)
	app := starling.App{Name: "a"}
	app.SetDefaults()
	c, err := raftfsm.NewCommand(raftfsm.TypeAppApply, now, "test", raftfsm.AppApply{App: app})
	if err != nil {
		t.Fatal(err)
	}
	applyCommand(t, fsm, c)
	if d, ok := r.begin(fsm.View(), now); ok {
		t.Errorf("it decides %+v", d)
	}
}

func applyCommand(t *testing.T, fsm *raftfsm.FSM, c raftfsm.Command) {
	t.Helper()
	b, err := raftfsm.Encode([]raftfsm.Command{c})
	if err != nil {
		t.Fatal(err)
	}
	index := fsm.View().Index() + 1
	if err := fsm.Apply(&raft.Log{Index: index, Data: b}).([]raftfsm.Result)[0].Err; err != nil {
		t.Fatal(err)
	}
}
