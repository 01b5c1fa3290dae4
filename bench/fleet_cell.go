package bench

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/rpc"
)

// What the pools of a simulated fleet take, as Serf does in a cell of a real one.
const (
	gossipRound    = 200 * time.Millisecond // each member that knows a thing tells gossipFanout others
	gossipFanout   = 3
	gossipDetects  = 4 * time.Second        // from a death until the pool knows
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
}

// timer is something to do at a time.
type timer struct {
	at time.Time
	do func()
}

type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = timer{}
	*t = old[:len(old)-1]
	return last
}

func newFleetCell(f *fleet, name string) *fleetCell {
	c := &fleetCell{f: f, name: name, in: make(chan func(), fleetQueue), robots: map[string]*robot{}, words: map[string]cell.Word{}}
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
			heap.Pop(&c.timers).(timer).do()
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
	heap.Push(&c.timers, timer{time.Now().Add(d), do})
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
	heap.Push(&c.timers, timer{next, func() {
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
		c.announce(e.Index)
	case cell.Say:
		c.after(2*gossipRound, func() { c.words[r.node.Name] = e.Word; c.stale = true })
	case cell.Moved:
		c.f.work.Go(func() { c.f.move(c, r) })
	case cell.PollServer:
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

// announce spreads an index as gossip does: in rounds, each of which those who know it begin.
func (c *fleetCell) announce(index uint64) {
	if index <= c.heard {
		return
	}
	c.heard = index
	names := make([]string, 0, len(c.robots))
	for name := range c.robots {
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	know, round := 1, time.Duration(0)
	for len(names) > 0 {
		n := min(len(names), know*gossipFanout)
		told := names[:n]
		names, know = names[n:], know+n
		c.after(round+rand.N(gossipRound), func() {
			for _, name := range told {
				if r := c.robots[name]; r != nil {
					c.step(r, cell.Heard{Index: index})
				}
			}
		})
		round += gossipRound
	}
}

// accepted has a robot do what the goals say, as a machine does that needs no time to fetch.
func (c *fleetCell) accepted(r *robot, e cell.Accepted) {
	for _, g := range e.Feed.Goals {
		sel, err := starling.ParseSelector(g.Deploy.Targets)
		if err != nil || !sel.Matches(&r.node) {
			continue
		}
		c.f.told(g)
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
