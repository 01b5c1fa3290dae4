package raftnode

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// A server that has lost its data must not come back as the voter that it was: it has
// forgotten which entries it acknowledged and whom it voted for, so that with its help
// an old leader could commit again, or a server without the newest entries be elected.
// Raft does not see it (Ongaro's thesis, 2014, section 11.2, leaves stable storage out).
//
// Therefore a server without a configuration takes no Raft streams. It announces a
// random number, new at each start. The leader that sees one from a server of its
// configuration removes that server; once the removal is committed, the acknowledgements
// and votes of its former life count in no quorum any more. Then the leader announces
// that it admits that number, and adds the server, as it does at once with a server
// that is new. The servers that begin a cluster admit each other.
const (
	silentFor     = 15 * time.Second // a new server that announces nothing is of an older program
	freshBytes    = 6
	maxAdmissions = maxBootstrapExpect // kept in a tag, newest first
)

func newFresh() string {
	b := make([]byte, freshBytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// letIn says whether any server has announced that it admits a fresh one.
func letIn(peers []Peer, fresh string) bool {
	return slices.ContainsFunc(peers, func(p Peer) bool {
		return slices.Contains(strings.Split(p.Tags[tagAdmit], ","), fresh)
	})
}

// welcome announces that fresh servers may take part.
func (n *Node) welcome(fresh ...string) {
	list := append(slices.Clone(fresh), n.admitted...)
	list = slices.DeleteFunc(list, func(f string) bool { return f == "" })
	n.admitted = list[:min(len(list), maxAdmissions)]
	n.announce(tagAdmit, strings.Join(n.admitted, ","))
}

// admitting adds to what gossip says whom this server admits, of which gossip may be late
// to tell: a server that it has let in must not be taken for one that lost its data.
func (n *Node) admitting(peers []Peer) []Peer {
	return append(slices.Clone(peers), Peer{Tags: map[string]string{tagAdmit: strings.Join(n.admitted, ",")}, State: PeerFailed})
}

// join opens this server to Raft's streams when it may take part.
func (n *Node) join(peers []Peer) {
	switch {
	case n.Bootstrapped():
		n.announce(tagFresh, "")
		n.layer.open()
	case letIn(peers, n.fresh):
		if n.layer.open() {
			n.logger.Info("this server is admitted to the cluster as a new one")
		}
	default:
		n.announce(tagFresh, n.fresh)
		exists := slices.ContainsFunc(peers, func(p Peer) bool { return p.Tags[tagBoot] != "" && p.State != PeerLeft })
		if exists && !n.waits && time.Since(n.opened) > silentFor {
			n.waits = true
			n.logger.Warn("this server waits for the leader to let it in; a leader of an older program does not: upgrade that server")
		}
	}
}

// readmit is what the leader does before it adds a fresh server: it makes sure that a
// configuration without it is committed.
func (n *Node) readmit(ctx context.Context, id raft.ServerID, fresh string) error {
	if err := n.Barrier(ctx); err != nil {
		return err
	}
	if slices.ContainsFunc(n.servers(), func(s raft.Server) bool { return s.ID == id }) {
		return fmt.Errorf("server %s is in the configuration again", id)
	}
	n.welcome(fresh)
	return nil
}

// spoken leaves out servers that are new in gossip and have not announced yet whether
// they are fresh: one that is added before it is admitted takes no part.
func (n *Node) spoken(peers []Peer, now time.Time) []Peer {
	silent := make(map[string]time.Time)
	out := slices.DeleteFunc(slices.Clone(peers), func(p Peer) bool {
		if p.Name == n.conf.Name || p.State != PeerAlive || p.Tags[tagFresh] != "" || p.Tags[tagBoot] != "" || p.Tags[tagExpect] != "" {
			return false
		}
		since, seen := n.silent[p.Name]
		if !seen {
			since = now
		}
		silent[p.Name] = since
		return now.Sub(since) < silentFor
	})
	n.silent = silent
	return out
}
