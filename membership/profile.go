package membership

import (
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/starlingdeploy/starling"
)

// Profile is a set of gossip timings. docs/operators.md, "Gossip tuning", says what each
// costs and why it is not Serf's default.
type Profile string

// The profiles. A dead member is found within about 5 seconds in a regional pool of ten,
// within about 15 in a cell of 1,500, and within about 2 with ProfileLocal, for one
// computer and tests.
const (
	ProfileRegion Profile = "region" // tens of servers, caches and workers
	ProfileCell   Profile = "cell"   // up to starling.MaxCellMachines machines
	ProfileLocal  Profile = "local"
)

// Timing that all pools share.
const (
	reconnectTimeout = time.Hour // a failed member is listed, and tried, for so long
	tombstoneTimeout = time.Hour // a member that left is listed for so long
	deadReclaim      = time.Millisecond
	queryTimeoutMult = 32 // Serf's 16 are meant for twice the gossip interval
)

// Timing of cells.
const (
	cellForgetAfter  = 15 * time.Minute // reconnectTimeout and tombstoneTimeout of machines, which the roster knows
	cellPushPull     = time.Minute      // times 7 with 1,500 members, see memberlist's pushPullScale
	cellEventBuffer  = 64               // events and queries that are recognised when they come again
	cellRetransmit   = 6                // RetransmitMult: memberlist's 4 leaves one in 160,000 untold
	regionSuspicion  = 3                // SuspicionMult: one more member must agree, not two
	newsGossipPeriod = 100 * time.Millisecond
)

func (p Profile) check() error {
	switch p {
	case "", ProfileRegion, ProfileCell, ProfileLocal:
		return nil
	}
	return starling.Invalidf("gossip_profile", "%.40q: use region, cell or local", string(p))
}

// apply sets the timings in conf, whose memberlist part it makes.
func (p Profile) apply(conf *serf.Config) {
	conf.ReconnectTimeout = reconnectTimeout
	conf.TombstoneTimeout = tombstoneTimeout
	conf.QueryTimeoutMult = queryTimeoutMult
	ml := memberlist.DefaultLANConfig()
	ml.GossipInterval = newsGossipPeriod
	switch p {
	case ProfileCell:
		conf.ReconnectTimeout = cellForgetAfter
		conf.TombstoneTimeout = cellForgetAfter
		conf.EventBuffer = cellEventBuffer
		conf.QueryBuffer = cellEventBuffer
		ml.PushPullInterval = cellPushPull
		ml.EnableCompression = false
		ml.RetransmitMult = cellRetransmit
	case ProfileLocal:
		ml = memberlist.DefaultLocalConfig()
		ml.ProbeInterval = 300 * time.Millisecond
		ml.GossipInterval = 50 * time.Millisecond
		ml.RetransmitMult = 4
		ml.PushPullInterval = 5 * time.Second
		ml.SuspicionMaxTimeoutMult = 3
		conf.BroadcastTimeout = 2 * time.Second
		conf.LeavePropagateDelay = 200 * time.Millisecond
		conf.ReapInterval = time.Second
		conf.ReconnectInterval = time.Second
	default:
		ml.SuspicionMult = regionSuspicion
	}
	// A name whose old address is dead may come back at a new one at once.
	ml.DeadNodeReclaimTime = deadReclaim
	conf.MemberlistConfig = ml
}
