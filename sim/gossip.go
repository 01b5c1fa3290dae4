package sim

import "github.com/starlingdeploy/starling/swarm"

// cell is the machines from begin to before end: a pool of gossip and a swarm.
type cell struct {
	begin, end int32
	members    []swarm.Member // as gossip has them
	gossips    bool           // a gossip event is under way
}

// known lists the machines of a cell that gossip knows to live.
func (w *world) known(c *cell) []swarm.Member {
	out := make([]swarm.Member, 0, c.end-c.begin)
	for i := c.begin; i < c.end; i++ {
		if w.machines[i].known {
			out = append(out, w.all[i])
		}
	}
	return out
}

// changed has gossip tell of a machine's death or return after a while.
func (w *world) changed(m *machine) {
	m.changedAt = w.clock.now
	if c := &w.cells[m.cell]; !c.gossips {
		c.gossips = true
		w.clock.after(w.cfg.MembersAfter, event{kind: gossip, a: m.cell})
	}
}

// spread tells a cell's machines of the deaths and returns that are old enough. Those
// that are not follow together, at a quarter of the delay later at the earliest.
func (w *world) spread(number int32) {
	c := &w.cells[number]
	c.gossips = false
	for i := c.begin; i < c.end; i++ {
		m := &w.machines[i]
		if live := !w.ports[i].dead; live != m.known {
			if w.clock.now-m.changedAt >= w.cfg.MembersAfter {
				m.known = live
			} else if !c.gossips {
				c.gossips = true
				next := max(m.changedAt+w.cfg.MembersAfter, w.clock.now+w.cfg.MembersAfter/4)
				w.clock.at(next, event{kind: gossip, a: number})
			}
		}
	}
	c.members = w.known(c)
	for i := c.begin; i < c.end; i++ {
		if m := &w.machines[i]; m.peer != nil {
			for j := range w.jobs {
				// Of what it has not begun it takes no notice.
				m.step(swarm.Members{Artifact: w.jobs[j].artifact, Members: c.members})
			}
		}
	}
}
