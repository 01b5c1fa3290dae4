// Package faults does to a running, unmodified Go program what its surroundings may do
// to it: steps of the wall clock, disks that sync slowly or not at all. Nothing is built
// into the program for it; what is harmed is the binary that ships.
//
// The clock is stepped as chaos-mesh's TimeChaos does it, in the process's own copy of the
// vDSO (vdso(7)); syncs are held up by a seccomp filter that asks this process
// (seccomp_unotify(2)). Both need Linux and root, the clock amd64 too.
package faults
