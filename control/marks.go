package control

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// markBoard remembers when this region passed the milestones of each goal, for the
// timeline. It lives in the leader's memory, for one term; the home keeps the first
// word on each.
type markBoard struct {
	mu    sync.Mutex
	goals map[string]*goalMarks // by app
}

type goalMarks struct {
	generation starling.Generation
	had        bool // its caches held the artifact before: that is no event
	marks      starling.RegionMarks
}

func newMarkBoard() *markBoard { return &markBoard{goals: map[string]*goalMarks{}} }

// keepGoals forgets apps that have no goal any more.
func (b *markBoard) keepGoals(goals []*starling.Goal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.goals) == 0 {
		return
	}
	have := make(map[string]bool, len(goals))
	for _, g := range goals {
		have[g.App] = true
	}
	for app := range b.goals {
		if !have[app] {
			delete(b.goals, app)
		}
	}
}

// note takes in what the region is about to report and returns the marks for it.
// ahead bytes had been fetched for the goal's build since aheadAt, before the goal came.
func (b *markBoard) note(r *starling.RegionReport, ahead int64, aheadAt, now time.Time) starling.RegionMarks {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.goals[r.App]
	if g == nil || g.generation != r.Generation {
		g = &goalMarks{generation: r.Generation, had: r.Placing.Placed}
		g.marks.FirstByte, g.marks.EarlyBytes = aheadAt, ahead
		b.goals[r.App] = g
	}
	reached := func(mark *time.Time, is bool) {
		if is && mark.IsZero() {
			*mark = now
		}
	}
	c := &r.Counts
	reached(&g.marks.FirstByte, r.Bytes.WAN > 0)
	reached(&g.marks.Placed, r.Placing.Placed && !g.had)
	reached(&g.marks.Fetch, r.Bytes.CacheOut+r.Bytes.Peer > 0)
	reached(&g.marks.Staged, c.Staged > 0)
	reached(&g.marks.AllStaged, c.Target > 0 && c.Staged+c.Failed >= c.Target)
	return g.marks
}

// times merges what is kept of the regions' times with what they report, in the order
// of the regions; none if nothing is known.
func (c *deciding) times() []starling.RegionTimes {
	var out []starling.RegionTimes
	for _, p := range c.dep.Regions {
		t := starling.RegionTimes{Region: p.Name}
		if i := slices.IndexFunc(c.dep.Times, func(t starling.RegionTimes) bool { return t.Region == p.Name }); i >= 0 {
			t = c.dep.Times[i]
		}
		if r, ok := c.report(p.Name); ok {
			t = t.Merge(r.Marks.Times(p.Name, c.dep.CreatedAt, r.At))
		}
		if t != (starling.RegionTimes{Region: p.Name}) {
			out = append(out, t)
		}
	}
	return out
}

// withUpload adds to the times of a build under way, in order, when its upload began.
func withUpload(times []starling.RegionTimes, dep *starling.Deployment, at time.Time) []starling.RegionTimes {
	if at.IsZero() {
		return times
	}
	home := starling.RegionTimes{Region: dep.Home, UploadMS: max(1, at.Sub(dep.CreatedAt).Milliseconds())}
	out := slices.DeleteFunc(slices.Clone(times), func(t starling.RegionTimes) bool {
		if t.Region == dep.Home {
			home = home.Merge(t)
		}
		return t.Region == dep.Home
	})
	out = append(out, home)
	slices.SortFunc(out, func(a, b starling.RegionTimes) int { return cmp.Compare(a.Region, b.Region) })
	return out
}
