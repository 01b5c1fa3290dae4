package control

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// simCells are machines in cells that speak for themselves: so many hold the artifact as
// time goes by, and activate some seconds after they are due.
type simCells struct {
	*bench
	term    *term
	cells   []*simCell
	goalAt  map[uint64]time.Time // when each revision was seen
	fetchIn time.Duration
}

type simCell struct {
	name, relay string
	members     []string
	alive       starling.Slots
	due         map[uint64]int // by revision
}

// newSimCells registers machines, 64 in each rack, and elects a leader that they all report to.
func newSimCells(t *testing.T, machines int) *simCells {
	t.Helper()
	s := &simCells{bench: newBench(t, "us", withCells(0), usCache), goalAt: map[uint64]time.Time{}, fetchIn: time.Minute}
	for at := 0; at < machines; {
		var cmds []raftfsm.Command
		for ; at < machines && len(cmds) < raftfsm.MaxEntryCommands; at++ {
			facts := raftfsm.MachineFacts{
				Name: fmt.Sprintf("m%d", at), Zone: string(rune('a' + at/40_000)), Rack: fmt.Sprintf("r%d", at/64), Gossip: fmt.Sprintf("m%d:7473", at),
			}
			cmd, err := raftfsm.NewCommand(raftfsm.TypeMachineRegister, s.clock.Now(), "tester", raftfsm.MachineRegister{MachineFacts: facts, Max: starling.MaxCellMachines})
			if err != nil {
				t.Fatal(err)
			}
			cmds = append(cmds, cmd)
		}
		res, err := s.raft.Propose(t.Context(), cmds...)
		if err != nil || res[0].Err != nil {
			t.Fatal(err, res[0].Err)
		}
	}
	v := s.fsm.View()
	for _, record := range v.Cells() {
		c := &simCell{name: record.Name, due: map[uint64]int{}}
		for m := range v.MachinesOf(record.Name) {
			c.members = append(c.members, m.Name)
			c.alive.Set(m.Slot)
		}
		c.relay = c.members[0]
		s.cells = append(s.cells, c)
	}
	s.term = s.elect()
	s.look(s.term)
	s.report()
	return s
}

// report lets each cell say how it stands.
func (s *simCells) report() {
	s.t.Helper()
	v, now := s.fsm.View(), s.clock.Now()
	for _, c := range s.cells {
		r := rpc.CellReport{Cell: c.name, Relay: node("us", c.relay, starling.RoleMachine), Gossip: c.relay, Alive: c.alive}
		for _, g := range v.Goals() {
			if _, ok := s.goalAt[g.Revision]; !ok {
				s.goalAt[g.Revision] = now
			}
			r.Apps = append(r.Apps, c.on(g, now.Sub(s.goalAt[1]), s.fetchIn, now.Sub(s.goalAt[g.Revision])))
		}
		if _, _, err := s.term.CellReport(v, r, now); err != nil {
			s.t.Fatal(err)
		}
	}
}

// on is a cell's word on a goal that it has had for a while, in this revision for less.
func (c *simCell) on(g *starling.Goal, since, fetchIn, revisedSince time.Duration) rpc.CellApp {
	n := len(c.members)
	a := rpc.CellApp{App: g.App, Generation: g.Generation, Revision: g.Revision, Counts: starling.Counts{Target: n}}
	a.Counts.Staged = min(n, int(int64(n)*int64(since)/int64(fetchIn)))
	a.Bytes = starling.Bytes{Peer: int64(a.Counts.Staged) * 1000}
	a.Progress.Count(0, 1)
	a.Progress.Count(1, 1)
	a.Progress[0], a.Progress[len(a.Progress)-1] = n-a.Counts.Staged, a.Counts.Staged
	if !g.Stage.AtLeast(starling.StageActivate) {
		return a
	}
	due, ok := c.due[g.Revision]
	if !ok {
		for _, m := range c.members {
			if g.Cutoff.Selects(m, g.Deployment) {
				due++
			}
		}
		c.due[g.Revision] = due
	}
	a.Counts.Due = due
	a.Counts.Healthy = min(due, int(int64(due)*int64(revisedSince)/int64(20*time.Second)))
	return a
}

// writes is what a deployment cost the region's Raft.
type writes struct {
	commands int
	entries  uint64
	byType   map[raftfsm.Type]int
}

// deploy takes a deployment through all of its phases, a look each step, and counts.
func (s *simCells) deploy(step time.Duration) writes {
	s.t.Helper()
	s.app("web", func(a *starling.App) {
		a.Deploy.Strategy.Waves = []string{"1%", "10%", "100%"}
		a.Deploy.Strategy.Bake = starling.Duration(10 * time.Second)
	})
	art := s.artifact("v1")
	before, types := s.raft.index, maps.Clone(s.raft.writes)
	s.submit("d1", "web", art)
	s.look(s.term)
	s.place(s.term, art)
	if !s.run(s.term, 30*time.Minute, step, func() bool { s.report(); return s.deployment("d1").Phase.Terminal() }) {
		s.t.Fatalf("%+v", s.deployment("d1"))
	}
	d, machines := s.deployment("d1"), s.fsm.View().CountMachines()
	if d.Phase != starling.PhaseSucceeded || d.Machines.Healthy != machines {
		s.t.Errorf("%d machines: %s, %+v", machines, d.Phase, d.Machines)
	}
	w := writes{entries: s.raft.index - before, byType: maps.Clone(s.raft.writes)}
	for typ, n := range w.byType {
		if n -= types[typ]; n == 0 {
			delete(w.byType, typ)
		} else {
			w.byType[typ] = n
			w.commands += n
		}
	}
	s.t.Logf("%d machines in %d cells: %d commands in %d entries: %v", machines, len(s.cells), w.commands, w.entries, w.byType)
	if w.commands >= 50 || w.entries >= 50 {
		s.t.Errorf("%d machines cost %d commands in %d entries", machines, w.commands, w.entries)
	}
	return w
}

// A deployment costs as many Raft writes for a hundred thousand machines as for a hundred.
func TestRaftWritesDoNotDependOnTheFleet(t *testing.T) {
	t.Parallel()
	var few writes
	for i, machines := range []int{100, 10_000, 100_000} {
		w := newSimCells(t, machines).deploy(time.Second)
		if i == 0 {
			few = w
		} else if w.entries != few.entries || !maps.Equal(w.byType, few.byType) {
			t.Errorf("%d machines cost %v, 100 cost %v", machines, w, few)
		}
	}
	slow := newSimCells(t, 1500)
	slow.fetchIn = 25 * time.Minute
	slow.deploy(5 * time.Second)
}
