package httpapi

import (
	"context"
	"io"
	"net/http"

	"github.com/starlingdeploy/starling"
)

// Backend is what the handlers need of a server, by noun. Package control's Server
// satisfies it. Every change runs at the leader of the region concerned: the
// handlers ask Route first and pass the request on when the place is elsewhere.
type Backend interface {
	Apps
	Outcomes
	Deployments
	Logs
	Explainer
	Planner
	Historian
	Artifacts
	ACL
	Cluster
	Roster
	Cells
	Stores
	Joining
	Operator
	Router
	Events
	Webhooks
	Sinks
}

// Webhooks lets pushes deploy.
type Webhooks interface {
	Webhooks() []*starling.Webhook // by name
	CreateWebhook(ctx context.Context, actor string, n starling.NewWebhook) (*starling.IssuedWebhook, error)
	DeleteWebhook(ctx context.Context, actor, name string) error
	// ReceivePush checks who sent a request and deploys what it says was pushed. The same
	// push again finds the deployments that it has made. ErrForbidden: it is not believed.
	ReceivePush(ctx context.Context, name string, h http.Header, body []byte) (*starling.PushOutcome, error)
}

// Sinks are told of what becomes of deployments.
type Sinks interface {
	Sinks() []starling.SinkStatus // by name
	CreateSink(ctx context.Context, actor string, n starling.NewSink) (*starling.IssuedSink, error)
	DeleteSink(ctx context.Context, actor, name string) error
	TrySink(ctx context.Context, name string) (*starling.SinkTrial, error)
}

// Router finds the place where a request must be served.
type Router interface {
	// Route returns nil when this server is the place, or a transport that reaches
	// the place: the leader of the home of app, of deployment, or, with both empty,
	// of this region. It waits up to ten seconds for a leader, two for a
	// name that this region's mirrors lack, then fails with ErrUnavailable or ErrNotFound.
	Route(ctx context.Context, app, deployment string) (http.RoundTripper, error)
	// Confirm returns once it is certain that this server led its region after the call
	// began and that it shows all that was committed before. ErrNotLeader: it does not lead.
	Confirm(ctx context.Context) error
}

// Apps reads and changes apps.
type Apps interface {
	App(name string) (*starling.App, bool)
	Apps() []*starling.App
	// ApplyApp creates or changes an app. It must have defaults set and be valid.
	ApplyApp(ctx context.Context, actor string, app starling.App, ifRevision *uint64) (*starling.App, error)
}

// Outcomes tells what apps are to run, and what they ran.
type Outcomes interface {
	Goal(app string) (*starling.Goal, bool)  // in force
	Releases(app string) []*starling.Release // newest first
}

// Deployments reads and drives deployments.
type Deployments interface {
	// Deployment returns the record with live counts where this server has them.
	Deployment(id string) (*starling.Deployment, bool)
	Deployments(f starling.DeploymentFilter) []*starling.Deployment
	// Submit reports false if an earlier submission with the same key is the answer.
	Submit(ctx context.Context, actor string, s starling.Submission) (*starling.Deployment, bool, error)
	// Rollback submits the release with the given generation sequence; 0: the previous one.
	Rollback(ctx context.Context, actor, app string, to uint64, key string, from starling.Origin) (*starling.Deployment, bool, error)
	Act(ctx context.Context, actor, id string, a starling.Action, o starling.ActionOptions) (*starling.Deployment, error)
}

// Logs reads what builds and hooks have printed. Both wait a while for more if there is none yet.
type Logs interface {
	// BuildLog returns what there is of the whole log, as one text, from offset on.
	BuildLog(ctx context.Context, id string, offset int64) (starling.LogPart, error)
	// Log returns what there is of each section after a place.
	Log(ctx context.Context, id string, at starling.LogPlace) (starling.LogNews, error)
}

// Planner tells what deployments do before they do it.
type Planner interface {
	// Plan tells what a submission would do. Its spec, if any, must have defaults set and be valid.
	Plan(ctx context.Context, req starling.PlanRequest) (*starling.Plan, error)
	// DeploymentPlan tells what a deployment does, or did.
	DeploymentPlan(ctx context.Context, id string) (*starling.Plan, error)
	// Approve lets a deployment roll out. plan is the hash of the plan that was shown; zero:
	// none is named. *starling.StaleError: it is another by now.
	Approve(ctx context.Context, actor, id string, plan starling.Digest) (*starling.Deployment, error)
}

// Historian tells what was, and what there is to go back to.
type Historian interface {
	// History lists an app's deployments, newest first, each with what it changed.
	History(f starling.DeploymentFilter) ([]starling.HistoryEntry, error)
	// Diff tells what lies between two deployments of an app.
	Diff(app, from, to string) (*starling.DeploymentDiff, error)
	// Provenance says where a deployment's artifact came from.
	Provenance(ctx context.Context, id string) (*starling.Provenance, error)
	// Readiness lists an app's releases, newest first, with what a rollback to each takes.
	Readiness(ctx context.Context, app string) ([]starling.ReleaseStatus, error)
}

// Explainer tells why things take as long as they do.
type Explainer interface {
	// Why explains a deployment. machine, if not empty, is asked how the artifact came to
	// it; with region empty it is looked for in all regions that take part.
	Why(ctx context.Context, id, machine, region string) (*starling.Why, error)
	// DeploymentCells tells how the cells of the regions that take part stand, or, with
	// region, those of one.
	DeploymentCells(ctx context.Context, id, region string) ([]starling.CellProgress, error)
	// DeploymentCurve tells how the artifact spread since the leader's term began; nothing
	// of what is long over.
	DeploymentCurve(ctx context.Context, id string) ([]starling.CurvePoint, error)
}

// Stores tells of the region's caches.
type Stores interface {
	Caches() []starling.CacheStatus // by name
}

// Artifacts stores and serves artifacts through the region's caches.
type Artifacts interface {
	Artifact(d starling.Digest) (*starling.Artifact, bool)
	Artifacts() []*starling.Artifact // newest first
	// MissingChunks returns those of the digests that the caches lack.
	MissingChunks(ctx context.Context, ds []starling.Digest) ([]starling.Digest, error)
	// PutChunk stores a chunk; ErrCorrupt if the data does not match.
	PutChunk(ctx context.Context, d starling.Digest, data []byte) error
	// RegisterArtifact checks that the caches hold every chunk, signs and records it.
	RegisterArtifact(ctx context.Context, actor, app string, manifest []byte) (*starling.Artifact, error)
	Manifest(ctx context.Context, artifact starling.Digest) ([]byte, error) // the signed payload
	Chunk(ctx context.Context, d starling.Digest) ([]byte, error)
}

// ACL authenticates callers and keeps tokens.
type ACL interface {
	// Authenticate returns the live token with this secret, or ErrForbidden.
	Authenticate(secret string) (*starling.Token, error)
	// BootstrapToken makes the first operator token, once.
	BootstrapToken(ctx context.Context) (*starling.IssuedToken, error)
	CreateToken(ctx context.Context, actor string, t starling.NewToken) (*starling.IssuedToken, error)
	Tokens() []*starling.Token
	RevokeToken(ctx context.Context, actor, id string) error
}

// Cluster tells who is there.
type Cluster interface {
	Leader() starling.LeaderStatus
	Nodes(ctx context.Context, f starling.NodeFilter) []starling.NodeStatus // by name
	RegionStatuses() []starling.RegionStatus
	Region(name string) (*starling.RegionDetail, bool)
	// TakeOver makes this region the home of another's apps. Without force it is refused
	// while any region hears that one or has seen more of it than this one.
	TakeOver(ctx context.Context, actor, region string, force bool) (*starling.Takeover, error)
	// WaitIndex returns the applied index as soon as it is above index, or when ctx ends.
	WaitIndex(ctx context.Context, index uint64) uint64
}

// Roster knows the region's machines.
type Roster interface {
	// Node returns a member of the region or a machine that it knows.
	Node(ctx context.Context, name string) (*starling.NodeDetail, error)
	// SetStanding changes what the region makes of a machine; ErrConflict if it is not what
	// it must be before.
	SetStanding(ctx context.Context, actor string, c starling.StandingChange) (*starling.Machine, error)
	// RemoveMachine forgets a machine; a revoked one only with force.
	RemoveMachine(ctx context.Context, actor, name string, force bool) error
}

// Cells shows the cells of the region's machines.
type Cells interface {
	Cells() []starling.CellStatus // by name
	// RotateCells gives a cell, or all, another gossip key.
	RotateCells(ctx context.Context, actor, cell string, all bool) error
}

// Joining lets machines enrol.
type Joining interface {
	CreateJoinToken(ctx context.Context, actor string, n starling.NewJoinToken) (*starling.IssuedJoinToken, error)
	JoinTokens() []*starling.JoinToken
	RevokeJoinToken(ctx context.Context, actor, id string) error
}

// Events reads the ring of committed events, and follows what is not committed.
type Events interface {
	// EventsAfter returns events after (index, n), oldest first, limit at most. gap is
	// true if older ones that the caller has not seen are gone.
	EventsAfter(index uint64, n, limit int) (events []starling.Event, gap bool)
	// FollowProgress calls tell, one call at a time, with how deployments under way stand:
	// first all, then those that changed, twice a second each at most, and those that have
	// just ended. It returns when ctx ends.
	FollowProgress(ctx context.Context, tell func([]starling.DeploymentProgress))
}

// Operator drives Raft and membership.
type Operator interface {
	RaftPeers() ([]starling.RaftPeer, error)
	Health() (starling.RaftHealth, error)
	RemovePeer(ctx context.Context, actor, name string) error
	TransferLeadership(ctx context.Context, actor string) error
	JoinServers(ctx context.Context, addrs []string) (int, error) // gossip addresses
	ForceLeave(ctx context.Context, name string) error
	// LeaveServer takes this server out of its region for good and stops its process.
	LeaveServer(ctx context.Context, actor string) error
	// SaveSnapshot returns what writes the region's state.
	SaveSnapshot(ctx context.Context) (write func(io.Writer) error, err error)
	// RestoreSnapshot puts a saved state in place of the region's. ErrCorrupt: it is cut off
	// or changed; ErrConflict: it is another region's; then nothing has changed.
	RestoreSnapshot(ctx context.Context, actor string, r io.Reader) (*starling.SnapshotInfo, error)
}
