package plane

import "time"

// faults begins each kind of fault at its rate, until the quiet end.
func (w *world) faults() {
	for _, f := range []struct {
		every time.Duration
		begin func() (end func())
	}{
		{w.plan.crashEvery, w.crashServer},
		{w.plan.ambushEvery, w.ambush},
		{w.plan.cutEvery, w.cutServer},
		{w.plan.cutEvery * 2, w.cutRegion},
		{w.plan.crashEvery * 4, w.loseRegion},
		{w.plan.loseEvery, w.loseRegion},
		{w.plan.slowEvery, w.slowDisk},
		{w.plan.clockEvery, w.jumpClock},
		{w.plan.machineEvery, w.crashMachine},
		{w.plan.machineEvery * 2, w.crashCache},
		{w.plan.machineEvery * 2, w.halveCell},
	} {
		if f.every > 0 {
			w.recur(f.every, f.begin)
		}
	}
}

// recur begins a fault every now and then and ends each after a while.
func (w *world) recur(every time.Duration, begin func() func()) {
	w.after(w.between(every/4, every*7/4), func() {
		if w.now >= w.plan.active {
			return
		}
		w.recur(every, begin)
		if end := begin(); end != nil {
			w.survey()
			w.at(min(w.now+w.between(w.plan.faultFor/10, w.plan.faultFor*2), w.plan.active), func() {
				end()
				w.survey()
			})
		}
	})
}

func (w *world) anyRegion() *region { return w.regions[w.rng.IntN(len(w.regions))] }

func (r *region) randomServer() *server { return r.servers[r.w.rng.IntN(len(r.servers))] }

// crashServer kills a server, often the leader, for it is there that most is under way.
func (w *world) crashServer() func() {
	r := w.anyRegion()
	s := r.randomServer()
	if l := r.leader(); l != nil && w.chance(50) {
		s = l
	}
	return w.crash(s)
}

func (w *world) crash(s *server) func() {
	if !s.up {
		return nil
	}
	s.crash()
	s.region.version++
	return func() {
		if !s.up {
			w.tell("%s starts again", s.name)
			s.start()
			s.region.version++
		}
	}
}

// trap is a moment in which a server crashes, the worst that there are.
type trap int

const (
	noTrap         trap = iota
	trapUnanswered      // something is on disk, and nobody has been told
	trapVoted           // a vote is given
	trapCommitted       // an entry is committed, and its proposer has not been told
	trapSnapshot        // a snapshot is under way
	trapElected         // its term begins
	traps
)

// ambush lets a server crash in such a moment, and start again soon.
func (w *world) ambush() func() {
	r := w.anyRegion()
	s := r.randomServer()
	if l := r.leader(); l != nil && w.chance(50) {
		s = l
	}
	s.trap = noTrap + 1 + trap(w.rng.IntN(int(traps-1)))
	return func() { s.trap = noTrap }
}

// springs reports whether a server has crashed because its trap's moment is there.
func (s *server) springs(t trap, there bool) bool {
	if s.trap != t || !there || !s.up {
		return false
	}
	s.trap = noTrap
	w := s.w
	end := w.crash(s)
	w.survey()
	w.after(w.between(5*time.Millisecond, 2*time.Second), func() {
		end()
		w.survey()
	})
	return true
}

// loseRegion kills all servers of a region at once.
func (w *world) loseRegion() func() {
	r := w.anyRegion()
	w.tell("region %s is lost", r.name)
	var ends []func()
	for _, s := range r.servers {
		if end := w.crash(s); end != nil {
			ends = append(ends, end)
		}
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// cutServer cuts a server off from everybody, from the others of its region or from some
// of them, in one direction or both.
func (w *world) cutServer() func() {
	r := w.anyRegion()
	s := r.randomServer()
	var others []*node
	all, some := w.chance(40), w.pick(50, 100)
	for _, n := range w.nodes() {
		if n.num != s.num && (all || r.isServer(n) && w.chance(some)) {
			others = append(others, n)
		}
	}
	return w.cut([]*node{&s.node}, others)
}

// cutRegion cuts a region off from the rest of the world, or from one other region.
func (w *world) cutRegion() func() {
	r := w.anyRegion()
	var in, out []*node
	one := w.pick(-2, w.rng.IntN(len(w.regions)))
	for _, n := range w.nodes() {
		if n.region == r.num {
			in = append(in, n)
		} else if one < -1 || n.region == one {
			out = append(out, n)
		}
	}
	return w.cut(in, out)
}

func (r *region) isServer(n *node) bool {
	for _, s := range r.servers {
		if s.num == n.num {
			return true
		}
	}
	return false
}

func (w *world) cut(a, b []*node) func() {
	way := w.rng.IntN(4) // 0: only what a sends, 1: only what it hears, else both
	block := func(by int) {
		for _, x := range a {
			for _, y := range b {
				if way != 1 {
					w.net.block(x, y, by)
				}
				if way != 0 {
					w.net.block(y, x, by)
				}
			}
		}
	}
	what := [...]string{"cannot send", "cannot hear", "is cut off", "is cut off"}[way]
	w.tell("%s with %d others %s, %d beyond", a[0].name, len(a)-1, what, len(b))
	w.stats.Cuts++
	block(1)
	return func() {
		w.tell("%s %s no longer", a[0].name, what)
		block(-1)
	}
}

func (w *world) slowDisk() func() {
	s := w.anyRegion().randomServer()
	by := w.between(20*time.Millisecond, 1500*time.Millisecond)
	w.tell("the disk of %s is slow by %s", s.name, by)
	s.slow += by
	return func() { s.slow -= by }
}

// jumpClock sets the wall clock of a server. A leader's term is not to notice.
func (w *world) jumpClock() func() {
	s := w.anyRegion().randomServer()
	by := w.between(-w.plan.skew, w.plan.skew)
	w.tell("the clock of %s is set %s off", s.name, by)
	s.offset = by
	return nil
}

// crashMachine kills a machine, often one that speaks for its cell.
func (w *world) crashMachine() func() {
	r := w.anyRegion()
	if len(r.machines) == 0 {
		return nil
	}
	m := r.machines[w.rng.IntN(len(r.machines))]
	if o := r.machine(m.seat.view.Speaker()); o != nil && w.chance(50) {
		m = o
	}
	if !m.up {
		return nil
	}
	w.tell("%s crashes", m.name)
	m.crash()
	r.version++
	return func() {
		m.start()
		r.version++
	}
}

// halveCell lets some machines of a region not see the others, though all see the servers:
// cells have two speakers then.
func (w *world) halveCell() func() {
	r := w.anyRegion()
	var a, b []*node
	for _, m := range r.machines {
		if w.chance(50) {
			a = append(a, &m.node)
		} else {
			b = append(b, &m.node)
		}
	}
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	return w.cut(a, b)
}

func (w *world) crashCache() func() {
	r := w.anyRegion()
	c := r.caches[w.rng.IntN(len(r.caches))]
	if !c.up {
		return nil
	}
	w.tell("%s crashes", c.name)
	c.up = false
	r.version++
	return func() {
		c.up = true
		r.version++
	}
}

// survey notes since when each region has had servers that can make a quorum without
// anything changing about them.
func (w *world) survey() {
	for _, r := range w.regions {
		before := r.wellSince
		r.wellSince = -1
		if r.quorumStands() {
			if r.wellSince = w.now; before >= 0 && r.shape() == r.was {
				r.wellSince = before
			}
		}
		r.was = r.shape()
	}
}

// quorumStands reports whether a majority is up, quick, and hears each other.
func (r *region) quorumStands() bool {
	n := len(r.servers)
	for set := range 1 << n {
		members, ok := 0, true
		for i := 0; i < n && ok; i++ {
			if set>>i&1 == 0 {
				continue
			}
			members++
			ok = r.servers[i].up && r.servers[i].slow < 100*time.Millisecond
			for j := 0; j < n && ok; j++ {
				ok = set>>j&1 == 0 || i == j || r.w.net.passes(&r.servers[i].node, &r.servers[j].node)
			}
		}
		if ok && members > n/2 {
			return true
		}
	}
	return false
}

// shape says which servers are up and reach whom.
func (r *region) shape() uint64 {
	var bits uint64
	for i, s := range r.servers {
		if s.up {
			bits |= 1 << i
		}
		if s.slow > 0 {
			bits |= 1 << (8 + i)
		}
		for j, o := range r.servers {
			if r.w.net.passes(&s.node, &o.node) {
				bits |= 1 << (16 + 5*i + j)
			}
		}
	}
	return bits
}
