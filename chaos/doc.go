// Package chaos runs regions of real processes, each on a host of its own (package lab),
// submits deployments without a pause, and harms one process after the other exactly when
// a deployment enters a phase: killed, stopped, cut off, with a full disk, a stepped clock,
// slow or failing syncs. At the end it heals all and compares what was acknowledged with
// what every server of every region holds: nothing may be lost, doubled or left open.
//
// What is harmed, when and in which order is planned from a seed (plan.go, pure); whether
// all was kept is judged by the ledger (ledger.go, pure). The rest carries it out.
package chaos
