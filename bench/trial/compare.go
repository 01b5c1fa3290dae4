package trial

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/starlingdeploy/starling"
)

// Verdict on a figure of two results.
type Verdict string

// The verdicts.
const (
	BetterNow     Verdict = "better"
	Worse         Verdict = "worse"
	NoDifference  Verdict = "no difference shown"
	NotComparable Verdict = "not comparable"
	NotJudged     Verdict = "not judged" // neither way is better
)

// Comparison says what became of a figure.
type Comparison struct {
	Metric
	Run string  `json:"run"`
	Old Summary `json:"old"`
	New Summary `json:"new"`
	// Ratio estimates new over old, by Hodges and Lehmann; Low and High hold the true one with
	// Confidence, by Mann and Whitney. With values of 0 or under it is a Difference, new minus
	// old, instead. Of an exact figure there is no interval.
	Ratio      float64 `json:"ratio"`
	Low        float64 `json:"low"`
	High       float64 `json:"high"`
	Difference bool    `json:"difference,omitempty"`
	Verdict    Verdict `json:"verdict"`
	Why        string  `json:"why,omitempty"`
}

// Compared is two runs of a scenario, of which one is the old.
type Compared struct {
	OldFile, NewFile *File
	Old, New         []*Run // in pairs
}

// Pair finds the runs to compare: those of one scenario and label in both files, or,
// where a name ends with #LABEL, the run of that label in its file.
func Pair(oldName, newName string) (*Compared, error) {
	c := &Compared{}
	var err error
	var oldLabel, newLabel *string
	if c.OldFile, oldLabel, err = readLabelled(oldName); err != nil {
		return nil, err
	}
	if c.NewFile, newLabel, err = readLabelled(newName); err != nil {
		return nil, err
	}
	for _, a := range c.OldFile.Runs {
		for _, b := range c.NewFile.Runs {
			wanted := func(r *Run, label *string) bool { return label == nil || r.Label == *label }
			same := a.Label == b.Label || oldLabel != nil || newLabel != nil
			if a.Scenario == b.Scenario && same && wanted(a, oldLabel) && wanted(b, newLabel) {
				c.Old, c.New = append(c.Old, a), append(c.New, b)
			}
		}
	}
	if len(c.Old) == 0 {
		return nil, starling.Invalidf(newName, "has no run that %s has, too; there are %s, and %s", oldName, titles(c.OldFile), titles(c.NewFile))
	}
	return c, nil
}

func readLabelled(name string) (*File, *string, error) {
	file, label, ok := strings.Cut(name, "#")
	f, err := ReadFile(file)
	if !ok {
		return f, nil, err
	}
	return f, &label, err
}

func titles(f *File) string {
	var out []string
	for _, r := range f.Runs {
		out = append(out, fmt.Sprintf("%q", r.Title()))
	}
	return joined(out)
}

// Unlike says why the two should not be compared, a reason each.
func (c *Compared) Unlike() []string {
	out := c.OldFile.Computer.unlike(c.NewFile.Computer)
	for i, a := range c.Old {
		for _, d := range differences(a, c.New[i]) {
			out = append(out, a.Title()+": "+d)
		}
	}
	return out
}

// Compare judges every figure. A difference of less than the share least, 0.01 for one in
// a hundred, is none.
func (c *Compared) Compare(least float64) []*Comparison {
	var out []*Comparison
	for i, a := range c.Old {
		b := c.New[i]
		title := a.Title()
		if b.Title() != title {
			title += " → " + b.Label
		}
		for _, s := range a.Summary {
			out = append(out, judge(title, s, a, b, least))
		}
		for _, s := range b.Summary {
			if !slices.ContainsFunc(a.Summary, func(o Summary) bool { return o.Name == s.Name }) {
				out = append(out, &Comparison{Metric: s.Metric, Run: title, New: s, Verdict: NotComparable, Why: "the old result lacks it"})
			}
		}
	}
	return out
}

// judge compares a figure of two runs.
func judge(title string, s Summary, a, b *Run, least float64) *Comparison {
	c := &Comparison{Metric: s.Metric, Run: title, Old: s, Verdict: NotComparable}
	i := slices.IndexFunc(b.Summary, func(o Summary) bool { return o.Name == s.Name })
	if i < 0 {
		c.Why = "the new result lacks it"
		return c
	}
	c.New = b.Summary[i]
	if c.New.Unit != s.Unit || c.New.Better != s.Better {
		c.Why = fmt.Sprintf("it was in %s, and is in %s", s.Unit, c.New.Unit)
		return c
	}
	old, now := a.values(s.Name), b.values(s.Name)
	sure := c.estimate(old, now)
	switch {
	case s.Better == "":
		c.Verdict = NotJudged
	case !sure:
		c.Why = fmt.Sprintf("%d and %d repeats cannot show a difference: take 4 or more of each", len(old), len(now))
	default:
		c.Verdict = c.verdict(least)
	}
	return c
}

// estimate fills in the ratio and its interval, and reports whether it can be judged.
func (c *Comparison) estimate(old, now []float64) (sure bool) {
	positive := func(v float64) bool { return v > 0 }
	if len(old) == 0 || len(now) == 0 {
		return false
	}
	c.Difference = !(allOf(old, positive) && allOf(now, positive))
	if c.Exact {
		if c.Ratio = c.New.Median - c.Old.Median; !c.Difference {
			c.Ratio = c.New.Median / c.Old.Median
		}
		c.Low, c.High = c.Ratio, c.Ratio
		return true
	}
	if c.Difference {
		c.Ratio, c.Low, c.High, sure = shift(old, now)
		return sure
	}
	c.Ratio, c.Low, c.High, sure = shift(logs(old), logs(now))
	c.Ratio, c.Low, c.High = math.Exp(c.Ratio), math.Exp(c.Low), math.Exp(c.High)
	return sure
}

// verdict says which way the interval lies.
func (c *Comparison) verdict(least float64) Verdict {
	none, margin := 1.0, least
	if c.Difference {
		none, margin = 0, least*max(math.Abs(c.Old.Median), math.Abs(c.New.Median))
	}
	up := c.Low > none && c.Ratio > none+margin
	down := c.High < none && c.Ratio < none-margin
	switch {
	case up && c.Better == Higher || down && c.Better == Lower:
		return BetterNow
	case up || down:
		return Worse
	}
	return NoDifference
}

func allOf(values []float64, f func(float64) bool) bool {
	return !slices.ContainsFunc(values, func(v float64) bool { return !f(v) })
}

func logs(values []float64) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = math.Log(v)
	}
	return out
}

// ErrWorse says that a figure is worse.
var ErrWorse = errors.New("worse than before")

// Conclude returns an error that wraps ErrWorse and names the figures that are worse, if any are.
func Conclude(all []*Comparison) error {
	var worse []string
	for _, c := range all {
		if c.Verdict == Worse {
			worse = append(worse, c.Run+" "+c.Name)
		}
	}
	if len(worse) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", joined(worse), ErrWorse)
}

// WriteComparison writes a table for people.
func WriteComparison(out io.Writer, all []*Comparison) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	run := ""
	for _, c := range all {
		if c.Run != run {
			if run != "" {
				fmt.Fprintln(w)
			}
			run = c.Run
			fmt.Fprintf(w, "%s\told (n)\tnew (n)\tunit\tnew ÷ old\t95 %% interval\tverdict\n", run)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.Old.short(), c.New.short(), c.Unit, c.ratioText(c.Ratio), c.intervalText(), c.VerdictText())
	}
	return w.Flush()
}

func (s *Summary) short() string {
	if s.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%d)", Number(s.Median), s.N)
}

func (c *Comparison) ratioText(v float64) string {
	switch {
	case c.Old.N == 0 || c.New.N == 0:
		return "–"
	case c.Difference:
		return fmt.Sprintf("%+.4g", v)
	}
	return fmt.Sprintf("× %.3f", v)
}

func (c *Comparison) intervalText() string {
	if c.Low == c.High {
		if c.Exact && c.Verdict != NotComparable {
			return "exact"
		}
		return "–"
	}
	return c.ratioText(c.Low) + " – " + strings.TrimPrefix(c.ratioText(c.High), "× ")
}

// VerdictText is the verdict with its reason.
func (c *Comparison) VerdictText() string {
	if c.Why == "" {
		return string(c.Verdict)
	}
	return string(c.Verdict) + ": " + c.Why
}
