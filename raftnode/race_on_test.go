//go:build race

package raftnode

// raceDetector leaves out what races within hashicorp/raft 1.7.3: when a server's
// address changes, startStopReplication writes followerReplication.peer under its
// lock, and updateLastAppended reads the (unchanged) ID in it without.
const raceDetector = true
