package raftfsm

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
)

// takeover makes this region the home of another's apps, a bounded number of records at
// a time: what one entry changes goes to the other regions in one batch.
func (t *tx) takeover(p *Takeover) (Result, error) {
	if err := starling.CheckName("from", p.From); err != nil {
		return Result{}, err
	}
	tk := t.takeoverAt(p.From, p.Epoch)
	if tk == nil || tk.To != t.region {
		if err := t.mayTakeOver(p); err != nil {
			return Result{}, err
		}
		h, _ := t.home(p.From)
		tk = &starling.Takeover{
			From: p.From, To: t.region, Epoch: p.Epoch, Stage: starling.TakeoverBegun,
			Mirror: h.Mirror, Votes: slices.Compact(slices.Sorted(slices.Values(p.Votes))), Actor: t.actor, At: t.now,
		}
		t.putTakeover(tk, t.index)
		how := "ordered by " + t.actor
		if len(p.Votes) > 0 {
			how = fmt.Sprintf("with the votes of %v", p.Votes)
		}
		t.emit(starling.Event{Type: EventRegionTakenOver, Detail: fmt.Sprintf("%s by %s at epoch %d, %s", p.From, t.region, p.Epoch, how)})
	}
	if tk.Stage == starling.TakeoverBegun && t.adopt(tk) {
		done := *tk
		done.Stage, done.At = starling.TakeoverDone, t.now
		t.putTakeover(&done, t.index)
		tk = &done
	}
	return Result{Takeover: tk}, nil
}

// mayTakeOver checks epoch and votes of a takeover that begins.
func (t *tx) mayTakeOver(p *Takeover) error {
	known := t.knownRegions()
	if !slices.Contains(known, p.From) && !t.isHome(p.From) {
		return fmt.Errorf("%w: region %s is not known here", starling.ErrNotFound, p.From)
	}
	tk := t.takeoverOf(p.From)
	next := t.nextEpoch(p.From, t.region)
	switch {
	case tk != nil && tk.Epoch >= p.Epoch || t.newestEpoch(p.From) >= p.Epoch || len(p.Votes) == 0 && t.floor(p.From) >= p.Epoch,
		p.Epoch%MaxRegions != next%MaxRegions:
		return fmt.Errorf("%w: epoch %d of region %s is taken, or another region's: the next here is %d", starling.ErrConflict, p.Epoch, p.From, next)
	case len(p.Votes) > 0:
		return t.checkVotes(p, known)
	case p.From == t.region:
		return fmt.Errorf("%w: %s is this region: its apps are homed here", starling.ErrConflict, p.From)
	}
	return nil
}

// checkVotes wants this region's own vote and a strict majority.
func (t *tx) checkVotes(p *Takeover, known []string) error {
	if b := t.ballot(p.From); b == nil || b.Epoch != p.Epoch || b.Candidate != t.region {
		return fmt.Errorf("%w: this region's vote about %s in epoch %d is not its own", starling.ErrConflict, p.From, p.Epoch)
	}
	votes := slices.Compact(slices.Sorted(slices.Values(p.Votes)))
	for _, v := range votes {
		if !slices.Contains(known, v) {
			return starling.Invalidf("votes", "region %.80q is not known here", v)
		}
	}
	if 2*len(votes) <= len(known) || !slices.Contains(votes, t.region) {
		return fmt.Errorf("%w: %d of %d regions voted for %s: a majority is needed, its own vote among them",
			starling.ErrConflict, len(votes), len(known), t.region)
	}
	return nil
}

// isHome reports whether an app is homed at a region.
func (r reader) isHome(region string) bool { return r.newestEpoch(region) > 0 }

// newestEpoch returns the newest epoch of the apps homed at a region or of its line; 0:
// there are none.
func (r reader) newestEpoch(region string) uint64 {
	epoch := uint64(0)
	for a := range scan[starling.App](r, tableApps, byID, nil) {
		if a.rec.Home == region || a.rec.CurrentLine() == region {
			epoch = max(epoch, a.rec.CurrentEpoch())
		}
	}
	return epoch
}

// floor returns the newest epoch in which a region was voted about or taken over, as far
// as is known here: whoever claims its apps under an older one is not believed.
func (r reader) floor(region string) uint64 {
	epoch := uint64(1)
	if b := r.ballot(region); b != nil {
		epoch = max(epoch, b.Epoch)
	}
	if tk := r.takeoverOf(region); tk != nil {
		epoch = max(epoch, tk.Epoch)
	}
	return epoch
}

// nextEpoch returns the least epoch that is above every one known of a region and its
// apps and that only the region by can use: as ballots in Paxos, epochs are dealt out by
// place among the regions, so that two never share one, not even by two operators' orders.
func (r reader) nextEpoch(region, by string) uint64 {
	least := max(r.floor(region), r.newestEpoch(region)) + 1
	own := uint64(max(0, slices.Index(r.knownRegions(), by)))
	return least + (own+MaxRegions-least%MaxRegions)%MaxRegions
}

// takeoverOf returns how far the newest takeover of a region has come, nil for none.
func (r reader) takeoverOf(from string) *starling.Takeover {
	for tk := range scanBack[starling.Takeover](r, tableTakeovers, byID, strKey(from)) {
		return tk.rec
	}
	return nil
}

// takeoverAt returns how far the takeover of a region at an epoch has come, nil for none.
func (r reader) takeoverAt(from string, epoch uint64) *starling.Takeover {
	for tk := range scanBack[starling.Takeover](r, tableTakeovers, byID, newKey().str(from).uint(epoch)) {
		return tk.rec
	}
	return nil
}

// lost reports whether another region has taken over from a region that has not returned.
func (r reader) lost(region string) bool {
	tk := r.takeoverOf(region)
	return tk != nil && tk.To != region && tk.Stage != starling.TakeoverReturned
}

// putTakeover stores a stage. The stages of one takeover are kept side by side, because
// the mirror sends a record where it changed last, and others need them in their order. So
// are this region's own takeovers: one that another overtakes must still end what it began.
func (t *tx) putTakeover(tk *starling.Takeover, mod uint64) {
	old := collect(scan[starling.Takeover](t.reader, tableTakeovers, byID, strKey(tk.From)))
	for i, r := range old {
		if r.rec.Epoch < tk.Epoch && (r.mod == 0 || len(old)-i > MaxTakeoversKept) {
			drop(t, tableTakeovers, r)
		}
	}
	put(t, tableTakeovers, nil, &row[starling.Takeover]{rec: tk, mod: mod})
}

// adopt moves apps of tk.From and their deployments here until the entry is full, and reports
// whether there was room for all.
func (t *tx) adopt(tk *starling.Takeover) bool {
	active := map[string][]*row[starling.Deployment]{}
	for r := range scan[starling.Deployment](t.reader, tableDeployments, byActive, nil) {
		if r.rec.CurrentEpoch() < tk.Epoch {
			active[r.rec.App] = append(active[r.rec.App], r)
		}
	}
	room, newest := t.limits.takeover, t.takeoverOf(tk.From).Epoch
	for _, a := range collect(scan[starling.App](t.reader, tableApps, byID, nil)) {
		mine := a.rec.CurrentLine() == tk.From
		if len(tk.Votes) == 0 {
			mine = a.rec.Home == tk.From // whoever orders means all that the region does
		}
		if !mine || a.rec.CurrentEpoch() >= tk.Epoch || tk.Epoch < newest {
			continue // or another region has overtaken this takeover
		}
		if room <= 0 {
			return false
		}
		room -= t.adoptApp(tk, a, active[a.rec.Name])
	}
	// In order of submission: their places in the queue are dealt anew.
	var queued []*row[starling.Deployment]
	for _, ds := range active {
		queued = append(queued, ds...)
	}
	slices.SortFunc(queued, byAge)
	for _, r := range queued {
		r = t.deployment(r.rec.ID) // an app's own step may have moved it
		a := get[starling.App](t.reader, tableApps, byID, strKey(r.rec.App))
		if a == nil || a.rec.Home != t.region || r.rec.CurrentEpoch() >= a.rec.CurrentEpoch() {
			continue
		}
		if room <= 0 {
			return false
		}
		t.adoptDeployment(tk, r, a.rec.Epoch, nil, nil)
		room--
	}
	return true
}

// adoptApp moves an app with its goal, its releases and the deployment that is under way,
// and returns how many records that were.
func (t *tx) adoptApp(tk *starling.Takeover, old *row[starling.App], active []*row[starling.Deployment]) int {
	a := *old.rec
	a.Home, a.Line, a.Epoch, a.Revision = t.region, tk.From, tk.Epoch, t.index
	if a.Line == a.Home {
		a.Line = ""
	}
	put(t, tableApps, old, &row[starling.App]{rec: &a, mod: t.index})
	n := 1
	var before, after *starling.Goal
	if g := get[starling.Goal](t.reader, tableGoals, byID, strKey(a.Name)); g != nil {
		next := *g.rec
		next.Home, next.Revision = t.region, 1
		next.Generation = starling.Generation{Epoch: tk.Epoch, Sequence: max(g.rec.Generation.Sequence, t.meta.Floor) + 1}
		put(t, tableGoals, g, &row[starling.Goal]{rec: &next, mod: t.index})
		before, after = g.rec, &next
		n++
	}
	for _, r := range collect(scan[starling.Release](t.reader, tableReleases, byID, strKey(a.Name))) {
		rel := *r.rec
		rel.Home = t.region
		put(t, tableReleases, r, &row[starling.Release]{rec: &rel, mod: t.index})
		n++
	}
	for _, r := range active {
		switch {
		case r.rec.Phase == starling.PhaseQueued:
			continue
		case r.rec.Home == tk.From:
			t.adoptDeployment(tk, r, a.Epoch, before, after)
		default:
			t.endStray(tk, r, a.Epoch)
		}
		n++
	}
	return n
}

// endStray ends a deployment that was under way in a home before the one that is being
// taken over, which had not seen it: its goal was never in force there.
func (t *tx) endStray(tk *starling.Takeover, r *row[starling.Deployment], epoch uint64) {
	d := *r.rec
	d.Home, d.Epoch = t.region, epoch
	reason := fmt.Sprintf("region %s, the home in between, had not seen this: submit it again, with another key", tk.From)
	if err := t.become(&d, starling.PhaseFailed, reason); err != nil {
		t.fault("adopt", tableDeployments, err) // cannot be: it has not ended
		return
	}
	t.putDeployment(r, &d)
}

// adoptDeployment makes a deployment that has not ended this region's. A build begins
// anew, its lease is void; what is further on goes on under the app's new goal.
func (t *tx) adoptDeployment(tk *starling.Takeover, r *row[starling.Deployment], epoch uint64, before, after *starling.Goal) {
	d := *r.rec
	d.Home, d.Epoch = t.region, epoch
	if before != nil && d.Generation == before.Generation {
		d.Generation = after.Generation
	}
	if tk.From != t.region {
		d.Regions = slices.DeleteFunc(slices.Clone(d.Regions), func(p starling.Placing) bool { return p.Name == tk.From })
		d.Times = slices.DeleteFunc(slices.Clone(d.Times), func(x starling.RegionTimes) bool { return x.Region == tk.From })
	}
	if i, ok := slices.BinarySearchFunc(d.Regions, t.region, func(p starling.Placing, n string) int { return cmp.Compare(p.Name, n) }); !ok {
		d.Regions = slices.Insert(slices.Clone(d.Regions), i, starling.Placing{Name: t.region})
	}
	t.adoptHooks(&d, tk.From)
	if d.Phase == starling.PhaseBuilding {
		if err := t.become(&d, starling.PhaseQueued, "its home is now "+t.region); err != nil {
			t.fault("adopt", tableDeployments, err) // cannot be: builds may be queued again
		}
		d.Lease, d.Worker = 0, ""
	}
	seq := r.seq
	if r.mod == 0 {
		seq = t.nextSeq()
	}
	t.storeDeployment(r, &d, seq)
}
