package bench

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/starlingdeploy/starling/bench/trial"
)

// pictures draws a result, which must have its samples.
func (r *SwarmResult) pictures() trial.Pictures {
	out := trial.Pictures{Bars: []trial.Bars{r.bars()}, Tables: []trial.Table{r.systemsTable()}}
	done := trial.Curves{Title: "machines that hold all", X: "s", Y: "machines", Marks: faultMarks(r.Faults)}
	if r.BoundS > 0 {
		done.Lines = append(done.Lines, boundLine(fmt.Sprintf("bound: %.1f s", r.BoundS), r.BoundS, r.BoundS, 0, float64(r.Machines)))
	}
	for i, round := range r.Rounds {
		name := fmt.Sprintf("%s, round %d", round.System, r.number(i))
		done.Lines = append(done.Lines, trial.Arrivals(name, trial.Own, len(r.Rounds), sortedDone(round)))
	}
	out.Curves = append(out.Curves, done)
	for i := range r.Rounds {
		out.Curves = append(out.Curves, r.roundCurves(i)...)
	}
	for _, name := range r.systemNames() {
		var all []float64
		for _, round := range r.Rounds {
			if round.System == name {
				all = append(all, sortedDone(round)...)
			}
		}
		out.Histograms = append(out.Histograms, trial.NewHistogram("when machines held all: "+name, "s", all))
	}
	out.Timelines = r.faultTimelines()
	out.Maps = append(out.Maps, r.machineMap())
	if t, ok := r.deltaTable(); ok {
		out.Tables = append(out.Tables, t)
	}
	for i, round := range r.Rounds {
		if len(round.Faults) > 0 {
			out.Tables = append(out.Tables, faultTable(fmt.Sprintf("Faults of round %d", r.number(i)), round.Faults))
		}
	}
	out.Details = []trial.Table{r.machinesTable()}
	return out
}

// boundLine draws a bound from one point to another.
func boundLine(name string, x0, x1, y0, y1 float64) trial.Line {
	return trial.Line{Name: name, Kind: trial.Bound, Points: [][2]float64{{x0, y0}, {x1, y1}}}
}

func sortedDone(r *Round) []float64 {
	done := slices.DeleteFunc(slices.Clone(r.DoneS), func(s float64) bool { return s == 0 })
	slices.Sort(done)
	return done
}

// number returns which of its system's rounds a round is, from 1.
func (r *SwarmResult) number(i int) int {
	n := 1
	for _, before := range r.Rounds[:i] {
		if before.System == r.Rounds[i].System {
			n++
		}
	}
	return n
}

func (r *SwarmResult) systemNames() []string {
	var out []string
	for _, round := range r.Rounds {
		if !slices.Contains(out, round.System) {
			out = append(out, round.System)
		}
	}
	return out
}

func (r *SwarmResult) bars() trial.Bars {
	links := "unshaped links"
	if r.RateMbit > 0 {
		links = fmt.Sprintf("links of %d Mbit/s", r.RateMbit)
	}
	title := fmt.Sprintf("last machine: %s MB to %d machines, %s", trial.Number(float64(r.Bytes)/1e6), r.Machines, links)
	b := trial.Bars{Title: title, Unit: "s", Bound: r.BoundS}
	for _, name := range r.systemNames() {
		last := spread(r.Rounds, name, func(x *Round) float64 { return x.LastS })
		b.Bars = append(b.Bars, trial.Bar{Name: name, Value: last.Median, Min: last.Min, Max: last.Max})
	}
	return b
}

func (r *SwarmResult) systemsTable() trial.Table {
	t := trial.Table{Title: "Systems", Columns: []string{"system", "version", "last machine, s", "÷ bound", "median machine, s", "last ÷ median",
		"CPU s per GB", "copies out of the seeds", "largest process, MB"}, Note: `Medians over the rounds, with least and most. ` +
		`Times count from the moment the machines could begin to the moment a machine held every byte, verified. CPU is that of all processes ` +
		`of a system, per 10⁹ bytes delivered; copies are counted at the seeds' interfaces, headers included. The largest process counts file pages that it has mapped.`}
	for _, name := range r.systemNames() {
		figure := func(f func(*Round) float64) Spread { return spread(r.Rounds, name, f) }
		last, median := figure(func(x *Round) float64 { return x.LastS }), figure(func(x *Round) float64 { return x.MedianS })
		version := "this"
		if p := r.Peers[name]; p != nil {
			version = p.Version
		}
		t.Rows = append(t.Rows, []string{name, version, last.text(), over(last.Median, r.BoundS), fixed(median.Median), over(last.Median, median.Median),
			figure(func(x *Round) float64 { return x.CPUSPerGB }).text(), figure(func(x *Round) float64 { return x.WireCopies }).text(),
			fmt.Sprintf("%.0f", figure(func(x *Round) float64 { return x.RSSMBMax }).Max)})
	}
	return t
}

func (s Spread) text() string {
	if s.Min == s.Max {
		return fixed(s.Median)
	}
	return fmt.Sprintf("%s (%s – %s)", fixed(s.Median), fixed(s.Min), fixed(s.Max))
}

func fixed(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

func over(v, by float64) string {
	if by == 0 {
		return "–"
	}
	return fixed(v / by)
}

func megabytes(n int64) string { return fixed(float64(n) / 1e6) }

func (r *SwarmResult) deltaTable() (trial.Table, bool) {
	d := r.Delta
	if d == nil {
		return trial.Table{}, false
	}
	return trial.Table{
		Title: fmt.Sprintf("A second artifact, of which %s MB differ in %d places", megabytes(d.ChangedBytes), d.Places),
		Columns: []string{"", "last machine, s", "most to one machine, MB of content", "on the wire", "÷ changed",
			"out of the caches, MB of content", "on the wire", "÷ changed", "CPU, s"},
		Rows: [][]string{{"delta", fixed(d.LastS), megabytes(d.MovedBytesMax), megabytes(d.WireBytesMax), fixed(d.MovedRatio),
			megabytes(d.CacheBytes), megabytes(d.CacheWireBytes), fixed(d.CacheRatio), fixed(d.CPUS)}},
	}, true
}

func (r *SwarmResult) machinesTable() trial.Table {
	t := trial.Table{Title: "When each machine held all", Columns: []string{"machine"},
		Note: "Seconds. A dash: a fault befell the machine; it counts neither as last nor in the median."}
	order := make([]int, len(r.Rounds))
	for i := range order {
		order[i] = i
	}
	names := r.systemNames()
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(slices.Index(names, r.Rounds[a].System), slices.Index(names, r.Rounds[b].System))
	})
	for _, i := range order {
		t.Columns = append(t.Columns, fmt.Sprintf("%s %d", r.Rounds[i].System, r.number(i)))
	}
	for m := range r.Machines {
		row := []string{fmt.Sprintf("machine %d", m+1)}
		for _, i := range order {
			if done := r.Rounds[i].DoneS; m < len(done) && done[m] > 0 {
				row = append(row, fixed(done[m]))
			} else {
				row = append(row, "–")
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
