// Package agent is a machine: it learns what to run, fetches it together with the
// other machines of its region, puts it into service, and reports.
//
// The parts:
//
//   - agent.go: Run, and the loop that alone owns the state. Workers move bytes and
//     wait; they tell the loop by events.
//   - goals.go, app.go: goals, and reconcile, which does the next thing that brings an
//     app nearer to its goal.
//   - flock.go, links.go, fetch.go, download.go: the shell around the swarm's brain
//     (package swarm); wire.go: the frames of a link between two machines.
//   - activate.go, service.go, process.go, health.go: hooks, the current link, the
//     supervised child, health checks, and the way back.
//   - disk.go, record.go, release.go: what stands on disk, and in which order it is written.
//   - catalog.go, blobs.go: what is served to other machines.
//   - report.go: reports to the region's leader.
//
// Long-lived goroutines: the loop (the apps, the flock), the goal poller, the reporter
// (the pace of reports), the acceptors of links and of blob streams, two for each
// link, and one for each running child, which owns the process and holds its thread.
package agent
