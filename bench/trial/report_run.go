package trial

import (
	"fmt"
	"math"
	"slices"
)

// section shows one run's repeat with the median of its first figure.
type section struct {
	*Run
	ID       string
	Shown    *Repeat // nil: none was measured
	Number   int     // of the repeat shown, from 1
	Bars     []*chart
	Curves   []*curvesRow
	Lines    []*chart // timelines
	Maps     []*drawnMap
	Tables   []Table
	Details  []Table
	Notes    []string
	Statuses []string // broken promises
}

// curvesRow is curves and histograms under one heading, two in a row.
type curvesRow struct {
	Under  string
	Charts []*chart
}

func newSection(i int, r *Run) *section {
	s := &section{Run: r, ID: fmt.Sprintf("run%d", i+1)}
	for n, x := range r.Repeats {
		if x.Broken != "" {
			s.Statuses = append(s.Statuses, fmt.Sprintf("repeat %d: %s", n+1, x.Broken))
		}
	}
	if s.Shown, s.Number = typical(r); s.Shown == nil {
		return s
	}
	p := s.Shown.Pictures
	if p == nil {
		p = &Pictures{}
	}
	s.Notes = s.Shown.Notes
	for k := range p.Bars {
		s.Bars = append(s.Bars, barsChart(&p.Bars[k]))
	}
	for k := range p.Curves {
		s.chart(p.Curves[k].Under, curvesChart(&p.Curves[k]))
	}
	for k := range p.Histograms {
		s.chart("", histogramChart(&p.Histograms[k]))
	}
	for k := range p.Timelines {
		if len(p.Timelines[k].Rows) > 0 {
			s.Lines = append(s.Lines, timelineChart(&p.Timelines[k]))
		}
	}
	if steps := r.stepsTimeline(); len(steps.Rows) > 0 {
		s.Lines = append(s.Lines, timelineChart(steps))
	}
	for k := range p.Maps {
		if len(p.Maps[k].Groups) > 0 {
			s.Maps = append(s.Maps, drawMap(&p.Maps[k]))
		}
	}
	s.Tables, s.Details = bounded(p.Tables), bounded(p.Details)
	return s
}

// bounded leaves out rows of tables that are too long.
func bounded(tables []Table) []Table {
	var out []Table
	for _, t := range tables {
		if n := len(t.Rows) - maxTableRows; n > 0 {
			t.Note += fmt.Sprintf(" %d more rows are left out.", n)
			t.Rows = t.Rows[:maxTableRows]
		}
		out = append(out, t)
	}
	return out
}

// chart adds a chart to those under its heading.
func (s *section) chart(under string, c *chart) {
	i := slices.IndexFunc(s.Curves, func(r *curvesRow) bool { return r.Under == under })
	if i < 0 {
		i = len(s.Curves)
		s.Curves = append(s.Curves, &curvesRow{Under: under})
	}
	s.Curves[i].Charts = append(s.Curves[i].Charts, c)
}

// typical returns the repeat whose first figure is the median's neighbour.
func typical(r *Run) (*Repeat, int) {
	if len(r.Repeats) == 0 {
		return nil, 0
	}
	if len(r.Summary) == 0 {
		return r.Repeats[0], 1
	}
	best := 0
	away := math.Inf(1)
	for i, x := range r.Repeats {
		k := slices.IndexFunc(x.Figures, func(f Figure) bool { return f.Name == r.Summary[0].Name })
		if k < 0 {
			continue
		}
		if d := math.Abs(x.Figures[k].Value - r.Summary[0].Median); d < away {
			best, away = i, d
		}
	}
	return r.Repeats[best], best + 1
}

// maxStepRows bounds the repeats whose steps are drawn.
const maxStepRows = 30

// stepsTimeline shows what was under way when, in each repeat.
func (r *Run) stepsTimeline() *Timeline {
	t := &Timeline{Title: "what was under way, since each repeat began"}
	for i, x := range r.Repeats {
		if len(x.Steps) > 0 && i < maxStepRows {
			t.Rows = append(t.Rows, Row{Name: fmt.Sprintf("repeat %d", i+1), Spans: x.Steps})
		}
	}
	return t
}

// drawnMap is a map as the page shows it.
type drawnMap struct {
	Title, Unit string
	Low, High   float64 // of all values
	Valued      bool
	Roles       []keyEntry
	Groups      []*drawnGroup
}

type drawnGroup struct {
	Name          string
	Width, Height float64
	Nodes         []drawnNode
	Groups        []*drawnGroup
	LeftOut       int
}

type drawnNode struct {
	box
	Shade float64 // 0.15 to 1
}

func drawMap(m *Map) *drawnMap {
	d := &drawnMap{Title: m.Title, Unit: m.Unit, Low: math.Inf(1), High: math.Inf(-1)}
	d.extent(m.Groups)
	left := maxMapNodes
	for i := range m.Groups {
		d.Groups = append(d.Groups, d.group(&m.Groups[i], &left))
	}
	return d
}

// extent finds the least and the greatest value, and all roles.
func (d *drawnMap) extent(groups []Group) {
	for _, g := range groups {
		for _, n := range g.Nodes {
			if n.Value != nil {
				d.Low, d.High, d.Valued = min(d.Low, *n.Value), max(d.High, *n.Value), true
			}
			if n.Role != "" && !slices.ContainsFunc(d.Roles, func(k keyEntry) bool { return k.Name == n.Role }) {
				d.Roles = append(d.Roles, keyEntry{n.Role, "block " + hue(len(d.Roles)+1)})
			}
		}
		d.extent(g.Groups)
	}
}

// Sizes of a map's nodes.
const (
	nodeSide = 11
	nodeStep = 13
)

// group draws a group; left is how many nodes may still be drawn.
func (d *drawnMap) group(g *Group, left *int) *drawnGroup {
	out := &drawnGroup{Name: g.Name}
	n := min(len(g.Nodes), *left)
	*left -= n
	out.LeftOut = len(g.Nodes) - n
	across := max(1, min(40, int(math.Ceil(math.Sqrt(float64(n)*2)))))
	out.Width, out.Height = float64(min(n, across)*nodeStep), float64((n+across-1)/across*nodeStep)
	for i, node := range g.Nodes[:n] {
		x := drawnNode{box: box{X: float64(i % across * nodeStep), Y: float64(i / across * nodeStep), Width: nodeSide, Height: nodeSide, Title: node.Name, Class: hue(0)}, Shade: 1}
		switch {
		case node.Role != "":
			k := slices.IndexFunc(d.Roles, func(k keyEntry) bool { return k.Name == node.Role })
			x.Class = d.Roles[k].Class
			x.Title += ", " + node.Role
		case node.Value == nil && d.Valued:
			x.Class = "none"
		}
		if node.Value != nil {
			x.Title += fmt.Sprintf(": %s %s", Number(*node.Value), d.Unit)
			x.Shade = round2(0.2 + 0.8*(*node.Value-d.Low)/max(d.High-d.Low, 1e-12))
			if d.High == d.Low {
				x.Shade = 1
			}
		}
		out.Nodes = append(out.Nodes, x)
	}
	for i := range g.Groups {
		out.Groups = append(out.Groups, d.group(&g.Groups[i], left))
	}
	return out
}
