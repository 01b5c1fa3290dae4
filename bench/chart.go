package bench

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// chart is the geometry of one drawing; report.html draws it. Lengths are in units of
// the drawing's own, which the browser scales.
type chart struct {
	Title, Unit   string // of what goes up
	Width, Height float64
	Left, Right   float64 // of the plot
	Top, Bottom   float64
	XTicks        []tick
	YTicks        []tick
	Lines         []line
	Marks         []mark
	maxX, maxY    float64
}

type tick struct {
	At    float64
	Label string
}

type line struct {
	Points, Title string
	Class         string // machine, seed or bound
}

// mark is an instant, like a fault's.
type mark struct {
	At           float64
	Label, Title string
}

// maxChartPoints bounds what one chart holds, so that a page stays small whatever it shows.
const (
	maxChartPoints = 24_000
	maxLinePoints  = 300
	minLinePoints  = 40
)

func newChart(title, unit string, maxX, maxY float64) *chart {
	c := &chart{Title: title, Unit: unit, Width: 560, Height: 282, Left: 52, Right: 548, Top: 38, Bottom: 244}
	c.maxX, c.maxY = math.Max(maxX, 1e-9), math.Max(maxY, 1e-9)
	for _, v := range ticks(c.maxX, 10) {
		c.XTicks = append(c.XTicks, tick{c.x(v), number(v)})
	}
	for _, v := range ticks(c.maxY, 6) {
		c.YTicks = append(c.YTicks, tick{c.y(v), number(v)})
	}
	return c
}

func (c *chart) x(v float64) float64 {
	return round1(c.Left + (c.Right-c.Left)*math.Min(v/c.maxX, 1))
}

func (c *chart) y(v float64) float64 {
	return round1(c.Bottom - (c.Bottom-c.Top)*math.Min(v/c.maxY, 1))
}

// add draws n values; every one of them, or where there are too many, some.
func (c *chart) add(class, title string, lines, n int, at func(i int) (x, y float64)) {
	if n == 0 {
		return
	}
	step := max(1, n/min(maxLinePoints, max(minLinePoints, maxChartPoints/max(lines, 1))))
	var b strings.Builder
	for i := 0; i < n; i++ {
		if i%step != 0 && i != n-1 {
			continue
		}
		x, y := at(i)
		fmt.Fprintf(&b, "%g,%g ", c.x(x), c.y(y))
	}
	c.Lines = append(c.Lines, line{Points: strings.TrimSpace(b.String()), Title: title, Class: class})
}

func (c *chart) mark(x float64, label, title string) {
	c.Marks = append(c.Marks, mark{c.x(x), label, title})
}

// ticks returns about n round values from 0 to limit.
func ticks(limit float64, n int) []float64 {
	step := math.Pow(10, math.Floor(math.Log10(limit/float64(n))))
	for _, k := range []float64{1, 2, 5, 10} {
		if limit/(step*k) <= float64(n) {
			step *= k
			break
		}
	}
	var out []float64
	for i := 0; float64(i)*step <= limit*(1+1e-9); i++ {
		out = append(out, float64(i)*step)
	}
	return out
}

func round1(v float64) float64 { return math.Round(v*10) / 10 }

// number writes v without an exponent and without needless digits.
func number(v float64) string {
	return strconv.FormatFloat(math.Round(v*1e4)/1e4, 'f', -1, 64)
}
