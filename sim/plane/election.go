package plane

import (
	"math/bits"
	"time"
)

// sound asks who would vote for this server.
func (c *consensus) sound(now time.Duration) {
	c.role, c.lead, c.votes = sounding, nobody, 1<<c.id
	c.awaitElection(now)
	c.others(func(i int) {
		c.send(message{kind: sound, to: i, index: c.lastIndex(), logTerm: c.lastTerm()})
	})
}

func (c *consensus) campaign(now time.Duration) {
	c.term++
	c.vote, c.role, c.lead, c.votes, c.dirty = c.id, candidate, nobody, 1<<c.id, true
	c.awaitElection(now)
	c.others(func(i int) {
		c.send(message{kind: askVote, to: i, index: c.lastIndex(), logTerm: c.lastTerm()})
	})
}

// listening reports whether this server knows of a leader that is well.
func (c *consensus) listening(now time.Duration) bool {
	return c.role == leader || c.lead != nobody && now-c.heardAt < electionMin
}

func (c *consensus) asked(m message, now time.Duration) {
	ok := m.term == c.term && c.fresh(m) && (c.vote == nobody || c.vote == m.from || c.votesTwice) && c.role <= sounding
	if ok && c.vote == nobody {
		c.vote, c.dirty = m.from, true
		c.awaitElection(now)
	}
	c.send(message{kind: giveVote, to: m.from, ok: ok})
}

// fresh reports whether the sender's log is not behind this one's.
func (c *consensus) fresh(m message) bool {
	return m.logTerm > c.lastTerm() || m.logTerm == c.lastTerm() && m.index >= c.lastIndex()
}

func (c *consensus) voted(m message, now time.Duration) {
	if c.role != candidate || m.term != c.term || !m.ok {
		return
	}
	c.votes |= 1 << m.from
	if bits.OnesCount64(c.votes) < c.quorum() {
		return
	}
	c.role, c.lead = leader, c.id
	c.next, c.match = make([]uint64, c.n), make([]uint64, c.n)
	c.waiting, c.heard = make([]bool, c.n), make([]time.Duration, c.n)
	for i := range c.n {
		c.next[i], c.heard[i] = c.lastIndex()+1, now
	}
	c.propose(entry{})
}
