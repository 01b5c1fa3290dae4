package trial

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// chart is the geometry of one drawing; report.html draws it. Lengths are in units of
// the drawing's own, which the browser scales.
type chart struct {
	Title         string
	X, Y          string // units
	Width, Height float64
	Left, Right   float64 // of the plot
	Top, Bottom   float64
	XTicks        []tick
	YTicks        []tick
	Lines         []drawnLine
	Boxes         []box
	Marks         []tick
	Key           []keyEntry
}

// tick is a place on an axis, or of a mark.
type tick struct {
	At           float64
	Label, Title string
}

type drawnLine struct {
	Points, Title, Class string
}

type box struct {
	X, Y, Width, Height float64
	Title, Class        string
}

// keyEntry says what a colour, or a dashed line, means.
type keyEntry struct{ Name, Class string }

// hues is how many colours the page has.
const hues = 8

func hue(i int) string { return fmt.Sprintf("hue%d", i%hues) }

// axis maps values to lengths.
type axis struct {
	low, high, from, to float64
	log, whole          bool // logarithmic; ticks at whole numbers only
}

func (a axis) at(v float64) float64 {
	low, high := a.low, a.high
	if a.log {
		v, low, high = math.Log(max(v, a.low)), math.Log(a.low), math.Log(a.high)
	}
	share := (v - low) / max(high-low, 1e-12)
	return round1(a.from + (a.to-a.from)*min(max(share, 0), 1))
}

// ticks places about n round values.
func (a axis) ticks(n int) []tick {
	var out []tick
	if a.log {
		for e := math.Floor(math.Log10(a.low)); math.Pow(10, e) <= a.high; e++ {
			for _, k := range []float64{1, 2, 5} {
				if v := k * math.Pow(10, e); v >= a.low && v <= a.high {
					out = append(out, tick{At: a.at(v), Label: decimal(v)})
				}
			}
		}
		if len(out) > 2*n { // decades only
			var fewer []tick
			for _, t := range out {
				if strings.HasPrefix(strings.TrimLeft(t.Label, "0."), "1") {
					fewer = append(fewer, t)
				}
			}
			out = fewer
		}
		return out
	}
	step := roundStep(a.high-a.low, n)
	if a.whole {
		step = max(step, 1)
	}
	for k := math.Ceil(a.low/step - 1e-9); k*step <= a.high+step*1e-9; k++ {
		out = append(out, tick{At: a.at(k * step), Label: decimal(k * step)})
	}
	return out
}

// roundStep returns 1, 2 or 5 times a power of ten, of which at most n fit into length.
func roundStep(length float64, n int) float64 {
	length = max(length, 1e-12)
	step := math.Pow(10, math.Floor(math.Log10(length/float64(n))))
	for _, k := range []float64{1, 2, 5, 10} {
		if length/(step*k) <= float64(n) {
			return step * k
		}
	}
	return step * 10
}

func round1(v float64) float64 { return math.Round(v*10) / 10 }

// decimal writes an axis's value without an exponent and without needless digits.
func decimal(v float64) string { return strconv.FormatFloat(math.Round(v*1e6)/1e6+0, 'f', -1, 64) }

// plot makes an empty drawing.
func plot(title, x, y string) *chart {
	return &chart{Title: title, X: x, Y: y, Width: 560, Height: 282, Left: 56, Right: 548, Top: 38, Bottom: 244}
}

func (c *chart) axes(x, y axis, n int) (axis, axis) {
	x.from, x.to = c.Left, c.Right
	y.from, y.to = c.Bottom, c.Top
	c.XTicks, c.YTicks = x.ticks(n), y.ticks(6)
	return x, y
}

func (c *chart) mark(x axis, marks []Mark) {
	for _, m := range marks {
		c.Marks = append(c.Marks, tick{At: x.at(m.At), Label: m.Label, Title: m.Title})
	}
}

// curvesChart draws curves.
func curvesChart(v *Curves) *chart {
	c := plot(v.Title, v.X, v.Y)
	maxX, maxY, minY := v.MaxX, v.MaxY, 0.0
	for _, l := range v.Lines {
		for _, p := range l.Points {
			maxX, maxY, minY = max(maxX, p[0]), max(maxY, p[1]), min(minY, p[1])
		}
	}
	x, y := c.axes(axis{high: max(maxX, 1e-9)}, axis{low: minY, high: max(maxY*1.02, 1e-9)}, 10)
	own := 0
	for _, l := range v.Lines {
		class := string(l.Kind)
		switch l.Kind {
		case Own:
			class = "own " + hue(own)
			own++
			c.Key = append(c.Key, keyEntry{l.Name, class})
		case Many:
			class += " " + hue(v.Hue)
		case Bound:
			c.Key = append(c.Key, keyEntry{l.Name, class})
		}
		var b strings.Builder
		for _, p := range l.Points {
			fmt.Fprintf(&b, "%g,%g ", x.at(p[0]), y.at(p[1]))
		}
		c.Lines = append(c.Lines, drawnLine{Points: strings.TrimSpace(b.String()), Title: l.Name, Class: class})
	}
	c.mark(x, v.Marks)
	return c
}

// histogramChart draws a histogram.
func histogramChart(h *Histogram) *chart {
	c := plot(h.Title, h.Unit, "count")
	if len(h.Bins) == 0 {
		return c
	}
	most := int64(1)
	for _, b := range h.Bins {
		most = max(most, b.Count)
	}
	low, high := h.Bins[0].From, h.Bins[len(h.Bins)-1].To
	log := h.Log && low > 0
	if high <= low {
		high = low + 1
	}
	x, y := c.axes(axis{low: low, high: high, log: log}, axis{high: float64(most) * 1.05, whole: true}, 8)
	for _, b := range h.Bins {
		if b.Count == 0 {
			continue
		}
		x0, x1, top := x.at(b.From), x.at(b.To), y.at(float64(b.Count))
		c.Boxes = append(c.Boxes, box{X: x0, Y: top, Width: round1(max(x1-x0-1, 0.5)), Height: round1(c.Bottom - top), Class: hue(0),
			Title: fmt.Sprintf("%s – %s %s: %d", Number(b.From), Number(b.To), h.Unit, b.Count)})
	}
	c.mark(x, h.Marks)
	return c
}

// Heights of a row in drawings of rows.
const rowHeight = 22

// rows makes a drawing with a row for each name, whose names stand at the left.
func rows(title, unit string, names []string) *chart {
	c := plot(title, unit, "")
	longest := 0
	for _, n := range names {
		longest = max(longest, len([]rune(n)))
	}
	c.Width, c.Left, c.Right = 1120, float64(min(20+longest*7, 340)), 1100
	c.Bottom = c.Top + rowHeight*float64(len(names))
	c.Height = c.Bottom + 38
	for i, n := range names {
		c.YTicks = append(c.YTicks, tick{At: c.row(i), Label: clipped(n, 46)})
	}
	return c
}

// row is the middle of a row.
func (c *chart) row(i int) float64 { return c.Top + rowHeight*(float64(i)+0.5) }

func clipped(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// timelineChart draws spans; spans of one name have one colour.
func timelineChart(t *Timeline) *chart {
	var names []string
	high := 1e-9
	for _, r := range t.Rows {
		names = append(names, r.Name)
		for _, s := range r.Spans {
			high = max(high, s.ToS)
		}
	}
	c := rows(t.Title, "s", names)
	x := axis{high: high, from: c.Left, to: c.Right}
	c.XTicks = x.ticks(12)
	colours, spans := map[string]int{}, 0
	for i, r := range t.Rows {
		for _, s := range r.Spans {
			if spans++; spans > maxSpans {
				return c
			}
			k, ok := colours[s.Name]
			if !ok {
				k = len(colours)
				colours[s.Name] = k
				c.Key = append(c.Key, keyEntry{s.Name, "block " + hue(k)})
			}
			x0, x1 := x.at(s.FromS), x.at(s.ToS)
			c.Boxes = append(c.Boxes, box{X: x0, Y: c.row(i) - 7, Width: round1(max(x1-x0, 1)), Height: 14, Class: hue(k),
				Title: fmt.Sprintf("%s: %s, %s – %s s", r.Name, s.Name, Number(round2(s.FromS)), Number(round2(s.ToS)))})
		}
	}
	return c
}

func round2(v float64) float64 { return math.Round(v*100) / 100 }

// barsChart draws bars.
func barsChart(b *Bars) *chart {
	var names []string
	high := max(b.Bound, 1e-9)
	for _, x := range b.Bars {
		names, high = append(names, x.Name), max(high, x.Value, x.Max)
	}
	c := rows(b.Title, b.Unit, names)
	x := axis{high: high * 1.02, from: c.Left, to: c.Right}
	c.XTicks = x.ticks(10)
	for i, v := range b.Bars {
		c.Boxes = append(c.Boxes, box{X: c.Left, Y: c.row(i) - 7, Width: round1(x.at(v.Value) - c.Left), Height: 14, Class: hue(i),
			Title: fmt.Sprintf("%s: %s %s", v.Name, Number(v.Value), b.Unit)})
		if v.Min != v.Max {
			c.Lines = append(c.Lines, c.whisker(i, x.at(v.Min), x.at(v.Max), fmt.Sprintf("%s – %s %s", Number(v.Min), Number(v.Max), b.Unit)))
		}
	}
	if b.Bound > 0 {
		c.Lines = append(c.Lines, drawnLine{Class: "bound", Title: "bound", Points: fmt.Sprintf("%g,%g %g,%g", x.at(b.Bound), c.Top, x.at(b.Bound), c.Bottom)})
		c.Key = append(c.Key, keyEntry{"bound: " + Number(b.Bound) + " " + b.Unit, "bound"})
	}
	return c
}

// whisker draws an interval in a row.
func (c *chart) whisker(row int, x0, x1 float64, title string) drawnLine {
	y := c.row(row)
	return drawnLine{Class: "whisker", Title: title, Points: fmt.Sprintf("%g,%g %g,%g %g,%g %g,%g %g,%g %g,%g", x0, y-5, x0, y+5, x0, y, x1, y, x1, y-5, x1, y+5)}
}
