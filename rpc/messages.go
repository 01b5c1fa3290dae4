package rpc

import (
	"time"

	"github.com/starlingdeploy/starling"
)

// Routes. {id} is a deployment.
const (
	RouteStatus         = "GET /rpc/v1/status"               // any server; callers: any role
	RouteLease          = "POST /rpc/v1/jobs/lease"          // leader; callers: worker; waits
	RouteHeartbeat      = "POST /rpc/v1/jobs/{id}/heartbeat" // leader; callers: worker
	RouteJobLog         = "POST /rpc/v1/jobs/{id}/log"       // leader; callers: worker
	RouteComplete       = "POST /rpc/v1/jobs/{id}/complete"  // leader; callers: worker
	RouteFail           = "POST /rpc/v1/jobs/{id}/fail"      // leader; callers: worker
	RouteGoals          = "GET /rpc/v1/goals"                // any server; callers: machine; ?index=&wait=
	RouteMachineReports = "POST /rpc/v1/machine/reports"     // leader; callers: machine
	RouteWants          = "GET /rpc/v1/wants"                // leader; callers: cache; ?index=&wait=
	RouteCacheReport    = "POST /rpc/v1/cache/report"        // leader; callers: cache
	RouteMirror         = "GET /rpc/v1/mirror"               // leader; callers: server of any region; ?index=&wait=
	RouteAccount        = "GET /rpc/v1/account"              // any server; callers: server of any region; ?machine=&artifact=
	RouteVote           = "POST /rpc/v1/regions/vote"        // leader; callers: server of any region
	RouteMember         = "GET /rpc/v1/member"               // leader; callers: server; ?name=: a machine, as its cell knows it
	RouteCells          = "GET /rpc/v1/cells"                // leader; callers: server of any region; ?deployment=
	RouteProgress       = "GET /rpc/v1/progress"             // leader; callers: server of any region; ?index=&wait=&term=
	RouteRegionReports  = "POST /rpc/v1/regions/reports"     // leader; callers: server of any region
)

// HeaderPeer carries the JSON of the caller's starling.Identity when a server passes a request on.
const HeaderPeer = "X-Starling-Peer"

// Bounds.
const (
	MaxBodyBytes    = 32 << 20
	MaxLogPostBytes = 256 << 10
	MaxWait         = 30 * time.Second
	MaxReports      = 1024 // machine or region reports in one post
	MaxDrafts       = 256  // of a region's builds under way; further ones wait for their manifest
)

// Problem is the body of an error answer.
type Problem struct {
	Status int    `json:"status"`
	Kind   string `json:"kind"` // not_found, conflict, fenced, not_leader, unavailable, forbidden, clock, invalid
	Field  string `json:"field,omitempty"`
	Detail string `json:"detail"`
	// RetryAfterMS is when a bound that was reached may leave room again; 0: no such thing.
	RetryAfterMS int64 `json:"retry_after_ms,omitempty"`
}

// Status is a server's word on itself.
type Status struct {
	Name         string `json:"name"`
	Region       string `json:"region"`
	Bootstrapped bool   `json:"bootstrapped"` // has a Raft configuration
	Leader       string `json:"leader"`       // QUIC address; empty: none known
	IsLeader     bool   `json:"is_leader"`
	Index        uint64 `json:"index"`
	// For the leader of the same region, which judges its servers' health; a program
	// that tells nothing of its log's end has LastTerm 0.
	LastContactMS int64  `json:"last_contact_ms,omitempty"` // since the leader was heard; -1: never
	LastTerm      uint64 `json:"last_term,omitempty"`       // of the last entry in the log
	LastIndex     uint64 `json:"last_index,omitempty"`
}

// LeaseRequest asks for a job. The worker's name is that of its certificate.
type LeaseRequest struct {
	Slot    int      `json:"slot"`
	Holding []string `json:"holding,omitempty"` // deployments that this worker is building
	WaitMS  int64    `json:"wait_ms"`           // at most MaxWait
}

// LeaseResponse holds a job, or none after the wait.
type LeaseResponse struct {
	Job *Job `json:"job,omitempty"`
}

// Job is one build to do.
type Job struct {
	Deployment string       `json:"deployment"`
	App        starling.App `json:"app"`
	SHA        string       `json:"sha"`
	BuildKey   string       `json:"build_key"`
	Since      string       `json:"since,omitempty"` // commit of the release that runs, to list what is new
	Attempt    int          `json:"attempt"`
	Lease      uint64       `json:"lease"`
	Deadline   time.Time    `json:"deadline"`
}

// HeartbeatRequest renews a lease; to be sent every HeartbeatEvery, and when the draft has grown.
type HeartbeatRequest struct {
	Lease    uint64 `json:"lease"`
	Draft    Draft  `json:"draft,omitzero"`
	UploadMS int64  `json:"upload_ms,omitempty"` // since the first chunk reached the caches; 0: none has
}

// Draft names the list of chunks that a build under way has uploaded so far: see
// artifact.DraftPage. It is told from leader to leader, and never goes through Raft.
type Draft struct {
	Head  starling.Digest `json:"head"`  // of the newest page, which the caches of the build's region hold
	Pages int             `json:"pages"` // its number
}

// BuildDraft is the draft of one build.
type BuildDraft struct {
	Deployment string `json:"deployment"`
	Lease      uint64 `json:"lease"` // of the build
	Draft
}

// Lease timing. A job whose worker was silent for LeaseTTL is queued again; a new
// leader grants every lease a fresh TTL.
const (
	HeartbeatEvery  = 2 * time.Second
	HeartbeatWithin = 2 * time.Second // one try; several fit into LeaseTTL when servers die
	LeaseTTL        = 10 * time.Second
)

// LogRequest appends to a job's log. The leader keeps the log in memory until the
// job ends; after an election it asks for the part it lacks by its Next.
type LogRequest struct {
	Lease  uint64 `json:"lease"`
	Offset int64  `json:"offset"`
	Data   []byte `json:"data"` // MaxLogPostBytes at most
}

// LogResponse says from where to go on; it may be less than was sent.
type LogResponse struct {
	Next int64 `json:"next"`
}

// CompleteRequest ends a job well.
type CompleteRequest struct {
	Lease     uint64              `json:"lease"`
	Artifact  starling.Artifact   `json:"artifact"`
	NewBytes  int64               `json:"new_bytes"`
	UploadMS  int64               `json:"upload_ms,omitempty"` // since the first chunk reached the caches
	Log       starling.Digest     `json:"log,omitzero"`
	Sandboxed bool                `json:"sandboxed"`
	Commits   *starling.CommitLog `json:"commits,omitempty"` // since the job's Since
}

// FailRequest ends a job badly.
type FailRequest struct {
	Lease     uint64          `json:"lease"`
	Reason    string          `json:"reason"`
	Log       starling.Digest `json:"log,omitzero"`
	Sandboxed bool            `json:"sandboxed"`
}

// Goals are the region's goals in force.
type Goals struct {
	Index uint64           `json:"index"`
	Goals []*starling.Goal `json:"goals"`
	// Reign names the leader and its term. A new leader knows of no machine: at a change,
	// machines report everything. Empty from programs of level 1, and while nobody leads.
	Reign string `json:"reign,omitempty"`
}

// Source is a region from which an artifact can be had.
type Source struct {
	Region string          `json:"region"`
	Caches []starling.Node `json:"caches"`
}

// Want is one artifact that the region's caches are to hold.
type Want struct {
	Artifact starling.Digest `json:"artifact"`
	Sources  []Source        `json:"sources"` // other regions, nearest first; the own region is implied
	Priority int             `json:"priority"`
	// Deadline of the deployment that the priority is of: of equal priorities the nearer goes
	// first. Zero: none, the latest of all.
	Deadline time.Time `json:"deadline,omitzero"`
	// Base is the release that this one follows, if there is one: what differs little
	// from its chunks crosses between regions as patches.
	Base  starling.Digest `json:"base,omitzero"`
	Build string          `json:"build,omitempty"` // deployment whose draft became this artifact
}

// WantDraft is a build under way elsewhere whose chunks may be fetched ahead of their
// manifest. They are not pinned, and nothing is reported as held by them.
type WantDraft struct {
	Deployment string `json:"deployment"`
	Draft
	Source   Source `json:"source"` // the build's region
	Priority int    `json:"priority"`
}

// Wants are all artifacts that the caches must hold and never evict.
type Wants struct {
	Index    uint64      `json:"index"`
	Replicas int         `json:"replicas"` // caches that hold each chunk
	Wants    []Want      `json:"wants"`
	Drafts   []WantDraft `json:"drafts,omitempty"`
	Reign    string      `json:"reign,omitempty"` // another: a new leader, which is to be told all; empty from programs of level 1
}

// CacheReport is a cache's word on what it was asked to hold.
type CacheReport struct {
	Name      string      `json:"name"`
	Holds     []CacheHold `json:"holds"`
	Drafts    []DraftHold `json:"drafts,omitempty"`
	UsedBytes int64       `json:"used_bytes"`
	MaxBytes  int64       `json:"max_bytes"`
}

// CacheHold is the state of one wanted artifact at one cache.
type CacheHold struct {
	Artifact    starling.Digest `json:"artifact"`
	ChunksDone  int             `json:"chunks_done"`  // of this cache's share
	ChunksTotal int             `json:"chunks_total"` // this cache's share; -1: manifest not yet had
	Complete    bool            `json:"complete"`
	Caches      []string        `json:"caches"` // the membership, sorted, that the share was computed with
	WANBytes    int64           `json:"wan_bytes"`
	OutBytes    int64           `json:"out_bytes"` // chunk bytes sent to machines
	Problem     string          `json:"problem,omitempty"`
}

// DraftHold is what a cache has fetched ahead for one build.
type DraftHold struct {
	Deployment string `json:"deployment"`
	WANBytes   int64  `json:"wan_bytes"`
}

// MirrorBatch is what changed in the records homed at a region.
type MirrorBatch struct {
	Mirror    starling.Mirror   `json:"mirror"`
	Directory Directory         `json:"directory"`
	Placed    []starling.Digest `json:"placed"`           // artifacts that this region's caches hold
	Drafts    []BuildDraft      `json:"drafts,omitempty"` // of builds under way here
	Standing  *Standing         `json:"standing,omitempty"`
}

// Standing is what a leader says of its region's right to be a home.
type Standing struct {
	Stamp  Stamp            `json:"stamp"`
	Claims []starling.Claim `json:"claims"`
}

// Stamp is a leader's clock when it sent an answer.
type Stamp struct {
	Term string `json:"term"` // of the leader
	MS   int64  `json:"ms"`   // since the term began
}

// Echo goes with a question to another region: the newest stamp had from its leader, and
// the epochs of each line below which the asking region believes no claim (absent: 1).
type Echo struct {
	Stamp   Stamp             `json:"stamp"`
	AfterMS int64             `json:"after_ms"` // the asking region's takeover_after; 0: it never votes
	Floors  map[string]uint64 `json:"floors,omitempty"`
}

// VoteRequest asks a region for its vote about a lost one, which it commits before it
// answers. A refusal is an error.
type VoteRequest struct {
	Lost      string   `json:"lost"`
	Epoch     uint64   `json:"epoch"`
	Candidate string   `json:"candidate"`     // the caller's region
	Regions   []string `json:"regions"`       // all that the candidate knows
	Mirror    uint64   `json:"mirror"`        // how much of Lost's log the candidate has seen
	Dry       bool     `json:"dry,omitempty"` // would it?
}

// Directory says where a region's servers and caches are.
type Directory struct {
	Region  string          `json:"region"`
	Servers []starling.Node `json:"servers"`
	Caches  []starling.Node `json:"caches"`
	// Workers and Machines count those alive; 0 also from a version before, which does not tell.
	Workers  int `json:"workers,omitempty"`
	Machines int `json:"machines,omitempty"`
}
