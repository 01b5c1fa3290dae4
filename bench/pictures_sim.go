package bench

import (
	"fmt"

	"github.com/starlingdeploy/starling/bench/trial"
)

// pictures draws the regions: how far each was when, and of which cells they are.
func (r *SimResult) pictures() trial.Pictures {
	name := func(i int) string {
		if i == 0 {
			return "region 1, the home"
		}
		return fmt.Sprintf("region %d", i+1)
	}
	bars := trial.Bars{Title: "last sound machine of each region", Unit: "s", Bound: r.BoundS}
	when := trial.Timeline{Title: "what went on in each region"}
	where := trial.Map{Title: "regions and their cells, shaded by when the region's last sound machine held all", Unit: "s"}
	table := trial.Table{Title: "Regions", Columns: []string{"region", "last machine, s", "÷ bound", "median machine, s", "last slow machine, s",
		"caches full, s", "latency of the WAN, ms", "copies over the WAN", "copies out of the caches, per cell", "sent in vain, %"}}
	for i, x := range r.Regions {
		bars.Bars = append(bars.Bars, trial.Bar{Name: name(i), Value: x.LastS})
		row := trial.Row{Name: name(i)}
		if x.PlacedS > 0 {
			row.Spans = append(row.Spans, trial.Span{Name: "caches are being filled, and machines fetch", ToS: min(x.PlacedS, x.LastS)})
		}
		if x.LastS > x.PlacedS {
			row.Spans = append(row.Spans, trial.Span{Name: "machines fetch", FromS: x.PlacedS, ToS: x.LastS})
		}
		when.Rows = append(when.Rows, row)
		g := trial.Group{Name: name(i)}
		for k := range r.Cells {
			g.Nodes = append(g.Nodes, trial.Node{Name: fmt.Sprintf("cell %d of %d machines", k+1, r.CellSize), Value: new(x.LastS)})
		}
		where.Groups = append(where.Groups, g)
		table.Rows = append(table.Rows, []string{name(i), fixed(x.LastS), fixed(x.LastOver), fixed(x.MedianS), fixed(x.SlowLastS),
			fixed(x.PlacedS), fmt.Sprintf("%.0f", x.LatencyMS), fixed(x.WANCopies), fixed(x.CacheCopies), fixed(x.Wasted * 100)})
	}
	return trial.Pictures{Bars: []trial.Bars{bars}, Tables: []trial.Table{table}, Timelines: []trial.Timeline{when}, Maps: []trial.Map{where}}
}
