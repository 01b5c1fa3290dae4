package trial

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
)

//go:embed report.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"number": Number,
	"add":    func(a, b float64) float64 { return a + b },
	"sub":    func(a, b float64) float64 { return a - b },
	"middle": func(a, b float64) float64 { return (a + b) / 2 },
}).Parse(reportPage))

// WriteReport writes a result file as one HTML page that needs nothing else.
func WriteReport(w io.Writer, f *File) error {
	p := &page{File: f}
	for i, r := range f.Runs {
		if at := slices.IndexFunc(p.Groups, func(g *group) bool { return g.Scenario == r.Scenario }); at >= 0 {
			p.Groups[at].Runs = append(p.Groups[at].Runs, r)
		} else {
			p.Groups = append(p.Groups, &group{Scenario: r.Scenario, Runs: []*Run{r}})
		}
		p.Sections = append(p.Sections, newSection(i, r))
	}
	for _, g := range p.Groups {
		g.fill()
	}
	if err := reportTemplate.Execute(w, p); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// page is what the report shows.
type page struct {
	*File
	Groups   []*group
	Sections []*section
}

// Title of the page.
func (p *page) Title() string {
	var names []string
	for _, g := range p.Groups {
		labels := []string{}
		for _, r := range g.Runs {
			if r.Label != "" {
				labels = append(labels, r.Label)
			}
		}
		name := g.Scenario
		if len(labels) > 0 {
			name += ": " + strings.Join(labels, ", ")
		}
		names = append(names, name)
	}
	return strings.Join(names, "; ")
}

// Memory of the computer.
func (p *page) Memory() string {
	if p.Computer.MemoryMB == 0 {
		return ""
	}
	return gigabytes(p.Computer.MemoryMB)
}

// Many reports whether anything was repeated.
func (p *page) Many() bool {
	return slices.ContainsFunc(p.Runs, func(r *Run) bool { return len(r.Repeats) > 1 })
}

// group is the runs of one scenario.
type group struct {
	Scenario   string
	Runs       []*Run
	Rows       []*figureRow
	Strips     []*chart
	Beside     *chart // the runs' first curves in one drawing; nil: there are none
	Parameters []parameterRow
}

// figureRow is a figure with its summary in each run, nil where a run lacks it.
type figureRow struct {
	Metric
	Cells []*Summary
}

// Interval of the median, for the page.
func (s *Summary) Interval() string { return s.interval() }

// parameterRow is a parameter with its value in each run.
type parameterRow struct {
	Name   string
	Values []string
	Differ bool
}

func (g *group) fill() {
	var rows []*figureRow
	for i, r := range g.Runs {
		for k := range r.Summary {
			s := &r.Summary[k]
			at := slices.IndexFunc(rows, func(f *figureRow) bool { return f.Name == s.Name })
			if at < 0 {
				at = len(rows)
				rows = append(rows, &figureRow{Metric: s.Metric, Cells: make([]*Summary, len(g.Runs))})
			}
			rows[at].Cells[i] = s
		}
	}
	g.Rows = rows
	for _, f := range rows {
		if c := g.strip(f); c != nil && len(g.Strips) < maxStrips {
			g.Strips = append(g.Strips, c)
		}
	}
	g.beside()
	for name := range g.Runs[0].Parameters {
		row := parameterRow{Name: name}
		for _, r := range g.Runs {
			row.Values = append(row.Values, r.Parameters[name])
			row.Differ = row.Differ || r.Parameters[name] != row.Values[0]
		}
		g.Parameters = append(g.Parameters, row)
	}
	slices.SortFunc(g.Parameters, func(a, b parameterRow) int { return cmp.Compare(a.Name, b.Name) })
}

// beside draws the first curve of each run, of the repeat that is shown, in one drawing.
func (g *group) beside() {
	all := Curves{}
	for _, r := range g.Runs {
		shown, _ := typical(r)
		if shown == nil || shown.Pictures == nil || len(shown.Pictures.Curves) == 0 {
			continue
		}
		first := shown.Pictures.Curves[0]
		i := slices.IndexFunc(first.Lines, func(l Line) bool { return l.Kind == Own })
		if i < 0 || all.Title != "" && all.Title != first.Title {
			continue
		}
		all.Title, all.X, all.Y = first.Title, first.X, first.Y
		all.Lines = append(all.Lines, Line{Name: cmp.Or(r.Label, r.Scenario), Points: first.Lines[i].Points})
	}
	if len(all.Lines) > 1 {
		g.Beside = curvesChart(&all)
	}
}

// maxStrips bounds the drawings of repeats of a scenario.
const maxStrips = 12

// strip draws every repeat of a figure that is judged, with the median and its interval;
// nil if there is nothing to see.
func (g *group) strip(f *figureRow) *chart {
	n, names := 0, []string{}
	low, high := f.lowest(), 0.0
	for i, r := range g.Runs {
		names = append(names, cmp.Or(r.Label, r.Scenario))
		if s := f.Cells[i]; s != nil {
			n, high = max(n, s.N), max(high, s.Max)
		}
	}
	if f.Better == "" || n < 2 || high == low {
		return nil
	}
	c := rows(fmt.Sprintf("%s (%s is better)", f.Name, f.Better), f.Unit, names)
	room := (high - low) * 0.05
	x := axis{low: max(low-room, min(low, 0)), high: high + room, from: c.Left, to: c.Right}
	c.XTicks = x.ticks(10)
	for i, r := range g.Runs {
		s := f.Cells[i]
		if s == nil {
			continue
		}
		if s.Coverage > 0 {
			c.Boxes = append(c.Boxes, box{X: x.at(s.Low), Y: c.row(i) - 8, Width: round1(max(x.at(s.High)-x.at(s.Low), 1)), Height: 16, Class: "interval " + hue(i),
				Title: "interval of the median: " + s.interval()})
		}
		for k, v := range r.values(f.Name) {
			c.Boxes = append(c.Boxes, box{X: round1(x.at(v) - 3), Y: c.row(i) - 3, Width: 6, Height: 6, Class: "dot " + hue(i), Title: fmt.Sprintf("repeat %d: %s %s", k+1, Number(v), f.Unit)})
		}
		m := x.at(s.Median)
		c.Lines = append(c.Lines, drawnLine{Class: "whisker", Title: fmt.Sprintf("median: %s %s", Number(s.Median), f.Unit), Points: fmt.Sprintf("%g,%g %g,%g", m, c.row(i)-9, m, c.row(i)+9)})
	}
	return c
}

func (f *figureRow) lowest() float64 {
	low, first := 0.0, true
	for _, s := range f.Cells {
		if s != nil && (first || s.Min < low) {
			low, first = s.Min, false
		}
	}
	return low
}
