package trial

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// Schema is the version of result files. A program reads its own and older ones.
const Schema = 1

// maxFileBytes bounds a result file that is read.
const maxFileBytes = 256 << 20

// File is a result file: all runs of one command, with every repeat.
type File struct {
	Schema   int       `json:"schema"`
	Command  string    `json:"command"`
	Version  string    `json:"version"` // of this program
	At       time.Time `json:"at"`
	Computer Computer  `json:"computer"`
	// Interleaved says that the runs' repeats were taken in turns, in an order by Seed.
	Interleaved bool   `json:"interleaved"`
	Seed        uint64 `json:"seed"`
	Plan        string `json:"plan,omitempty"`    // the scenario file's text
	Stopped     string `json:"stopped,omitempty"` // why it was not measured to its end
	Runs        []*Run `json:"runs"`
}

// Run is the repeats of one scenario with one set of parameters.
type Run struct {
	Scenario   string            `json:"scenario"`
	Label      string            `json:"label"`
	Parameters map[string]string `json:"parameters"` // as flags would have them, without places
	Warmups    int               `json:"warmups"`    // repeats that were thrown away first
	Repeats    []*Repeat         `json:"repeats"`
	Summary    []Summary         `json:"summary"`
}

// Repeat is one measurement, raw.
type Repeat struct {
	Turn     int             `json:"turn"` // which of all measurements of the file, from 1, without warm-ups
	Seed     string          `json:"seed,omitempty"`
	At       time.Time       `json:"at"`
	WallS    float64         `json:"wall_s"`
	Figures  []Figure        `json:"figures"`
	Result   json.RawMessage `json:"result"`
	Notes    []string        `json:"notes,omitempty"`
	Broken   string          `json:"broken,omitempty"`
	Steps    []Span          `json:"steps,omitempty"`    // what was under way when
	Pictures *Pictures       `json:"pictures,omitempty"` // of the typical repeat of a run, else nil
}

// Title names a run.
func (r *Run) Title() string {
	if r.Label == "" {
		return r.Scenario
	}
	return r.Scenario + " " + r.Label
}

// values returns a figure's values, in the order of the repeats.
func (r *Run) values(name string) []float64 {
	var out []float64
	for _, x := range r.Repeats {
		for _, f := range x.Figures {
			if f.Name == name {
				out = append(out, f.Value)
			}
		}
	}
	return out
}

// sumUp fills in the summary from the repeats.
func (r *Run) sumUp() {
	r.Summary = nil
	for _, x := range r.Repeats {
		for _, f := range x.Figures {
			if !slices.ContainsFunc(r.Summary, func(s Summary) bool { return s.Name == f.Name }) {
				r.Summary = append(r.Summary, summarise(f.Metric, r.values(f.Name)))
			}
		}
	}
}

// prune keeps the pictures of the typical repeat only.
func (r *Run) prune() {
	shown, _ := typical(r)
	for _, x := range r.Repeats {
		if x != shown {
			x.Pictures = nil
		}
	}
}

// Write writes the file's JSON, on one line.
func (f *File) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(f); err != nil {
		return fmt.Errorf("result file: %w", err)
	}
	return nil
}

// ReadFile reads a result file.
func ReadFile(name string) (*File, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, starling.Invalidf(name, "%s", err)
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("result file: %w", err)
	}
	var f File
	switch err := json.Unmarshal(b, &f); {
	case len(b) > maxFileBytes:
		return nil, starling.Invalidf(name, "is larger than %s", sizeText(maxFileBytes))
	case err != nil:
		return nil, starling.Invalidf(name, "is not a result file: %s", err)
	case f.Schema == 0 || len(f.Runs) == 0:
		return nil, starling.Invalidf(name, "is not a result file: write one with --out, or by starling-bench run FILE.hcl --out")
	case f.Schema > Schema:
		return nil, starling.Invalidf(name, "has schema %d, and this program knows %d: use the program that wrote it, version %s, or a newer one", f.Schema, Schema, f.Version)
	}
	for _, r := range f.Runs {
		if r == nil || slices.Contains(r.Repeats, nil) {
			return nil, starling.Invalidf(name, "is not a result file: a run is null")
		}
		r.sumUp()
	}
	return &f, nil
}

// differences lists in which parameters two runs differ.
func differences(a, b *Run) []string {
	names := map[string]bool{}
	for k := range a.Parameters {
		names[k] = true
	}
	for k := range b.Parameters {
		names[k] = true
	}
	text := func(p map[string]string, k string) string {
		if v, ok := p[k]; ok {
			return fmt.Sprintf("%q", v)
		}
		return "not there"
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(names)) {
		if x, y := text(a.Parameters, k), text(b.Parameters, k); x != y {
			out = append(out, fmt.Sprintf("--%s: %s, then %s", k, x, y))
		}
	}
	return out
}
