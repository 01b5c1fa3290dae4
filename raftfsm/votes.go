package raftfsm

import (
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
)

// vote records this region's vote about a region.
func (t *tx) vote(p *Vote) (Result, error) {
	old := t.ballot(p.Lost)
	if err := t.mayVote(p); err != nil {
		return Result{}, err
	}
	if old != nil && old.Epoch == p.Epoch {
		return Result{Ballot: old}, nil
	}
	now := &Ballot{Lost: p.Lost, Epoch: p.Epoch, Candidate: p.Candidate, At: t.now}
	put(t, tableBallots, get[Ballot](t.reader, tableBallots, byID, strKey(p.Lost)), &row[Ballot]{rec: now})
	t.emit(starling.Event{Type: EventRegionVoted, Detail: fmt.Sprintf("for %s to take over %s at epoch %d", p.Candidate, p.Lost, p.Epoch)})
	return Result{Ballot: now, Created: true}, nil
}

// mayVote returns why this region would not cast or repeat a vote.
func (r reader) mayVote(p *Vote) error {
	known := r.knownRegions()
	named := slices.Compact(slices.Sorted(slices.Values(p.Regions)))
	b := r.ballot(p.Lost)
	switch {
	case !slices.Equal(named, known):
		return fmt.Errorf("%w: %s knows the regions %v, this one %v: a vote needs the same", starling.ErrConflict, p.Candidate, named, known)
	case !slices.Contains(known, p.Lost) || !slices.Contains(known, p.Candidate):
		return starling.Invalidf("candidate", "%.80q for %.80q: not both are regions", p.Candidate, p.Lost)
	case b != nil && b.Epoch == p.Epoch && b.Candidate == p.Candidate:
		return nil
	case b != nil && b.Epoch == p.Epoch:
		return fmt.Errorf("%w: region %s voted for %s in epoch %d of %s", starling.ErrConflict, r.region, b.Candidate, p.Epoch, p.Lost)
	case p.Epoch < r.nextEpoch(p.Lost, p.Candidate) || p.Epoch%MaxRegions != r.nextEpoch(p.Lost, p.Candidate)%MaxRegions:
		return fmt.Errorf("%w: epoch %d of region %s is over here: %s may use %d", starling.ErrConflict, p.Epoch, p.Lost, p.Candidate, r.nextEpoch(p.Lost, p.Candidate))
	}
	if seen := r.mirrored(p.Lost); p.Candidate != p.Lost && seen > p.Mirror {
		return fmt.Errorf("%w: region %s has seen more of %s, up to index %d, than %s, up to %d",
			starling.ErrConflict, r.region, p.Lost, seen, p.Candidate, p.Mirror)
	}
	return nil
}

// returned ends a takeover by this region: the other one has caught up.
func (t *tx) returned(p *Returned) (Result, error) {
	tk := t.takeoverOf(p.Region)
	switch {
	case tk == nil || tk.To != t.region || tk.Stage == starling.TakeoverBegun:
		return Result{}, fmt.Errorf("%w: region %.80q has not been taken over by %s", starling.ErrConflict, p.Region, t.region)
	case tk.Stage == starling.TakeoverReturned:
		return Result{Takeover: tk}, nil
	}
	back := *tk
	back.Stage, back.At = starling.TakeoverReturned, t.now
	t.putTakeover(&back, t.index)
	t.emit(starling.Event{Type: EventRegionReturned, Detail: p.Region})
	return Result{Takeover: &back}, nil
}

// ballot returns this region's last vote about a region, nil if it has not voted.
func (r reader) ballot(lost string) *Ballot {
	b := get[Ballot](r, tableBallots, byID, strKey(lost))
	if b == nil {
		return nil
	}
	return b.rec
}

// knownRegions lists all known regions by name, this one always among them.
func (r reader) knownRegions() []string {
	names := []string{r.region}
	for _, g := range r.regions() {
		names = append(names, g.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Claims lists what this region claims: its own line, then others by name. What it has
// taken over it claims until another has taken all of it.
func (v View) Claims() []starling.Claim {
	out := []starling.Claim{{Line: v.region, Epoch: 1}}
	for tk := range scan[starling.Takeover](v.reader, tableTakeovers, byID, strKey(v.region)) {
		if tk.rec.Stage != starling.TakeoverBegun || tk.rec.To == v.region { // otherwise not all has been told yet
			out[0].Epoch = tk.rec.Epoch
		}
	}
	for tk := range scan[starling.Takeover](v.reader, tableTakeovers, byID, nil) {
		newest := v.takeoverOf(tk.rec.From)
		if tk.rec.To != v.region || tk.rec.From == v.region || newest.To != v.region && newest.Stage != starling.TakeoverBegun {
			continue
		}
		if n := len(out); out[n-1].Line == tk.rec.From {
			out[n-1].Epoch = tk.rec.Epoch
		} else {
			out = append(out, starling.Claim{Line: tk.rec.From, Epoch: tk.rec.Epoch})
		}
	}
	return out
}

// Unfinished returns the takeovers by this region that have not moved everything yet.
func (v View) Unfinished() []*starling.Takeover {
	var out []*starling.Takeover
	for tk := range scan[starling.Takeover](v.reader, tableTakeovers, byID, nil) {
		if tk.rec.To == v.region && v.takeoverAt(tk.rec.From, tk.rec.Epoch).Stage == starling.TakeoverBegun {
			out = append(out, tk.rec)
		}
	}
	return out
}

// Floor returns the newest epoch of a line that this region has voted in or heard of; no
// claim under an older one is believed.
func (v View) Floor(line string) uint64 { return v.floor(line) }

// NextEpoch returns the epoch for the next takeover of a region by this one.
func (v View) NextEpoch(region string) uint64 { return v.nextEpoch(region, v.region) }

// MayVote returns why this region's state would refuse a vote, nil if it would not.
func (v View) MayVote(p Vote) error { return v.mayVote(&p) }

// Ballot returns this region's last vote about a region.
func (v View) Ballot(lost string) (*Ballot, bool) {
	b := v.ballot(lost)
	return b, b != nil
}

// Takeover returns how far the newest takeover of a region has come.
func (v View) Takeover(from string) (*starling.Takeover, bool) {
	tk := v.takeoverOf(from)
	return tk, tk != nil
}

// TakeoverIndex returns the Raft index at which the newest takeover of a region by this
// one came to where it is; 0: there is none.
func (v View) TakeoverIndex(from string) uint64 {
	for r := range scanBack[starling.Takeover](v.reader, tableTakeovers, byID, strKey(from)) {
		return r.mod
	}
	return 0
}

// Takeovers returns how far the newest takeover of each region has come, by region.
func (v View) Takeovers() []*starling.Takeover {
	var out []*starling.Takeover
	for tk := range scan[starling.Takeover](v.reader, tableTakeovers, byID, nil) {
		if n := len(out); n > 0 && out[n-1].From == tk.rec.From {
			out[n-1] = tk.rec
		} else {
			out = append(out, tk.rec)
		}
	}
	return out
}

// Lost reports whether another region has taken over from a region that has not returned.
func (v View) Lost(region string) bool { return v.lost(region) }

// KnownRegions lists all known regions by name, this one always among them.
func (v View) KnownRegions() []string { return v.knownRegions() }

// Unseen lists what this region had, and nobody else had seen, when its apps were taken
// over, oldest first.
func (v View) Unseen() []*starling.Unseen {
	return records(scan[starling.Unseen](v.reader, tableUnseen, byID, nil))
}
