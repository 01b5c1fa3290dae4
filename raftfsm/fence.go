package raftfsm

import (
	"fmt"
	"math"
	"slices"

	"github.com/starlingdeploy/starling"
)

// mirrorTakeover keeps a copy of a stage of a takeover that another region committed. Its
// first stage comes before any app that it moves.
func (t *tx) mirrorTakeover(from string, tk *starling.Takeover) {
	if tk.To != from || starling.CheckName("takeover.from", tk.From) != nil || !slices.Contains(takeoverStages(), tk.Stage) ||
		len(tk.Votes) > MaxRegions || tk.Epoch < 2 {
		return
	}
	old := t.takeoverOf(tk.From)
	if old != nil && (old.Epoch > tk.Epoch || old.Epoch == tk.Epoch && (old.To != tk.To || !after(tk.Stage, old.Stage))) {
		return
	}
	t.putTakeover(tk, 0)
	if tk.Stage == starling.TakeoverReturned {
		t.emit(starling.Event{Type: EventRegionReturned, Region: from, Detail: tk.From})
	} else if tk.Stage == starling.TakeoverBegun {
		t.emit(starling.Event{Type: EventRegionTakenOver, Region: from, Detail: fmt.Sprintf("%s by %s at epoch %d", tk.From, tk.To, tk.Epoch)})
	}
}

func after(a, b starling.TakeoverStage) bool {
	return slices.Index(takeoverStages(), a) > slices.Index(takeoverStages(), b)
}

// mirrorTaken ends what the new home had not seen of the apps that it took, once it has
// said all that it had.
func (t *tx) mirrorTaken(from string, tk *starling.Takeover) {
	if tk.To != from || tk.Stage != starling.TakeoverDone {
		return
	}
	for _, r := range collect(scan[starling.Deployment](t.reader, tableDeployments, byActive, nil)) {
		a := get[starling.App](t.reader, tableApps, byID, strKey(r.rec.App))
		switch {
		case a == nil || a.rec.Home != from || a.rec.CurrentEpoch() > tk.Epoch || r.rec.CurrentEpoch() >= a.rec.CurrentEpoch():
		case r.mod != 0:
			t.failUnseen(r, tk)
		default: // it comes again, ended, when its region returns
			drop(t, tableDeployments, r)
			t.countDeployment(r, -1)
		}
	}
	if tk.From == t.region && tk.From != tk.To {
		t.fenced(tk)
	}
}

// failUnseen ends a deployment of this region that the one which took over has not seen.
func (t *tx) failUnseen(r *row[starling.Deployment], tk *starling.Takeover) {
	d := *r.rec
	reason := fmt.Sprintf("region %s took over at epoch %d before anybody else saw this: submit it again, with another key", tk.To, tk.Epoch)
	if err := t.become(&d, starling.PhaseFailed, reason); err != nil {
		t.fault("fence", tableDeployments, err) // cannot be: it has not ended
		return
	}
	t.putDeployment(r, &d)
	t.note(tk.To, tk.Epoch, "deployment", d.App, d.ID, "was "+string(r.rec.Phase)+" here and has failed: submit it again")
}

// fenced names what else the region that took over has not seen.
func (t *tx) fenced(tk *starling.Takeover) {
	for _, r := range collect(scanFrom[starling.Deployment](t.reader, tableDeployments, byMod, newKey().uint(tk.Mirror+1))) {
		if r.mod != t.index && r.rec.Phase.Terminal() && t.foreign(t.region, r.rec.App) {
			t.note(tk.To, tk.Epoch, "deployment", r.rec.App, r.rec.ID, string(r.rec.Phase)+" here")
		}
	}
	h, _ := t.home(t.region)
	t.emit(starling.Event{Type: EventRegionFenced, Region: tk.To, Detail: fmt.Sprintf(
		"%s took over at epoch %d; %d records here had not been seen by it (starling region show %s)", tk.To, tk.Epoch, h.Unseen, t.region)})
}

// leave prepares for an app's new home: what the old one knew of it that is not
// mirrored again is gone, and named if it was this region's.
func (t *tx) leave(old *row[starling.App], to string) {
	app, seen, epoch := old.rec.Name, t.seenBy(old.rec.Home, to), uint64(0)
	if tk := t.takeoverOf(old.rec.Home); tk != nil {
		epoch = tk.Epoch
	}
	if old.mod > seen {
		t.note(to, epoch, "app", app, "", fmt.Sprintf("its spec of revision %d: apply it again", old.rec.Revision))
	}
	for _, r := range collect(scan[starling.Release](t.reader, tableReleases, byID, strKey(app))) {
		if r.rec.Home == to {
			continue
		}
		if r.mod > seen {
			t.note(to, epoch, "release", app, r.rec.Deployment, fmt.Sprintf("release %s, artifact %s", r.rec.Generation, r.rec.Artifact.Short()))
		}
		drop(t, tableReleases, r)
	}
	// Machines go on with what they run until the new home has a goal.
	if g := get[starling.Goal](t.reader, tableGoals, byID, strKey(app)); g != nil && g.mod != 0 {
		put(t, tableGoals, g, &row[starling.Goal]{rec: g.rec})
	}
}

// seenBy returns how much of this region's log had been seen by the one that took over;
// for another region's, everything.
func (t *tx) seenBy(from, to string) uint64 {
	if tk := t.takeoverOf(from); from == t.region && tk != nil && tk.To == to {
		return tk.Mirror
	}
	return math.MaxUint64
}

// noteReplaced names a deployment of this region of which the new home had not seen all.
func (t *tx) noteReplaced(old *row[starling.Deployment], d *starling.Deployment) {
	if old == nil || old.mod == 0 || old.mod <= t.seenBy(t.region, d.Home) {
		return
	}
	t.note(d.Home, d.Epoch, "deployment", d.App, d.ID, fmt.Sprintf("was %s here; %s goes on from %s", old.rec.Phase, d.Home, d.Phase))
}

// note names what nobody else had seen, within bounds.
func (t *tx) note(by string, epoch uint64, kind, app, id, detail string) {
	seq := t.nextSeq()
	put(t, tableUnseen, nil, &row[starling.Unseen]{seq: seq, rec: &starling.Unseen{
		By: by, Epoch: epoch, Kind: kind, App: app, ID: id, Detail: detail, At: t.now,
	}})
	t.count(t.region, func(h *home) { h.Unseen++ })
	if h, _ := t.home(t.region); h.Unseen > MaxUnseenKept {
		if oldest := get[starling.Unseen](t.reader, tableUnseen, byID, nil); oldest != nil {
			drop(t, tableUnseen, oldest)
			t.count(t.region, func(h *home) { h.Unseen-- })
		}
	}
}
