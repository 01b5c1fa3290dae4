// Package cell is a machine's part in its cell: 1,000 to 1,500 machines that gossip in one
// pool. A few members, elected by hash from what each of them sees in the gossip, are the
// cell's relays and hold its connections to the servers; the first of them speaks for it.
//
// News come down: a relay is told the region's goals, signed by a server, and announces
// their index in the pool; members fetch them from a relay, or from each other. Reports go
// up: each member tells the speaker, which counts (Tally) and tells the leader, where Board
// puts the cells together and counts nobody twice.
//
// Brain decides all that, without a clock, randomness or I/O of its own. Member is the shell
// around one; a benchmark steps thousands.
package cell

import "time"

// Rhythms of a member.
const (
	fetchSpread   = 500 * time.Millisecond  // over which a cell fetches what was announced
	retryFetch    = 50 * time.Millisecond   // until the next member is asked, doubled each time
	patientMax    = 500 * time.Millisecond  // between two rounds of asking members that answer and have no news
	pollEvery     = time.Minute             // that a member asks for news which it has not heard of; a quarter more or less
	moveSpread    = 20 * time.Second        // over which those who have moved to another cell notice
	moveAgain     = 30 * time.Second        // until a member that was told so asks again for its new cell
	reportSpread  = 900 * time.Millisecond  // over which a cell reports to a new speaker
	tellAfter     = 1200 * time.Millisecond // from when a speaker begins until it speaks: it has heard its cell then
	stateWithin   = 100 * time.Millisecond  // between a change of state and the cell's report, and between two reports
	recallAfter   = time.Minute             // that members have not reported, until all are asked to; doubled each time
	recallMost    = 16 * time.Minute
	backoffMin    = 250 * time.Millisecond
	backoffMax    = 15 * time.Second
	reportBackoff = 5 * time.Second  // most, between two tries to report
	muteAfter     = 10 * time.Second // that a relay reaches no server, until it stands back
	probeEvery    = 30 * time.Second // that it tries again
	rotateAgain   = 5 * time.Second
)

// Bounds.
const (
	muteFailures     = 4       // attempts in a row, at servers in turn, before a relay stands back
	maxMuted         = 6       // members that stand back; with more it is the servers that are not there
	peerTries        = 3       // members asked for news in a round
	patientRounds    = 8       // of members that answer and have none, before a server is asked: about 6 s
	maxServers       = 32      // of a region, that are remembered
	maxStrayApps     = 256     // without a goal that the speaker knows, of which it keeps reports
	maxKeptPerApp    = 64      // releases in one machine's report
	maxHeldPerApp    = 16      // releases in a cell's report
	maxMachineBytes  = 1 << 44 // that a machine may say it moved for one goal
	maxAccusedPerApp = 256     // sources that machines distrust, counted one by one
	recountMachines  = 2000    // whose counts may be recountAfter old
	recountAfter     = 500 * time.Millisecond
)
