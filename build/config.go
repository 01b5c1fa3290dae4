package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Bounds of a worker.
const (
	MaxSlots            = 64
	DefaultMinFreeBytes = 2 << 30 // below this much free disk no job is leased and running builds are killed

	maxProcesses   = 4096             // of one build
	gitTimeout     = 10 * time.Minute // fetch and checkout together
	leaseWait      = 20 * time.Second // long poll
	callTimeout    = 10 * time.Second // one call to the leader, besides the long poll
	flushTimeout   = 5 * time.Second  // to stream what is left of the log when a build has ended
	killTimeout    = 10 * time.Second // to see the last process of a killed build gone
	janitorEvery   = 10 * time.Minute
	logPostEvery   = 200 * time.Millisecond // at most
	unusedFor      = 30 * 24 * time.Hour    // after which mirrors and caches are removed
	uploadFor      = time.Minute            // retries of one call to the caches
	storeLogFor    = 15 * time.Second       // retries of storing the log
	reportAtLeast  = 30 * time.Second       // to tell the leader the result, even past the deadline
	uploadParallel = 2                      // chunks at once per window
	windowPieces   = 32                     // pieces per question to the caches
	windowBytes    = 8 << 20                // or bytes; see uploader for how many windows there are
)

// Leader is what a worker needs of the leader of its region; *rpc.Client satisfies it.
// Errors wrap the sentinels of package starling.
type Leader interface {
	Lease(ctx context.Context, req rpc.LeaseRequest) (*rpc.Job, error)
	Heartbeat(ctx context.Context, id string, req rpc.HeartbeatRequest) error
	JobLog(ctx context.Context, id string, req rpc.LogRequest) (int64, error)
	Complete(ctx context.Context, id string, req rpc.CompleteRequest) error
	Fail(ctx context.Context, id string, req rpc.FailRequest) error
}

// Blobs is the caches of the region as one; *blobcache.Region satisfies it. Methods are
// called from several goroutines.
type Blobs interface {
	// Missing returns those of the digests that the caches lack.
	Missing(ctx context.Context, ds []starling.Digest) ([]starling.Digest, error)
	Put(ctx context.Context, d starling.Digest, data []byte) error
	PutManifest(ctx context.Context, artifact starling.Digest, envelope []byte) error
}

// SandboxMode says when builds run in a sandbox.
type SandboxMode string

// The modes.
const (
	SandboxAuto    SandboxMode = "auto"    // where bubblewrap works, else plainly labelled without; the default
	SandboxRequire SandboxMode = "require" // New fails where bubblewrap does not work
	SandboxOff     SandboxMode = "off"
)

// Config is what a worker needs to know.
type Config struct {
	Name    string // of the worker, as in its certificate
	Region  string
	DataDir string // made if missing
	Slots   int    // builds at once, 1..MaxSlots

	Leader Leader
	Blobs  Blobs
	// Sign wraps an encoded manifest in a signed envelope.
	Sign func(manifest []byte) (envelope []byte, err error)

	// Hooks, Artifacts and Verify are for hooks that run once. Any of them nil: this worker
	// runs none.
	Hooks     HookLeader
	Artifacts Artifacts
	// Verify checks the signature of a manifest's envelope and that the manifest's digest is want.
	Verify func(envelope []byte, want starling.Digest) (m *starling.Manifest, payload []byte, err error)

	Sandbox SandboxMode
	// ReadOnlyPaths are absolute paths outside /usr that builds may read, such as a
	// toolchain in /opt. Directories of Path outside of what builds see are left out.
	ReadOnlyPaths []string
	// Path is the PATH of builds; empty: the worker's own.
	Path string
	// Env is set for every build; an app's own env wins.
	Env map[string]string
	// CgroupDir is a cgroup v2 directory delegated to this worker, in which it makes one
	// group per build; empty: none. No process may be in it itself (systemd: Delegate=yes
	// and DelegateSubgroup=, with this the directory of the unit).
	CgroupDir string

	// AllowFileRepos lets apps name repositories by absolute path or file:// URL. Whoever
	// may apply an app can then read any git repository that the worker's user can:
	// for development only.
	AllowFileRepos bool
	// GitConfigFile is included in git's settings, for credential helpers and the like.
	// Builds never see it.
	GitConfigFile string

	// MinFreeBytes of disk stay free; 0: DefaultMinFreeBytes.
	MinFreeBytes int64
	Logger       *slog.Logger
}

func (c *Config) setDefaults() {
	if c.Sandbox == "" {
		c.Sandbox = SandboxAuto
	}
	if c.MinFreeBytes == 0 {
		c.MinFreeBytes = DefaultMinFreeBytes
	}
	if c.Path == "" {
		c.Path = os.Getenv("PATH")
	}
}

func (c *Config) validate() error {
	switch {
	case c.Leader == nil || c.Blobs == nil || c.Sign == nil || c.Logger == nil:
		return errors.New("build: Leader, Blobs, Sign and Logger must be set")
	case c.DataDir == "" || !filepath.IsAbs(c.DataDir):
		return fmt.Errorf("build: data directory %q is not an absolute path", c.DataDir)
	case c.Slots < 1 || c.Slots > MaxSlots:
		return starling.Invalidf("worker.slots", "%d is not within 1 and %d", c.Slots, MaxSlots)
	case c.Sandbox != SandboxAuto && c.Sandbox != SandboxRequire && c.Sandbox != SandboxOff:
		return starling.Invalidf("worker.sandbox", "%q: use auto, require or off", c.Sandbox)
	}
	for _, p := range c.ReadOnlyPaths {
		if !filepath.IsAbs(p) || filepath.Clean(p) == "/" {
			return starling.Invalidf("worker.read_only_paths", "%q: want an absolute path, not /", p)
		}
		if _, err := os.Stat(p); err != nil {
			return starling.Invalidf("worker.read_only_paths", "%v", err)
		}
	}
	return nil
}
