package trial

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
)

// everything is pictures of each kind, with names that are not what they seem.
func everything() Pictures {
	evil := `</svg><script>alert("x")</script>`
	one, two := 1.0, 2.0
	var cells []Group
	for i := range 3 {
		g := Group{Name: fmt.Sprintf("cell %d", i)}
		for k := range 2000 {
			g.Nodes = append(g.Nodes, Node{Name: fmt.Sprint(k), Value: &two})
		}
		cells = append(cells, g)
	}
	cells = append(cells, Group{Name: evil, Nodes: []Node{{Name: evil, Value: &one}, {Name: "relay", Role: evil}, {Name: "dead"}}})
	values := []float64{1, 2, 2, 3, 9}
	return Pictures{
		Bars: []Bars{{Title: evil, Unit: "s", Bound: 1, Bars: []Bar{{Name: "a", Value: 2, Min: 1, Max: 3}, {Name: evil}}}},
		Curves: []Curves{
			{Title: "progress", X: "s", Y: "machines", Lines: []Line{Arrivals("done", Own, 2, values), {Name: evil, Kind: Many, Points: [][2]float64{{0, 1}, {1e300, -5}}}, {Name: "bound", Kind: Bound, Points: [][2]float64{{1, 0}, {1, 9}}}},
				Marks: []Mark{{At: 2, Label: "1", Title: evil}}},
			{Title: "nothing", Under: evil},
		},
		Histograms: []Histogram{NewHistogram("when", "s", values), NewHistogram("one", "s", []float64{4, 4}), NewHistogram("none", "s", nil),
			{Title: "log", Log: true, Unit: "ms", Bins: []Bin{{0.5, 1, 3}, {1, 2, 0}, {2, 4, 8}}, Marks: []Mark{{At: 2, Label: "p50", Title: "2 ms"}}},
			{Title: "log of nothing", Log: true, Bins: []Bin{{0, 0, 1}}}},
		Timelines: []Timeline{{Title: "phases", Rows: []Row{{Name: evil, Spans: []Span{{evil, 0, 2}, {"b", 2, 5}}}, {Name: "b"}}}},
		Maps:      []Map{{Title: "who", Unit: "s", Groups: []Group{{Name: "region", Groups: cells}}}, {Title: "empty"}},
		Tables:    []Table{{Title: evil, Columns: []string{"a", evil}, Rows: [][]string{{"1", evil}, {"2"}}, Note: "note"}},
		Details:   []Table{{Title: "long", Columns: []string{"n"}, Rows: make([][]string, maxTableRows+7)}},
	}
}

func TestReportOfEverything(t *testing.T) {
	p := parse(t, `
repeat = 6
scenario "speed" "a" {}
scenario "speed" "b" { speed = 2 }
`)
	f, err := p.Measure(t.Context(), File{Command: `x "<script>"`, Version: "v1"}, watchNothing())
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range f.Runs[0].Repeats { // so that there is something to see
		r.Figures[0].Value = float64(i) + 0.5
	}
	f.Runs[0].sumUp()
	pictures := everything()
	f.Runs[0].Repeats[2].Pictures, f.Runs[0].Repeats[2].Notes = &pictures, []string{"<b>note</b>"}
	f.Runs[1].Repeats[5].Broken = "<b>lost"
	var page strings.Builder
	if err := WriteReport(&page, f); err != nil {
		t.Fatal(err)
	}
	checkPage(t, page.String())
	for _, want := range []string{"speed: a, b", "repeat 3 of 6", "7 more rows are left out", "and 3 more", "&lt;b&gt;lost", "speed (higher is better)", "p50", "The scenario file", "96.9 %"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if n := page.Len(); n > 3_000_000 {
		t.Errorf("%d bytes", n)
	}
}

// checkPage says what a page that needs nothing else, and trusts nothing, may not hold.
func checkPage(t *testing.T, text string) {
	t.Helper()
	for _, bad := range []string{"<script", "<b>note", "<b>lost", "src=", "href=", "url(", "@import", "http:", "https:", "NaN", "Inf", "ZgotmplZ", "<no value>", "e+"} {
		if i := strings.Index(text, bad); i >= 0 {
			t.Errorf("the page holds %q: %s", bad, text[max(0, i-80):min(len(text), i+80)])
		}
	}
}

func TestReportOfWhatWasStopped(t *testing.T) {
	p := parse(t, `
scenario "speed" "bad" { bad = "fail" }
`)
	f, failed := p.Measure(t.Context(), File{}, watchNothing())
	if failed == nil {
		t.Fatal("nothing failed")
	}
	var page strings.Builder
	if err := WriteReport(&page, f); err != nil {
		t.Fatal(err)
	}
	checkPage(t, page.String())
	for _, want := range []string{"stopped before its end", "it does not move", "Nothing was measured"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestNewHistogramCountsAll(t *testing.T) {
	var values []float64
	for i := range 1000 {
		values = append(values, math.Sqrt(float64(i)))
	}
	h := NewHistogram("x", "s", values)
	sum := int64(0)
	for i, b := range h.Bins {
		sum += b.Count
		if i > 0 && math.Abs(b.From-h.Bins[i-1].To) > 1e-9 {
			t.Errorf("bins %d and %d do not meet", i-1, i)
		}
	}
	if sum != 1000 || len(h.Bins) != 20 {
		t.Errorf("%d values in %d bins", sum, len(h.Bins))
	}
}

func TestLinesAreBounded(t *testing.T) {
	l := NewLine("x", Many, 1000, 1_000_000, func(i int) (float64, float64) { return float64(i) / 1e6, 0 })
	if len(l.Points) > 2*minLinePoints+2 || l.Points[len(l.Points)-1][0] != 1 {
		t.Errorf("%d points, the last %v", len(l.Points), l.Points[len(l.Points)-1])
	}
	if a := Arrivals("x", Own, 1, []float64{1, 1, 4}); fmt.Sprint(a.Points) != "[[1 0] [1 1] [1 1] [1 2] [4 2] [4 3] [4 3]]" {
		t.Error(a.Points)
	}
	if a := Arrivals("x", Own, 1, nil); len(a.Points) != 0 {
		t.Error(a.Points)
	}
	b, err := json.Marshal(Arrivals("x", Own, 1, []float64{math.NaN(), math.Inf(1)}))
	if err != nil {
		t.Error(string(b), err)
	}
}
