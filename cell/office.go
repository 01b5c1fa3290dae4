package cell

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// office is what a relay knows of its cell beyond a member's part, and what the
// speaker among them keeps.
type office struct {
	version uint64         // of the roster
	slots   map[string]int // who belongs to the cell; nil: not known yet
	key     []byte
	epoch   uint64 // of key

	speaking bool
	tally    *Tally
	stale    bool // the tally's members and goals are not the present ones
	alive    starling.Slots
	recallAt time.Time // when members that were not heard are asked to report
	recalled time.Duration

	spoken   bool
	base     uint64            // the last report that was taken; 0: none was
	told     map[string]uint64 // stamp of each app in the report that was taken
	telling  map[string]uint64 // in the one under way
	posting  bool
	postedAt time.Time
	at       time.Time // of the next report
	fails    int
	shift    int

	rotating bool
	rotateAt time.Time
}

// takeOffice begins to speak for the cell. The members report everything, to the new term.
func (b *Brain) takeOffice() {
	o := b.office
	o.speaking, o.stale = true, true
	o.tally = NewTally(b.node.Region)
	o.spoken, o.base, o.told, o.fails = false, 0, nil, 0
	o.at = b.now.Add(tellAfter)
	o.recalled, o.recallAt = recallAfter, b.now.Add(recallAfter)
	b.newTerm()
}

func (b *Brain) newTerm() {
	b.word.Term = b.rng.Uint64() | 1
	if b.own.speaker == b.node.Name {
		b.own.term = b.word.Term
	}
}

// learnRoster takes in who belongs to the cell. Relays tell the pool when somebody
// who is there does not belong any more.
func (b *Brain) learnRoster(news *rpc.CellNews) bool {
	if news.Roster != nil && news.Version >= b.place.Version && !slices.Contains(news.Roster, b.node.Name) {
		b.moved(moveSpread)
	}
	o := b.office
	if o == nil {
		return false
	}
	if news.KeyEpoch > o.epoch {
		o.key, o.epoch = news.Key, news.KeyEpoch
	}
	if news.Roster == nil || news.Version <= o.version {
		return false
	}
	before := o.slots
	o.version, o.stale = news.Version, true
	o.slots = make(map[string]int, len(news.Roster))
	for slot, name := range news.Roster[:min(len(news.Roster), starling.MaxCellMachines)] {
		if name != "" {
			o.slots[name] = slot
		}
	}
	for name := range before {
		if _, ok := o.slots[name]; !ok && b.view.living(name) != nil {
			b.word.Moves = news.Version
		}
	}
	if o.speaking {
		b.speakWithin(stateWithin)
	}
	return true
}

// Take takes a member's reports to the speaker and returns its term. ErrForbidden: they are
// another's. ErrUnavailable: this member does not speak for the cell, or does not
// know the caller yet; they are to be sent again.
func (b *Brain) Take(now time.Time, caller string, reports []starling.MachineReport) (term uint64, err error) {
	o := b.office
	if o == nil || !o.speaking {
		return 0, fmt.Errorf("%s does not speak for cell %.80q: %w", b.node.Name, b.place.Cell, starling.ErrUnavailable)
	}
	b.now = now
	b.recount()
	for i := range reports {
		r := &reports[i]
		if r.Node != caller {
			return 0, fmt.Errorf("%.80q cannot report for machine %.80q: %w", caller, r.Node, starling.ErrForbidden)
		}
		if !o.tally.Knows(r.App) && o.tally.Apps() >= len(b.goals())+maxStrayApps {
			continue
		}
		change, err := o.tally.Record(*r, now)
		if err != nil {
			return 0, err
		}
		switch change {
		case State:
			b.speakWithin(stateWithin)
		case Numbers:
			b.speakWithin(max(stateWithin, o.postedAt.Add(rpc.CellReportEvery).Sub(now)))
		}
	}
	return b.word.Term, nil
}

func (b *Brain) goals() []*starling.Goal {
	if b.feed == nil {
		return nil
	}
	return b.feed.Goals
}

// recount brings the tally up to date with the pool, the roster and the goals. Who has
// died is kept in it: a member that was only thought to be dead need not report again.
func (b *Brain) recount() {
	o := b.office
	if !o.stale {
		return
	}
	o.stale, o.alive = false, nil
	var nodes []starling.Node
	for i := range b.view.nodes {
		n := &b.view.nodes[i]
		slot, ok := o.slots[n.Name]
		if !ok {
			continue
		}
		nodes = append(nodes, *n)
		if n.Alive {
			o.alive.Set(slot)
		}
	}
	o.tally.SetMembers(nodes)
	if b.feed != nil {
		o.tally.SetDraining(b.feed.Draining)
		o.tally.KeepApps(b.feed.Goals, b.now.Add(-pollEvery))
	}
	b.speakWithin(stateWithin)
}

// speakWithin has the cell's report sent within d, but not before a new speaker has heard its cell.
func (b *Brain) speakWithin(d time.Duration) {
	o := b.office
	if o.spoken && o.fails == 0 {
		o.at = sooner(o.at, b.now.Add(d))
	}
}

func (b *Brain) speakAt() time.Time {
	o := b.office
	if o == nil || !o.speaking || o.posting {
		return time.Time{}
	}
	if o.slots == nil || b.feed == nil { // until then there is nothing to count by
		return time.Time{}
	}
	return o.at
}

// speak tells the leader how the cell stands.
func (b *Brain) speak() {
	o := b.office
	if o == nil || !o.speaking || o.posting || o.slots == nil || b.feed == nil || b.now.Before(o.at) || len(b.servers) == 0 {
		return
	}
	b.recount()
	apps, unheard := b.count()
	if o.base == 0 {
		o.told = nil
	}
	r := rpc.CellReport{
		Cell: b.place.Cell, Version: o.version, Relay: b.node, Gossip: b.place.Gossip, Alive: o.alive, Apps: []rpc.CellApp{},
		Seq: b.seq + 1, Base: o.base,
	}
	for i := range apps {
		if stamp, ok := o.told[apps[i].App]; !ok || stamp != o.telling[apps[i].App] {
			r.Apps = append(r.Apps, apps[i])
		}
	}
	for app := range o.told {
		if _, ok := o.telling[app]; !ok {
			r.Gone = append(r.Gone, app)
		}
	}
	slices.Sort(r.Gone)
	b.seq++
	o.posting, o.spoken, o.postedAt = true, true, b.now
	o.at = b.now.Add(rpc.CellRefreshEvery)
	b.recall(unheard)
	b.do(SendCell{b.server(b.rank, o.shift), r})
}

// count merges the reports on each goal, MaxReports at most, by name.
func (b *Brain) count() (apps []rpc.CellApp, unheard int) {
	o := b.office
	o.telling = make(map[string]uint64, len(b.feed.Goals))
	for _, g := range b.feed.Goals {
		if g == nil || len(apps) >= rpc.MaxReports {
			continue
		}
		a, stamp := o.tally.Count(g, b.now)
		a.Counts.Absent = 0 // the leader's to say: it has the roster
		apps = append(apps, a)
		o.telling[a.App] = stamp
		unheard += a.Unheard
	}
	slices.SortFunc(apps, func(x, y rpc.CellApp) int { return strings.Compare(x.App, y.App) })
	return apps, unheard
}

// recall begins a new term, in which everybody reports, when members have been silent for
// long that should have reported: their reports may have been lost.
func (b *Brain) recall(unheard int) {
	o := b.office
	switch {
	case unheard == 0:
		o.recalled, o.recallAt = recallAfter, b.now.Add(recallAfter)
	case !b.now.Before(o.recallAt):
		o.recalled = min(2*o.recalled, recallMost)
		o.recallAt = b.now.Add(o.recalled)
		b.newTerm()
	}
}

func (b *Brain) cellTaken(ev CellTaken) {
	o := b.office
	if o == nil || !o.posting || ev.Sent.Report.Seq != b.seq {
		return // of an office that is over
	}
	o.posting = false
	switch {
	case fenced(ev.Err):
		b.moved(backoffMin)
		fallthrough
	case ev.Err != nil:
		o.fails++
		o.shift++
		o.at = b.now.Add(b.backoff(o.fails, rpc.CellRefreshEvery))
		return
	case ev.Response.Whole:
		o.base, o.told = 0, nil
		o.at = b.now.Add(stateWithin)
	default:
		o.base, o.told = b.seq, maps.Clone(o.telling)
	}
	o.fails = 0
	if len(ev.Response.Seeds) > 0 {
		b.do(Join{ev.Response.Seeds[:min(len(ev.Response.Seeds), rpc.MaxTicketSeeds)]})
	}
}

// rotate has the speaker change the key of the cell's gossip once it is told of a newer one.
func (b *Brain) rotate() {
	o := b.office
	if at := b.rotateAt(); at.IsZero() || b.now.Before(at) {
		return
	}
	o.rotating = true
	b.do(RotateKey{o.epoch, o.key})
}

func (b *Brain) rotateAt() time.Time {
	o := b.office
	if o == nil || !o.speaking || o.rotating || o.epoch <= b.place.KeyEpoch {
		return time.Time{}
	}
	return later(o.rotateAt, b.now)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (b *Brain) rotated(ev Rotated) {
	o := b.office
	if o != nil {
		o.rotating = false
		o.rotateAt = b.now.Add(rotateAgain)
	}
	if ev.Err == nil {
		b.place.KeyEpoch = max(b.place.KeyEpoch, ev.Epoch)
	}
}

// Relaying reports whether the member is one of the cell's relays, and whether it speaks for it.
func (b *Brain) Relaying() (relay, speaker bool) {
	return b.rank >= 0, b.office != nil && b.office.speaking
}

// Member returns what the speaker knows of a member of its cell; false: it knows none of that name.
func (b *Brain) Member(name string) (rpc.CellMember, bool) {
	n := b.view.Node(name)
	if n == nil {
		return rpc.CellMember{}, false
	}
	m := rpc.CellMember{Node: *n}
	if o := b.office; o != nil && o.speaking {
		m.Reports, m.SeenAt = o.tally.Last(name)
	}
	return m, true
}
