package raftfsm

import (
	"math"

	"github.com/starlingdeploy/starling"
)

// The types of events.
const (
	EventAppApplied         = "app.applied"
	EventDeploymentQueued   = "deployment.queued"
	EventDeploymentPhase    = "deployment.phase" // Phase; Detail: the reason
	EventDeploymentWave     = "deployment.wave"
	EventDeploymentHook     = "deployment.hook"     // Detail: which, and where it stands
	EventDeploymentPlaced   = "deployment.placed"   // Detail: the region
	EventDeploymentPromoted = "deployment.promoted" // Detail: from which step to which
	EventDeploymentUnfrozen = "deployment.unfrozen" // no freeze holds it from here on
	EventDeploymentPaused   = "deployment.paused"
	EventDeploymentResumed  = "deployment.resumed"
	EventArtifactRegistered = "artifact.registered" // Detail: the digest
	EventArtifactPlaced     = "artifact.placed"     // Detail: the digest
	EventArtifactLost       = "artifact.lost"       // Detail: the digest
	EventTokenCreated       = "token.created"       // Detail: the token's ID
	EventTokenRevoked       = "token.revoked"       // Detail: the token's ID
	EventRegionJoined       = "region.joined"       // Detail: the region
	EventRegionVoted        = "region.voted"        // Detail: for whom, about whom
	EventRegionTakenOver    = "region.taken_over"   // Detail: which, by whom, how far
	EventRegionReturned     = "region.returned"     // Detail: the region
	EventRegionFenced       = "region.fenced"       // Detail: by whom, and how much nobody else had seen
	EventMachineEnrolled    = "machine.enrolled"    // Detail: the first of the entry, and how many more came in it
	EventMachineStanding    = "machine.standing"    // Detail: the machine, and what it is now
	EventMachineRemoved     = "machine.removed"     // Detail: the machine
	EventCellOpened         = "cell.opened"         // Detail: the cell
	EventCellClosed         = "cell.closed"         // Detail: the cell, which has no machines any more
	EventCellSplit          = "cell.split"          // Detail: the cell, and the new one
	EventCellMerged         = "cell.merged"         // Detail: the cell, and the one that took its machines
	EventCellRotated        = "cell.rotated"        // Detail: the cell, or how many
	EventJoinTokenCreated   = "jointoken.created"   // Detail: the token's ID
	EventJoinTokenRevoked   = "jointoken.revoked"   // Detail: the token's ID
	EventWebhookCreated     = "webhook.created"     // Detail: its name
	EventWebhookDeleted     = "webhook.deleted"     // Detail: its name
	EventSinkCreated        = "sink.created"        // Detail: its name
	EventSinkDeleted        = "sink.deleted"        // Detail: its name
)

// emit adds an event to the ring. Its place, time and actor are the command's, its
// region this one unless it is set.
func (t *tx) emit(e starling.Event) {
	e.Index, e.N, e.At, e.Actor = t.index, t.n, t.now, t.actor
	if e.Region == "" {
		e.Region = t.region
	}
	t.n++
	put(t, tableEvents, nil, &row[starling.Event]{rec: &e})
	if t.meta.Events++; t.meta.Events <= t.limits.events {
		return
	}
	if oldest := get[starling.Event](t.reader, tableEvents, byID, nil); oldest != nil {
		drop(t, tableEvents, oldest)
		t.meta.Events--
		t.meta.Dropped = position{oldest.rec.Index, oldest.rec.N}
	}
}

func (t *tx) emitFor(kind string, d *starling.Deployment, detail string) {
	t.emit(starling.Event{Type: kind, Region: d.Home, App: d.App, Deployment: d.ID, Phase: d.Phase, Detail: detail})
}

// EventsAfter returns events after position (index, n), oldest first, limit at most.
// The second result is true if events after it have left the ring.
func (v View) EventsAfter(index uint64, n, limit int) ([]starling.Event, bool) {
	d := v.meta.Dropped
	gap := index < d.Index || (index == d.Index && n < d.N)
	if n == math.MaxInt {
		n-- // no entry has that many: n+1 must not overflow
	}
	var out []starling.Event
	for r := range scanFrom[starling.Event](v.reader, tableEvents, byID, eventKey(position{index, max(n+1, 0)})) {
		if len(out) >= limit {
			break
		}
		out = append(out, *r.rec)
	}
	return out, gap
}
