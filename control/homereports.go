package control

import (
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// homeBoard holds what regions report on the deployments homed here. It lives in
// the leader's memory, for one term.
type homeBoard struct {
	mu      sync.Mutex
	reports map[string]map[string]Report // by app and region
}

func newHomeBoard() *homeBoard {
	return &homeBoard{reports: map[string]map[string]Report{}}
}

// record takes a region's report on an active deployment. Within a generation,
// revisions, sums and marks never go back: a region that elected a new leader begins
// counting bytes anew.
func (b *homeBoard) record(r starling.RegionReport, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	regions := b.reports[r.App]
	if regions == nil {
		regions = map[string]Report{}
		b.reports[r.App] = regions
	}
	old, ok := regions[r.Region]
	if ok {
		switch c := r.Generation.Compare(old.Generation); {
		case c < 0, c == 0 && r.Revision < old.Revision:
			return
		case c == 0:
			r.Bytes = r.Bytes.Max(old.Bytes)
			r.Marks = r.Marks.Since(old.Marks, at.Sub(old.At))
		}
	}
	regions[r.Region] = Report{RegionReport: r, At: at}
}

// of returns the reports on an app by region.
func (b *homeBoard) of(app string) map[string]Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.reports[app])
}

// keep forgets apps without an active deployment and returns a copy of the rest.
func (b *homeBoard) keep(active []*starling.Deployment) map[string]map[string]Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[string]map[string]Report, len(b.reports))
	for _, d := range active {
		if r := b.reports[d.App]; r != nil && out[d.App] == nil {
			out[d.App] = maps.Clone(r)
		}
	}
	for app := range b.reports {
		if out[app] == nil {
			delete(b.reports, app)
		}
	}
	return out
}

// checkReport bounds what another region says.
func checkReport(r *starling.RegionReport) error {
	p, b := &r.Placing, &r.Bytes
	if p.ChunksDone < 0 || p.ChunksTotal < 0 {
		return starling.Invalidf("reports", "%d of %d chunks: a count is negative", p.ChunksDone, p.ChunksTotal)
	}
	if !b.Within(math.MaxInt64) || r.Marks.EarlyBytes < 0 {
		return starling.Invalidf("reports.bytes", "%+v, %d early: a count is negative", *b, r.Marks.EarlyBytes)
	}
	if !sound(r.Progress) || !sound(r.Fetch) {
		return starling.Invalidf("reports", "a count by progress or duration makes no sense")
	}
	return checkCounts(&r.Counts, r.Region)
}

// checkCounts bounds what a region, or a part of it, counts.
func checkCounts(c *starling.Counts, region string) error {
	for _, n := range []int{c.Target, c.Staged, c.Due, c.Healthy, c.Failed, c.Absent} {
		if n < 0 || n > math.MaxInt32 {
			return starling.Invalidf("reports", "%d is no count of machines", n)
		}
	}
	c.Samples = c.Samples[:min(len(c.Samples), starling.MaxFailureSamples)]
	for i := range c.Samples {
		f := &c.Samples[i]
		f.Region, f.Node, f.Reason = region, clip(f.Node, 63), clip(f.Reason, starling.MaxReasonBytes)
	}
	checkNamed(c, region)
	return nil
}

func takesPart(d *starling.Deployment, region string) bool {
	return slices.ContainsFunc(d.Regions, func(p starling.Placing) bool { return p.Name == region })
}
