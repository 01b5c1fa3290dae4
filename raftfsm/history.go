package raftfsm

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// Bounds of the archive.
const (
	MaxSegmentDeployments = 256
	MaxSegmentBytes       = 1 << 20   // packed
	MaxArchiveBytes       = 256 << 20 // packed, of all homes; more is refused until some is dropped
)

// archiveSlack says how far the ended deployments of a home may exceed what level 1 keeps
// once archives are in use: what the leader has not archived yet must not be dropped.
const archiveSlack = 2

// HistoryArchive moves ended deployments of a home into the archive. Data holds them
// packed, in the order of IDs, by whom and how is not the state's business: it keeps
// bytes, so that no two programs need to pack alike. Refused unless each is there and has
// ended, and while the archive is full.
type HistoryArchive struct {
	Home string   `json:"home"`
	IDs  []string `json:"ids"` // MaxSegmentDeployments at most
	Data []byte   `json:"data"`
}

// HistoryDrop drops the archive's segments of a home up to a sequence number.
type HistoryDrop struct {
	Home    string `json:"home"`
	Through uint64 `json:"through"`
}

// Segment is a part of the archive: what one HistoryArchive moved there.
type Segment struct {
	Home  string `json:"home"`
	Seq   uint64 `json:"seq"`   // later ones are higher
	Heads []Head `json:"heads"` // by age, oldest first
	Data  []byte `json:"data"`
}

// Head is what is known of an archived deployment without unpacking it.
type Head struct {
	ID   string `json:"id"`
	App  string `json:"app"`
	At   int64  `json:"at"` // of its creation, Unix microseconds
	Seq  uint64 `json:"seq"`
	Line int    `json:"line"` // its place in Data
	// Key is keyHash of its idempotency key, Epoch its own.
	Key   uint64 `json:"key,omitempty"`
	Epoch uint64 `json:"epoch,omitempty"`
}

// Listed is a deployment of a list: the record itself, or where it is in the archive.
type Listed struct {
	Deployment *starling.Deployment
	Segment    *Segment // when Deployment is nil
	Head       *Head
}

func (t *tx) historyArchive(p *HistoryArchive) (Result, error) {
	if err := starling.CheckName("home", p.Home); err != nil {
		return Result{}, err
	}
	if n := len(p.IDs); n == 0 || n > MaxSegmentDeployments {
		return Result{}, starling.Invalidf("ids", "%d deployments, want 1 to %d", n, MaxSegmentDeployments)
	}
	if n := len(p.Data); n == 0 || n > MaxSegmentBytes {
		return Result{}, starling.Invalidf("data", "%d bytes, want 1 to %d", n, MaxSegmentBytes)
	}
	if t.meta.Archived+int64(len(p.Data)) > t.limits.archive {
		return Result{}, fmt.Errorf("%w: the archive of deployments is full: keep fewer", starling.ErrUnavailable)
	}
	s := &Segment{Home: p.Home, Seq: t.nextSeq(), Data: p.Data}
	for i, id := range p.IDs {
		r := t.deployment(id)
		if r == nil || r.rec.Home != p.Home || !r.rec.Phase.Terminal() {
			return Result{}, fmt.Errorf("%w: %.80q is no ended deployment of %s", starling.ErrConflict, id, p.Home)
		}
		s.Heads = append(s.Heads, Head{
			ID: id, App: r.rec.App, At: r.rec.CreatedAt.UnixMicro(), Seq: r.seq, Line: i,
			Key: keyHash(r.rec.App, r.rec.IdempotencyKey), Epoch: r.rec.Epoch,
		})
		drop(t, tableDeployments, r)
	}
	slices.SortFunc(s.Heads, func(a, b Head) int { return a.age().compare(b.age()) })
	put(t, tableHistory, nil, &row[Segment]{rec: s})
	t.keepKeys(s)
	t.meta.Archived += int64(len(p.Data))
	t.count(p.Home, func(h *home) {
		h.Ended -= len(p.IDs)
		h.Archived += len(p.IDs)
	})
	return Result{}, nil
}

func (t *tx) historyDrop(p *HistoryDrop) (Result, error) {
	if err := starling.CheckName("home", p.Home); err != nil {
		return Result{}, err
	}
	var gone []*row[Segment]
	for r := range scan[Segment](t.reader, tableHistory, byID, strKey(p.Home)) {
		if r.rec.Seq > p.Through {
			break
		}
		gone = append(gone, r)
	}
	for _, r := range gone {
		drop(t, tableHistory, r)
		t.forgetKeys(r.rec)
		t.meta.Archived -= int64(len(r.rec.Data))
		t.count(p.Home, func(h *home) { h.Archived -= len(r.rec.Heads) })
	}
	return Result{}, nil
}

func segmentKey(s *Segment) []byte { return newKey().str(s.Home).uint(s.Seq) }

// age is a deployment's place in the order of all by creation.
type age struct {
	at  int64 // Unix microseconds
	seq uint64
}

func (a age) compare(b age) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) }

func (h *Head) age() age { return age{h.At, h.Seq} }

func ageOf(r *row[starling.Deployment]) age { return age{r.rec.CreatedAt.UnixMicro(), r.seq} }

// Archived returns where a deployment is in the archive. It looks through all segments:
// tens of microseconds for 100,000 deployments.
func (v View) Archived(id string) (Listed, bool) { return v.archived(id) }

func (r reader) archived(id string) (Listed, bool) { return r.archivedOf(nil, id) }

// archivedOf is archived for the segments whose key begins with prefix.
func (r reader) archivedOf(prefix key, id string) (Listed, bool) {
	for s := range scan[Segment](r, tableHistory, byID, prefix) {
		for i := range s.rec.Heads {
			if h := &s.rec.Heads[i]; h.ID == id {
				return Listed{Segment: s.rec, Head: h}, true
			}
		}
	}
	return Listed{}, false
}

// History is Deployments with the archive's: those that f chooses, newest first,
// MaxListed at most. With an unknown Before there are none.
func (v View) History(f starling.DeploymentFilter) []Listed {
	recent := v.Deployments(f)
	out := make([]Listed, 0, len(recent))
	for _, d := range recent {
		out = append(out, Listed{Deployment: d})
	}
	limit := listLimit(f.Limit)
	before, ok := v.ageOf(f.Before)
	if f.Active || !ok {
		return out
	}
	past := v.past(f.App, before, limit)
	if len(past) == 0 {
		return out
	}
	// Both are in order; hardly ever do they overlap.
	ages := make(map[string]age, len(recent))
	for _, d := range recent {
		ages[d.ID] = ageOf(v.deployment(d.ID))
	}
	for _, p := range past {
		if _, twice := ages[p.Head.ID]; !twice { // a mirror may have sent it again
			ages[p.Head.ID] = p.Head.age()
			out = append(out, p)
		}
	}
	slices.SortStableFunc(out, func(a, b Listed) int { return ages[b.id()].compare(ages[a.id()]) })
	return out[:min(len(out), limit)]
}

func (l *Listed) id() string {
	if l.Deployment != nil {
		return l.Deployment.ID
	}
	return l.Head.ID
}

// ageOf returns the age of a deployment, in the archive or not; of "": older than all.
func (v View) ageOf(id string) (age, bool) {
	if id == "" {
		return age{1<<63 - 1, 0}, true
	}
	if r := v.deployment(id); r != nil {
		return ageOf(r), true
	}
	l, ok := v.archived(id)
	if !ok {
		return age{}, false
	}
	return l.Head.age(), true
}

// past lists the archived deployments of an app (empty: of all) that are older than
// before, newest first, limit at most. Segments are looked through from the newest, for
// as long as an older one might hold something newer than what was found.
func (v View) past(app string, before age, limit int) []Listed {
	var segments []*Segment
	for r := range scan[Segment](v.reader, tableHistory, byID, nil) {
		segments = append(segments, r.rec)
	}
	newest := func(s *Segment) age { return s.Heads[len(s.Heads)-1].age() }
	slices.SortFunc(segments, func(a, b *Segment) int { return newest(b).compare(newest(a)) })
	var out []Listed
	newestFirst := func(a, b Listed) int { return b.Head.age().compare(a.Head.age()) }
	for _, s := range segments {
		if len(out) >= limit {
			slices.SortFunc(out, newestFirst)
			if out = out[:limit]; newest(s).compare(out[limit-1].Head.age()) < 0 {
				return out
			}
		}
		for i := range s.Heads {
			if h := &s.Heads[i]; (app == "" || h.App == app) && h.age().compare(before) < 0 {
				out = append(out, Listed{Segment: s, Head: h})
			}
		}
	}
	slices.SortFunc(out, newestFirst)
	return out[:min(len(out), limit)]
}

// Archivable returns the next MaxSegmentDeployments of a home to archive, oldest first,
// if more than keep and as many as these have ended; nil otherwise. What a goal in force
// names stays where it is quickly found.
func (v View) Archivable(name string, keep int) []*starling.Deployment {
	h := get[home](v.reader, tableHomes, byID, strKey(name))
	if h == nil || h.rec.Ended < keep+MaxSegmentDeployments {
		return nil
	}
	var out []*starling.Deployment
	for r := range scan[starling.Deployment](v.reader, tableDeployments, byEnded, strKey(name)) {
		if g, ok := v.Goal(r.rec.App); ok && g.Deployment == r.rec.ID {
			continue
		}
		if out = append(out, r.rec); len(out) == MaxSegmentDeployments {
			return out
		}
	}
	return nil // nearly all are named by goals
}

// Homes returns the homes of which this region has deployments, by name.
func (v View) Homes() []string {
	var out []string
	for h := range scan[home](v.reader, tableHomes, byID, nil) {
		out = append(out, h.rec.Name)
	}
	return out
}

// Droppable returns the last segment of a home that retention lets go, with all before
// it: those beyond the newest keep deployments, and those whose deployments were all
// created before the given time. 0: none.
func (v View) Droppable(name string, keep int, before time.Time) uint64 {
	h := get[home](v.reader, tableHomes, byID, strKey(name))
	if h == nil {
		return 0
	}
	through, left := uint64(0), h.rec.Archived
	for r := range scan[Segment](v.reader, tableHistory, byID, strKey(name)) {
		s := r.rec
		old := !before.IsZero() && s.Heads[len(s.Heads)-1].At < before.UnixMicro()
		if left -= len(s.Heads); left < keep && !old {
			break
		}
		through = s.Seq
	}
	return through
}

// HistoryInfo tells how much history there is of a home.
type HistoryInfo struct {
	Home     string
	Ended    int // kept as records
	Archived int
}

// HistoryOf tells how much history there is of a home.
func (v View) HistoryOf(name string) HistoryInfo {
	info := HistoryInfo{Home: name}
	if h := get[home](v.reader, tableHomes, byID, strKey(name)); h != nil {
		info.Ended, info.Archived = h.rec.Ended, h.rec.Archived
	}
	return info
}

// soundSegment refuses, in a snapshot, what historyArchive would not have made.
func soundSegment(s *Segment) error {
	if len(s.Heads) == 0 || len(s.Heads) > MaxSegmentDeployments || len(s.Data) == 0 || bytes.IndexByte([]byte(s.Home), 0) >= 0 {
		return fmt.Errorf("segment %d of %.80q has %d deployments in %d bytes", s.Seq, s.Home, len(s.Heads), len(s.Data))
	}
	return nil
}
