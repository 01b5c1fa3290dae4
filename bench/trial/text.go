package trial

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Number writes a value with as many digits as mean something: four, or all of a whole number.
func Number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	digits := 3 - int(math.Floor(math.Log10(math.Abs(v))))
	s := strconv.FormatFloat(v, 'f', min(max(digits, 0), 9), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// WriteSummary writes the medians of a file for people.
func WriteSummary(out io.Writer, f *File) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, r := range f.Runs {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s\tmedian\tunit\tinterval\tmin\tmax\tn\n", r.Title())
		for _, s := range r.Summary {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", s.Name, Number(s.Median), s.Unit, s.interval(), Number(s.Min), Number(s.Max), s.N)
		}
		if len(r.Summary) == 0 {
			fmt.Fprintln(w, "nothing was measured")
		}
	}
	return w.Flush()
}

// interval writes the bounds of the median and how sure they are.
func (s *Summary) interval() string {
	switch {
	case s.Coverage == 0:
		return "–"
	case s.Low == s.High:
		return Number(s.Low)
	}
	return fmt.Sprintf("%s – %s (%.1f %%)", Number(s.Low), Number(s.High), s.Coverage*100)
}
