// Package control is a server's logic: it hands out builds, decides how far each
// deployment may go, merges what machines and caches report, keeps read-only copies
// of the other regions' records, and stands behind the HTTP API.
//
// Everything that must survive is in the Raft state (package raftfsm). Everything
// that changes by the second (heartbeats, build logs, reports of machines and caches,
// directories of other regions) lives in the memory of the leader, in a term: it is
// made when this server wins an election and dropped when it loses the lead. The
// reporters speak again within seconds, so nothing of value is lost with it.
//
// Decider.Decide is the pure heart: committed state and observations in, decisions
// out. The rest feeds it and carries its decisions to Raft.
package control
