package starling

import (
	"cmp"
	"time"
)

// TakeoverStage says how far the takeover of a region's apps has come.
type TakeoverStage string

// The stages, in their order.
const (
	TakeoverBegun    TakeoverStage = "begun"    // apps move, a bounded number in each log entry
	TakeoverDone     TakeoverStage = "done"     // all have moved; the region counts as lost
	TakeoverReturned TakeoverStage = "returned" // the region has caught up; it takes part again
)

// Takeover is one stage of one region taking over the apps of another. A region may
// take over its own apps: it then renews its epoch after others had voted it lost.
type Takeover struct {
	From  string        `json:"from"`
	To    string        `json:"to"`
	Epoch uint64        `json:"epoch"` // of the apps from now on; above every one before
	Stage TakeoverStage `json:"stage"`
	// Mirror is how much of From's log To had seen: the Raft index in From.
	Mirror uint64    `json:"mirror"`
	Votes  []string  `json:"votes,omitempty"` // regions that voted for it, sorted; none: an operator ordered it
	Actor  string    `json:"actor"`
	At     time.Time `json:"at"`
}

// Claim says that a region acts as the home of the apps of a line: those whose home was
// Line before Epoch. Every region claims its own line, and those of the regions that it
// has taken over.
type Claim struct {
	Line  string `json:"line"`
	Epoch uint64 `json:"epoch"`
}

// Unseen is what a region had when its apps were taken over and the region that took
// them had not seen.
type Unseen struct {
	By     string    `json:"by"` // region that took over
	Epoch  uint64    `json:"epoch"`
	Kind   string    `json:"kind"` // app, deployment or release
	App    string    `json:"app"`
	ID     string    `json:"id"`     // the deployment's, where there is one
	Detail string    `json:"detail"` // what became of it, for people
	At     time.Time `json:"at"`
}

// CurrentLine returns the region among whose apps the app counts when regions vote: the
// one that was its home before Home took it over. Epochs of different lines know nothing
// of each other, so whoever takes over or renews one leaves the apps of another alone.
func (a *App) CurrentLine() string { return cmp.Or(a.Line, a.Home) }

// CurrentEpoch returns the epoch of the app's home: 1 until the home has moved.
func (a *App) CurrentEpoch() uint64 { return max(a.Epoch, 1) }

// CurrentEpoch returns the epoch of the home that keeps this record.
func (d *Deployment) CurrentEpoch() uint64 { return max(d.Epoch, 1) }
