package plane

import (
	"time"

	"github.com/starlingdeploy/starling"
)

// machine runs what its region's goals say. Its standings are on its disk.
type machine struct {
	node
	w      *world
	region *region
	life   uint64
	server *server // that it asks for goals
	apps   map[string]*standing
	names  []string                       // of apps, in order of their first goal
	ran    map[string]starling.Generation // for the ledger; the machine does not read it
	old    bool                           // of the version before, which knows no cells
	seat   seat
}

// standing is where an app stands on a machine.
type standing struct {
	goal    *starling.Goal
	state   starling.MachineState
	working bool // towards the goal; lost in a crash
}

func (m *machine) later(d time.Duration, f func()) {
	life := m.life
	m.w.after(d, func() {
		if m.up && m.life == life {
			f()
		}
	})
}

// poll hears the goals from a server of the region, another one when that is gone. It may
// lag behind the last one.
func (m *machine) poll() {
	pause := m.w.between(1500*time.Millisecond, 4*time.Second)
	if !m.w.busy() {
		pause = m.w.between(5*time.Second, 10*time.Second)
	}
	m.later(pause, m.poll)
	life := m.life
	if m.server == nil || m.w.chance(25) {
		m.server = m.region.anyServer()
	}
	m.w.ask(&m.node, m.server, hopWithin, func(s *server, a reply) { a(s.feedFor(m), nil) }, func(got any, err error) {
		f, _ := got.(feed)
		if !m.up || m.life != life {
			return
		}
		if err != nil {
			m.server = nil
			return
		}
		for _, g := range f.goals {
			m.accept(g)
		}
		m.sit(f)
	})
}

// accept takes in a goal if it is newer than what is known.
func (m *machine) accept(g *starling.Goal) {
	st := m.apps[g.App]
	if st == nil {
		st = &standing{}
		m.apps[g.App] = st
		m.names = append(m.names, g.App)
	}
	if !g.Supersedes(st.goal) && (m.w.conf.Break != AnyGoal || same(g, st.goal)) {
		return
	}
	if st.goal == nil || st.goal.Generation != g.Generation {
		st.state, st.working = starling.MachineFetching, false
	}
	st.goal = g
	m.steer(st)
}

// steer does the next thing that brings the machine nearer to a goal.
func (m *machine) steer(st *standing) {
	g := st.goal
	due := g.Stage.AtLeast(starling.StageActivate) && g.Cutoff.Selects(plain(&m.node), g.Deployment)
	switch {
	case st.working:
	case st.state == starling.MachineFetching:
		m.work(st, 8*time.Second, starling.MachineStaged)
	case st.state == starling.MachineStaged && due:
		m.work(st, 2*time.Second, starling.MachineHealthy)
	}
}

// work reaches a state after a while, or fails, unless another goal comes.
func (m *machine) work(st *standing, most time.Duration, to starling.MachineState) {
	gen := st.goal.Generation
	st.working = true
	m.later(m.w.between(100*time.Millisecond, most), func() {
		if st.goal.Generation != gen {
			return
		}
		st.working = false
		st.state = to
		if m.w.rng.IntN(1000) < m.w.plan.machinesFail && !st.goal.Artifact.IsZero() {
			st.state = starling.MachineFailed
		}
		if st.state == starling.MachineHealthy {
			m.w.ran(m, st.goal)
		}
		m.report()
		m.steer(st)
	})
}

// report tells the speaker of the cell, or the leader if there are no cells; a report may be
// held up and come after a later one.
func (m *machine) report() {
	var all []starling.MachineReport
	for _, name := range m.names {
		st := m.apps[name]
		all = append(all, starling.MachineReport{
			Node: plain(&m.node), App: name, Generation: st.goal.Generation, State: st.state, Reason: "chance",
		})
	}
	if len(all) == 0 {
		return
	}
	m.w.after(m.w.late(), func() {
		if m.old {
			m.region.atLeader(&m.node, hopWithin, func(s *server, a reply) { s.machineReports(all, a) }, func(any, error) {})
			return
		}
		m.reportToSpeaker(all)
	})
}

// reports repeats the last word now and then.
func (m *machine) reports() {
	if m.w.busy() {
		m.report()
	}
	m.later(m.w.between(3*time.Second, 8*time.Second), m.reports)
}

func (m *machine) start() {
	m.up = true
	m.life++
	for _, name := range m.names {
		m.apps[name].working = false
	}
	m.poll()
	m.reports()
	if !m.old {
		m.enlist()
		m.gossip()
	}
	for _, name := range m.names {
		m.steer(m.apps[name])
	}
}

func (m *machine) crash() {
	m.up, m.server = false, nil
	m.seat = seat{}
	m.life++
}
