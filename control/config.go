package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/rpc"
)

// Config is what a server needs of the others. Fields without a default are required.
type Config struct {
	Region string // this server's region
	Name   string // this server's name, unique in the region

	Raft    Raft
	FSM     *raftfsm.FSM
	Members Members
	Blobs   Blobs

	// Regions holds the QUIC addresses of the other regions' servers, by region.
	Regions map[string][]string
	// DialControl opens a control stream to the server at a QUIC address.
	DialControl func(ctx context.Context, addr string) (net.Conn, error)
	// Sign wraps manifest bytes in a signed envelope.
	Sign func(manifest []byte) (envelope []byte, err error)

	// Account asks the machine at a QUIC address how an artifact came to it, for
	// starling.DecodeAccount. Nil: machines cannot be asked.
	Account func(ctx context.Context, addr string, artifact starling.Digest) ([]byte, error)

	// SignedBy verifies the signature in an artifact's envelope and says whose it is. Nil:
	// nobody can tell.
	SignedBy func(envelope []byte, artifact starling.Digest) (*starling.Signature, error)

	// CellMax is how many machines a cell may have before it is split; default
	// starling.MaxCellMachines, which is the most.
	CellMax int
	// CellQuiet is how long a cell must not have changed before it is split or merged; 0: a minute.
	CellQuiet time.Duration
	// SignFeed signs what machines are told, as cell.SignFeed does. Nil: the region has no cells.
	SignFeed func(feed *rpc.Feed) (json.RawMessage, error)
	// CellKey is the gossip key of a cell in an epoch, of 16, 24 or 32 bytes. Nil: plain text.
	CellKey func(cell string, epoch uint64) ([]byte, error)
	// DialCell opens a cell stream to the machine at a QUIC address. Nil: machines cannot
	// be asked.
	DialCell func(ctx context.Context, addr string) (net.Conn, error)

	// Stop ends this process in good order, once its server has left for good. Nil: it
	// cannot be told to leave.
	Stop func()

	// CA is the SHA-256 of the cluster's CA certificate in DER, by which machines that enrol
	// know a server. Zero: no join tokens can be made.
	CA starling.Digest

	// Replicas is how many caches hold each chunk; default 2.
	Replicas int
	// Settle is how long after the start the membership is not yet trusted to be
	// complete, so that no region reports "no machines" while gossip is still
	// finding them; default 3 s, negative for none.
	Settle time.Duration

	// TakeoverAfter is how long a region must be silent before the others vote for one of
	// them to take over its apps, three regions at least. 0: only an operator orders it.
	TakeoverAfter time.Duration
	// History says how much of the past is kept.
	History History

	// SecretKey seals what webhooks and sinks must keep secret, 32 bytes, the same on all
	// servers of the region. Nil: it stands in the state as it is.
	SecretKey []byte
	// NotifyLocal lets notifications go to this host, and by plain HTTP: for tests.
	NotifyLocal bool

	// Enrolment lets machines without a certificate in. Nil: nobody enrols here.
	Enrolment *Enrolment
	// Revoked is told of all machines whose certificates are void, by name, whenever they change. Nil:
	// nobody is.
	Revoked func(names []string)

	Metrics prometheus.Registerer // nil: none
	Logger  *slog.Logger          // nil: discard
	Now     func() time.Time      // default time.Now
	Rand    io.Reader             // source of IDs and secrets; default crypto/rand
}

// Raft is this server's part in its region's Raft group; *raftnode.Node is one.
type Raft interface {
	Proposer
	Leading
	Peering
	Restorer
}

// Restorer puts another state in place of the cluster's.
type Restorer interface {
	Restore(ctx context.Context, index uint64, write func(io.Writer) error) error
}

// Proposer commits commands at the leader.
type Proposer interface {
	Propose(ctx context.Context, cmds ...raftfsm.Command) ([]raftfsm.Result, error)
	Barrier(ctx context.Context) error
}

// Leading tells who leads.
type Leading interface {
	Leader() (raftnode.Peer, bool)
	Term() uint64
	IsLeader() bool
	Leadership() <-chan struct{} // closed at the next change of leader
	Bootstrapped() bool
	PeerStats() raftnode.PeerStats
}

// Peering shows and changes the Raft configuration.
type Peering interface {
	Peers() ([]starling.RaftPeer, error)
	Health() (starling.RaftHealth, error)
	RemovePeer(ctx context.Context, name string) error
	TransferLeadership(ctx context.Context) error
}

// Members is the region's membership; *membership.Pool is one.
type Members interface {
	Members() []starling.Node // sorted by name, self included, dead ones with Alive false
	Changed() <-chan struct{} // closed at the next change
	Join(addrs []string) (int, error)
	ForceLeave(name string) error
	Leave() error
}

// Blobs is the region's caches as one; *blobcache.Region is one.
type Blobs interface {
	Chunks
	Manifests
}

// Chunks stores and reads chunks.
type Chunks interface {
	Missing(ctx context.Context, ds []starling.Digest) ([]starling.Digest, error)
	// Lacking is Missing for what is refused if it is missing: ErrUnavailable if that is not sure.
	Lacking(ctx context.Context, ds []starling.Digest) ([]starling.Digest, error)
	Put(ctx context.Context, d starling.Digest, data []byte) error
	Get(ctx context.Context, d starling.Digest) ([]byte, error)
}

// Manifests stores and reads the signed envelopes of manifests.
type Manifests interface {
	PutManifest(ctx context.Context, artifact starling.Digest, envelope []byte) error
	Manifest(ctx context.Context, artifact starling.Digest) ([]byte, error)
}

// Bounds and rhythms of a server. Memory per leader is bounded by these, the number
// of members and the number of goals in force.
const (
	decideEvery         = 100 * time.Millisecond // at least this often
	decideRestMin       = 2 * time.Millisecond
	refusedRetryAfter   = 2 * time.Second  // before a refused decision is proposed again
	proposeWithin       = 10 * time.Second // one proposal, queueing included
	barrierWithin       = 10 * time.Second
	leaderWait          = 10 * time.Second // that a request waits for a leader
	leaveWithin         = 15 * time.Second // that a server which leaves waits to be taken out
	leaveLookEvery      = 100 * time.Millisecond
	mirrorWait          = 2 * time.Second        // that a request waits for a name to be mirrored
	artifactWait        = 5 * time.Second        // that a submission waits for its artifact to be mirrored
	manifestWithin      = 5 * time.Second        // that the caches may take to show a manifest
	logWait             = 10 * time.Second       // that a reader waits for more log
	draftNewsEvery      = 250 * time.Millisecond // that grown drafts end another region's wait
	draftKeptFor        = 30 * time.Second       // that a draft is believed which its region no longer names
	mirrorAnswerWithin  = time.Second            // so that directories are at most this old
	silentWithin        = 3 * time.Second        // that a server of another region may say nothing; more than mirrorAnswerWithin
	probeEvery          = time.Second            // that a leader which is slow to answer is asked for a sign of life
	suspectFor          = 15 * time.Second       // that a silent server is asked after the others
	reportEvery         = 500 * time.Millisecond
	reportRefreshEvery  = 2 * time.Second
	regionSeenWithin    = 10 * time.Second
	checkpointEvery     = 15 * time.Second
	takeoverWithin      = time.Minute     // that an operator waits until all apps have moved
	voteWithin          = 5 * time.Second // that a region may take to commit its vote
	succeedEvery        = 200 * time.Millisecond
	statusWithin        = 2 * time.Second // one attempt to ask a server who leads
	leaderHintFor       = 2 * time.Second // that such an answer is believed
	retryMin            = 200 * time.Millisecond
	retryMax            = 5 * time.Second
	reportRetryMax      = time.Second      // between two tries to report to a region that may be electing
	regionCallWithin    = 10 * time.Second // a call of another region: all attempts, a mirror batch's transfer included
	accountWithin       = 5 * time.Second  // that a machine may take to give an account
	askWithin           = 2 * time.Second  // that a relay may take to answer
	maxReplayBytes      = 1 << 20          // of a request that may be sent again
	idleConnFor         = time.Minute
	idleConnsPerServer  = 16
	maxKeptReleases     = 5       // of each app, held by the caches
	maxLogBytesPerJob   = 5 << 20 // of all sections of a deployment's log
	maxLogPartBytes     = 1 << 20
	maxLogJobs          = 64
	maxHoldsPerCache    = 16_384
	maxCachesPerRegion  = 256
	maxAccusedNamed     = 1024 // of which the log told, in a term
	maxRegions          = 64
	maxServersPerRegion = 32
	maxPeerHeaderBytes  = 4 << 10
	maxIdempotencyBytes = 128
	maxTokenNameBytes   = 128
	missingBatchDigests = 8192
	standingsEvery      = 100 * time.Millisecond // that is looked at who is draining or revoked
	cellNewsEvery       = time.Second            // that a relay hears of its cell's members, while they change
	moveWithin          = 20 * time.Second       // that a cell may take to see that a member is gone from where it was
	maxDoubted          = 256                    // machines that are waited for so
	arriveWithin        = 30 * time.Second       // that a machine which is new in its cell is awaited there
	speakWithin         = 30 * time.Second       // from a cell's last report: gossip finds a dead speaker in 15 s, and another speaks
	recountLargeAfter   = 500 * time.Millisecond
	recountMachines     = 2000
	maxReportsPerCell   = 8       // relays that a cell is heard from at one time
	maxGossipAddrBytes  = 256     // a host name and a port
	maxHeldPerCell      = 256     // other releases on a cell's disks, of one app
	maxBuckets          = 256     // of counts by progress or duration
	maxMachineBytes     = 1 << 44 // that a machine may say it moved for one goal
)

func (c *Config) setDefaults() error {
	switch {
	case c.Raft == nil, c.FSM == nil, c.Members == nil, c.Blobs == nil, c.DialControl == nil, c.Sign == nil:
		return errors.New("control: Raft, FSM, Members, Blobs, DialControl and Sign are required")
	}
	if err := starling.CheckName("region", c.Region); err != nil {
		return err
	}
	if err := starling.CheckName("name", c.Name); err != nil {
		return err
	}
	for region := range c.Regions {
		if err := starling.CheckName("regions", region); err != nil {
			return err
		}
	}
	if c.Replicas == 0 {
		c.Replicas = 2
	}
	if c.Replicas < 1 {
		return starling.Invalidf("replicas", "%d is less than 1", c.Replicas)
	}
	if c.CellMax == 0 {
		c.CellMax = starling.MaxCellMachines
	}
	if c.SecretKey != nil && len(c.SecretKey) != hookSecretBytes {
		return starling.Invalidf("secret_key", "%d bytes, want %d", len(c.SecretKey), hookSecretBytes)
	}
	if c.CellMax < 2 || c.CellMax > starling.MaxCellMachines {
		return starling.Invalidf("cells.max", "%d machines, want 2 to %d", c.CellMax, starling.MaxCellMachines)
	}
	if err := c.History.setDefaults(); err != nil {
		return err
	}
	if err := c.Enrolment.setDefaults(); err != nil {
		return err
	}
	if c.Settle == 0 {
		c.Settle = 3 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return nil
}
