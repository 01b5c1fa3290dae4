package bench

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/rpc"
)

// What the pools of a simulated fleet take, as Serf does in a cell of a real one.
const (
	gossipDetects  = 14 * time.Second       // from a death until the pool knows: docs/operators.md, Gossip tuning
	gossipSettles  = 500 * time.Millisecond // between two looks at a pool that changes
	hopWithin      = 2 * time.Millisecond   // a call of another member of the cell
	fleetQueue     = 4096                   // things that wait for a cell's goroutine
	stagesWithin   = time.Second            // a machine of the fleet after it hears of a goal
	activatesAfter = 500 * time.Millisecond // and then
)

// robot is one machine of a simulated fleet: the brain of a real one, without disk, swarm and
// processes. The goroutine of its cell owns it.
type robot struct {
	node  starling.Node
	brain *cell.Brain
	in    *fleetCell
	feed  *rpc.Feed // that its brain has
	tick  time.Time // that is in the cell's timers; zero: none
	done  map[string]stageDone
	told  *watch     // the last that it counted in
	wire  *robotWire // its own connections to the servers; nil: none yet
}

// stageDone is how far a robot is with an app.
type stageDone struct {
	generation starling.Generation
	state      starling.MachineState
}

// fleetCell is one cell of a fleet: its pool and its members. One goroutine, run, owns it.
type fleetCell struct {
	f      *fleet
	name   string
	in     chan func()
	timers timers
	robots map[string]*robot
	nodes  []starling.Node // sorted by name; the present view's are others
	words  map[string]cell.Word
	view   *cell.View
	stale  bool
	lookAt time.Time
	heard  uint64
	relays []string
	rng    *rand.Rand

	aimed     *rpc.Feed // whose goals' selectors these are
	selectors []starling.Selector
}

// timer is something to do at a time.
type timer struct {
	at time.Time
	do func()
}

// timers is a binary heap: container/heap would allocate for each timer, of which a goal's change
// has a million.
type timers []timer

func (t *timers) push(x timer) {
	h := append(*t, x)
	*t = h
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h[i].at.Before(h[up].at) {
			return
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (t *timers) pop() timer {
	h := *t
	first, last := h[0], len(h)-1
	h[0], h[last] = h[last], timer{}
	h = h[:last]
	*t = h
	for i := 0; ; {
		least := 2*i + 1
		if least >= last {
			return first
		}
		if right := least + 1; right < last && h[right].at.Before(h[least].at) {
			least = right
		}
		if !h[least].at.Before(h[i].at) {
			return first
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

func newFleetCell(f *fleet, name string) *fleetCell {
	c := &fleetCell{f: f, name: name, in: make(chan func(), fleetQueue), robots: map[string]*robot{}, words: map[string]cell.Word{}, rng: rand.New(rand.NewPCG(rand.Uint64(), 0))}
	c.view = cell.NewView(name, nil, nil, nil)
	return c
}

// post has the cell's goroutine do something.
func (c *fleetCell) post(ctx context.Context, do func()) {
	select {
	case c.in <- do:
	case <-ctx.Done():
	}
}

// run is the cell's goroutine, until ctx ends.
func (c *fleetCell) run(ctx context.Context) {
	wake := time.NewTimer(time.Hour)
	defer wake.Stop()
	for ctx.Err() == nil {
		now := time.Now()
		for len(c.timers) > 0 && !now.Before(c.timers[0].at) {
			c.f.behind(now.Sub(c.timers[0].at))
			c.timers.pop().do()
		}
		if c.stale && !now.Before(c.lookAt) {
			c.look(now)
		}
		next := time.Hour
		if len(c.timers) > 0 {
			next = time.Until(c.timers[0].at)
		}
		if c.stale {
			next = min(next, time.Until(c.lookAt))
		}
		wake.Reset(max(0, next))
		select {
		case do := <-c.in:
			do()
			for range len(c.in) {
				(<-c.in)()
			}
		case <-wake.C:
		case <-ctx.Done():
		}
	}
}

func (c *fleetCell) after(d time.Duration, do func()) {
	c.timers.push(timer{time.Now().Add(d), do})
}

// look shows all members what the pool has become.
func (c *fleetCell) look(now time.Time) {
	c.stale, c.lookAt = false, now.Add(gossipSettles)
	words := make(map[string]cell.Word, len(c.words))
	for name, w := range c.words {
		words[name] = w
	}
	before := c.relays
	c.view = cell.NewView(c.name, slices.Clone(c.nodes), words, nil)
	c.relays = c.view.Relays()
	for _, r := range c.robots {
		c.step(r, cell.Viewed{View: c.view})
	}
	for _, name := range before {
		if r := c.robots[name]; r != nil {
			c.unwire(r)
		}
	}
}

// unwire gives up the connections of a robot that is no relay.
func (c *fleetCell) unwire(r *robot) {
	if r.wire == nil || slices.Contains(c.relays, r.node.Name) {
		return
	}
	wire := r.wire
	r.wire = nil
	c.f.work.Go(func() { wire.retire(c.f.ctx) })
}

// enter has a robot join the cell.
func (c *fleetCell) enter(r *robot, t *rpc.Ticket) {
	r.in = c
	c.robots[r.node.Name] = r
	c.setNode(r.node)
	c.stale = true
	place := cell.Place{Cell: t.Cell, Version: t.Version, KeyEpoch: t.KeyEpoch, Gossip: r.node.Addr, Servers: t.Servers}
	if len(place.Servers) == 0 { // the region does not know its servers yet; machines have some by configuration
		place.Servers = c.f.addrs
	}
	c.step(r, cell.Placed{Place: place, View: c.view})
}

func (c *fleetCell) setNode(n starling.Node) {
	i, ok := slices.BinarySearchFunc(c.nodes, n.Name, func(n starling.Node, name string) int { return cmp.Compare(n.Name, name) })
	if ok {
		c.nodes[i] = n
	} else {
		c.nodes = slices.Insert(c.nodes, i, n)
	}
	c.stale = true
}

// stop ends a robot without a word. The pool finds out.
func (c *fleetCell) stop(name string) *robot {
	r := c.robots[name]
	if r == nil {
		return nil
	}
	delete(c.robots, name)
	if r.wire != nil {
		wire := r.wire
		c.f.work.Go(wire.close)
	}
	c.after(gossipDetects, func() {
		if c.robots[name] == nil {
			n := r.node
			n.Alive = false
			c.setNode(n)
			delete(c.words, name)
		}
	})
	return r
}

// step tells a robot's brain, and does what it wants.
func (c *fleetCell) step(r *robot, ev cell.Event) {
	if c.robots[r.node.Name] != r { // it has stopped, or moved
		c.f.forward(c, r, ev)
		return
	}
	for _, e := range r.brain.Step(time.Now(), ev) {
		c.perform(r, e)
	}
	c.schedule(r)
}

func (c *fleetCell) schedule(r *robot) {
	next := r.brain.Next()
	if next.IsZero() || !r.tick.IsZero() && !next.Before(r.tick) {
		return
	}
	r.tick = next
	c.timers.push(timer{next, func() {
		if r.tick.Equal(next) {
			r.tick = time.Time{}
			c.step(r, cell.Tick{})
		}
	}})
}

func (c *fleetCell) perform(r *robot, e cell.Effect) {
	switch e := e.(type) {
	case cell.Accepted:
		r.feed = e.Feed
		c.accepted(r, e)
	case cell.Announce:
		c.announce(r, e.Index)
	case cell.Say:
		c.after(gossipSaid, func() { c.words[r.node.Name] = e.Word; c.stale = true })
	case cell.Moved:
		c.f.work.Go(func() { c.f.move(c, r) })
	case cell.PollServer:
		if !e.Wait {
			c.f.direct.Add(1)
		}
		wire := c.wire(r)
		c.f.work.Go(func() {
			ev := wire.poll(c.f.ctx, e)
			c.post(c.f.ctx, func() {
				c.step(r, ev)
				c.unwire(r)
			})
		})
	case cell.SendCell:
		wire := c.wire(r)
		c.f.work.Go(func() {
			ev := wire.report(c.f.ctx, e)
			c.post(c.f.ctx, func() { c.step(r, ev) })
		})
	case cell.AskPeer:
		c.after(rand.N(hopWithin), func() { c.step(r, c.ask(r, e)) })
	case cell.SendReports:
		c.after(rand.N(hopWithin), func() { c.step(r, c.take(r, e)) })
	case cell.RotateKey:
		c.after(time.Second, func() { c.step(r, cell.Rotated{Epoch: e.Epoch}) })
	case cell.Join: // all of a pool see each other
	}
}

func (c *fleetCell) wire(r *robot) *robotWire {
	if r.wire == nil {
		r.wire = newRobotWire(c.f, r.node)
	}
	return r.wire
}

var errRobotGone = fmt.Errorf("the machine does not answer: %w", starling.ErrUnavailable)

// ask has another member answer.
func (c *fleetCell) ask(r *robot, e cell.AskPeer) cell.Event {
	peer := c.robots[e.Peer.Name]
	c.f.asks.Add(1)
	if peer == nil {
		return cell.PeerSaid{Err: errRobotGone}
	}
	said := cell.PeerSaid{Response: peer.brain.Answer(r.node.Name, e.Have)}
	if len(said.Response.Signed) > 0 {
		said.Feed = peer.feed // a relay has verified it
	}
	return said
}

// take has the speaker take a member's reports.
func (c *fleetCell) take(r *robot, e cell.SendReports) cell.Event {
	c.f.posts.Add(1)
	speaker := c.robots[e.To.Name]
	if speaker == nil {
		return cell.ReportsTaken{Sent: e, Err: errRobotGone}
	}
	term, err := speaker.brain.Take(time.Now(), r.node.Name, e.Reports)
	c.step(speaker, cell.Tick{}) // it may be time to speak
	return cell.ReportsTaken{Sent: e, Term: term, Err: err}
}

// aims returns the selectors of a feed's goals, which the cell's members ask for one after the other.
func (c *fleetCell) aims(feed *rpc.Feed) []starling.Selector {
	if c.aimed == feed {
		return c.selectors
	}
	c.aimed, c.selectors = feed, nil
	for _, g := range feed.Goals {
		sel, err := starling.ParseSelector(g.Deploy.Targets)
		c.f.note(err)
		c.selectors = append(c.selectors, sel)
	}
	return c.selectors
}

// accepted has a robot do what the goals say, as a machine does that needs no time to fetch.
func (c *fleetCell) accepted(r *robot, e cell.Accepted) {
	for i, g := range e.Feed.Goals {
		if !c.aims(e.Feed)[i].Matches(&r.node) {
			continue
		}
		c.f.told(r, g)
		at := r.done[g.App]
		if at.generation != g.Generation {
			at = stageDone{generation: g.Generation}
			c.reach(r, g, starling.MachineStaged, rand.N(stagesWithin))
		}
		if at.state != starling.MachineHealthy && g.Stage.AtLeast(starling.StageActivate) && g.Cutoff.Selects(r.node.Name, g.Deployment) {
			at.state = starling.MachineHealthy
			c.reach(r, g, starling.MachineHealthy, stagesWithin+rand.N(activatesAfter))
		}
		if r.done == nil {
			r.done = map[string]stageDone{}
		}
		r.done[g.App] = at
	}
}

func (c *fleetCell) reach(r *robot, g *starling.Goal, state starling.MachineState, d time.Duration) {
	report := starling.MachineReport{
		Node: r.node.Name, App: g.App, Generation: g.Generation, State: state, ChunksDone: 1, ChunksTotal: 1, FetchMS: max(1, d.Milliseconds()),
	}
	c.after(d, func() {
		if r.done[g.App].generation == g.Generation { // else it is at work on a newer one
			c.step(r, cell.Reported{Reports: []starling.MachineReport{report}})
		}
	})
}
