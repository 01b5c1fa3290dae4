package bench

import (
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func TestSimPictures(t *testing.T) {
	res := &SimResult{Cells: 3, CellSize: 100, BoundS: 2, Regions: []SimRegion{{LastS: 2.5}, {LastS: 4, PlacedS: 3}, {LastS: 4, PlacedS: 5}}}
	p := res.pictures()
	if len(p.Bars[0].Bars) != 3 || p.Bars[0].Bound != 2 || len(p.Tables[0].Rows) != 3 || len(p.Tables[0].Rows[0]) != len(p.Tables[0].Columns) {
		t.Errorf("%+v, %+v", p.Bars, p.Tables)
	}
	if g := p.Maps[0].Groups; len(g) != 3 || len(g[2].Nodes) != 3 || *g[1].Nodes[2].Value != 4 {
		t.Errorf("%+v", g)
	}
	for i, spans := range []int{1, 2, 1} {
		row := p.Timelines[0].Rows[i]
		if len(row.Spans) != spans || row.Spans[spans-1].ToS != res.Regions[i].LastS {
			t.Errorf("%+v", row)
		}
	}
}

func TestLatencyHistogramCountsAll(t *testing.T) {
	h := newLatencies()
	for i := range 1000 {
		if err := record(h, time.Duration(1+i*i)*time.Microsecond); err != nil {
			t.Fatal(err)
		}
	}
	out := latencyHistogram("x", h)
	sum := int64(0)
	for i, b := range out.Bins {
		if sum += b.Count; b.To <= b.From || i > 0 && b.From != out.Bins[i-1].To {
			t.Errorf("bin %d: %+v", i, b)
		}
	}
	if sum != 1000 || len(out.Bins) < 10 || len(out.Bins) > 70 || len(out.Marks) != 2 {
		t.Errorf("%d values in %d bins, marks %v", sum, len(out.Bins), out.Marks)
	}
	if none := latencyHistogram("x", hdrhistogram.New(1, 100, 3)); len(none.Bins) != 0 {
		t.Errorf("%+v", none)
	}
}
