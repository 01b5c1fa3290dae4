package cell

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Pace of the shell.
const (
	viewPause    = 200 * time.Millisecond // between two looks at the pool
	callWithin   = 5 * time.Second        // of a member that answers at once
	sendWithin   = rpc.CellRefreshEvery   // of a server with a cell's report: another one has it sooner than a dead one is found out
	pollWithin   = rpc.MaxWait + 10*time.Second
	rotateWithin = time.Minute
	wordTag      = "cell" // reserved tag that carries a Word
)

// Pool is who is in a cell, and what they say of themselves; *membership.Pool is one.
type Pool interface {
	Members() []starling.Node               // sorted by name, self included, dead ones with Alive false
	Reserved() map[string]map[string]string // tags that are not the nodes' own, by member
	Changed() <-chan struct{}               // closed at the next change
	SetTag(key, value string) error         // a reserved one of this member
}

// Gossip is a cell's pool; *membership.Pool is one. Nodes carry the tags that goals select by.
type Gossip interface {
	Pool
	Announce(index uint64)                        // tells the pool; never waits
	Heard() (index uint64, next <-chan struct{})  // the highest that was announced; next: it has risen
	Join(addrs []string) (int, error)             // members of a part that this one does not see
	Rotate(ctx context.Context, key []byte) error // changes the key of all members
}

// Servers are the servers of the region, by QUIC address. A FeedCursor may be waited on.
type Servers interface {
	Feed(ctx context.Context, addr string, have rpc.FeedCursor, wait time.Duration) (rpc.FeedResponse, error)
	Report(ctx context.Context, addr string, r rpc.CellReport) (rpc.CellReportResponse, error)
}

// Peers are the other members. Who answers must be the node asked for.
type Peers interface {
	Feed(ctx context.Context, to starling.Node, have rpc.FeedCursor) (rpc.CellFeedResponse, error)
	Report(ctx context.Context, to starling.Node, reports []starling.MachineReport) (rpc.CellReportsResponse, error)
}

// Config makes a Member. Last, Moved, Keep and Logger may be left out.
type Config struct {
	Node    starling.Node
	Servers Servers
	Peers   Peers
	// Verify returns what a signed feed holds if a server of the region has signed it: see OpenFeed.
	Verify func(signed json.RawMessage) (*rpc.Feed, error)
	Last   json.RawMessage              // the signed feed that Keep was given last, in an earlier life
	Keep   func(signed json.RawMessage) // puts the newest feed on disk; called by Run
	Moved  func()                       // the machine is to register again and Enter its new cell; must not wait long
	Logger *slog.Logger
}

// Member is a machine's part in its cell. It implements agent.Leader: goals are had from the
// cell, and reports go to it. It is made by New and lives in Run. Its methods are safe for
// concurrent use.
type Member struct {
	conf Config
	log  *slog.Logger
	wake chan struct{} // room for one

	mu      sync.Mutex
	ctx     context.Context // Run's; nil before
	ended   bool            // Run is over
	owned   sync.WaitGroup  // calls under way
	brain   *Brain
	gossip  Gossip  // nil: no cell yet
	entered *Placed // for Run to take up
	feed    *rpc.Feed
	signed  json.RawMessage
	changed chan struct{} // closed at the next feed
	word    *Word         // to be said
	saying  bool
}

// New returns a member without a cell. It goes on with the feed of an earlier life if
// that is given and its signature still holds.
func New(conf Config) *Member {
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Member{conf: conf, log: conf.Logger, wake: make(chan struct{}, 1), changed: make(chan struct{})}
	if conf.Last != nil {
		feed, err := conf.Verify(conf.Last)
		if err == nil {
			m.feed, m.signed = feed, conf.Last
		} else {
			m.log.Warn("the kept goals are of no use; the cell has them", "error", err)
		}
	}
	m.brain = NewBrain(conf.Node, rand.Uint64(), m.feed, m.signed)
	return m
}

// Enter takes a place in a cell whose pool this machine has joined. What it knows and has to
// report goes along. Entering the same cell again renews the place.
func (m *Member) Enter(place Place, gossip Gossip) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gossip, m.entered = gossip, &Placed{Place: place}
	m.nudge()
}

func (m *Member) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run is the member's life; call it once. It returns nil when ctx ends, after its calls have.
func (m *Member) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	defer func() {
		m.mu.Lock() // a step under way may begin a call; later ones do not
		m.ended = true
		m.mu.Unlock()
		m.owned.Wait()
	}()
	var (
		kept  json.RawMessage
		looks looks
	)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		m.settle(&looks)
		if _, signed := m.latest(); signed != nil && m.conf.Keep != nil && &signed[0] != first(kept) {
			kept = signed
			m.conf.Keep(signed)
		}
		timer.Reset(m.until(&looks))
		select {
		case <-timer.C:
		case <-m.wake:
		case <-looks.changed:
			looks.changed, looks.due = nil, later(looks.last.Add(viewPause), time.Now())
		case <-looks.heard:
		case <-ctx.Done():
			return nil
		}
	}
}

func first(b json.RawMessage) *byte {
	if len(b) == 0 {
		return nil
	}
	return &b[0]
}

// looks is what Run follows of the present pool.
type looks struct {
	cell    string
	gossip  Gossip
	changed <-chan struct{}
	heard   <-chan struct{}
	last    time.Time
	due     time.Time // of the next look; zero: when the pool changes
	revoked []string
}

// settle takes in what has happened: a new place, a change of the pool, news in it, the time.
func (m *Member) settle(l *looks) {
	m.mu.Lock()
	placed, gossip := m.entered, m.gossip
	m.entered = nil
	feed := m.feed
	m.mu.Unlock()
	if gossip == nil {
		return
	}
	revoked := l.revoked
	if feed != nil {
		revoked = feed.Revoked
	}
	sameRevoked := len(revoked) == len(l.revoked) && (len(revoked) == 0 || &revoked[0] == &l.revoked[0])
	if placed != nil || !sameRevoked || !l.due.IsZero() && !time.Now().Before(l.due) {
		l.gossip, l.revoked, l.last, l.due = gossip, revoked, time.Now(), time.Time{}
		l.changed = gossip.Changed() // before the look, so that no change is missed
		if placed != nil {
			l.cell = placed.Place.Cell
		}
		view := look(l.cell, gossip, revoked)
		if placed != nil {
			placed.View = view
			m.tell(*placed)
		} else {
			m.tell(Viewed{view})
		}
	}
	var index uint64
	index, l.heard = l.gossip.Heard()
	m.tell(Heard{index}) // and whatever is due
}

func (m *Member) until(l *looks) time.Duration {
	const long = time.Hour
	m.mu.Lock()
	next := m.brain.Next()
	m.mu.Unlock()
	if next = sooner(next, l.due); next.IsZero() {
		return long
	}
	return max(0, time.Until(next))
}

// look makes a view of the pool.
func look(cell string, g Gossip, revoked []string) *View {
	words := map[string]Word{}
	for name, tags := range g.Reserved() {
		if w := ParseWord(tags[wordTag]); w != (Word{}) {
			words[name] = w
		}
	}
	return NewView(cell, g.Members(), words, barring(revoked))
}

func barring(names []string) func(string) bool {
	if len(names) == 0 {
		return nil
	}
	barred := make(map[string]bool, len(names))
	for _, n := range names {
		barred[n] = true
	}
	return func(name string) bool { return barred[name] }
}

// step tells the brain and does what it wants, and has Run see when it is to be woken.
func (m *Member) step(ev Event) {
	m.tell(ev)
	m.nudge()
}

// tell is step for Run itself.
func (m *Member) tell(ev Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended || m.ctx != nil && m.ctx.Err() != nil {
		return
	}
	for _, e := range m.brain.Step(time.Now(), ev) {
		m.perform(e)
	}
}

// perform does what the brain wants, or begins it. The lock is held.
func (m *Member) perform(e Effect) {
	switch e := e.(type) {
	case Accepted:
		m.feed, m.signed = e.Feed, e.Signed
		close(m.changed)
		m.changed = make(chan struct{})
	case Announce:
		m.gossip.Announce(e.Index)
	case Say:
		m.word = &e.Word
		m.say()
	case Moved:
		m.log.Info("this machine belongs to another cell now, or to none: it registers again")
		if m.conf.Moved != nil {
			m.owned.Go(m.conf.Moved)
		}
	case PollServer:
		m.call(pollWithin, func(ctx context.Context) Event { return m.pollServer(ctx, e) })
	case AskPeer:
		m.call(callWithin, func(ctx context.Context) Event { return m.askPeer(ctx, e) })
	case SendReports:
		m.call(callWithin, func(ctx context.Context) Event {
			r, err := m.conf.Peers.Report(ctx, e.To, e.Reports)
			return ReportsTaken{e, r.Term, err}
		})
	case SendCell:
		m.call(sendWithin, func(ctx context.Context) Event {
			r, err := m.conf.Servers.Report(ctx, e.Server, e.Report)
			return CellTaken{e, r, err}
		})
	case Join:
		m.join(e)
	case RotateKey:
		gossip := m.gossip
		m.call(rotateWithin, func(ctx context.Context) Event {
			err := gossip.Rotate(ctx, e.Key)
			m.log.Info("the key of the cell's gossip is changed", "epoch", e.Epoch, "error", err)
			return Rotated{e.Epoch, err}
		})
	}
}

// call does something in the background and tells the brain what came of it.
func (m *Member) call(within time.Duration, do func(ctx context.Context) Event) {
	ctx := m.ctx
	m.owned.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		ev := do(ctx)
		if ctx.Err() == nil || context.Cause(ctx) == context.DeadlineExceeded {
			m.step(ev)
		}
	})
}

func (m *Member) pollServer(ctx context.Context, e PollServer) Event {
	wait := time.Duration(0)
	if e.Wait {
		wait = rpc.MaxWait
	}
	r, err := m.conf.Servers.Feed(ctx, e.Server, e.Have, wait)
	ev := ServerSaid{Signed: r.Signed, Cell: r.Cell, Err: err}
	if err == nil && r.Signed != nil {
		ev.Feed, ev.Err = m.verified(r.Signed, e.Server)
	}
	return ev
}

func (m *Member) askPeer(ctx context.Context, e AskPeer) Event {
	r, err := m.conf.Peers.Feed(ctx, e.Peer, e.Have)
	ev := PeerSaid{Response: r, Err: err}
	if err == nil && r.Signed != nil {
		ev.Feed, ev.Err = m.verified(r.Signed, e.Peer.Name)
	}
	return ev
}

func (m *Member) verified(signed json.RawMessage, from string) (*rpc.Feed, error) {
	feed, err := m.conf.Verify(signed)
	if err != nil {
		m.log.Warn("goals that no server has signed are refused", "from", from, "error", err)
		return nil, fmt.Errorf("goals from %s: %w", from, err)
	}
	return feed, nil
}

// say announces the newest word. The lock is held.
func (m *Member) say() {
	if m.saying {
		return
	}
	m.saying = true
	m.owned.Go(func() {
		for {
			m.mu.Lock()
			word, gossip := m.word, m.gossip
			m.word = nil
			if word == nil || m.ctx.Err() != nil {
				m.saying = false
				m.mu.Unlock()
				return
			}
			m.mu.Unlock()
			if err := gossip.SetTag(wordTag, word.String()); err != nil {
				m.log.Warn("the cell cannot be told of this machine's part", "error", err)
			}
		}
	})
}

func (m *Member) join(e Join) {
	gossip := m.gossip
	m.owned.Go(func() {
		if n, err := gossip.Join(e.Seeds); n == 0 && err != nil {
			m.log.Warn("another part of the cell is not reached", "seeds", e.Seeds, "error", err)
		}
	})
}

func (m *Member) latest() (*rpc.Feed, json.RawMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.feed, m.signed
}

// Feed returns what the region's machines were told last, nil if nothing yet, and a channel that
// is closed when that changes. It must not be changed.
func (m *Member) Feed() (*rpc.Feed, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.feed, m.changed
}

// Goals implements agent.Leader. The cell's speaker follows the leader: Reign stays empty.
// ErrUnavailable: nothing is known yet.
func (m *Member) Goals(ctx context.Context, index uint64, _ string, wait time.Duration) (rpc.Goals, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		feed, changed := m.Feed()
		if feed != nil && feed.Index > index {
			return rpc.Goals{Index: feed.Index, Goals: feed.Goals}, nil
		}
		select {
		case <-changed:
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		if feed == nil {
			return rpc.Goals{}, fmt.Errorf("the cell has no goals to tell yet: %w", starling.ErrUnavailable)
		}
		return rpc.Goals{Index: feed.Index, Goals: feed.Goals}, nil
	}
}

// ReportMachine implements agent.Leader. It keeps the reports, and sees that they reach the
// cell's speaker, whoever that is.
func (m *Member) ReportMachine(_ context.Context, reports []starling.MachineReport) error {
	m.step(Reported{reports})
	return nil
}
