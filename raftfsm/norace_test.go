//go:build !race

package raftfsm

const rounds = 4
