package cell

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Times of the world's gossip.
const (
	gossipAfter = 400 * time.Millisecond // until an announcement or a tag is everywhere
	foundDead   = 3 * time.Second
)

// world is a region in memory: a leader with three servers, pools of cells, and members,
// on virtual time.
type world struct {
	t  *testing.T
	mu sync.Mutex

	pools   map[string]*pool
	members map[string]*machine
	cutOff  map[string]int  // members of another side of a broken network; 0: the main one
	blocked map[string]bool // members that reach no server

	feed    *rpc.Feed
	signed  json.RawMessage
	down    map[string]bool // servers
	changed chan struct{}
	rosters map[string]*rpc.CellNews
	reports map[string]map[string]*kept // by cell and relay
	count   struct{ polls, asks, reports, cells, wholes int }
	asked   map[string]int // feed requests by peer
}

type kept struct {
	r  rpc.CellReport
	at time.Time
}

type machine struct {
	*Member
	w      *world
	node   starling.Node
	handle *handle
	stop   context.CancelFunc
	done   chan struct{}
	moved  int
	forge  json.RawMessage // what it tells instead of its feed
}

var servers = []string{"s1:7471", "s2:7471", "s3:7471"}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, pools: map[string]*pool{}, members: map[string]*machine{}, cutOff: map[string]int{}, down: map[string]bool{}, blocked: map[string]bool{},
		changed: make(chan struct{}), rosters: map[string]*rpc.CellNews{}, reports: map[string]map[string]*kept{}, asked: map[string]int{},
	}
	w.tell(10, "s1/1")
	return w
}

// close ends all members.
func (w *world) close() {
	for _, m := range w.members {
		m.stop()
	}
	for _, m := range w.members {
		<-m.done
	}
}

// tell changes the goals.
func (w *world) tell(index uint64, reign string, goals ...*starling.Goal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.feed = &rpc.Feed{Index: index, Region: "us", Reign: reign, At: time.Now(), Goals: goals}
	for i, addr := range servers {
		w.feed.Servers = append(w.feed.Servers, starling.Node{Name: fmt.Sprintf("s%d", i+1), Addr: addr, Alive: !w.down[addr]})
	}
	w.signed = signTest(w.feed, "server")
	close(w.changed)
	w.changed = make(chan struct{})
}

func signTest(f *rpc.Feed, by string) json.RawMessage {
	payload, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	signed, err := json.Marshal(rpc.SignedFeed{Payload: payload, Signature: []byte(by)})
	if err != nil {
		panic(err)
	}
	return signed
}

func verifyTest(signed json.RawMessage) (*rpc.Feed, error) {
	var s rpc.SignedFeed
	if err := json.Unmarshal(signed, &s); err != nil {
		return nil, err
	}
	if string(s.Signature) != "server" {
		return nil, fmt.Errorf("signed by %s: %w", s.Signature, starling.ErrForbidden)
	}
	var f rpc.Feed
	return &f, json.Unmarshal(s.Payload, &f)
}

// add starts n machines in a cell.
func (w *world) add(cell string, n int) []*machine {
	var out []*machine
	w.mu.Lock()
	first := len(w.members)
	w.mu.Unlock()
	for i := range n {
		node := machines(first + i + 1)[first+i]
		node.Zone = "a"
		out = append(out, w.start(node, cell, nil))
	}
	return out
}

// start runs one machine.
func (w *world) start(node starling.Node, cell string, last json.RawMessage) *machine {
	m := &machine{w: w, node: node, done: make(chan struct{})}
	ctx, stop := context.WithCancel(w.t.Context())
	m.stop = stop
	side := caller{w, node.Name}
	m.Member = New(Config{
		Node: node, Servers: server{side}, Peers: side, Verify: verifyTest, Last: last,
		Moved: func() {
			w.mu.Lock()
			m.moved++
			w.mu.Unlock()
		},
	})
	w.mu.Lock()
	w.members[node.Name] = m
	w.mu.Unlock()
	m.join(cell)
	go func() {
		defer close(m.done)
		if err := m.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	return m
}

// join has a machine enter a cell, as if it had registered.
func (m *machine) join(cell string) {
	w := m.w
	w.mu.Lock()
	if m.handle != nil {
		m.handle.pool.remove(m.node.Name)
	}
	p := w.pools[cell]
	if p == nil {
		p = &pool{w: w, name: cell, changed: make(chan struct{}), tags: map[string]string{}, alive: map[string]time.Time{}}
		w.pools[cell] = p
	}
	p.nodes = append(p.nodes, m.node)
	slices.SortFunc(p.nodes, func(a, b starling.Node) int { return strings.Compare(a.Name, b.Name) })
	p.signal()
	m.handle = &handle{pool: p, name: m.node.Name, next: make(chan struct{})}
	p.handles = append(p.handles, m.handle)
	news := w.rosters[cell]
	if news == nil {
		news = &rpc.CellNews{Name: cell, KeyEpoch: 1}
	}
	roster := slices.Clone(news.Roster)
	if !slices.Contains(roster, m.node.Name) {
		roster = append(roster, m.node.Name)
	}
	w.setRoster(cell, roster, news.KeyEpoch)
	version := w.rosters[cell].Version
	w.mu.Unlock()
	m.Enter(Place{Cell: cell, Version: version, KeyEpoch: 1, Gossip: m.node.Addr, Servers: servers}, m.handle)
}

// setRoster changes who belongs to a cell. The lock is held.
func (w *world) setRoster(cell string, roster rpc.Roster, epoch uint64) {
	version := uint64(1)
	for _, c := range w.rosters {
		version = max(version, c.Version+1)
	}
	w.rosters[cell] = &rpc.CellNews{Name: cell, Version: version, KeyEpoch: epoch, Key: []byte{byte(epoch)}, Roster: roster}
	close(w.changed)
	w.changed = make(chan struct{})
}

// kill ends a machine without a word; the pool finds it dead.
func (w *world) kill(m *machine) {
	m.stop()
	<-m.done
	w.mu.Lock()
	p := m.handle.pool
	delete(w.members, m.node.Name)
	w.mu.Unlock()
	time.AfterFunc(foundDead, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, back := w.members[m.node.Name]; !back {
			p.alive[m.node.Name] = time.Now()
			p.signal()
		}
	})
}

// cut breaks the network between some members and the rest; both sides find out.
func (w *world) cut(side int, names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range names {
		w.cutOff[n] = side
	}
	for _, p := range w.pools {
		p.changedAt = time.Now()
		time.AfterFunc(foundDead, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			p.seen = maps.Clone(w.cutOff)
			p.signal()
		})
	}
}

// pool is one cell's gossip.
type pool struct {
	w         *world
	name      string
	nodes     []starling.Node
	alive     map[string]time.Time // those found dead, since when
	seen      map[string]int       // the sides, as gossip has found out
	tags      map[string]string
	changed   chan struct{}
	changedAt time.Time
	handles   []*handle
	joins     int
	keys      []byte
}

func (p *pool) signal() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pool) remove(name string) {
	p.nodes = slices.DeleteFunc(p.nodes, func(n starling.Node) bool { return n.Name == name })
	p.handles = slices.DeleteFunc(p.handles, func(h *handle) bool { return h.name == name })
	delete(p.tags, name)
	p.signal()
}

// handle is one member's part in a pool.
type handle struct {
	*pool
	name  string
	index uint64
	next  chan struct{}
}

func (h *handle) Members() []starling.Node {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	out := slices.Clone(h.nodes)
	for i := range out {
		_, dead := h.alive[out[i].Name]
		out[i].Alive = !dead && h.seen[out[i].Name] == h.seen[h.name]
	}
	return out
}

func (h *handle) Reserved() map[string]map[string]string {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	out := map[string]map[string]string{}
	for name, v := range h.tags {
		out[name] = map[string]string{wordTag: v}
	}
	return out
}

func (h *handle) Changed() <-chan struct{} {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return h.changed
}

func (h *handle) SetTag(_, value string) error {
	time.AfterFunc(gossipAfter, func() {
		h.w.mu.Lock()
		defer h.w.mu.Unlock()
		h.tags[h.name] = value
		h.signal()
	})
	return nil
}

func (h *handle) Announce(index uint64) {
	time.AfterFunc(gossipAfter, func() {
		h.w.mu.Lock()
		defer h.w.mu.Unlock()
		for _, o := range h.handles {
			if index > o.index && h.w.cutOff[o.name] == h.w.cutOff[h.name] {
				o.index = index
				close(o.next)
				o.next = make(chan struct{})
			}
		}
	})
}

func (h *handle) Heard() (uint64, <-chan struct{}) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return h.index, h.next
}

func (h *handle) Join([]string) (int, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.joins++
	return 1, nil
}

func (h *handle) Rotate(_ context.Context, key []byte) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.keys = append(h.keys, key...)
	return nil
}

// caller is a member's way to others.
type caller struct {
	w    *world
	name string
}

var errUnreached = fmt.Errorf("nobody answers: %w", starling.ErrUnavailable)

func (c caller) Feed(ctx context.Context, to starling.Node, have rpc.FeedCursor) (rpc.CellFeedResponse, error) {
	c.w.mu.Lock()
	c.w.count.asks++
	c.w.asked[to.Name]++
	m, cut := c.w.members[to.Name], c.w.cutOff[to.Name] != c.w.cutOff[c.name]
	c.w.mu.Unlock()
	if m == nil || cut {
		return rpc.CellFeedResponse{}, errUnreached
	}
	if m.forge != nil {
		return rpc.CellFeedResponse{Signed: m.forge}, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.brain.Answer(c.name, have), nil
}

func (c caller) Report(ctx context.Context, to starling.Node, reports []starling.MachineReport) (rpc.CellReportsResponse, error) {
	c.w.mu.Lock()
	c.w.count.reports++
	m, cut := c.w.members[to.Name], c.w.cutOff[to.Name] != c.w.cutOff[c.name]
	c.w.mu.Unlock()
	if m == nil || cut {
		return rpc.CellReportsResponse{}, errUnreached
	}
	return m.take(c.name, reports)
}

// server is a member's way to the servers.
type server struct{ caller }

func (c server) Feed(ctx context.Context, addr string, have rpc.FeedCursor, wait time.Duration) (rpc.FeedResponse, error) {
	c.w.mu.Lock()
	c.w.count.polls++
	c.w.mu.Unlock()
	over := time.After(wait)
	for {
		c.w.mu.Lock()
		down := c.w.down[addr] || c.w.blocked[c.name]
		var r rpc.FeedResponse
		if c.w.feed.Edition().Compare(have.Edition()) > 0 {
			r.Signed = c.w.signed
		}
		r.Cell = rpc.CellNews{Name: have.Cell}
		news := c.w.rosters[have.Cell]
		if news != nil && news.Version > have.Version {
			r.Cell = *news
		}
		changed := c.w.changed
		c.w.mu.Unlock()
		if down {
			return r, errUnreached
		}
		if r.Signed != nil || r.Cell.Version != 0 {
			return r, nil
		}
		select {
		case <-changed:
		case <-over:
			return r, nil
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
}

func (c server) Report(_ context.Context, addr string, r rpc.CellReport) (rpc.CellReportResponse, error) {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count.cells++
	if w.down[addr] || w.blocked[c.name] {
		return rpc.CellReportResponse{}, errUnreached
	}
	if w.reports[r.Cell] == nil {
		w.reports[r.Cell] = map[string]*kept{}
	}
	var before *rpc.CellReport
	if k := w.reports[r.Cell][r.Relay.Name]; k != nil {
		before = &k.r
	}
	whole, ok := Whole(before, r)
	if !ok {
		w.count.wholes++
		return rpc.CellReportResponse{Whole: true}, nil
	}
	w.reports[r.Cell][r.Relay.Name] = &kept{whole, time.Now()}
	var seeds []string
	for name, k := range w.reports[r.Cell] {
		if name != r.Relay.Name && time.Since(k.at) < rpc.CellSilentAfter && k.r.Alive.Disjoint(r.Alive) {
			seeds = append(seeds, k.r.Gossip)
		}
	}
	return rpc.CellReportResponse{Reign: w.feed.Reign, Seeds: seeds}, nil
}

// newLeader forgets all reports, as a new term does.
func (w *world) newLeader(reign string) {
	w.mu.Lock()
	w.reports = map[string]map[string]*kept{}
	feed := *w.feed
	w.mu.Unlock()
	w.tell(feed.Index, reign, feed.Goals...)
}

// picture is what the leader believes of an app, summed over all cells.
func (w *world) picture(app string) (sum rpc.CellApp, alive int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for cell, relays := range w.reports {
		var said []Said
		for name, k := range relays {
			said = append(said, Said{name, k.r.Alive, k.at})
		}
		for _, i := range Merge(cell, said, time.Now()) {
			k := relays[said[i].Relay]
			for slot := range starling.MaxCellMachines {
				if k.r.Alive.Has(slot) {
					alive++
				}
			}
			for _, a := range k.r.Apps {
				if a.App != app {
					continue
				}
				if sum.App == "" {
					sum = a
				} else {
					sum = AddApps(sum, a)
				}
			}
		}
	}
	return sum, alive
}

// await waits for a condition on virtual time and returns how long that took.
func (w *world) await(within time.Duration, what string, ok func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			w.t.Fatalf("%s: not within %s", what, within)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

// knows reports whether all machines have goals of an index.
func knows(all []*machine, index uint64) bool {
	for _, m := range all {
		if f, _ := m.Feed(); f == nil || f.Index < index {
			return false
		}
	}
	return true
}

// say has machines report a state of a goal.
func say(g *starling.Goal, state starling.MachineState, all ...*machine) {
	for _, m := range all {
		r := starling.MachineReport{Node: m.node.Name, App: g.App, Generation: g.Generation, State: state, ChunksDone: 1, ChunksTotal: 1}
		if err := m.ReportMachine(context.Background(), []starling.MachineReport{r}); err != nil {
			panic(err)
		}
	}
}

func (w *world) speaker(cell string) *machine {
	w.mu.Lock()
	p := w.pools[cell]
	var names []string
	for i := range p.nodes {
		if _, dead := p.alive[p.nodes[i].Name]; !dead {
			names = append(names, p.nodes[i].Name)
		}
	}
	defer w.mu.Unlock()
	return w.members[Rank(cell, names, 1)[0]]
}
