// Package raftfsm is the cluster's brain: a pure state machine that a region's
// Raft log drives. It holds apps, deployments, goals, artifacts, releases, tokens
// and regions, and decides which transition is legal.
//
// It has no clock, no randomness and no I/O: commands carry their time and IDs, so
// the same log gives the same state, byte for byte, on every server. Refusals are
// results, never panics. Files are grouped by noun; command.go is the contract,
// schema.go the tables, state.go one entry's transaction, view.go what readers see,
// snapshot.go the state as bytes and fsm.go the adapter to hashicorp/raft.
//
// Records are never changed in place: a transition copies, changes the copy and
// puts it. A View is therefore one consistent state for as long as it is held.
package raftfsm
