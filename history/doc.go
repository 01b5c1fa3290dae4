// Package history records what concurrent clients see of a region, with faults running,
// and checks that it is one that a single server without faults could have given: that
// submissions, leases, results, cancellations, rollbacks and consistent reads of each app
// are linearizable (Herlihy and Wing 1990), checked by Porcupine.
//
// The model holds one app's deployment log and its goal. What leaders do by themselves,
// between two calls of clients, is part of it: a deployment that has its artifact starts,
// one that is under way succeeds, a silent worker loses its lease. A call whose outcome
// is not known may happen at any time from then on, or never.
package history
