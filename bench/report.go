package bench

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"time"
)

//go:embed report.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"s":      func(v float64) string { return fmt.Sprintf("%.2f", v) },
	"whole":  func(v float64) string { return fmt.Sprintf("%.0f", v) },
	"mb":     func(n int64) string { return fmt.Sprintf("%.2f", float64(n)/1e6) },
	"pct":    func(v float64) string { return fmt.Sprintf("%.1f %%", v*100) },
	"add":    func(a, b float64) float64 { return a + b },
	"sub":    func(a, b float64) float64 { return a - b },
	"middle": func(a, b float64) float64 { return (a + b) / 2 },
}).Parse(reportPage))

// About says how a result came about.
type About struct {
	Command, Version string
	At               time.Time
}

// WriteReport writes a result, which must have its samples, as one HTML page that
// needs nothing else.
func WriteReport(w io.Writer, res *SwarmResult, about About) error {
	r := &report{SwarmResult: res, About: about}
	r.summarise()
	for i, round := range res.Rounds {
		r.Charts = append(r.Charts, r.roundCharts(i, round))
	}
	if err := reportTemplate.Execute(w, r); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// report is what the page shows.
type report struct {
	*SwarmResult
	About   About
	Systems []*systemRow
	BoundX  float64 // of the bound in the bars; 0: none
	Charts  []*roundCharts
}

// systemRow is a system's line of the summary.
type systemRow struct {
	Name, Version string
	Hue           int // which of the page's colours
	Rounds        int
	Last, CPU     Spread
	Median        float64
	PerBound      float64 // last over bound; 0: unshaped
	Tail          float64 // last over median
	Copies        Spread
	RSSMB         float64
	X, X0, X1     float64 // of the bar's end, and of its least and most
}

// roundCharts is one round of one system.
type roundCharts struct {
	Round    *Round
	Hue      int
	Number   int // of the system's rounds, from 1
	Received *chart
	Sent     *chart
}

// Title of the page.
func (r *report) Title() string {
	links := "unshaped links"
	if r.RateMbit > 0 {
		links = fmt.Sprintf("links of %d Mbit/s", r.RateMbit)
	}
	return fmt.Sprintf("%s MB to %d machines, %s", number(float64(r.Bytes)/1e6), r.Machines, links)
}

// barWidth is of the summary's bars.
const barWidth = 240

func (r *report) summarise() {
	most := r.BoundS
	for _, round := range r.Rounds {
		most = max(most, round.LastS)
		if slices.ContainsFunc(r.Systems, func(s *systemRow) bool { return s.Name == round.System }) {
			continue
		}
		row := &systemRow{Name: round.System, Hue: len(r.Systems)}
		if p := r.Peers[row.Name]; p != nil {
			row.Version = p.Version
		} else {
			row.Version = r.About.Version
		}
		figure := func(f func(*Round) float64) Spread { return spread(r.Rounds, row.Name, f) }
		row.Last = figure(func(x *Round) float64 { return x.LastS })
		row.CPU = figure(func(x *Round) float64 { return x.CPUSPerGB })
		row.Copies = figure(func(x *Round) float64 { return x.WireCopies })
		row.Median = figure(func(x *Round) float64 { return x.MedianS }).Median
		row.Rounds = len(slices.DeleteFunc(slices.Clone(r.Rounds), func(x *Round) bool { return x.System != row.Name }))
		row.RSSMB = figure(func(x *Round) float64 { return x.RSSMBMax }).Max
		if r.BoundS > 0 {
			row.PerBound = row.Last.Median / r.BoundS
		}
		if row.Median > 0 {
			row.Tail = row.Last.Median / row.Median
		}
		r.Systems = append(r.Systems, row)
	}
	x := func(v float64) float64 { return round1(v / max(most, 1e-9) * barWidth) }
	r.BoundX = x(r.BoundS)
	for _, row := range r.Systems {
		row.X, row.X0, row.X1 = x(row.Last.Median), x(row.Last.Min), x(row.Last.Max)
	}
}

// machineRow is when a machine held all, in all rounds of the first system, of the second, …
type machineRow struct {
	Name string
	Done []float64
}

// Columns heads the table of machines.
func (r *report) Columns() []*roundCharts {
	out := slices.Clone(r.Charts)
	slices.SortStableFunc(out, func(a, b *roundCharts) int { return cmp.Compare(a.Hue, b.Hue) })
	return out
}

// Rows lists the machines.
func (r *report) Rows() []machineRow {
	out := make([]machineRow, r.Machines)
	for i := range out {
		out[i].Name = fmt.Sprintf("machine %d", i+1)
		for _, c := range r.Columns() {
			out[i].Done = append(out[i].Done, c.Round.DoneS[i])
		}
	}
	return out
}

// extent returns how far all charts go, so that they compare.
func (r *report) extent() (seconds, receivedMB, sentMB float64) {
	seconds, receivedMB = r.BoundS, float64(r.Bytes)/1e6
	for _, round := range r.Rounds {
		if len(round.Samples) == 0 {
			continue
		}
		last := round.Samples[len(round.Samples)-1]
		seconds = max(seconds, last.AtS)
		for i := range last.InBytes {
			if i >= r.seeds(round) {
				receivedMB = max(receivedMB, float64(last.InBytes[i])/1e6)
			}
			sentMB = max(sentMB, float64(last.OutBytes[i])/1e6)
		}
	}
	return seconds, receivedMB, sentMB
}

func (r *report) seeds(round *Round) int {
	return max(0, len(round.Samples[0].InBytes)-r.Machines)
}

func (r *report) roundCharts(i int, round *Round) *roundCharts {
	out := &roundCharts{Round: round, Number: 1}
	for _, before := range r.Rounds[:i] {
		if before.System == round.System {
			out.Number++
		}
	}
	out.Hue = slices.IndexFunc(r.Systems, func(s *systemRow) bool { return s.Name == round.System })
	if len(round.Samples) == 0 {
		return out
	}
	seconds, received, sent := r.extent()
	out.Received = newChart("received by each machine", "MB", seconds, received*1.02)
	out.Sent = newChart("sent by each", "MB", seconds, sent*1.02)
	x, seeds := round.Samples, r.seeds(round)
	all := len(x[0].InBytes)
	if r.BoundS > 0 {
		end := []float64{0, r.BoundS}
		out.Received.add("bound", fmt.Sprintf("bound: %.1f s", r.BoundS), 1, 2, func(i int) (float64, float64) {
			return end[i], end[i] / r.BoundS * float64(r.Bytes) / 1e6
		})
	}
	for k := range all {
		name, class := fmt.Sprintf("seed %d", k+1), "seed"
		if k >= seeds {
			name, class = fmt.Sprintf("machine %d", k-seeds+1), "machine"
			title := name
			if done := round.DoneS; k-seeds < len(done) && done[k-seeds] > 0 {
				title = fmt.Sprintf("%s: all after %.2f s", name, done[k-seeds])
			}
			out.Received.add(class, title, all, len(x), func(i int) (float64, float64) { return x[i].AtS, float64(x[i].InBytes[k]) / 1e6 })
		}
		title := fmt.Sprintf("%s: %.1f MB", name, float64(x[len(x)-1].OutBytes[k])/1e6)
		out.Sent.add(class, title, all, len(x), func(i int) (float64, float64) { return x[i].AtS, float64(x[i].OutBytes[k]) / 1e6 })
	}
	for i, f := range round.Faults {
		if f.Happened {
			out.Received.mark(f.AtS, fmt.Sprint(i+1), f.Fault)
			out.Sent.mark(f.AtS, fmt.Sprint(i+1), f.Fault)
		}
	}
	return out
}
