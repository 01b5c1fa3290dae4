package raftnode

import (
	"fmt"
	"strconv"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// Once a region has been recovered (see Recover), the servers that were given up must
// not take part again with their old files: most of the old configuration, they would
// elect each other and undo what has been committed since. So servers announce how
// often the region has been recovered, as their state tells. One that sees a higher
// number than its own stops for good, and the leader takes in nobody with a lower one.
// What is left is the time until gossip has found the others, in which old servers
// cannot yet commit over the new ones: an election takes longer.

// recoveries returns what a server announces.
func (p *Peer) recoveries() int {
	n, err := strconv.Atoi(p.Tags[tagRecovered])
	if err != nil {
		return 0 // the tag is only there once there is something to tell
	}
	return n
}

func (n *Node) recoveries() int {
	if n.conf.Recoveries == nil {
		return 0
	}
	return n.conf.Recoveries()
}

// leftBehind returns why this server must stop: the region went on without it.
func (n *Node) leftBehind(peers []Peer) error {
	if !n.Bootstrapped() { // it has nothing old, and gets all from the leader
		return nil
	}
	own := n.recoveries()
	for i := range peers {
		if p := &peers[i]; p.State == PeerAlive && p.Name != n.conf.Name && p.recoveries() > own {
			return fmt.Errorf("%w: region %s was recovered without server %s, as %s tells: stop it, erase %s and start it again, so that it joins as a new server",
				starling.ErrUnavailable, n.conf.Region, n.conf.Name, p.Name, n.conf.DataDir)
		}
	}
	return nil
}

// related refuses a server that was left behind.
func (n *Node) related(id raft.ServerID) error {
	own := n.recoveries()
	for _, p := range n.directory.peers() {
		if raft.ServerID(p.Name) == id && p.Tags[tagBoot] != "" && p.recoveries() < own {
			return fmt.Errorf("%w: it is from before the region was recovered: erase its raft files first", starling.ErrConflict)
		}
	}
	return nil
}
