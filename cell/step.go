package cell

import (
	"encoding/json"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Event is what a Brain is told.
type Event interface{ event() }

// The events.
type (
	// Placed: the member has joined the pool of a cell, the first or another one.
	Placed struct {
		Place Place
		View  *View
	}
	// Viewed: the pool has changed.
	Viewed struct{ View *View }
	// Heard: a member has announced that goals of an index are to be had.
	Heard struct{ Index uint64 }
	// Reported: this machine has something to report.
	Reported struct{ Reports []starling.MachineReport }
	// ServerSaid ends a PollServer. Feed is what Signed holds, verified; nil without news.
	ServerSaid struct {
		Signed json.RawMessage
		Feed   *rpc.Feed
		Cell   rpc.CellNews
		Err    error
	}
	// PeerSaid ends an AskPeer.
	PeerSaid struct {
		Response rpc.CellFeedResponse
		Feed     *rpc.Feed // as in ServerSaid
		Err      error
	}
	// ReportsTaken ends a SendReports.
	ReportsTaken struct {
		Sent SendReports
		Term uint64
		Err  error
	}
	// CellTaken ends a SendCell.
	CellTaken struct {
		Sent     SendCell
		Response rpc.CellReportResponse
		Err      error
	}
	// Rotated ends a RotateKey.
	Rotated struct {
		Epoch uint64
		Err   error
	}
	// Tick: the time that Next named has come.
	Tick struct{}
)

// Place is a member's place in its region, as its rpc.Ticket says.
type Place struct {
	Cell     string
	Version  uint64 // of the roster that names the member
	KeyEpoch uint64
	Gossip   string   // the member's gossip address
	Servers  []string // QUIC addresses; a feed brings better ones
}

// Effect is what a Brain wants done. What takes time ends with an event.
type Effect interface{ effect() }

// The effects. Of each of the first four one is under way at a time.
type (
	// PollServer asks a server for news, and with Wait waits there for them.
	PollServer struct {
		Server string // QUIC address
		Have   rpc.FeedCursor
		Wait   bool // rpc.MaxWait
	}
	// AskPeer asks a member for news.
	AskPeer struct {
		Peer starling.Node
		Have rpc.FeedCursor
	}
	// SendReports tells the speaker.
	SendReports struct {
		To      starling.Node
		Reports []starling.MachineReport
	}
	// SendCell tells the leader, through any server.
	SendCell struct {
		Server string
		Report rpc.CellReport
	}
	// Accepted: there are newer goals.
	Accepted struct {
		Feed   *rpc.Feed
		Signed json.RawMessage
	}
	// Announce tells the pool that goals of an index are to be had.
	Announce struct{ Index uint64 }
	// Say changes what the member says of itself in the pool.
	Say struct{ Word Word }
	// Join joins a part of the cell that does not see this one.
	Join struct{ Seeds []string }
	// RotateKey changes the key of the cell's gossip.
	RotateKey struct {
		Epoch uint64
		Key   []byte
	}
	// Moved: the member is not of this cell any more, and is to register again.
	Moved struct{}
)

func (Placed) event()       {}
func (Viewed) event()       {}
func (Heard) event()        {}
func (Reported) event()     {}
func (ServerSaid) event()   {}
func (PeerSaid) event()     {}
func (ReportsTaken) event() {}
func (CellTaken) event()    {}
func (Rotated) event()      {}
func (Tick) event()         {}

func (PollServer) effect()  {}
func (AskPeer) effect()     {}
func (SendReports) effect() {}
func (SendCell) effect()    {}
func (Accepted) effect()    {}
func (Announce) effect()    {}
func (Say) effect()         {}
func (Join) effect()        {}
func (RotateKey) effect()   {}
func (Moved) effect()       {}
