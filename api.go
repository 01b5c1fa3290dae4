package starling

import "time"

// Submission is what an engineer sends to POST /v1/deployments: an app and either
// a commit or an artifact.
type Submission struct {
	App      string `json:"app"`
	SHA      string `json:"sha,omitempty"`
	Artifact Digest `json:"artifact,omitzero"`
	Priority int    `json:"priority,omitempty"`
	// IgnoreFreeze lets it roll out in spite of freezes; the record says by whom.
	IgnoreFreeze bool `json:"ignore_freeze,omitempty"`
	// IdempotencyKey makes a retry safe; 128 bytes at most. HTTP carries it in a header.
	IdempotencyKey string `json:"-"`
	From           Origin `json:"-"` // as the server that was called saw it
}

// Action is what people do to a deployment under way.
type Action string

// The actions.
const (
	ActionCancel  Action = "cancel"
	ActionApprove Action = "approve"
	ActionPause   Action = "pause"
	ActionResume  Action = "resume"
	ActionPromote Action = "promote" // the next step now, without waiting for machines or the bake
	ActionAbort   Action = "abort"   // fail now: back, or stay, as the strategy says
)

// ActionOptions say how an action is meant; the zero value is the plain one. It is the body
// of POST /v1/deployments/{id}/{action}, and may be left out.
type ActionOptions struct {
	All bool `json:"all,omitempty"` // promote: all machines at once
	// Wave is the step under way that a promotion is meant to end; nil: whichever it is. With
	// it a retry cannot skip a second one.
	Wave         *int   `json:"wave,omitempty"`
	IgnoreFreeze bool   `json:"ignore_freeze,omitempty"` // promote, resume: in spite of freezes, from now on
	Reason       string `json:"reason,omitempty"`        // cancel, abort: for the record, MaxReasonBytes at most
}

// DeploymentFilter chooses deployments for a list, newest first.
type DeploymentFilter struct {
	App    string
	Active bool   // only those that have not ended
	Before string // ID to go on after; for paging
	Limit  int    // 1..1000
}

// LogPart is a piece of a build log.
type LogPart struct {
	Data []byte // from the asked offset
	Next int64  // offset to go on from
	Done bool   // nothing will follow
}

// RegionStatus is what a server knows of a region.
type RegionStatus struct {
	Name    string   `json:"name"`
	Local   bool     `json:"local"`
	Leader  string   `json:"leader,omitempty"`
	Servers []string `json:"servers"`
	// ServersAlive are those that gossip sees, in the region itself.
	ServersAlive int `json:"servers_alive"`
	Caches       int `json:"caches"`
	Workers      int `json:"workers"`
	// Machines counts those alive; -1: not known here.
	Machines int  `json:"machines"`
	Seen     bool `json:"seen"` // answered within the last ten seconds
	// Lost: another region has taken over its apps, and it has not caught up yet.
	Lost     bool      `json:"lost,omitempty"`
	Takeover *Takeover `json:"takeover,omitempty"` // the newest of its apps
}

// RegionDetail is all that a server knows of a region.
type RegionDetail struct {
	RegionStatus
	Apps []string `json:"apps"` // homed there
	// Unseen is what the region had that the one which took over had not seen, oldest
	// first. Only its own servers know.
	Unseen []*Unseen `json:"unseen"`
}

// LeaderStatus says who leads this server's region.
type LeaderStatus struct {
	Region string `json:"region"`
	Name   string `json:"name,omitempty"` // empty: none
	Addr   string `json:"addr,omitempty"` // QUIC address
	HTTP   string `json:"http,omitempty"`
	Self   bool   `json:"self"`
	Index  uint64 `json:"index"` // last applied
}

// RaftPeer is one server of the Raft configuration.
type RaftPeer struct {
	Name   string `json:"name"`
	Addr   string `json:"addr"`
	Voter  bool   `json:"voter"`
	Leader bool   `json:"leader"`
	Level  int    `json:"level"` // of commands that its program can apply, as far as gossip knows
}

// RaftHealth is how a region's servers are, as their leader sees them.
type RaftHealth struct {
	Healthy          bool               `json:"healthy"`           // every server is
	FailureTolerance int                `json:"failure_tolerance"` // healthy voters that may fail before the region stands still
	Servers          []RaftServerHealth `json:"servers"`           // by name
}

// RaftServerHealth is how one server is.
type RaftServerHealth struct {
	Name          string    `json:"name"`
	Addr          string    `json:"addr"`
	Status        string    `json:"status"` // in gossip: alive, failed or left
	Leader        bool      `json:"leader"`
	Voter         bool      `json:"voter"`
	Healthy       bool      `json:"healthy"`
	LastContactMS int64     `json:"last_contact_ms"` // since it heard the leader; -1: it does not tell
	LastTerm      uint64    `json:"last_term"`       // of its last log entry
	LastIndex     uint64    `json:"last_index"`
	StableSince   time.Time `json:"stable_since"` // since when it has been healthy, or not
}

// SnapshotInfo says what is in a snapshot of a region's state.
type SnapshotInfo struct {
	Region  string         `json:"region"`
	Index   uint64         `json:"index"`   // of the last log entry in it
	At      time.Time      `json:"at"`      // the state's clock
	Records map[string]int `json:"records"` // by table
	Active  int            `json:"active"`  // deployments homed in the region that had not ended
}

// NodeStatus is a member of a region with what it last reported, for node status.
type NodeStatus struct {
	Node
	Cell     string            `json:"cell,omitempty"`     // of a machine
	Standing Standing          `json:"standing,omitempty"` // of a machine that is enrolled
	Running  map[string]Digest `json:"running,omitempty"`  // by app
	Problem  string            `json:"problem,omitempty"`
	SeenAt   time.Time         `json:"seen_at,omitzero"`
}

// NewToken asks for a token.
type NewToken struct {
	Name string   `json:"name"`
	Role ACLRole  `json:"role"`
	TTL  Duration `json:"ttl"` // 0: never expires
}

// IssuedToken is the only time that a token's secret is shown.
type IssuedToken struct {
	Token
	Secret string `json:"secret"`
}
