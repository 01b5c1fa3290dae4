package control

import (
	"fmt"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

func TestACurveKeepsItsShapeWithinItsBound(t *testing.T) {
	b := newCurveBoard()
	began := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	d := &starling.Deployment{ID: "d-1", App: "hello", Generation: starling.Generation{Epoch: 1, Sequence: 2}, CreatedAt: began}
	report := func(generation starling.Generation, done, all int) map[string]Report {
		var p starling.Progress
		for i := range all {
			n := 0
			if i < done {
				n = 20
			}
			p.Count(n, 20)
		}
		return map[string]Report{"r1": {RegionReport: starling.RegionReport{Region: "r1", Generation: generation, Progress: p}}}
	}
	b.note(d, nil, began)
	b.note(d, report(starling.Generation{Epoch: 1, Sequence: 1}, 1, 1), began)
	if got := b.of(d.ID); got != nil {
		t.Fatalf("points without a report on its generation: %v", got)
	}
	const seconds = 3000
	for i := range 10 * seconds { // ten looks a second, one machine more every second
		b.note(d, report(d.Generation, i/10, seconds), began.Add(time.Duration(i)*100*time.Millisecond))
	}
	got := b.of(d.ID)
	if len(got) < starling.MaxCurvePoints/4 || len(got) > starling.MaxCurvePoints {
		t.Fatalf("%d points", len(got))
	}
	for i, p := range got {
		if want := int(p.AtMS / 1000); p.Progress[20] != want {
			t.Fatalf("after %d ms %d machines, want %d", p.AtMS, p.Progress[20], want)
		}
		if i > 0 && p.AtMS <= got[i-1].AtMS {
			t.Fatalf("point %d does not come after the one before", i)
		}
	}
	if last := got[len(got)-1].AtMS; last < seconds*1000*9/10 {
		t.Errorf("the last point is of %d ms", last)
	}
}

func TestAStillStretchTakesTwoPointsAndOldCurvesGo(t *testing.T) {
	b := newCurveBoard()
	began := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	still := map[string]Report{"r1": {RegionReport: starling.RegionReport{Progress: make(starling.Progress, 21)}}}
	for n := range maxCurves + 3 {
		d := &starling.Deployment{ID: fmt.Sprint("d-", n), CreatedAt: began}
		for i := range 50 {
			b.note(d, still, began.Add(time.Duration(i)*time.Second))
		}
		if got := b.of(d.ID); len(got) != 2 || got[1].AtMS != 49_000 {
			t.Fatalf("%v", got)
		}
	}
	if len(b.curves) != maxCurves || b.of("d-0") != nil || b.of("d-2") != nil || b.of("d-3") == nil {
		t.Errorf("%d curves are kept", len(b.curves))
	}
}
