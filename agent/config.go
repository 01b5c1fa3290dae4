package agent

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/swarm"
)

// Leader is what a machine asks of the servers of its region; *rpc.Client is one.
// It may be slow and may fail: the agent retries with back-off.
type Leader interface {
	// Goals returns the goals in force once they are newer than index or the leader is not
	// the one that reign names, or after wait.
	Goals(ctx context.Context, index uint64, reign string, wait time.Duration) (rpc.Goals, error)
	// ReportMachine delivers reports, rpc.MaxReports at most.
	ReportMachine(ctx context.Context, reports []starling.MachineReport) error
}

// Members is the region's membership; *membership.Pool is one.
type Members interface {
	Members() []starling.Node // self included, dead ones with Alive false
	Changed() <-chan struct{} // closed at the next change
}

// BlobDial opens a stream to the blob server of a cache or a machine.
type BlobDial func(ctx context.Context, addr string) (net.Conn, error)

// SwarmDial opens a link to a machine, and says who answered.
type SwarmDial func(ctx context.Context, addr string) (net.Conn, starling.Identity, error)

// Accept waits for the next stream that another process opens. It fails when ctx ends.
type Accept func(ctx context.Context) (net.Conn, starling.Identity, error)

// VerifyFunc checks the signature of a manifest's envelope and that the manifest's
// digest is want. It returns the manifest and its exact bytes.
type VerifyFunc func(envelope []byte, want starling.Digest) (m *starling.Manifest, payload []byte, err error)

// Config makes an Agent. All fields but Env, the caps, Logger and Trace are needed.
type Config struct {
	Node    starling.Node
	DataDir string
	Env     map[string]string // of the releases' processes; nil: only what Starling adds

	Leader  Leader
	Members Members

	DialBlob    BlobDial
	DialSwarm   SwarmDial
	AcceptBlob  Accept // nil: the process serves Agent.Source itself
	AcceptSwarm Accept
	Verify      VerifyFunc

	UploadBytesPerSecond   int64 // on the wire, for chunks to other machines; 0: no cap
	DownloadBytesPerSecond int64 // on the wire, for chunks from caches and machines; 0: no cap

	// SystemBus is the D-Bus address at which systemd is asked for units; empty: the system's bus.
	SystemBus string

	Logger *slog.Logger       // nil: none
	Trace  func(swarm.Record) // nil: none; called by the loop with every step of the swarm's brain

	restAfter time.Duration // tests'; 0: defaultRestAfter
}

// minCappedInFlightBytes lets a capped machine ask for two chunks of any size at once.
const minCappedInFlightBytes = 2 * starling.MaxChunkBytes

// maxEventQueueEvents is how many events of workers may wait for the loop; then they wait.
const maxEventQueueEvents = 256

func (c *Config) check() error {
	for _, f := range []struct {
		name    string
		missing bool
	}{
		{"node.name", c.Node.Name == ""}, {"data_dir", c.DataDir == ""}, {"leader", c.Leader == nil},
		{"members", c.Members == nil}, {"dial_blob", c.DialBlob == nil}, {"dial_swarm", c.DialSwarm == nil},
		{"accept_swarm", c.AcceptSwarm == nil}, {"verify", c.Verify == nil},
	} {
		if f.missing {
			return starling.Invalidf("agent."+f.name, "is missing")
		}
	}
	if c.UploadBytesPerSecond < 0 || c.DownloadBytesPerSecond < 0 {
		return starling.Invalidf("agent.limits", "a cap is negative")
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return starling.Invalidf("agent.DataDir", "%v", err)
	}
	c.DataDir = dir
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// maxInFlightBytes is how much the brain may ask for at once, 0 for its own bound.
// Under a cap it is about what may come in a second: what is asked for beyond that
// would take up slots of others that could send to somebody else, and be ahead of
// what is more urgent.
func (c *Config) maxInFlightBytes() int64 {
	if c.DownloadBytesPerSecond == 0 {
		return 0
	}
	return min(max(c.DownloadBytesPerSecond, minCappedInFlightBytes), swarm.DefaultInFlightBytes)
}
