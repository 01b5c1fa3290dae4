package bench

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/starlingdeploy/starling/bench/trial"
)

// extent returns how far all curves go, so that they compare.
func (r *SwarmResult) extent() (seconds, receivedMB, sentMB float64) {
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

func (r *SwarmResult) seeds(round *Round) int {
	return max(0, len(round.Samples[0].InBytes)-r.Machines)
}

// roundCurves draws what a round's machines received and all sent, at the interfaces.
func (r *SwarmResult) roundCurves(i int) []trial.Curves {
	round := r.Rounds[i]
	under := fmt.Sprintf("%s, round %d: last %.2f s, median %.2f s, %.2f CPU s per GB, %.2f copies",
		round.System, r.number(i), round.LastS, round.MedianS, round.CPUSPerGB, round.WireCopies)
	if len(round.Samples) == 0 {
		return []trial.Curves{{Title: "No interfaces were counted", Under: under, X: "s", Y: "MB"}}
	}
	seconds, receivedMB, sentMB := r.extent()
	hue := slices.Index(r.systemNames(), round.System)
	received := trial.Curves{Title: "received by each machine", Under: under, X: "s", Y: "MB", Hue: hue, MaxX: seconds, MaxY: receivedMB, Marks: faultMarks(round.Faults)}
	sent := trial.Curves{Title: "sent by each; seeds are thick", Under: under, X: "s", Y: "MB", Hue: hue, MaxX: seconds, MaxY: sentMB, Marks: received.Marks}
	if r.BoundS > 0 {
		received.Lines = append(received.Lines, boundLine(fmt.Sprintf("bound: %.1f s", r.BoundS), 0, r.BoundS, 0, float64(r.Bytes)/1e6))
	}
	x, seeds := round.Samples, r.seeds(round)
	all := len(x[0].InBytes)
	for k := range all {
		name, kind := fmt.Sprintf("seed %d", k+1), trial.Strong
		if k >= seeds {
			name, kind = fmt.Sprintf("machine %d", k-seeds+1), trial.Many
			title := name
			if done := round.DoneS; k-seeds < len(done) && done[k-seeds] > 0 {
				title = fmt.Sprintf("%s: all after %.2f s", name, done[k-seeds])
			}
			received.Lines = append(received.Lines, trial.NewLine(title, kind, all, len(x), func(i int) (float64, float64) { return x[i].AtS, float64(x[i].InBytes[k]) / 1e6 }))
		}
		title := fmt.Sprintf("%s: %.1f MB", name, float64(x[len(x)-1].OutBytes[k])/1e6)
		sent.Lines = append(sent.Lines, trial.NewLine(title, kind, all, len(x), func(i int) (float64, float64) { return x[i].AtS, float64(x[i].OutBytes[k]) / 1e6 }))
	}
	return []trial.Curves{received, sent}
}

func faultMarks(faults []*FaultResult) []trial.Mark {
	var out []trial.Mark
	for i, f := range faults {
		if f.Happened {
			out = append(out, trial.Mark{At: f.AtS, Label: strconv.Itoa(i + 1), Title: f.Fault})
		}
	}
	return out
}

func faultTable(title string, faults []*FaultResult) trial.Table {
	t := trial.Table{Title: title, Columns: []string{"fault", "whom", "after, s", "delivered", "what came of it"}}
	for i, f := range faults {
		row := []string{fmt.Sprintf("%d: %s", i+1, f.Fault), strings.Join(f.Nodes, ", "), "–", "–", "it never came to it"}
		if f.Happened {
			row[2], row[3], row[4] = fixed(f.AtS), fmt.Sprintf("%.1f %%", f.Delivered*100), ""
			var again []string
			for _, x := range f.Restarts {
				again = append(again, fmt.Sprintf("%s held all after %s s and fetched about %s MB of %s MB again", x.Node, fixed(x.DoneS), megabytes(x.RefetchedBytes), megabytes(x.HadBytes)))
			}
			row[4] = strings.Join(again, "; ")
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// faultTimelines shows, for each round with faults, how long each machine fetched and when which
// fault befell it.
func (r *SwarmResult) faultTimelines() []trial.Timeline {
	var out []trial.Timeline
	for i, round := range r.Rounds {
		if len(round.Faults) == 0 {
			continue
		}
		t := trial.Timeline{Title: fmt.Sprintf("%s, round %d: machines and faults", round.System, r.number(i))}
		for k, name := range round.Machines {
			row := trial.Row{Name: name}
			if done := round.DoneS[k]; done > 0 {
				row.Spans = append(row.Spans, trial.Span{Name: "fetching", ToS: done})
			}
			for _, f := range round.Faults {
				if f.Happened && slices.Contains(f.Nodes, name) {
					row.Spans = append(row.Spans, trial.Span{Name: f.Fault, FromS: f.AtS, ToS: max(f.AtS, round.LastS)})
				}
			}
			t.Rows = append(t.Rows, row)
		}
		out = append(out, t)
	}
	return out
}

// machineMap shows who there was, machines by when they held all, of our last round.
func (r *SwarmResult) machineMap() trial.Map {
	m := trial.Map{Title: "who was there, machines shaded by when they held all", Unit: "s"}
	for i := len(r.Rounds) - 1; i >= 0; i-- {
		round := r.Rounds[i]
		if round.System != ours {
			continue
		}
		seeds := trial.Group{Name: "server and caches", Nodes: []trial.Node{{Name: "server", Role: "server"}}}
		if len(round.Samples) > 0 {
			for k := range r.seeds(round) {
				seeds.Nodes = append(seeds.Nodes, trial.Node{Name: fmt.Sprintf("cache %d", k+1), Role: "cache"})
			}
		}
		machines := trial.Group{Name: "machines"}
		for k, s := range round.DoneS {
			n := trial.Node{Name: fmt.Sprintf("machine %d", k+1)}
			if s > 0 {
				n.Value = new(s)
			}
			machines.Nodes = append(machines.Nodes, n)
		}
		m.Groups = []trial.Group{{Name: "region", Groups: []trial.Group{seeds, machines}}}
		break
	}
	return m
}
