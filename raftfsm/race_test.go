//go:build race

package raftfsm

// rounds scales the work of slow tests down: the race detector makes them ten times slower.
const rounds = 1
