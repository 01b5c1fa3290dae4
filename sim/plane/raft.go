package plane

import (
	"fmt"
	"math/bits"
	"time"

	"github.com/starlingdeploy/starling/raftfsm"
)

// Rhythm of the consensus. Its ratios are those of hashicorp/raft, the whole is slower:
// fewer events for the same schedules.
const (
	tickEvery       = 500 * time.Millisecond
	electionMin     = 1500 * time.Millisecond // without a word from the leader; up to twice that
	leadWithout     = 1500 * time.Millisecond // that a leader leads without hearing a quorum
	maxEntriesSent  = 32                      // in one message
	entriesKept     = 8                       // behind a snapshot, for servers that lag a little
	nobody          = -1
	firstEntryIndex = 1
)

// entry is one place in the log. Without data it is the mark with which a leader begins.
type entry struct {
	term uint64
	data []byte
	note *note // of the proposer, for the ledger; no server reads it
}

// note is what the ledger knows of an entry beside its bytes.
type note struct {
	cmds  []raftfsm.Command
	since time.Time // when the proposer's term began, by its clock
	at    time.Duration
}

type role int

const (
	follower role = iota
	sounding      // whether there would be votes (pre-vote): its term does not grow for nothing
	candidate
	leader
)

// saved is what a server has on disk.
type saved struct {
	term      uint64
	vote      int
	log       []entry // from snapIndex+1-kept on
	first     uint64  // index of log[0]
	snapIndex uint64
	snapTerm  uint64
	snap      []byte
}

// consensus is one server's part in Raft (Ongaro and Ousterhout, USENIX ATC 2014), as
// hashicorp/raft plays it: a leader that no quorum answers steps down, a vote is refused
// while a leader is heard, and asked for only if enough would give it. It is a plain value: who calls it sends out, and only after
// saved is on disk if dirty is set.
type consensus struct {
	saved
	id, n  int
	role   role
	lead   int
	commit uint64

	electAt time.Duration
	heardAt time.Duration // the leader
	votes   uint64        // one bit for each
	next    []uint64
	match   []uint64
	waiting []bool          // an append is under way to it
	heard   []time.Duration // each follower's last answer

	dirty    bool
	restored bool // a snapshot came that the state machine must take
	out      []message
	broken   error // an invariant of Raft itself
	jitter   func() time.Duration

	votesTwice bool // the bug DoubleVote
}

type messageKind int

const (
	sound messageKind = iota
	sounded
	askVote
	giveVote
	appendEntries
	appended
	installSnapshot
)

func (k messageKind) String() string {
	return [...]string{"sound", "sounded", "ask vote", "give vote", "append", "appended", "install snapshot"}[k]
}

type message struct {
	kind     messageKind
	from, to int
	term     uint64
	index    uint64 // last of a candidate; before the entries; reached; of the snapshot
	logTerm  uint64 // its term
	commit   uint64
	entries  []entry
	snap     []byte
	ok       bool
}

func newConsensus(id, n int, disk saved, now time.Duration, jitter func() time.Duration) *consensus {
	c := &consensus{saved: disk, id: id, n: n, lead: nobody, commit: disk.snapIndex, jitter: jitter}
	c.heardAt = -electionMin
	c.awaitElection(now)
	return c
}

func (c *consensus) awaitElection(now time.Duration) { c.electAt = now + electionMin + c.jitter() }

func (c *consensus) lastIndex() uint64 { return c.first + uint64(len(c.log)) - 1 }

func (c *consensus) termAt(i uint64) (uint64, bool) {
	switch {
	case i == c.snapIndex:
		return c.snapTerm, true
	case i < c.first || i > c.lastIndex():
		return 0, i == 0
	}
	return c.log[i-c.first].term, true
}

func (c *consensus) lastTerm() uint64 {
	t, _ := c.termAt(c.lastIndex())
	return t
}

func (c *consensus) quorum() int { return c.n/2 + 1 }

func (c *consensus) send(m message) {
	m.from, m.term = c.id, c.term
	c.out = append(c.out, m)
}

func (c *consensus) others(f func(i int)) {
	for i := range c.n {
		if i != c.id {
			f(i)
		}
	}
}

// tick is called every tickEvery.
func (c *consensus) tick(now time.Duration) {
	if c.role != leader {
		if now >= c.electAt {
			c.sound(now)
		}
		return
	}
	heard := 1
	c.others(func(i int) {
		if now-c.heard[i] <= leadWithout {
			heard++
		}
	})
	if heard < c.quorum() {
		c.follow(c.term, nobody, now)
		return
	}
	c.others(c.replicate)
}

func (c *consensus) follow(term uint64, lead int, now time.Duration) {
	if term > c.term {
		c.term, c.vote, c.dirty = term, nobody, true
	}
	if c.role != follower {
		c.awaitElection(now)
	}
	c.role, c.lead = follower, lead
}

// propose appends an entry at the leader and returns its index.
func (c *consensus) propose(e entry) uint64 {
	e.term = c.term
	c.log = append(c.log, e)
	c.dirty = true
	c.others(func(i int) {
		if !c.waiting[i] {
			c.replicate(i)
		}
	})
	return c.lastIndex()
}

// flushed says that saved is on disk up to an index: the leader counts itself.
func (c *consensus) flushed() {
	if c.role == leader {
		c.match[c.id] = c.lastIndex()
		c.advance()
	}
}

// replicate sends a follower what it lacks.
func (c *consensus) replicate(i int) {
	prev := c.next[i] - 1
	term, ok := c.termAt(prev)
	if !ok || prev < c.snapIndex && prev < c.first-1 {
		c.send(message{kind: installSnapshot, to: i, index: c.snapIndex, logTerm: c.snapTerm, snap: c.snap})
		c.waiting[i] = true
		return
	}
	from := c.next[i] - c.first
	some := c.log[from:min(from+maxEntriesSent, uint64(len(c.log)))]
	c.waiting[i] = len(some) > 0
	c.send(message{kind: appendEntries, to: i, index: prev, logTerm: term, entries: some, commit: c.commit})
}

func (c *consensus) receive(m message, now time.Duration) {
	if m.kind == askVote && c.term < m.term && c.listening(now) {
		return // hashicorp/raft refuses a vote while there is a leader
	}
	if m.kind == sound { // changes nothing here
		c.send(message{kind: sounded, to: m.from, ok: m.term >= c.term && c.fresh(m) && !c.listening(now)})
		return
	}
	if m.term > c.term {
		c.follow(m.term, nobody, now)
	}
	switch m.kind {
	case sounded:
		if c.role == sounding && m.ok {
			if c.votes |= 1 << m.from; bits.OnesCount64(c.votes) >= c.quorum() {
				c.campaign(now)
			}
		}
	case askVote:
		c.asked(m, now)
	case giveVote:
		c.voted(m, now)
	case appendEntries:
		c.append(m, now)
	case installSnapshot:
		c.install(m, now)
	case appended:
		c.answered(m, now)
	}
}

func (c *consensus) append(m message, now time.Duration) {
	if m.term < c.term {
		c.send(message{kind: appended, to: m.from})
		return
	}
	if c.role == leader {
		c.broken = fmt.Errorf("servers %d and %d both lead term %d", c.id, m.from, c.term)
		return
	}
	c.follow(m.term, m.from, now)
	c.heardAt = now
	c.awaitElection(now)
	if skip := int(min(c.snapIndex-min(m.index, c.snapIndex), uint64(len(m.entries)))); skip > 0 {
		m.index, m.logTerm, m.entries = m.index+uint64(skip), m.entries[skip-1].term, m.entries[skip:]
	}
	if t, ok := c.termAt(m.index); m.index > c.snapIndex && (!ok || t != m.logTerm) {
		c.send(message{kind: appended, to: m.from, index: min(c.lastIndex(), m.index-1)})
		return
	}
	for k, e := range m.entries {
		i := m.index + 1 + uint64(k)
		if t, ok := c.termAt(i); ok && i <= c.lastIndex() {
			if t == e.term {
				continue
			}
			if i <= c.commit {
				c.broken = fmt.Errorf("server %d would drop entry %d, which is committed", c.id, i)
				return
			}
			c.log = c.log[: i-c.first : i-c.first] // what is on disk shares the rest
		}
		c.log = append(c.log, m.entries[k:]...)
		c.dirty = true
		break
	}
	reached := m.index + uint64(len(m.entries))
	c.commit = max(c.commit, min(m.commit, reached))
	c.send(message{kind: appended, to: m.from, ok: true, index: reached})
}

func (c *consensus) install(m message, now time.Duration) {
	if m.term < c.term {
		c.send(message{kind: appended, to: m.from})
		return
	}
	c.follow(m.term, m.from, now)
	c.heardAt = now
	c.awaitElection(now)
	if m.index > c.commit {
		if t, ok := c.termAt(m.index); ok && t == m.logTerm && m.index >= c.first {
			c.log = c.log[m.index+1-c.first:]
		} else {
			c.log = nil
		}
		c.first, c.snapIndex, c.snapTerm, c.snap = m.index+1, m.index, m.logTerm, m.snap
		c.commit, c.restored, c.dirty = m.index, true, true
	}
	c.send(message{kind: appended, to: m.from, ok: true, index: m.index})
}

func (c *consensus) answered(m message, now time.Duration) {
	if c.role != leader || m.term != c.term {
		return
	}
	c.heard[m.from], c.waiting[m.from] = now, false
	if !m.ok {
		c.next[m.from] = max(c.match[m.from]+1, min(c.next[m.from]-1, m.index+1))
		c.replicate(m.from)
		return
	}
	c.match[m.from] = max(c.match[m.from], m.index)
	c.next[m.from] = c.match[m.from] + 1
	c.advance()
	if c.next[m.from] <= c.lastIndex() {
		c.replicate(m.from)
	}
}

// advance commits what a quorum has, if the newest of it is of this term.
func (c *consensus) advance() {
	for i := c.lastIndex(); i > c.commit; i-- {
		if t, _ := c.termAt(i); t != c.term {
			return
		}
		have := 0
		for _, m := range c.match {
			if m >= i {
				have++
			}
		}
		if have >= c.quorum() {
			c.commit = i
			return
		}
	}
}

// compact drops what a snapshot holds, but for a few entries.
func (c *consensus) compact(index uint64, snap []byte) {
	term, ok := c.termAt(index)
	if !ok || index <= c.snapIndex {
		return
	}
	c.snapIndex, c.snapTerm, c.snap = index, term, snap
	if keep := index - min(index, entriesKept); keep+1 > c.first {
		c.log = c.log[keep+1-c.first:]
		c.first = keep + 1
	}
}
