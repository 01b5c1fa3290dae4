package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Bounds of the proposer.
const (
	maxQueuedProposals  = 4096     // calls of Propose that wait to become part of an entry
	maxQueuedBytes      = 64 << 20 // of their commands
	maxInFlightEntries  = 3        // entries handed to Raft whose outcome is open: one at this disk, one at the others', one between
	pipelineBytes       = 4 << 10  // of commands that are worth an entry of their own while another is under way: 20 or so
	maxEnqueueWait      = 5 * time.Second
	maxCloseWait        = 3 * time.Second // for open futures, before Raft is stopped
	maxChangeWait       = 10 * time.Second
	maxDialWait         = 2 * time.Second
	logCacheEntries     = 512
	snapshotsRetained   = 2
	poolConnsPerPeer    = 3
	rpcTimeout          = 10 * time.Second
	storeLockTimeout    = time.Second
	maxLeadershipEvents = 16
	maxBootstrapExpect  = 9
)

// entryOverheadBytes bounds what an entry holds beside its commands.
const entryOverheadBytes = 64

// Tags that servers announce in gossip.
const (
	tagExpect    = "expect" // servers to begin with
	tagIntent    = "intent" // digest of the set that the server would begin with
	tagBoot      = "boot"   // "1": has a configuration
	tagRecovered = "line"   // how often the region has been recovered; none: never
	tagLevel     = "level"  // raftfsm.Level of its program; none: 1
	tagFresh     = "fresh"  // number of a server that has none
	tagAdmit     = "admit"  // fresh servers that may take part
	tagDisk      = "disk"   // "low" or "full"
)

// PeerState is what gossip knows of a server's whereabouts.
type PeerState string

// The states.
const (
	PeerAlive  PeerState = "alive"
	PeerFailed PeerState = "failed" // silent; it may come back
	PeerLeft   PeerState = "left"   // gone for good
)

// Peer is a server of the region, as gossip sees it.
type Peer struct {
	Name  string
	Addr  string // QUIC host:port
	State PeerState
	Tags  map[string]string // reserved tags
}

// Timing holds Raft's time-outs and snapshot policy. Zero fields take the defaults.
type Timing struct {
	Heartbeat         time.Duration // a follower without contact for so long calls an election; 1 s
	Election          time.Duration // 1 s
	LeaderLease       time.Duration // a leader without a quorum for so long steps down; 500 ms
	Commit            time.Duration // longest delay of a commit notice without traffic; 50 ms
	Reconcile         time.Duration // between two looks at gossip without a change; 1 s
	SnapshotInterval  time.Duration // between two looks at SnapshotThreshold; 2 min
	SnapshotThreshold uint64        // entries since the last snapshot that make the next one due; 8192
	TrailingLogs      uint64        // entries kept behind a snapshot, for followers that are late; 10240
}

func (t Timing) withDefaults() Timing {
	d := raft.DefaultConfig()
	set := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	set(&t.Heartbeat, d.HeartbeatTimeout)
	set(&t.Election, max(d.ElectionTimeout, t.Heartbeat))
	set(&t.LeaderLease, min(d.LeaderLeaseTimeout, t.Heartbeat))
	set(&t.Commit, d.CommitTimeout)
	set(&t.Reconcile, time.Second)
	set(&t.SnapshotInterval, d.SnapshotInterval)
	if t.SnapshotThreshold == 0 {
		t.SnapshotThreshold = d.SnapshotThreshold
	}
	if t.TrailingLogs == 0 {
		t.TrailingLogs = d.TrailingLogs
	}
	return t
}

// Config says how to take part in a region's Raft cluster.
type Config struct {
	Name, Region string
	DataDir      string // made if missing; one process at a time
	// Layer carries Raft's streams. Its Addr is the address that other servers dial. Close closes it.
	Layer raft.StreamLayer
	// FSM is the state machine. Apply must return []raftfsm.Result, one for each command.
	FSM raft.FSM
	// Level returns the level in use, see raftfsm.Level; servers that speak less are not
	// added. Nil: any may come.
	Level func() int
	// Recoveries returns how often the region has been recovered, see raftfsm.View. Nil: never.
	Recoveries func() int
	// Peers returns the servers of the region in gossip, this one included.
	Peers func() []Peer
	// Changed returns a channel that is closed at the next change in gossip. Nil: look
	// at Peers every Timing.Reconcile only.
	Changed func() <-chan struct{}
	// SetTag announces a reserved tag of this server in gossip.
	SetTag func(key, value string) error
	// BootstrapExpect is how many servers begin a new cluster; 0: wait to be added to one.
	BootstrapExpect int
	// Stats asks a server of the region how its Raft is. Nil: who is alive in gossip is well.
	Stats     func(context.Context, Peer) (PeerStats, error)
	Autopilot Autopilot
	Timing    Timing
	Logger    *slog.Logger

	// DiskReserve is how many bytes should be free on DataDir's disk. With less, the
	// server leaves leading to others; with less than a quarter, it writes no entries.
	// 0: 256 MiB, or a twentieth of a small disk.
	DiskReserve uint64

	// For tests; zero fields take the defaults.
	faults                    func(files) files               // between Raft and its files
	space                     func(dir string) (space, error) // spaceOf
	maxTrailing, maxUnsnapped int64
	compactMin                int64
}

func (c *Config) withDefaults() {
	c.Timing, c.Autopilot = c.Timing.withDefaults(), c.Autopilot.withDefaults()
	if c.space == nil {
		c.space = spaceOf
	}
	if c.maxTrailing == 0 {
		c.maxTrailing = maxTrailingBytes
	}
	if c.maxUnsnapped == 0 {
		c.maxUnsnapped = maxUnsnappedBytes
	}
	if c.compactMin == 0 {
		c.compactMin = compactMinBytes
	}
}

func (c *Config) check() error {
	if err := starling.CheckName("name", c.Name); err != nil {
		return err
	}
	if err := starling.CheckName("region", c.Region); err != nil {
		return err
	}
	if c.BootstrapExpect < 0 || c.BootstrapExpect > maxBootstrapExpect {
		return starling.Invalidf("server.bootstrap_expect", "%d is not within 0 and %d", c.BootstrapExpect, maxBootstrapExpect)
	}
	if a := c.Autopilot; a.DeadAfter < 0 || a.Stabilization < 0 || a.LastContact < 0 || a.Look < 0 || a.MinQuorum < 0 {
		return starling.Invalidf("server.autopilot", "times and min_quorum must not be negative")
	}
	switch {
	case c.DataDir == "":
		return starling.Invalidf("data_dir", "is empty")
	case c.Layer == nil, c.FSM == nil, c.Peers == nil, c.SetTag == nil, c.Logger == nil:
		return errors.New("raftnode: Layer, FSM, Peers, SetTag and Logger must be set")
	}
	return nil
}

// ErrOutcomeUnknown says that a proposal failed so late that it may have been, or may
// yet be, committed.
var ErrOutcomeUnknown = starling.ErrOutcomeUnknown

// ErrServerTooOld says that a command was refused, before anything was committed, because
// some server of the region could not apply it. It may be proposed again once that one is
// upgraded or gone.
var ErrServerTooOld = errors.New("a server is too old")

// ErrTooLarge says that the commands of one call do not fit into a log entry, see
// raftfsm.MaxEntryCommands, MaxEntryBytes and MaxCommandBytes.
var ErrTooLarge = errors.New("too large for one log entry")

// results is what raftfsm answers to an entry.
type results = []raftfsm.Result
