package cell

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// lateAfter is when a speaker's word gives way to another's about the same machines: it has
// missed a refresh.
const lateAfter = rpc.CellRefreshEvery + 3*time.Second/2

// Said is the last word of a speaker, as the leader keeps it.
type Said struct {
	Relay string
	Alive starling.Slots
	At    time.Time
}

// Merge returns the places in said of those to believe, the first one first. A cell may have
// several speakers at a time, when its members do not all see each other. What was said
// CellSilentAfter ago says nothing. The one that is first by the hash that members elect by is
// believed before the others, unless it is late; each further one only if it speaks of no
// machine that one before it speaks of. So two halves that do not see each other both count,
// and one who does not know yet that another speaks in its place does not.
func Merge(cell string, said []Said, now time.Time) []int {
	place := make(map[string]int, len(said))
	var names []string
	for i := range said {
		if now.Sub(said[i].At) < rpc.CellSilentAfter {
			place[said[i].Relay] = i
			names = append(names, said[i].Relay)
		}
	}
	order := Rank(cell, names, len(names))
	late := func(name string) int {
		if now.Sub(said[place[name]].At) > lateAfter {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(late(a), late(b)) })
	var out []int
	var seen starling.Slots
	for _, name := range order {
		i := place[name]
		if said[i].Alive.Disjoint(seen) {
			out, seen = append(out, i), seen.Union(said[i].Alive)
		}
	}
	return out
}

// Whole returns what a relay has said so far: its report r, which may hold only the apps that
// have changed, on top of its report before (nil: none is known). false: r builds on another
// report than that, and the relay must say everything again. Apps come sorted by name.
func Whole(before *rpc.CellReport, r rpc.CellReport) (rpc.CellReport, bool) {
	byApp := func(a, b rpc.CellApp) int { return strings.Compare(a.App, b.App) }
	slices.SortFunc(r.Apps, byApp)
	if r.Base == 0 {
		return r, true
	}
	if before == nil || before.Seq != r.Base || before.Cell != r.Cell || before.Relay.Name != r.Relay.Name {
		return r, false
	}
	apps := make([]rpc.CellApp, 0, len(before.Apps)+len(r.Apps))
	for _, a := range before.Apps {
		_, again := slices.BinarySearchFunc(r.Apps, a, byApp)
		if !again && !slices.Contains(r.Gone, a.App) {
			apps = append(apps, a)
		}
	}
	apps = append(apps, r.Apps...)
	slices.SortFunc(apps, byApp)
	r.Apps, r.Base, r.Gone = apps[:min(len(apps), rpc.MaxReports)], 0, nil
	return r, true
}

// AddApps merges what disjoint sets of machines say of one generation of an app. The
// revision is the older one: not all have counted by the newer.
func AddApps(a, b rpc.CellApp) rpc.CellApp {
	a.Revision = min(a.Revision, b.Revision)
	a.Counts = a.Counts.Add(b.Counts)
	a.Unheard += b.Unheard
	artifact := max(a.Bytes.Artifact, b.Bytes.Artifact)
	a.Bytes = a.Bytes.Add(b.Bytes)
	a.Bytes.Artifact = artifact
	a.Progress = a.Progress.Add(b.Progress)
	a.Fetch = a.Fetch.Add(b.Fetch)
	if len(b.Held) > 0 {
		held := maps.Clone(a.Held)
		if held == nil {
			held = map[string]int{}
		}
		for d, n := range b.Held {
			held[d] += n
		}
		a.Held = held
	}
	return a
}
