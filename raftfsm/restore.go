package raftfsm

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/starlingdeploy/starling"
)

// IndexStep is how far above everything known a restored state goes on. What was lost
// had used indexes that others remember: other regions' cursors, lease tokens, event
// IDs, machines' generations. No cluster writes so many entries between two snapshots.
const IndexStep = 1 << 32

// RestoredLevel is what every server must speak to take part in a restored region.
const RestoredLevel = 2

// Inspect reads a snapshot to its end and tells what is in it. ErrCorrupt: it is cut
// off, changed, or no snapshot.
func Inspect(rd io.Reader) (starling.SnapshotInfo, error) {
	db, m, region, err := readSnapshot(rd, "")
	if err != nil {
		return starling.SnapshotInfo{}, fmt.Errorf("snapshot: %w", err)
	}
	return View{reader: reader{txn: db.read(), region: region}, meta: m}.Summary()
}

// Summary tells what a snapshot of this state would hold.
func (v View) Summary() (starling.SnapshotInfo, error) {
	info := starling.SnapshotInfo{Region: v.region, Index: v.meta.Index, At: v.meta.Clock, Records: map[string]int{}}
	for _, table := range stored() {
		n := 0
		for range v.txn.scan(table, byID, nil) {
			n++
		}
		if n > 0 {
			info.Records[table] = n
		}
	}
	info.Active = len(v.Active())
	return info, nil
}

// Restored reads a snapshot of v's region and returns the state with which the region may
// go on at time at, in place of v. It is what the snapshot says, but for this:
//
//   - its index is IndexStep above both, so that what others remember is older;
//   - deployments under way end as failed, since nobody knows what became of them;
//   - each goal gets a generation above all that machines may have seen, so that they
//     turn to what it names, and so will the goals of apps that the snapshot lacks;
//   - cells count as changed, so that their machines see who belongs to them now;
//   - what may have been changed since counts as changed, so that other regions get it.
func (v View) Restored(rd io.Reader, at time.Time, actor string) (View, error) {
	return v.goOn(rd, at, actor, v.meta.Recovered)
}

// Recovered returns the state with which the region may go on when v is what is left of
// it, and what v lacks is lost: v as if it were restored, and once more recovered.
func (v View) Recovered(at time.Time, actor string) (View, error) {
	var b bytes.Buffer
	if err := v.WriteSnapshot(&b); err != nil {
		return View{}, fmt.Errorf("recover: %w", err)
	}
	return v.goOn(&b, at, actor, v.meta.Recovered+1)
}

// Recoveries counts how often the region went on without most of its servers. Servers
// that know of fewer were left behind.
func (v View) Recoveries() int { return v.meta.Recovered }

func (v View) goOn(rd io.Reader, at time.Time, actor string, recoveries int) (View, error) {
	db, m, _, err := readSnapshot(rd, v.region)
	if err != nil {
		return View{}, fmt.Errorf("restore: %w", err)
	}
	t := begin(db, v.region, defaultLimits(), max(m.Index, v.meta.Index)+IndexStep)
	defer t.txn.abort()
	if t.at = at.UTC(); t.at.After(t.meta.Clock) {
		t.meta.Clock = t.at
	}
	t.now, t.actor, t.meta.Recovered = t.meta.Clock, actor, recoveries
	if err := t.resume(m.Clock); err != nil {
		return View{}, fmt.Errorf("restore: %w", err)
	}
	if err := t.commit(); err != nil {
		return View{}, fmt.Errorf("restore: %w", err)
	}
	return View{reader: reader{txn: db.read(), region: v.region}, meta: t.meta}, nil
}

// resume makes a state of the past, as of taken, one to go on with.
func (t *tx) resume(taken time.Time) error {
	reason := fmt.Sprintf("the region went on from its state of %s: submit again what is still wanted", taken.UTC().Format(time.RFC3339))
	for _, d := range collect(scan[starling.Deployment](t.reader, tableDeployments, byActive, newKey().byte(place(1)))) {
		t.step()
		ended := *d.rec
		if err := t.end(&ended, starling.PhaseFailed, reason); err != nil {
			return err
		}
		t.putDeployment(d, &ended)
	}
	for _, g := range own[starling.Goal](t, tableGoals) {
		next := *g.rec
		next.Generation.Sequence, next.Revision = max(t.step(), g.rec.Generation.Sequence+1), 1
		put(t, tableGoals, g, &row[starling.Goal]{rec: &next, mod: t.index, seq: g.seq})
	}
	for _, a := range own[starling.App](t, tableApps) {
		put(t, tableApps, a, &row[starling.App]{rec: a.rec, mod: t.step(), seq: a.seq})
	}
	for _, k := range own[starling.Token](t, tableTokens) {
		put(t, tableTokens, k, &row[starling.Token]{rec: k.rec, mod: t.step(), seq: k.seq})
	}
	t.renewCells()
	t.meta.Floor = t.step()
	t.meta.Level = max(t.meta.Level, RestoredLevel) // older programs do not know the floor
	return t.err
}

// step goes on to the next index and returns it. Each record gets its own, so that
// other regions can take them in batches.
func (t *tx) step() uint64 {
	t.index++
	t.n = 0
	return t.index
}

// own returns the rows of a table that are homed here.
func own[T any](t *tx, table string) []*row[T] {
	return collect(scan[T](t.reader, table, byMod, nil))
}

// collect reads a scan to its end before its table changes.
func collect[T any](seq func(func(*row[T]) bool)) []*row[T] {
	var out []*row[T]
	for r := range seq {
		out = append(out, r)
	}
	return out
}
