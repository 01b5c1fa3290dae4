package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/starlingdeploy/starling"
)

// Node is one server's Raft. Its methods are safe for concurrent use.
type Node struct {
	conf      Config
	logger    *slog.Logger
	stores    *stores
	transport *raft.NetworkTransport
	layer     *layer
	raft      *raft.Raft
	directory *directory
	pilot     *pilot
	autopilot *autopilot.Autopilot // runs while this server leads; the configuration loop starts and stops it

	notify   chan bool             // Raft blocks when this is not read
	observed chan raft.Observation // of leaders
	observer *raft.Observer

	proposals chan *proposal
	queued    atomic.Int64           // bytes in proposals
	inFlight  chan struct{}          // a place for each entry
	wake      chan struct{}          // of the proposer: much is queued, or an entry has ended
	tooOld    atomic.Pointer[string] // the last complaint of a server that speaks too little

	stop   context.CancelFunc
	done   <-chan struct{} // closed when stop is called
	owned  sync.WaitGroup  // the loops
	closed sync.Once

	mu       sync.Mutex
	closing  bool
	waiting  sync.WaitGroup // futures that are waited for; not begun once closing
	leaderCh chan struct{}  // closed and replaced at each change

	snapshotMu sync.Mutex // one Snapshot at a time: Raft names them by the millisecond
	snapshotAt uint64     // applied index at the last one

	room   atomic.Int32 // a room: what the disk had at the last look
	opened time.Time
	fresh  string        // the number that a server without a configuration announces
	failed chan struct{} // closed when the disk has failed and Raft has stopped

	// Of the configuration loop alone.
	announced map[string]string    // tags in gossip
	admitted  []string             // fresh servers, newest first
	waits     bool                 // said that it waits to be one
	silent    map[string]time.Time // servers that announce nothing, since when
	complaint string               // the last reason not to begin a cluster
}

// Open starts a server's Raft on the state in DataDir, or on none, and the loops that
// bootstrap and keep the configuration. It fails if another process has the directory,
// and with raftfsm.ErrTooNew if a newer program has left there what this one cannot apply.
func Open(conf Config) (*Node, error) {
	if err := conf.check(); err != nil {
		return nil, err
	}
	conf.withDefaults()
	log := &hlog{to: conf.Logger}
	st, err := openStores(&conf, log)
	if err != nil {
		return nil, err
	}
	if err := checkLevel(st); err != nil {
		return nil, errors.Join(fmt.Errorf("start raft on %s: %w", conf.DataDir, err), st.disk.Close())
	}
	n := &Node{
		conf:      conf,
		logger:    conf.Logger,
		stores:    st,
		notify:    make(chan bool, maxLeadershipEvents),
		observed:  make(chan raft.Observation, maxLeadershipEvents),
		proposals: make(chan *proposal, maxQueuedProposals),
		inFlight:  make(chan struct{}, maxInFlightEntries),
		wake:      make(chan struct{}, 1),
		leaderCh:  make(chan struct{}),
		announced: make(map[string]string),
		layer:     newLayer(conf.Layer),
		fresh:     newFresh(),
		opened:    time.Now(),
		failed:    make(chan struct{}),
		directory: &directory{self: raft.ServerID(conf.Name), addr: raft.ServerAddress(conf.Layer.Addr().String())},
	}
	n.directory.refresh(conf.Peers())
	n.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider:   n.directory,
		Logger:                  log,
		Stream:                  n.layer,
		MaxPool:                 poolConnsPerPeer,
		Timeout:                 rpcTimeout,
		MsgpackUseNewTimeFormat: true,
	})
	n.raft, err = n.newRaft(log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start raft on %s: %w", conf.DataDir, err), n.transport.Close(), st.disk.Close())
	}
	n.directory.raft.Store(n.raft)
	n.pilot, n.autopilot = newPilot(n, log)
	if n.Bootstrapped() {
		n.layer.open()
	}
	n.observer = raft.NewObserver(n.observed, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	n.raft.RegisterObserver(n.observer)

	ctx, cancel := context.WithCancel(context.Background())
	n.stop, n.done = cancel, ctx.Done()
	n.owned.Go(func() { n.watchLeadership(ctx) })
	n.owned.Go(func() { n.keepConfiguration(ctx) })
	n.owned.Go(func() { n.propose(ctx) })
	n.owned.Go(func() { n.watchDisk(ctx) })
	n.owned.Go(func() { n.keepRoom(ctx) })
	return n, nil
}

// newRaft starts hashicorp/raft, on a goroutine that ends where the disk fails.
func (n *Node) newRaft(log *hlog) (r *raft.Raft, err error) {
	n.stores.disk.running.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, err = raft.NewRaft(n.raftConfig(log), n.conf.FSM, n.stores.logs, n.stores.stable, n.stores.snaps,
			&electoral{n.transport, n.mayLead})
	}()
	<-done
	if failure := n.stores.disk.failure(); r == nil && failure != nil {
		return nil, failure
	}
	return r, err
}

func (n *Node) raftConfig(log *hlog) *raft.Config {
	c := raft.DefaultConfig()
	t := n.conf.Timing
	c.LocalID = raft.ServerID(n.conf.Name)
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = t.Heartbeat, t.Election, t.LeaderLease
	c.CommitTimeout = t.Commit
	c.SnapshotInterval, c.SnapshotThreshold, c.TrailingLogs = t.SnapshotInterval, t.SnapshotThreshold, t.TrailingLogs
	c.NotifyCh = n.notify
	c.Logger = log
	c.NoLegacyTelemetry = true
	c.ShutdownOnRemove = false // a removed server may be added again
	return c
}

// directory tells Raft where a server is: where gossip sees it, since a server may have
// come back at another address than the configuration names.
type directory struct {
	self raft.ServerID
	addr raft.ServerAddress
	seen atomic.Pointer[[]Peer] // in gossip; a copy, since Raft asks before each call
	raft atomic.Pointer[raft.Raft]
}

func (d *directory) peers() []Peer { return *d.seen.Load() }

func (d *directory) refresh(peers []Peer) []Peer {
	d.seen.Store(&peers)
	return peers
}

// ServerAddr implements raft.ServerAddressProvider.
func (d *directory) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if id == d.self {
		return d.addr, nil
	}
	for _, p := range d.peers() {
		if raft.ServerID(p.Name) == id && p.State == PeerAlive && p.Addr != "" {
			return raft.ServerAddress(p.Addr), nil
		}
	}
	if r := d.raft.Load(); r != nil {
		for _, s := range r.GetConfiguration().Configuration().Servers {
			if s.ID == id {
				return s.Address, nil
			}
		}
	}
	return "", fmt.Errorf("server %q: %w", id, starling.ErrNotFound)
}

// watchLeadership drains Raft's notices and signals changes of leader.
func (n *Node) watchLeadership(ctx context.Context) {
	for {
		select {
		case <-n.notify:
		case <-n.observed:
		case <-ctx.Done():
			return
		}
		n.leadershipChanged()
	}
}

func (n *Node) leadershipChanged() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.leaderCh)
	n.leaderCh = make(chan struct{})
}

// Leadership returns a channel that is closed at the next change of leader. Take it
// before asking Leader or IsLeader.
func (n *Node) Leadership() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leaderCh
}

// Leader returns the leader that this server knows, and false if there is none.
func (n *Node) Leader() (Peer, bool) {
	addr, id := n.raft.LeaderWithID()
	if id == "" {
		return Peer{}, false
	}
	for _, p := range n.directory.peers() {
		if p.Name == string(id) {
			if p.Addr == "" {
				p.Addr = string(addr)
			}
			return p, true
		}
	}
	return Peer{Name: string(id), Addr: string(addr), State: PeerAlive}, true
}

// IsLeader reports whether this server believes that it leads. Use VerifyLeader or
// Barrier where that must be sure.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// Bootstrapped reports whether this server has a Raft configuration.
func (n *Node) Bootstrapped() bool { return len(n.servers()) > 0 }

func (n *Node) servers() []raft.Server {
	return n.raft.GetConfiguration().Configuration().Servers
}

// Barrier returns once everything that was committed before it has been applied here.
// Errors wrap starling.ErrNotLeader or starling.ErrUnavailable.
func (n *Node) Barrier(ctx context.Context) error {
	return n.await(ctx, "barrier", func() raft.Future { return n.raft.Barrier(maxEnqueueWait) })
}

// VerifyLeader asks a quorum whether this server still leads.
func (n *Node) VerifyLeader(ctx context.Context) error {
	return n.await(ctx, "verify leadership", func() raft.Future { return n.raft.VerifyLeader() })
}

// Snapshot writes a snapshot now, unless nothing was applied since the last call.
func (n *Node) Snapshot(ctx context.Context) error {
	n.snapshotMu.Lock()
	defer n.snapshotMu.Unlock()
	applied := n.raft.AppliedIndex()
	if applied == n.snapshotAt {
		return nil
	}
	err := n.snapshot(ctx)
	if err == nil || errors.Is(err, raft.ErrNothingNewToSnapshot) {
		n.snapshotAt = applied
		return nil
	}
	return err
}

func (n *Node) snapshot(ctx context.Context) error {
	return n.await(ctx, "snapshot", func() raft.Future { return n.raft.Snapshot() })
}

// await runs a future and waits for it, for ctx or for Close.
func (n *Node) await(ctx context.Context, what string, begin func() raft.Future) error {
	if !n.enter() {
		return fmt.Errorf("%s: the server is shutting down: %w", what, starling.ErrUnavailable)
	}
	out := make(chan error, 1)
	go func() { // ends with the future; Close waits for it
		defer n.waiting.Done()
		out <- begin().Error()
	}()
	select {
	case err := <-out:
		if err != nil {
			return fmt.Errorf("%s: %w", what, mapError(err))
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}

// enter registers a wait for a future, unless the node is closing.
func (n *Node) enter() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return false
	}
	n.waiting.Add(1)
	return true
}

// mapError turns Raft's errors into the domain's, keeping the cause.
func mapError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return fmt.Errorf("%w (%w)", starling.ErrNotLeader, err)
	case errors.Is(err, raft.ErrNothingNewToSnapshot):
		return err
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: busy (%w)", starling.ErrUnavailable, err)
	default:
		return fmt.Errorf("%w: %w", starling.ErrUnavailable, err)
	}
}

// Close stops Raft: it lets open calls end for a few seconds, then shuts Raft, its
// transport and its stores. Committed state stays on disk.
func (n *Node) Close() error {
	var err error
	n.closed.Do(func() { err = n.close() })
	return err
}

func (n *Node) close() error {
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	n.stop()
	n.owned.Wait()
	// Raft forgets some futures when it stops: they must end before it.
	idle := make(chan struct{})
	go func() {
		n.waiting.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-time.After(maxCloseWait):
		n.logger.Warn("raft calls are still open at shutdown")
	}
	n.raft.DeregisterObserver(n.observer)
	err := n.raft.Shutdown().Error() // closes the transport as well
	n.transport.CloseStreams()
	if err != nil {
		err = fmt.Errorf("stop raft: %w", err)
	}
	if cerr := n.stores.disk.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close the raft log: %w", cerr))
	}
	return err
}
