package raftnode

import (
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// Stats tells how the server's Raft is doing.
type Stats struct {
	State        string        `json:"state"` // Follower, Candidate, Leader, Shutdown
	Term         uint64        `json:"term"`
	LastIndex    uint64        `json:"last_index"`
	CommitIndex  uint64        `json:"commit_index"`
	AppliedIndex uint64        `json:"applied_index"`
	LastContact  time.Duration `json:"last_contact_ns"` // since the leader was heard; 0 on the leader, -1: never
	Bootstrapped bool          `json:"bootstrapped"`
	Voter        bool          `json:"voter"` // this server votes
	Voters       int           `json:"voters"`
	Queued       int           `json:"queued"`       // calls of Propose that wait
	QueuedBytes  int64         `json:"queued_bytes"` // of their commands
	InFlight     int           `json:"in_flight"`    // entries handed to Raft
}

// Stats returns a reading of the moment.
func (n *Node) Stats() Stats {
	s := Stats{
		State:        n.raft.State().String(),
		Term:         n.raft.CurrentTerm(),
		LastIndex:    n.raft.LastIndex(),
		CommitIndex:  n.raft.CommitIndex(),
		AppliedIndex: n.raft.AppliedIndex(),
		QueuedBytes:  n.queued.Load(),
		InFlight:     len(n.inFlight),
		Queued:       len(n.proposals),
	}
	if last := n.raft.LastContact(); n.IsLeader() {
		s.LastContact = 0
	} else if last.IsZero() {
		s.LastContact = -1
	} else {
		s.LastContact = time.Since(last)
	}
	for _, v := range n.servers() {
		s.Bootstrapped = true
		if v.Suffrage == raft.Voter {
			s.Voters++
			s.Voter = s.Voter || string(v.ID) == n.conf.Name
		}
	}
	return s
}

// Term returns the newest term that this server knows of.
func (n *Node) Term() uint64 { return n.raft.CurrentTerm() }

// PeerStats is what a server tells of its Raft to the one that leads.
type PeerStats struct {
	LastContact time.Duration // since the leader was heard; 0 on the leader, negative: never
	LastTerm    uint64        // of the last entry in the log; 0: not told
	LastIndex   uint64        // of the last entry in the log
}

// PeerStats returns this server's own.
func (n *Node) PeerStats() PeerStats {
	st := n.Stats()
	term, err := strconv.ParseUint(n.raft.Stats()["last_log_term"], 10, 64)
	if err != nil {
		n.logger.Error("raft does not tell its last term", "error", err)
	}
	return PeerStats{LastContact: st.LastContact, LastTerm: term, LastIndex: st.LastIndex}
}
