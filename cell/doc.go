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

// Rhythms and bounds of a member.
const (
	fetchSpread   = 500 * time.Millisecond // over which a cell fetches what was announced
	pollEvery     = time.Minute            // of members for news that they have not heard of; within a quarter of it
	moveSpread    = 20 * time.Second       // over which those who have moved to another cell notice
	moveAgain     = 30 * time.Second       // until a member that was told so asks again for its new cell
	reportSpread  = 900 * time.Millisecond // over which a cell reports to a new speaker
	stateWithin   = 100 * time.Millisecond // of a change of state until the speaker reports it, and between two reports
	tellWithin    = 2 * time.Second        // that a new speaker waits for its cell before it speaks
	backoffMin    = 250 * time.Millisecond
	backoffMax    = 15 * time.Second
	reportBackoff = 5 * time.Second // most, between two tries to report
	muteAfter     = 10 * time.Second
	probeEvery    = 30 * time.Second // of a relay that stood back, whether it reaches a server again

	muteFailures     = 4                      // attempts in a row, at servers in turn, before a relay stands back
	peerTries        = 3                      // members asked for news before a server is
	maxMuted         = 6                      // members that stand back; with more it is the servers that are not there
	maxStrayApps     = 256                    // without a goal that the speaker knows, of which it keeps reports
	maxKeptPerApp    = 64                     // releases in one machine's report
	maxHeldPerApp    = 16                     // releases in a cell's report
	maxMachineBytes  = 1 << 44                // that a machine may say it moved for one goal
	maxAccusedPerApp = 256                    // sources that machines distrust, counted one by one
	maxSpeakers      = 8                      // of one cell, whose reports the leader keeps
	recountAfter     = 500 * time.Millisecond // least age of counts of recountMachines or more
	recountMachines  = 2000
)
