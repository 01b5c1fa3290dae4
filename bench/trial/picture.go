package trial

import "math"

// Pictures are what a run has to show beside its figures, as data; the page draws them in
// this order.
type Pictures struct {
	Bars       []Bars      `json:"bars,omitempty"`
	Tables     []Table     `json:"tables,omitempty"` // short ones
	Curves     []Curves    `json:"curves,omitempty"`
	Histograms []Histogram `json:"histograms,omitempty"`
	Timelines  []Timeline  `json:"timelines,omitempty"`
	Maps       []Map       `json:"maps,omitempty"`
	Details    []Table     `json:"details,omitempty"` // long ones
}

// Bounds of pictures, so that a file and a page stay small whatever they show.
const (
	maxCurvePoints = 24_000 // of all lines of one picture
	maxLinePoints  = 300
	minLinePoints  = 40
	maxBins        = 60
	maxSpans       = 2_000
	maxMapNodes    = 4_000
	maxTableRows   = 500
)

// Bars compares a few values of one kind, with a bound (0: none) drawn across.
type Bars struct {
	Title string  `json:"title"`
	Unit  string  `json:"unit"`
	Bound float64 `json:"bound,omitempty"`
	Bars  []Bar   `json:"bars"`
}

// Bar is one value, with the least and most of several where they differ.
type Bar struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Min   float64 `json:"min,omitempty"`
	Max   float64 `json:"max,omitempty"`
}

// Curves is lines over time, or over what X says.
type Curves struct {
	Title string  `json:"title"`
	Under string  `json:"under,omitempty"` // a heading that it shares with its neighbours
	X     string  `json:"x"`               // unit
	Y     string  `json:"y"`
	Lines []Line  `json:"lines"`
	Marks []Mark  `json:"marks,omitempty"`
	Hue   int     `json:"hue,omitempty"` // of lines of kind Many
	MaxX  float64 `json:"max_x,omitempty"`
	MaxY  float64 `json:"max_y,omitempty"`
}

// Line is values in the order of x.
type Line struct {
	Name   string       `json:"name"`
	Kind   Kind         `json:"kind,omitempty"`
	Points [][2]float64 `json:"points"`
}

// Kind is how a line is drawn.
type Kind string

// The kinds.
const (
	Own    Kind = ""       // in a colour of its own, with a key
	Many   Kind = "many"   // thin, one of many alike
	Strong Kind = "strong" // thick, in the colour of text
	Bound  Kind = "bound"  // dashed
)

// Mark is an instant, like a fault's.
type Mark struct {
	At    float64 `json:"at"`
	Label string  `json:"label"` // a character or two
	Title string  `json:"title"`
}

// Histogram is how often values fell between bounds, in rising order, which may differ in width.
type Histogram struct {
	Title string `json:"title"`
	Unit  string `json:"unit"`
	Bins  []Bin  `json:"bins"`
	Log   bool   `json:"log,omitempty"` // the axis of values is logarithmic
	Marks []Mark `json:"marks,omitempty"`
}

// Bin counts values from From, inclusive, up to To.
type Bin struct {
	From  float64 `json:"from"`
	To    float64 `json:"to"`
	Count int64   `json:"count"`
}

// Timeline is what was under way when.
type Timeline struct {
	Title string `json:"title"`
	Rows  []Row  `json:"rows"`
}

// Row is the spans of one thing.
type Row struct {
	Name  string `json:"name"`
	Spans []Span `json:"spans"`
}

// Span is something that took a while; spans of one name have one colour.
type Span struct {
	Name  string  `json:"name"`
	FromS float64 `json:"from_s"`
	ToS   float64 `json:"to_s"`
}

// Map is who was where: groups within groups, like regions of cells of machines, each
// node shaded by its value.
type Map struct {
	Title  string  `json:"title"`
	Unit   string  `json:"unit"` // of the nodes' values
	Groups []Group `json:"groups"`
}

// Group is nodes that belong together.
type Group struct {
	Name   string  `json:"name"`
	Nodes  []Node  `json:"nodes,omitempty"`
	Groups []Group `json:"groups,omitempty"`
}

// Node is one machine, or one of whatever is the smallest that is shown.
type Node struct {
	Name  string   `json:"name"`
	Role  string   `json:"role,omitempty"`  // other than most have
	Value *float64 `json:"value,omitempty"` // nil: none, like of one that a fault befell
}

// Table is text in columns. Columns after the first are aligned as numbers.
type Table struct {
	Title   string     `json:"title"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
	Note    string     `json:"note,omitempty"`
}

// NewLine makes a line of n values, one of lines alike in its picture; of too many values
// some, the last among them.
func NewLine(name string, kind Kind, lines, n int, at func(i int) (x, y float64)) Line {
	l := Line{Name: name, Kind: kind, Points: [][2]float64{}}
	step := max(1, n/min(maxLinePoints, max(minLinePoints, maxCurvePoints/max(lines, 1))))
	for i := range n {
		if i%step == 0 || i == n-1 {
			x, y := at(i)
			l.Points = append(l.Points, [2]float64{short(x), short(y)})
		}
	}
	return l
}

// Arrivals makes a line of how many of the given times, in rising order, have passed: a
// step for each, where they are few enough to be seen.
func Arrivals(name string, kind Kind, lines int, times []float64) Line {
	n := len(times)
	if n == 0 {
		return Line{Name: name, Kind: kind, Points: [][2]float64{}}
	}
	if 2*n > maxLinePoints {
		return NewLine(name, kind, lines, n, func(i int) (float64, float64) { return times[i], float64(i + 1) })
	}
	return NewLine(name, kind, lines, 2*n+1, func(i int) (float64, float64) {
		return times[min(i/2, n-1)], float64((i + 1) / 2)
	})
}

// NewHistogram counts values in at most a few dozen bins of one width.
func NewHistogram(title, unit string, values []float64) Histogram {
	h := Histogram{Title: title, Unit: unit, Bins: []Bin{}}
	if len(values) == 0 {
		return h
	}
	low, high := values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	// Rice's rule for the number of bins: twice the cube root.
	n := min(maxBins, max(1, int(math.Ceil(2*math.Cbrt(float64(len(values)))))))
	if high == low {
		n = 1
	}
	width := max((high-low)/float64(n), 1e-12)
	for i := range n {
		h.Bins = append(h.Bins, Bin{From: low + float64(i)*width, To: low + float64(i+1)*width})
	}
	for _, v := range values {
		h.Bins[min(int((v-low)/width), n-1)].Count++
	}
	return h
}

// short rounds to five significant digits, which is finer than what can be drawn.
func short(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	scale := math.Pow(10, 4-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}
