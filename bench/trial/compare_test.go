package trial

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
)

// fileOf makes a result file with one figure's values.
func fileOf(m Metric, values ...float64) *File {
	r := &Run{Scenario: "speed", Label: "a", Parameters: map[string]string{"bytes": "1GB"}}
	for _, v := range values {
		r.Repeats = append(r.Repeats, &Repeat{Figures: []Figure{{m, v}}})
	}
	r.sumUp()
	return &File{Schema: Schema, Computer: Computer{CPU: "a", Cores: 2}, Runs: []*Run{r}}
}

func saved(t *testing.T, f *File) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "result.json")
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Write(out), out.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestVerdicts(t *testing.T) {
	low := Metric{Name: "last_s", Unit: "s", Better: Lower}
	high := Metric{Name: "rate", Unit: "1/s", Better: Higher}
	exact := Metric{Name: "copies", Unit: "copies", Better: Lower, Exact: true}
	for _, c := range []struct {
		name     string
		metric   Metric
		old, now []float64
		want     Verdict
	}{
		{"half the time", low, []float64{10, 11, 12, 10, 11}, []float64{5, 6, 5, 5, 6}, BetterNow},
		{"twice the time", low, []float64{5, 6, 5, 5, 6}, []float64{10, 11, 12, 10, 11}, Worse},
		{"twice the rate", high, []float64{5, 6, 5, 5}, []float64{10, 11, 12, 10}, BetterNow},
		{"the same", low, []float64{10, 11, 12, 10, 11}, []float64{11, 10, 10, 12, 11}, NoDifference},
		{"sure, but small", low, []float64{100.1, 100.2, 100.3, 100.2, 100.1}, []float64{100.5, 100.6, 100.7, 100.5, 100.6}, NoDifference},
		{"three of each", low, []float64{1, 1, 1}, []float64{9, 9, 9}, NotComparable},
		{"once", low, []float64{1}, []float64{9}, NotComparable},
		{"lost some", low, []float64{0, 0, 0, 0}, []float64{2, 1, 3, 2}, Worse},
		{"still none", low, []float64{0, 0, 0, 0}, []float64{0, 0, 0, 0}, NoDifference},
		{"exact", exact, []float64{2}, []float64{1}, BetterNow},
		{"exact, from none", exact, []float64{0}, []float64{1}, Worse},
		{"exact, the same", exact, []float64{2}, []float64{2}, NoDifference},
		{"told", Metric{Name: "n"}, []float64{2, 2, 2, 2}, []float64{9, 9, 9, 9}, NotJudged},
	} {
		a, b := fileOf(c.metric, c.old...), fileOf(c.metric, c.now...)
		all := (&Compared{a, b, a.Runs, b.Runs}).Compare(0.01)
		if len(all) != 1 || all[0].Verdict != c.want {
			t.Errorf("%s: %+v, want %s", c.name, all[0], c.want)
		}
		if err := Conclude(all); errors.Is(err, ErrWorse) != (c.want == Worse) {
			t.Errorf("%s: %v", c.name, err)
		}
		var text strings.Builder
		if err := WriteComparison(&text, all); err != nil || !strings.Contains(text.String(), string(c.want)) {
			t.Errorf("%s: %v\n%s", c.name, err, &text)
		}
	}
}

func TestComparisonOfOtherFigures(t *testing.T) {
	a, b := fileOf(Metric{Name: "x", Unit: "s", Better: Lower}, 1), fileOf(Metric{Name: "y", Unit: "s", Better: Lower}, 1)
	all := (&Compared{a, b, a.Runs, b.Runs}).Compare(0)
	if len(all) != 2 || all[0].Verdict != NotComparable || all[1].Verdict != NotComparable || !strings.Contains(all[1].Why, "old result lacks") {
		t.Errorf("%+v", all)
	}
	c := fileOf(Metric{Name: "x", Unit: "ms", Better: Lower}, 1)
	if all := (&Compared{a, c, a.Runs, c.Runs}).Compare(0); all[0].Verdict != NotComparable || !strings.Contains(all[0].Why, "it was in s, and is in ms") {
		t.Errorf("%+v", all[0])
	}
}

func TestPair(t *testing.T) {
	m := Metric{Name: "last_s", Unit: "s", Better: Lower}
	old, now := fileOf(m, 1), fileOf(m, 1)
	now.Computer.Cores, now.Runs[0].Parameters["bytes"], now.Runs[0].Parameters["new"] = 4, "2GB", "x"
	c, err := Pair(saved(t, old), saved(t, now))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"cores: 2, then 4", `speed a: --bytes: "1GB", then "2GB"`, `speed a: --new: not there, then "x"`}
	if got := c.Unlike(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	now.Runs[0].Label = "b"
	if _, err := Pair(saved(t, old), saved(t, now)); !starling.IsInvalid(err) || !strings.Contains(err.Error(), `there are "speed a", and "speed b"`) {
		t.Error(err)
	}
	if c, err := Pair(saved(t, old), saved(t, now)+"#b"); err != nil || len(c.Old) != 1 || c.New[0].Label != "b" {
		t.Error(c, err)
	}
}

func TestReadFileRefuses(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		`{`:             "is not a result file",
		`{"last_s": 3}`: "is not a result file: write one with --out",
		`{"schema": 99, "version": "v9", "runs": [{}]}`: "has schema 99, and this program knows 1: use the program that wrote it, version v9",
		`{"schema": 1, "runs": [null]}`:                 "a run is null",
		`{"schema": 1, "runs": [{"repeats": [null]}]}`:  "a run is null",
	} {
		name := filepath.Join(dir, "x.json")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(name); !starling.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := ReadFile(filepath.Join(dir, "none")); !starling.IsInvalid(err) {
		t.Error(err)
	}
}
