package rpc

import (
	"encoding/json"
	"time"

	"github.com/starlingdeploy/starling"
)

// Routes between machines and the servers of their region.
const (
	// RouteEnrol is the only one for callers without a certificate, on streams of a kind
	// of its own.
	RouteEnrol      = "POST /rpc/v1/enrol"             // any server; callers: nobody yet
	RouteRenew      = "POST /rpc/v1/machines/renew"    // any server; callers: machine
	RouteRegister   = "POST /rpc/v1/machines/register" // leader; callers: machine
	RouteFeed       = "GET /rpc/v1/feed"               // any server; callers: machine (a cell's relays); a FeedCursor, ?wait=
	RouteCellReport = "POST /rpc/v1/cells/report"      // leader; callers: machine (a cell's relays)
)

// Routes that a machine serves within its cell, and to the servers of its region.
const (
	RouteCellFeed    = "GET /cell/v1/feed"     // any member; callers: machine; a FeedCursor, answered at once
	RouteCellReports = "POST /cell/v1/reports" // the cell's speaker; callers: machine
	RouteCellMachine = "GET /cell/v1/machine"  // any relay; callers: server; ?name=: a member, and what it last reported
	RouteCellMembers = "GET /cell/v1/members"  // any relay; callers: server; all members, and what they last reported
)

// Rhythms of a cell.
const (
	CellReportEvery  = time.Second      // while anything changes
	CellRefreshEvery = 2 * time.Second  // of the whole report, in any case
	CellSilentAfter  = 10 * time.Second // a report that was not renewed for so long says nothing any more
	CellRelays       = 3                // members of a cell that are connected to the servers
	MaxTicketSeeds   = 8
	MaxRevoked       = 10_000 // names in a feed
)

// EnrolRequest asks for a certificate. The machine keeps its private key to itself.
type EnrolRequest struct {
	Token  string            `json:"token"`
	CSR    []byte            `json:"csr"` // PKCS #10 in DER, signed with the machine's new key
	Name   string            `json:"name"`
	Zone   string            `json:"zone,omitempty"`
	Rack   string            `json:"rack,omitempty"`
	Tags   map[string]string `json:"tags,omitempty"`
	Gossip string            `json:"gossip"` // host:port of its gossip in the cell
	At     time.Time         `json:"at"`     // by the machine's clock
}

// EnrolResponse makes a machine of the caller.
type EnrolResponse struct {
	CA     []byte    `json:"ca"`   // PEM
	Cert   []byte    `json:"cert"` // PEM, the machine's own certificate first, then that of who signed it
	Now    time.Time `json:"now"`  // by the server's clock
	Ticket Ticket    `json:"ticket"`
}

// RenewRequest asks for a new certificate for the same machine.
type RenewRequest struct {
	CSR []byte `json:"csr"`
}

// RenewResponse is its answer.
type RenewResponse struct {
	Cert []byte `json:"cert"` // as in EnrolResponse
}

// RegisterRequest tells where a machine is, and asks which cell it belongs to.
type RegisterRequest struct {
	Name   string            `json:"name"`
	Zone   string            `json:"zone,omitempty"`
	Rack   string            `json:"rack,omitempty"`
	Tags   map[string]string `json:"tags,omitempty"`
	Gossip string            `json:"gossip"` // host:port
}

// Ticket is a machine's place in its region. It holds a secret, the gossip key.
type Ticket struct {
	Region   string            `json:"region"`
	Cell     string            `json:"cell"`
	Slot     int               `json:"slot"`
	Version  uint64            `json:"version,omitempty"` // of the cell's roster, which names the machine
	Tags     map[string]string `json:"tags,omitempty"`    // the machine's, as recorded
	Key      []byte            `json:"key,omitempty"`     // of the cell's gossip, of 16, 24 or 32 bytes; empty: plain text
	KeyEpoch uint64            `json:"key_epoch"`
	Seeds    []string          `json:"seeds,omitempty"` // gossip addresses of other members, MaxTicketSeeds at most
	Servers  []string          `json:"servers"`         // QUIC addresses
}

// Feed is what the machines of a region are told. Its index is that of the state in
// which it was last seen to change, comparable between servers; its Edition orders feeds.
type Feed struct {
	Index   uint64           `json:"index"`
	Region  string           `json:"region"`
	Reign   string           `json:"reign,omitempty"` // the leader and its term, as in Goals
	At      time.Time        `json:"at"`              // when the server that signed it saw it change
	Goals   []*starling.Goal `json:"goals"`
	Servers []starling.Node  `json:"servers"`
	Caches  []starling.Node  `json:"caches"`
	Revoked []string         `json:"revoked,omitempty"` // machines whose certificates are void, sorted
	// Draining are machines that are no goal's target, sorted.
	Draining []string `json:"draining,omitempty"`
}

// SignedFeed is a Feed that any peer may pass on: signed by a server of the region.
type SignedFeed struct {
	Payload   []byte   `json:"payload"` // a Feed in JSON; what is signed is these bytes
	Signature []byte   `json:"signature"`
	Chain     [][]byte `json:"chain"` // certificates in DER, the signer's first
}

// FeedResponse answers a relay. Signed is missing if the relay's is the newest.
type FeedResponse struct {
	Signed json.RawMessage `json:"signed,omitempty"` // a SignedFeed
	Cell   CellNews        `json:"cell"`
}

// CellNews is what a cell's relays are told of the cell.
type CellNews struct {
	Name     string `json:"name"`
	Version  uint64 `json:"version"`
	KeyEpoch uint64 `json:"key_epoch"`
	Key      []byte `json:"key,omitempty"`    // of the present epoch; empty: plain text
	Roster   Roster `json:"roster,omitempty"` // who belongs to it; a member that is not in it registers again
}

// Roster names a cell's members: name by slot, empty where there is none.
type Roster []string

// CellFeedResponse answers a member of the cell.
type CellFeedResponse struct {
	Signed json.RawMessage `json:"signed,omitempty"` // a SignedFeed; missing if the caller's is as new
	Moved  bool            `json:"moved,omitempty"`  // the caller is not of this cell any more: it registers again
	// Speaker and Term say to whom members report. What another term was told is forgotten.
	Speaker string `json:"speaker,omitempty"`
	Term    uint64 `json:"term,omitempty"`
}

// CellReportsResponse takes a member's reports.
type CellReportsResponse struct {
	Term uint64 `json:"term"` // of the speaker; if another was told, everything is reported again
}

// CellReport is a cell's word on itself, from the member that speaks for it. Two halves of
// a cell that do not see each other have a speaker each; their Alive sets are disjoint.
type CellReport struct {
	Cell    string         `json:"cell"`
	Version uint64         `json:"version"` // of the roster that slots are counted by
	Relay   starling.Node  `json:"relay"`   // the speaker
	Gossip  string         `json:"gossip"`  // its gossip address, a seed for others
	Alive   starling.Slots `json:"alive"`   // members that it sees, itself included
	Apps    []CellApp      `json:"apps"`    // goals in force, MaxReports at most
	// A report may hold only those apps that have changed since an earlier one of the same
	// relay. Seq counts its reports; Base is the Seq that this one builds on, 0: on none.
	Seq  uint64 `json:"seq,omitempty"`
	Base uint64 `json:"base,omitempty"`
	// Gone are apps of the earlier report that have no goal any more.
	Gone []string `json:"gone,omitempty"`
}

// CellApp is the merged state of those machines of a cell that a goal targets.
type CellApp struct {
	App        string              `json:"app"`
	Generation starling.Generation `json:"generation"`
	Revision   uint64              `json:"revision"`
	Counts     starling.Counts     `json:"counts"`
	Unheard    int                 `json:"unheard,omitempty"` // targets that have not reported on this generation yet
	Bytes      starling.Bytes      `json:"bytes"`
	Progress   starling.Progress   `json:"progress,omitempty"`
	Fetch      starling.Durations  `json:"fetch,omitempty"` // of the machines that hold the artifact
	Held       map[string]int      `json:"held,omitempty"`  // machines that keep each other release on disk, by digest
}

// CellReportResponse tells a cell's speaker what it cannot know.
type CellReportResponse struct {
	Reign string   `json:"reign"`
	Seeds []string `json:"seeds,omitempty"` // of another part of the cell, which this one should join
	Whole bool     `json:"whole,omitempty"` // the base is not known here: everything is to be said again
}

// CellMember is one member of a cell and its last word on each app.
type CellMember struct {
	Node    starling.Node            `json:"node"`
	Reports []starling.MachineReport `json:"reports,omitempty"`
	SeenAt  time.Time                `json:"seen_at,omitzero"` // of the last report
}
