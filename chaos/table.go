package chaos

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// WriteTable writes the result for people: how often each cell was struck, with the longest
// time without a leader by kind and target, and the sums.
func (r *Result) WriteTable(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "fault")
	for _, b := range Boundaries {
		fmt.Fprintf(w, "\t%s", b)
	}
	fmt.Fprintln(w, "\tleaderless s")
	longest := map[string]float64{}
	for _, f := range r.ByFault {
		longest[string(f.Kind)+" "+string(f.Target)] = f.LeaderlessSMax
	}
	for _, row := range slices.Sorted(maps.Keys(r.Coverage.Table)) {
		fmt.Fprint(w, row)
		for _, b := range Boundaries {
			fmt.Fprintf(w, "\t%d", r.Coverage.Table[row][b])
		}
		fmt.Fprintf(w, "\t%.1f\n", longest[row])
	}
	fmt.Fprintf(w, "\n%d submitted, %d acknowledged, %d ended, %d lost, %d duplicated; %d faults on %d of %d cells\n",
		r.Submitted, r.Acknowledged, r.Ended, r.Lost, r.Duplicated, len(r.Faults), r.Coverage.Struck, r.Coverage.Cells)
	fmt.Fprintf(w, "without a leader: %d times, %.1f s in the median, %.1f s at most; acknowledged within %.0f ms in the median, %.0f ms at most\n",
		r.Leaderless, r.LeaderlessSMedian, r.LeaderlessSMax, r.AckMS.P50, r.AckMS.Max)
	for _, p := range r.Problems {
		fmt.Fprintln(w, p)
	}
	return w.Flush()
}
