package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// minVoters is how many regions there must be for some to outvote the others.
const minVoters = 3

// Succession is what a leader knows of who hears whom, and its decisions on who is the
// home of a lost region's apps. It reads no clock and does no I/O.
//
// It is Raft's election among regions (Ongaro and Ousterhout, 2014), each region's vote
// committed in its own Raft, with a lease as Chubby's masters have (Burrows, 2006). A
// line is the apps of one region; who acts as its home claims it under an epoch. Answers
// to other regions carry a stamp, the leader's clock, and the claims; they echo the
// newest stamp in their next question, and the epoch of each line below which they
// believe no claim. A home acts while a majority has echoed a stamp of less than half of
// takeover_after ago and does not gainsay its claims. A region votes only for lines that
// it has heard nobody claim for all of takeover_after, and gainsays the old claim from the
// moment that it decides to vote. So the lease is over before there can be a majority,
// whatever delays messages suffer; only clocks must run equally fast within a factor of 2.
type Succession struct {
	self  string
	term  string        // tells the stamps of this leader from those of others of the region
	after time.Duration // takeover_after; 0: nobody is taken over without an order
	since time.Time

	mu       sync.Mutex
	lines    map[[2]string]time.Time // when a line was last claimed with a right to it, by line and region
	answered map[string]time.Time    // when a region last answered
	stamps   map[string]rpc.Stamp    // the newest of each region
	echoes   map[string]rpc.Echo     // the newest of each region
	promised map[string]promise      // votes that are committed or on their way, by line
	backed   time.Time               // when a majority last let this region act
	retry    map[string]time.Time    // when to campaign for a line again
	tries    map[string]int          // campaigns for a line that failed
	cursors  map[string]uint64       // how much of this region's log each region has seen
}

// promise is a vote of this term.
type promise struct {
	epoch     uint64
	candidate string
	at        time.Time
}

// NewSuccession returns what a leader of region self knows at the beginning of its term.
// term is different from that of every other leader of the region.
func NewSuccession(self, term string, after time.Duration, since time.Time) *Succession {
	return &Succession{
		self: self, term: term, after: after, since: since, backed: since,
		lines: map[[2]string]time.Time{}, answered: map[string]time.Time{}, stamps: map[string]rpc.Stamp{}, echoes: map[string]rpc.Echo{},
		promised: map[string]promise{}, retry: map[string]time.Time{}, tries: map[string]int{}, cursors: map[string]uint64{},
	}
}

// Standing is what an answer to another region says of this leader.
func (s *Succession) Standing(v raftfsm.View, now time.Time) *rpc.Standing {
	return &rpc.Standing{Stamp: rpc.Stamp{Term: s.term, MS: now.Sub(s.since).Milliseconds()}, Claims: v.Claims()}
}

// Heard takes in another region's answer. st is nil from programs of level 1, which claim
// nothing but their own line.
func (s *Succession) Heard(v raftfsm.View, region string, st *rpc.Standing, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered[region] = now
	if st == nil {
		st = &rpc.Standing{Claims: []starling.Claim{{Line: region, Epoch: 1}}}
	}
	if had := s.stamps[region]; had.Term != st.Stamp.Term || had.MS < st.Stamp.MS {
		s.stamps[region] = st.Stamp
	}
	for _, c := range st.Claims[:min(len(st.Claims), maxRegions)] {
		if c.Epoch >= s.floor(v, c.Line) {
			s.lines[[2]string{c.Line, region}] = now
		}
	}
}

// Echo is what this leader's next question to a region says.
func (s *Succession) Echo(v raftfsm.View, region string) *rpc.Echo {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &rpc.Echo{Stamp: s.stamps[region], AfterMS: s.after.Milliseconds(), Floors: map[string]uint64{}}
	for _, line := range v.KnownRegions() {
		if f := s.floor(v, line); f > 1 {
			e.Floors[line] = f
		}
	}
	return e
}

// Echoed takes in what another region's question said; index is how much of this
// region's log it has seen. e is nil from programs of level 1.
func (s *Succession) Echoed(region string, e *rpc.Echo, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursors[region] = max(index, s.cursors[region])
	if had, ok := s.echoes[region]; e != nil && e.Stamp.Term == s.term && (!ok || e.Stamp.MS >= had.Stamp.MS) {
		s.echoes[region] = *e
	}
}

// floor returns the epoch of a line below which no claim is believed.
func (s *Succession) floor(v raftfsm.View, line string) uint64 {
	return max(v.Floor(line), s.promised[line].epoch)
}

// Supported returns why this region may not act as a home now, nil if it may.
func (s *Succession) Supported(v raftfsm.View, now time.Time) error {
	if s.after == 0 {
		return nil
	}
	known := v.KnownRegions()
	if len(known) < minVoters {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range v.Claims() {
		var with, without []string
		for _, region := range known {
			if s.supports(v, region, c, now) {
				with = append(with, region)
			} else {
				without = append(without, region)
			}
		}
		if 2*len(with) <= len(known) {
			return fmt.Errorf("%w: region %s is cut off from %s, and may be taken over: try again, or ask another region",
				starling.ErrUnavailable, s.self, strings.Join(without, " and "))
		}
	}
	s.backed = now
	return nil
}

// supports reports whether a region's last word, not too old, lets a claim stand.
func (s *Succession) supports(v raftfsm.View, region string, c starling.Claim, now time.Time) bool {
	if region == s.self {
		return s.floor(v, c.Line) <= c.Epoch
	}
	e, ok := s.echoes[region]
	if !ok || e.Floors[c.Line] > c.Epoch {
		return false
	}
	lease := s.after
	if e.AfterMS > 0 { // its votes keep to its own
		lease = min(lease, time.Duration(e.AfterMS)*time.Millisecond)
	}
	return now.Before(s.since.Add(time.Duration(e.Stamp.MS)*time.Millisecond + lease/2))
}

// May returns why this region would not vote now, nil if it would. A candidate asks it of
// itself as well. With takeover_after unset it tells whether an operator's order is wise.
func (s *Succession) May(v raftfsm.View, p raftfsm.Vote, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.may(v, p, now)
}

func (s *Succession) may(v raftfsm.View, p raftfsm.Vote, now time.Time) error {
	if p.Lost == s.self && p.Candidate != s.self {
		return fmt.Errorf("%w: region %s is here", starling.ErrConflict, s.self)
	}
	if err := v.MayVote(p); err != nil {
		return err
	}
	if made, ok := s.promised[p.Lost]; ok && (made.epoch > p.Epoch || made.epoch == p.Epoch && made.candidate != p.Candidate) {
		return fmt.Errorf("%w: region %s votes for %s in epoch %d of %s", starling.ErrConflict, s.self, made.candidate, made.epoch, p.Lost)
	}
	limit := cmp.Or(s.after, regionSeenWithin)
	if silent := now.Sub(s.lastClaimed(v, p.Lost, p.Candidate)); silent < limit {
		return fmt.Errorf("%w: region %s has not been without a home of %s's apps for %s, but for %s",
			starling.ErrConflict, s.self, p.Lost, limit, silent.Round(time.Millisecond))
	}
	return nil
}

// lastClaimed returns when a line was last in hands other than the candidate's: claimed,
// or promised to somebody. A new leader counts from the beginning of its term.
func (s *Succession) lastClaimed(v raftfsm.View, line, candidate string) time.Time {
	last := s.since
	later := func(at time.Time) {
		if at.After(last) {
			last = at
		}
	}
	for _, region := range v.KnownRegions() {
		if region != candidate { // nobody is in its own way
			later(s.lines[[2]string{line, region}])
		}
	}
	if _, ours := claimOf(v, line); ours {
		later(s.backed)
	}
	if p := s.promised[line]; p.candidate != candidate && p.candidate != s.self {
		later(p.at)
	}
	return last
}

// Promise is May, and if it may, the decision: from here on no older claim is supported.
// The vote counts once it is committed.
func (s *Succession) Promise(v raftfsm.View, p raftfsm.Vote, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.after == 0 {
		return fmt.Errorf("%w: region %s does not vote: takeover_after is not set there", starling.ErrConflict, s.self)
	}
	if err := s.may(v, p, now); err != nil {
		return err
	}
	s.promised[p.Lost] = promise{p.Epoch, p.Candidate, now}
	return nil
}

// Due returns the vote that this region should ask for now, if there is one.
func (s *Succession) Due(v raftfsm.View, now time.Time) (raftfsm.Vote, bool) {
	known := v.KnownRegions()
	if s.after == 0 || len(known) < minVoters {
		return raftfsm.Vote{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range known {
		vote := raftfsm.Vote{Lost: line, Candidate: s.self, Regions: known, Mirror: v.MirrorIndex(line),
			Epoch: v.NextEpoch(line)}
		if told := s.told(line); vote.Epoch <= told {
			vote.Epoch += ((told-vote.Epoch)/raftfsm.MaxRegions + 1) * raftfsm.MaxRegions
		}
		if line == s.self {
			vote.Mirror = v.Index()
		}
		if c, ours := claimOf(v, line); ours {
			if !s.gainsaid(v, c, now) {
				continue
			}
		} else if at, ok := s.answered[line]; ok && now.Sub(at) < s.after/2 {
			continue // it lives, and can help itself
		}
		wait := s.after + time.Duration(s.rank(line, vote.Epoch, known, now))*s.step()
		if now.Sub(s.lastClaimed(v, line, s.self)) >= wait && !now.Before(s.retry[line]) {
			return vote, true
		}
	}
	return raftfsm.Vote{}, false
}

// told returns the newest epoch of a line of which this region knows, though its state may
// not: its own promise may be on its way into the log, and others say what they voted.
func (s *Succession) told(line string) uint64 {
	epoch := s.promised[line].epoch
	for _, e := range s.echoes {
		epoch = max(epoch, e.Floors[line])
	}
	return epoch
}

// holder returns who has the apps of a line, as far as is known here. A region that was
// taken over claims its line again for what is new there; what was taken it does not have.
func holder(v raftfsm.View, line string) string {
	if tk, ok := v.Takeover(line); ok {
		return tk.To
	}
	return line
}

// claimOf returns this region's claim to a line, if it makes one.
func claimOf(v raftfsm.View, line string) (starling.Claim, bool) {
	for _, c := range v.Claims() {
		if c.Line == line && holder(v, line) == v.Region() {
			return c, true
		}
	}
	return starling.Claim{}, false
}

// gainsaid reports whether a region that can be heard believes no claim like this one's:
// then only a new epoch helps.
func (s *Succession) gainsaid(v raftfsm.View, c starling.Claim, now time.Time) bool {
	if tk, ok := v.Takeover(c.Line); ok && tk.To != s.self && tk.Stage == starling.TakeoverBegun {
		return false // it will be told
	}
	if s.floor(v, c.Line) > c.Epoch {
		return true
	}
	for region, e := range s.echoes {
		if e.Floors[c.Line] > c.Epoch && now.Sub(s.answered[region]) < s.after {
			return true
		}
	}
	return false
}

// rank is this region's place among those that may be alive, dealt anew for each epoch.
func (s *Succession) rank(line string, epoch uint64, known []string, now time.Time) int {
	live := []string{s.self}
	for _, r := range known {
		if at, ok := s.answered[r]; r != s.self && r != line && ok && now.Sub(at) < s.after/2 {
			live = append(live, r)
		}
	}
	slices.Sort(live)
	key := starling.DigestOf(fmt.Appendf(nil, "%s/%d", line, epoch))
	return slices.Index(starling.Rendezvous(key, live, len(live)), s.self)
}

// step is by how much a later candidate lets an earlier one go first.
func (s *Succession) step() time.Duration { return s.after / 4 }

// Failed notes that a campaign came to nothing. The next one waits for a time that is
// different for each region, so that two do not split the votes for ever.
func (s *Succession) Failed(line string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries[line]++
	key := starling.DigestOf(fmt.Appendf(nil, "%s/%s/%d", s.self, line, s.tries[line]))
	s.retry[line] = now.Add(s.step()/2 + s.step()*time.Duration(key[0])/256)
}

// decisions carries takeovers of this region on: until all has moved, and until the
// region that was lost has seen so.
func (s *Succession) decisions(v raftfsm.View) []Decision {
	s.mu.Lock()
	cursors := maps.Clone(s.cursors)
	s.mu.Unlock()
	var out []Decision
	for _, tk := range v.Unfinished() {
		out = append(out, Decision{raftfsm.TypeTakeover, raftfsm.Takeover{From: tk.From, Epoch: tk.Epoch, Votes: tk.Votes}})
	}
	for _, tk := range v.Takeovers() {
		if tk.To == s.self && tk.Stage == starling.TakeoverDone && tk.From != s.self && cursors[tk.From] >= v.TakeoverIndex(tk.From) {
			out = append(out, Decision{raftfsm.TypeReturned, raftfsm.Returned{Region: tk.From}})
		}
	}
	return out
}
