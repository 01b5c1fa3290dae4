package plane

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/control"
	"github.com/starlingdeploy/starling/raftfsm"
)

const (
	coalesceFor   = time.Millisecond // that proposals gather before they become an entry
	lookEvery     = time.Second      // at least this often a leader looks, if anything is under way
	lookRest      = 20 * time.Millisecond
	snapshotEvery = 48 // entries
)

var (
	errLost    = fmt.Errorf("%w: no answer", starling.ErrUnavailable)
	errRefused = fmt.Errorf("%w: connection refused", starling.ErrUnavailable)
	errDeposed = fmt.Errorf("%w: the lead was lost: the outcome is not known", starling.ErrUnavailable)
)

// server is one server: consensus and disk of the simulator, state machine and
// decisions of the product.
type server struct {
	node
	w      *world
	region *region
	id     int // in its region

	disk   saved
	slow   time.Duration // added to each write
	trap   trap          // where it will crash
	offset time.Duration // of its wall clock

	// What a crash loses.
	life      uint64 // counts starts
	busyUntil time.Duration
	writing   *saved
	raft      *consensus
	fsm       *raftfsm.FSM
	applied   uint64
	inFlight  map[uint64]flight // by index
	gathered  []proposal
	snapping  bool
	goals     map[string]*starling.Goal // as last seen in this state, by app

	// What the end of a term loses.
	reign    *control.Reign
	term     uint64
	since    time.Time
	started  time.Duration
	looking  bool // a look is scheduled
	asking   bool // decisions are under way
	lastLook time.Duration
	version  uint64 // of the members
	desk     *control.LeaseDesk
	leases   []leaseWait
	pulls    []pullWait
}

// proposal is commands on their way into an entry.
type proposal struct {
	at   time.Duration
	cmds []raftfsm.Command
	done func([]raftfsm.Result, error)
}

// flight is an entry whose outcome is awaited.
type flight struct {
	term uint64
	all  []proposal
}

func (s *server) wall() time.Time { return epoch.Add(s.w.now + s.offset) }

// clock is the steady clock of the term.
func (s *server) clock() time.Time { return s.since.Add(s.w.now - s.started) }

// start begins a life from what is on disk.
func (s *server) start() {
	s.up = true
	s.life++
	s.busyUntil, s.writing = 0, nil
	if last := s.disk.first + uint64(len(s.disk.log)) - 1; s.w.conf.Break == LostWrites && last > s.disk.snapIndex {
		s.disk.log = s.disk.log[:len(s.disk.log)-1]
	}
	s.disk.log = s.disk.log[:len(s.disk.log):len(s.disk.log)] // messages under way share what is behind
	s.raft = newConsensus(s.id, len(s.region.servers), s.disk, s.w.now, func() time.Duration {
		return time.Duration(s.w.rng.Int64N(int64(electionMin)))
	})
	s.raft.votesTwice = s.w.conf.Break == DoubleVote
	s.inFlight, s.gathered, s.snapping = map[uint64]flight{}, nil, false
	s.load()
	s.endReign()
	s.tick(s.life)
}

// load takes the snapshot on disk into the state machine.
func (s *server) load() {
	if s.fsm == nil || s.disk.snap == nil {
		s.fsm = raftfsm.New(s.region.name)
	}
	s.goals = map[string]*starling.Goal{}
	if s.raft.snap != nil {
		if err := s.fsm.Restore(io.NopCloser(bytes.NewReader(s.raft.snap))); err != nil {
			s.w.fail("%s cannot restore its snapshot: %v", s.name, err)
		}
		s.w.stats.Restores++
	}
	s.applied = s.raft.snapIndex
}

// crash loses what is in memory. A write under way may have reached the disk: then it
// stands there without anybody having been told.
func (s *server) crash() {
	if !s.up {
		return
	}
	if s.writing != nil && s.w.chance(50) {
		s.disk = *s.writing
	}
	s.up, s.fsm = false, nil
	s.life++
	s.endReign()
	s.w.tell("%s crashes", s.name)
	s.w.stats.Crashes++
}

func (s *server) endReign() {
	if s.reign != nil {
		s.w.tell("%s no longer leads", s.name)
	}
	s.reign, s.desk, s.leases, s.pulls = nil, nil, nil, nil
}

// run does one turn of the server's main loop, once the disk is done with the last one.
func (s *server) run(life uint64, f func()) {
	switch {
	case !s.up || s.life != life:
		return
	case s.w.now < s.busyUntil:
		s.w.at(s.busyUntil, func() { s.run(life, f) })
		return
	}
	f()
	if !s.up { // it crashed itself
		return
	}
	if s.raft.broken != nil {
		s.w.fail("%s: %v", s.name, s.raft.broken)
	}
	if !s.raft.dirty {
		s.settle()
		return
	}
	state := s.raft.saved
	s.raft.dirty, s.writing = false, &state
	s.busyUntil = s.w.now + s.w.between(time.Millisecond, 6*time.Millisecond) + s.slow
	s.w.at(s.busyUntil, func() {
		if s.life != life {
			return
		}
		s.disk, s.writing = state, nil
		if s.springs(trapUnanswered, len(s.raft.out) > 0) {
			return
		}
		s.raft.flushed()
		s.settle()
	})
}

// settle sends what may be sent and applies what may be applied.
func (s *server) settle() {
	for _, m := range s.raft.out {
		to := s.region.servers[m.to]
		s.w.send(&s.node, &to.node, true, func() {
			s.w.hash(uint64(m.kind), m.term, m.index)
			to.run(to.life, func() { to.raft.receive(m, s.w.now) })
		})
	}
	voted := slices.ContainsFunc(s.raft.out, func(m message) bool { return m.kind == giveVote && m.ok })
	s.raft.out = s.raft.out[:0]
	if s.springs(trapVoted, voted) {
		return
	}
	if s.raft.restored {
		s.raft.restored = false
		s.load()
	}
	for s.applied < s.raft.commit && s.w.failed == nil {
		if s.apply(s.applied + 1); !s.up {
			return
		}
	}
	if (s.reign != nil || len(s.inFlight) > 0) && (s.raft.role != leader || s.raft.term != s.term) {
		s.deposed()
	}
	if s.applied >= s.raft.snapIndex+snapshotEvery && !s.snapping {
		s.snapshot()
	}
}

func (s *server) tick(life uint64) {
	s.run(life, func() { s.raft.tick(s.w.now) })
	s.w.after(s.w.between(tickEvery*9/10, tickEvery*11/10), func() {
		if s.life == life {
			s.tick(life)
		}
	})
}

// deposed fails what an old term had under way; its entries may still be committed.
func (s *server) deposed() {
	s.endReign()
	for _, index := range slices.Sorted(maps.Keys(s.inFlight)) {
		f := s.inFlight[index]
		if s.raft.role == leader && s.raft.term == f.term {
			continue
		}
		delete(s.inFlight, index)
		for _, p := range f.all {
			p.done(nil, errDeposed)
		}
	}
}

// apply takes one committed entry into the state; the server may crash in it.
func (s *server) apply(index uint64) {
	e := s.raft.log[index-s.raft.first]
	s.applied = index
	if e.data == nil {
		s.region.ledger.mark(index, e)
		if e.term == s.raft.term && s.raft.role == leader {
			s.beginReign()
		}
		return
	}
	results, ok := s.fsm.Apply(&raft.Log{Index: index, Term: e.term, Data: e.data}).([]raftfsm.Result)
	if !ok {
		s.w.fail("%s: entry %d gave no results", s.name, index)
		return
	}
	v := s.fsm.View()
	s.region.ledger.applied(s, index, e, v, results)
	if f, ok := s.inFlight[index]; ok {
		if s.springs(trapCommitted, true) {
			return
		}
		delete(s.inFlight, index)
		s.conclude(f, e, results)
	}
	if s.reign != nil {
		s.look(lookRest)
		s.serveWaiting()
	}
}

// conclude tells the proposers of an entry how it went.
func (s *server) conclude(f flight, e entry, results []raftfsm.Result) {
	for _, p := range f.all {
		if f.term != e.term {
			p.done(nil, errDeposed)
			continue
		}
		p.done(results[:len(p.cmds)], nil)
		results = results[len(p.cmds):]
	}
}

// propose puts commands into the log of a leader, with what else comes at the moment.
func (s *server) propose(cmds []raftfsm.Command, done func([]raftfsm.Result, error)) {
	if s.w.conf.Break == AckBeforeCommit && cmds[0].Type == raftfsm.TypeSubmit {
		done([]raftfsm.Result{promised(cmds[0])}, nil)
		done = func([]raftfsm.Result, error) {}
	}
	s.gathered = append(s.gathered, proposal{s.w.now, cmds, done})
	if len(s.gathered) > 1 {
		return
	}
	life := s.life
	s.w.after(coalesceFor, func() { s.run(life, s.enter) })
}

// enter makes one entry of what has gathered.
func (s *server) enter() {
	all := s.gathered
	s.gathered = nil
	if s.raft.role != leader || s.reign == nil {
		for _, p := range all {
			p.done(nil, fmt.Errorf("%s: %w", s.name, starling.ErrNotLeader))
		}
		return
	}
	var cmds []raftfsm.Command
	for _, p := range all {
		cmds = append(cmds, p.cmds...)
	}
	data, err := raftfsm.Encode(cmds)
	if err != nil {
		s.w.fail("%s cannot encode an entry: %v", s.name, err)
		return
	}
	index := s.raft.propose(entry{data: data, note: &note{cmds, s.since, all[0].at}})
	s.inFlight[index] = flight{s.raft.term, all}
}

// snapshot writes the state to disk, which takes a while, and compacts the log.
func (s *server) snapshot() {
	v, index, life := s.fsm.View(), s.applied, s.life
	var b bytes.Buffer
	if err := v.WriteSnapshot(&b); err != nil {
		s.w.fail("%s cannot write a snapshot: %v", s.name, err)
		return
	}
	s.region.ledger.snapshot(s, index, b.Bytes())
	s.snapping = true
	s.springs(trapSnapshot, true)
	s.w.after(s.w.between(10*time.Millisecond, 400*time.Millisecond), func() {
		s.run(life, func() {
			s.snapping = false
			s.raft.compact(index, b.Bytes())
			s.raft.dirty = true
			s.w.stats.Snapshots++
		})
	})
}

// unavailable reports whether an error leaves open whether the request was done.
func unavailable(err error) bool {
	return errors.Is(err, starling.ErrUnavailable) || errors.Is(err, starling.ErrNotLeader)
}
