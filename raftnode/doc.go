// Package raftnode is one server's part in its region's Raft cluster (Ongaro and
// Ousterhout, 2014), on hashicorp/raft: the log and snapshots on disk, the first
// configuration, who votes, and proposing.
//
// A new cluster forms by itself. Every server announces in gossip how many servers it
// expects. Once it sees that many, it announces the set that it would begin with, the
// first by name; when all of the set announce the same one, each of them starts
// with it. So servers with different views, of a pool that is still growing perhaps,
// never start two clusters. A server that sees one which has started never starts one
// itself: the leader adds it.
//
// The leader keeps the configuration in step with gossip: it adds servers that appear,
// without a vote, follows those that return at another address, and removes those that
// left. Autopilot (hashicorp/raft-autopilot), which runs while this server leads, gives
// servers their vote once they have been healthy for a while, and removes those that
// have been dead for long, one at a time, while enough others remain. A server that
// merely failed stays: its vote is needed when it returns.
//
// Restore puts another state in place of the cluster's; Recover makes one server's files
// the beginning of a new cluster, when the others are lost.
package raftnode
