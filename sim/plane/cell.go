package plane

import (
	"cmp"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// feed is what a server tells a machine, as of its own state, which may lag behind.
type feed struct {
	goals    []*starling.Goal
	cell     *starling.Cell // nil: the server knows no such machine
	slot     int
	draining []string
	roster   rpc.Roster
}

// seat is a machine's place in its cell, and what it knows of that.
type seat struct {
	cell     string // empty: it is not registered yet
	version  uint64
	roster   rpc.Roster
	view     cell.View
	draining []string
	tally    *cell.Tally // of one that speaks
	told     string      // the speaker that has been told everything
}

func (s *server) feedFor(m *machine) feed {
	v := s.fsm.View()
	f := feed{goals: starling.GoalsIn(v.Goals(), v.Region())}
	record, ok := v.Machine(plain(&m.node))
	if !ok {
		return f
	}
	f.slot = record.Slot
	if f.cell, ok = v.Cell(record.Cell); !ok {
		return f
	}
	for o := range v.MachinesOf(record.Cell) {
		for len(f.roster) <= o.Slot {
			f.roster = append(f.roster, "")
		}
		f.roster[o.Slot] = o.Name
	}
	for _, o := range v.MachinesIn(starling.StandingDraining) {
		f.draining = append(f.draining, o.Name)
	}
	return f
}

// enlist registers the machine, as often as it takes.
func (m *machine) enlist() {
	facts := raftfsm.MachineFacts{Name: plain(&m.node), Zone: "a", Tags: map[string]string{"role": "web"}, Gossip: addr(&m.node)}
	p := raftfsm.MachineRegister{MachineFacts: facts, Max: m.w.plan.cellMax}
	life := m.life
	m.region.atLeader(&m.node, hopWithin, func(s *server, a reply) { s.register(p, a) }, func(_ any, err error) {
		if err != nil && m.up && m.life == life {
			m.later(m.w.between(time.Second, 4*time.Second), m.enlist)
		}
	})
}

func (s *server) register(p raftfsm.MachineRegister, answer reply) {
	if m, same := s.fsm.View().Registered(&p); same {
		answer(m, nil)
		return
	}
	s.commit("machine:"+p.Name, raftfsm.TypeMachineRegister, p, answer)
}

// sit takes a place in the cell that a server names, unless what it says is older than what
// is known.
func (m *machine) sit(f feed) {
	if m.old || f.cell == nil || f.cell.Version < m.seat.version {
		return
	}
	if m.seat.cell != f.cell.Name {
		m.w.tell("%s is of cell %s", m.name, f.cell.Name)
		m.seat = seat{cell: f.cell.Name}
	}
	m.seat.version, m.seat.roster, m.seat.draining = f.cell.Version, f.roster, f.draining
}

// gossip looks at who of the cell is alive: those that can be heard and hear. The machine
// notices a change a moment late, and may hold itself for the speaker meanwhile.
func (m *machine) gossip() {
	pause := m.w.between(500*time.Millisecond, 2*time.Second)
	if !m.w.busy() {
		pause = m.w.between(4*time.Second, 8*time.Second)
	}
	m.later(pause, m.gossip)
	if m.seat.cell == "" {
		return
	}
	var nodes []starling.Node
	for _, o := range m.region.machines {
		if o.seat.cell != m.seat.cell && o != m {
			continue
		}
		sees := o == m || o.up && m.w.net.passes(&m.node, &o.node) && m.w.net.passes(&o.node, &m.node)
		nodes = append(nodes, starling.Node{
			Name: plain(&o.node), Region: m.region.name, Zone: "a", Roles: []starling.Role{starling.RoleMachine}, Alive: sees,
			Addr: addr(&o.node), Tags: map[string]string{"role": "web"},
		})
	}
	slices.SortFunc(nodes, func(a, b starling.Node) int { return cmp.Compare(a.Name, b.Name) })
	m.seat.view = *cell.NewView(m.seat.cell, nodes, nil, nil)
	speaker := m.seat.view.Speaker()
	if speaker != plain(&m.node) {
		m.seat.tally = nil
	} else {
		m.speak(nodes)
	}
	if speaker != m.seat.told {
		m.seat.told = speaker
		m.report()
	}
}

// speak tells the leader how the cell stands; a report may come late.
func (m *machine) speak(nodes []starling.Node) {
	t := m.seat.tally
	if t == nil {
		t = cell.NewTally(m.region.name)
		m.seat.tally, m.seat.told = t, ""
		m.w.stats.Speakers++
	}
	now := epoch.Add(m.w.now)
	r := rpc.CellReport{Cell: m.seat.cell, Version: m.seat.version, Relay: starling.Node{Name: plain(&m.node), Region: m.region.name, Addr: addr(&m.node)}, Gossip: addr(&m.node)}
	var alive []starling.Node
	for _, n := range nodes {
		if slot := slices.Index(m.seat.roster, n.Name); n.Alive && slot >= 0 {
			if m.w.conf.Break != BlindSpeaker || n.Name == r.Relay.Name {
				r.Alive.Set(slot)
			}
			alive = append(alive, n)
		}
	}
	t.SetMembers(alive)
	t.SetDraining(m.seat.draining)
	for _, name := range m.names {
		app, _ := t.Count(m.apps[name].goal, now)
		r.Apps = append(r.Apps, app)
	}
	m.w.after(m.w.late(), func() {
		m.region.atLeader(&m.node, hopWithin, func(s *server, a reply) { s.cellReport(r, a) }, func(any, error) {})
	})
}

// reportToSpeaker hands reports to who speaks for the cell as this machine sees it, who may
// not know of that yet.
func (m *machine) reportToSpeaker(all []starling.MachineReport) {
	to := m.region.machine(m.seat.view.Speaker())
	if to == nil {
		return
	}
	m.w.send(&m.node, &to.node, true, func() {
		if !to.up || to.seat.tally == nil || to.seat.cell != m.seat.cell {
			m.seat.told = "" // in the product the answer says so
			return
		}
		for _, r := range all {
			if _, err := to.seat.tally.Record(r, epoch.Add(m.w.now)); err != nil {
				m.seat.told = ""
			}
		}
	})
}

// machine finds one by its name in the region.
func (r *region) machine(name string) *machine {
	for _, m := range r.machines {
		if plain(&m.node) == name {
			return m
		}
	}
	return nil
}

// counted holds that no machine is counted twice: a deployment has no more targets than
// there are machines, whatever speakers say.
func (w *world) counted(d *starling.Deployment) {
	total := 0
	for _, r := range w.regions {
		// A takeover leaves the counts of a lost region behind.
		if w.plan.moves() || slices.ContainsFunc(d.Regions, func(p starling.Placing) bool { return p.Name == r.name }) {
			total += len(r.machines)
		}
	}
	if n := d.Machines.Target + d.Machines.Absent; n > total {
		w.fail("%s has %d targets and %d absent ones, of %d machines", d.ID, d.Machines.Target, d.Machines.Absent, total)
	}
}
