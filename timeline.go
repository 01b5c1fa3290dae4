package starling

import (
	"cmp"
	"slices"
	"time"
)

// RegionTimes says when a region came how far with a deployment, in milliseconds after
// the deployment's creation; 0: not yet, or it was so before.
type RegionTimes struct {
	Region      string `json:"region"`
	UploadMS    int64  `json:"upload_ms,omitempty"`     // the build's first chunk reached the caches; the home only
	FirstByteMS int64  `json:"first_byte_ms,omitempty"` // the first chunk came from another region
	PlacedMS    int64  `json:"placed_ms,omitempty"`     // its caches held everything
	FetchMS     int64  `json:"fetch_ms,omitempty"`      // the first machine had received a chunk
	StagedMS    int64  `json:"staged_ms,omitempty"`     // the first machine held everything
	AllStagedMS int64  `json:"all_staged_ms,omitempty"` // every live target did, or had failed
	// EarlyBytes had come from other regions when the manifest became known here.
	EarlyBytes int64 `json:"early_bytes,omitempty"`
}

// Merge returns t with what it lacks taken from o: the first word on an instant stands.
func (t RegionTimes) Merge(o RegionTimes) RegionTimes {
	t.UploadMS = cmp.Or(t.UploadMS, o.UploadMS)
	t.FirstByteMS = cmp.Or(t.FirstByteMS, o.FirstByteMS)
	t.PlacedMS = cmp.Or(t.PlacedMS, o.PlacedMS)
	t.FetchMS = cmp.Or(t.FetchMS, o.FetchMS)
	t.StagedMS = cmp.Or(t.StagedMS, o.StagedMS)
	t.AllStagedMS = cmp.Or(t.AllStagedMS, o.AllStagedMS)
	t.EarlyBytes = cmp.Or(t.EarlyBytes, o.EarlyBytes)
	return t
}

// RegionMarks are the instants of RegionTimes by the clock of the region that reports
// them; Now is that clock when the report left, so that clocks need not agree.
type RegionMarks struct {
	Now        time.Time `json:"now,omitzero"`
	FirstByte  time.Time `json:"first_byte,omitzero"`
	Placed     time.Time `json:"placed,omitzero"`
	Fetch      time.Time `json:"fetch,omitzero"`
	Staged     time.Time `json:"staged,omitzero"`
	AllStaged  time.Time `json:"all_staged,omitzero"`
	EarlyBytes int64     `json:"early_bytes,omitempty"`
}

// Since returns m with what it lacks taken from an earlier report of the same region,
// which came so long before it.
func (m RegionMarks) Since(old RegionMarks, before time.Duration) RegionMarks {
	if m.Now.IsZero() || old.Now.IsZero() {
		return m
	}
	keep := func(mark *time.Time, was time.Time) {
		if !was.IsZero() { // by the clock of the newer report, which may be another's
			*mark = was.Add(m.Now.Sub(old.Now) - before)
		}
	}
	keep(&m.FirstByte, old.FirstByte)
	keep(&m.Placed, old.Placed)
	keep(&m.Fetch, old.Fetch)
	keep(&m.Staged, old.Staged)
	keep(&m.AllStaged, old.AllStaged)
	m.EarlyBytes = max(m.EarlyBytes, old.EarlyBytes)
	return m
}

// Times translates the marks of a region's report that came at arrived, by the clock
// that made created.
func (m RegionMarks) Times(region string, created, arrived time.Time) RegionTimes {
	after := func(at time.Time) int64 {
		if at.IsZero() || m.Now.IsZero() {
			return 0
		}
		return max(1, arrived.Sub(created).Milliseconds()-max(0, m.Now.Sub(at).Milliseconds()))
	}
	return RegionTimes{
		Region: region, FirstByteMS: after(m.FirstByte), PlacedMS: after(m.Placed),
		FetchMS: after(m.Fetch), StagedMS: after(m.Staged), AllStagedMS: after(m.AllStaged),
		EarlyBytes: max(0, m.EarlyBytes),
	}
}

// Moment is something that happened on a deployment's way.
type Moment struct {
	AtMS   int64  `json:"at_ms"` // after the deployment's creation
	Region string `json:"region"`
	Event  string `json:"event"`
}

// The events of a timeline. Those up to MomentManifest, and the last three, are the home's.
const (
	MomentBuildBegan   = "build_began"
	MomentFirstUpload  = "first_chunk_uploaded"
	MomentManifest     = "manifest_known"
	MomentFirstByte    = "first_byte"    // from another region
	MomentPlaced       = "placed"        // the region's caches hold everything
	MomentFirstFetch   = "first_fetch"   // a machine has received a chunk
	MomentFirstStaged  = "first_staged"  // a machine holds everything
	MomentAllStaged    = "all_staged"    // all of the region's machines do
	MomentGateOpen     = "gate_open"     // enough regions hold the artifact
	MomentRolloutBegan = "rollout_began" // the first machines may activate
	MomentEnded        = "ended"
)

// Timeline lists what has happened so far, in order of time. After a build was
// repeated, the times of its attempts count together.
func (d *Deployment) Timeline() []Moment {
	out := []Moment{}
	add := func(ms int64, region, event string) {
		if ms > 0 {
			out = append(out, Moment{ms, region, event})
		}
	}
	t := &d.Timings
	began := d.PhaseAt.Sub(d.CreatedAt).Milliseconds() // of the present phase
	ready := t.QueuedMS + t.BuildMS                    // the artifact was known
	switch {
	case d.Attempt == 0 || d.Phase == PhaseQueued:
	case d.Phase == PhaseBuilding:
		add(max(began, 1), d.Home, MomentBuildBegan)
	default:
		add(max(t.QueuedMS, 1), d.Home, MomentBuildBegan)
	}
	if !d.Generation.IsZero() {
		add(max(ready, 1), d.Home, MomentManifest)
	}
	for _, r := range d.Times {
		add(r.UploadMS, r.Region, MomentFirstUpload)
		add(r.FirstByteMS, r.Region, MomentFirstByte)
		add(r.PlacedMS, r.Region, MomentPlaced)
		add(r.FetchMS, r.Region, MomentFirstFetch)
		add(r.StagedMS, r.Region, MomentFirstStaged)
		add(r.AllStagedMS, r.Region, MomentAllStaged)
	}
	if t.ReplicateMS > 0 && d.Phase != PhaseReplicating && (d.Phase != PhaseFailed && d.Phase != PhaseCancelled || t.StageMS > 0) {
		add(ready+t.ReplicateMS, d.Home, MomentGateOpen)
	}
	switch {
	case d.Phase == PhaseRollingOut:
		add(began, d.Home, MomentRolloutBegan)
	case d.Phase.Terminal() && t.RolloutMS > 0:
		add(t.TotalMS-t.RolloutMS, d.Home, MomentRolloutBegan)
	}
	if d.Phase.Terminal() {
		add(max(t.TotalMS, 1), d.Home, MomentEnded)
	}
	slices.SortStableFunc(out, func(a, b Moment) int { return cmp.Compare(a.AtMS, b.AtMS) })
	return out
}
