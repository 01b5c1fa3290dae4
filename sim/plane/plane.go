// Package plane simulates the control plane: regions of servers with their workers, caches,
// machines and people, on one virtual clock and one seeded queue of events, without a
// goroutine. State machine, snapshots, decisions and what a leader keeps in memory are
// the product's own (raftfsm, control.Reign); consensus, disks and network are modelled,
// and fail as a seed has it: messages are lost, late, reordered and come twice, servers
// crash at any instant, links break in one direction, clocks jump, regions vanish.
//
// A ledger that stands outside holds every step to what Starling promises. The same seed
// gives the same events; a failure is played again with its story told.
//
// After TigerBeetle's VOPR and FoundationDB's simulation (Zhou et al., SIGMOD 2021).
package plane

import (
	"fmt"
	"strings"
	"time"
)

// Config says which schedule to play.
type Config struct {
	Seed  uint64
	Break Break // a fault to build into the simulated servers, to see that it is found
	Tell  bool  // keep the story
	Moves Moves // how apps may get another home
}

// Moves says how apps may get another home.
type Moves int

// The ways.
const (
	NoMoves Moves = iota
	Orders        // operators have regions taken over
	Votes         // regions vote
)

// Break is a defect of the simulator's shell around the product's code.
type Break string

// The breaks, each a bug that a server might have.
const (
	AckBeforeCommit Break = "a submission is answered before it is committed"
	StaleLease      Break = "a result is taken whatever its lease"
	NoGrace         Break = "a new leader gives workers no grace"
	KeylessRetry    Break = "the idempotency key is dropped"
	Disorder        Break = "an old mirror batch is applied as if it were new"
	DoubleVote      Break = "a server votes for everybody who asks"
	AnyGoal         Break = "a machine takes any goal that it is told"
	SlackDeadline   Break = "a leader's clock is a minute behind"
	LostWrites      Break = "a disk loses what it said it had written"
	HastyVote       Break = "a region votes although it hears the home"
	NoRegionLease   Break = "a home acts without a majority of regions"
	BlindSpeaker    Break = "a speaker counts machines that it does not name"
)

// Breaks lists them all.
func Breaks() []Break {
	return []Break{AckBeforeCommit, StaleLease, NoGrace, KeylessRetry, Disorder, DoubleVote, AnyGoal, SlackDeadline, LostWrites, HastyVote, NoRegionLease, BlindSpeaker}
}

// Stats counts what happened, to see that schedules reach what they are for.
type Stats struct {
	Events       int
	Virtual      time.Duration
	Entries      int // applied first somewhere
	Terms        int
	Crashes      int
	Cuts         int
	Snapshots    int
	Restores     int
	Orders       int
	Acknowledged int
	Deployments  int
	Succeeded    int
	Failed       int
	Cancelled    int
	Cancels      int // answered
	Builds       int
	Requeues     int
	Activations  int
	Campaigns    int // that came to nothing
	Takeovers    int
	Speakers     int // machines that began to speak for their cell
	Halves       int // reports of a part of a cell, while another part has its own speaker
}

// Add sums up two runs.
func (s Stats) Add(o Stats) Stats {
	return Stats{
		s.Events + o.Events, s.Virtual + o.Virtual, s.Entries + o.Entries, s.Terms + o.Terms, s.Crashes + o.Crashes,
		s.Cuts + o.Cuts, s.Snapshots + o.Snapshots, s.Restores + o.Restores, s.Orders + o.Orders,
		s.Acknowledged + o.Acknowledged, s.Deployments + o.Deployments, s.Succeeded + o.Succeeded, s.Failed + o.Failed,
		s.Cancelled + o.Cancelled, s.Cancels + o.Cancels, s.Builds + o.Builds, s.Requeues + o.Requeues,
		s.Activations + o.Activations, s.Campaigns + o.Campaigns, s.Takeovers + o.Takeovers,
		s.Speakers + o.Speakers, s.Halves + o.Halves,
	}
}

// Result is how a schedule went.
type Result struct {
	Seed  uint64
	Stats Stats
	Hash  uint64 // of all events: equal for equal runs
	Err   error  // the first promise that was broken
	Story []string
}

// Run plays one schedule.
func Run(conf Config) Result {
	w := newWorld(conf)
	w.run()
	return Result{conf.Seed, w.stats, w.sum, w.failed, w.story}
}

// Explain plays a schedule again and tells its last events.
func Explain(conf Config) string {
	conf.Tell = true
	r := Run(conf)
	return fmt.Sprintf("seed %d: %v\n%s", r.Seed, r.Err, strings.Join(r.Story, "\n"))
}
