package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling/bench/trial"
)

var update = flag.Bool("update", false, "write the examples that are made of others")

const examples = "../../docs/bench"

// Every scenario has an example, every example can be measured, and the guide names it.
func TestExamplesAreRight(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(examples, "*.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile(filepath.Join(examples, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	scenarios := registry(newMeter(os.Stderr))
	var shown []string
	for _, name := range files {
		plan, err := trial.ReadPlan(name, scenarios)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := plan.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(string(guide), "("+filepath.Base(name)+")") {
			t.Errorf("the guide does not name %s", name)
		}
		for _, r := range plan.Runs {
			shown = append(shown, r.Name)
		}
	}
	for _, name := range scenarios.Names() {
		if !slices.Contains(shown, name) {
			t.Errorf("no example of %s", name)
		}
	}
}

// The cheap ones run.
func TestExamplesRun(t *testing.T) {
	kept := filepath.Join(t.TempDir(), "result.json")
	if _, err := do(t, "run", filepath.Join(examples, "sim.hcl"), "--out", kept); err != nil {
		t.Fatal(err)
	}
	f, err := trial.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Runs {
		if len(r.Repeats) != 6 || r.Summary[0].Name != "last_s" || r.Summary[0].Coverage < trial.Confidence {
			t.Errorf("%s: %+v", r.Title(), r.Summary)
		}
	}
}

// The page and the comparisons are what this program makes of the results; -update makes them again.
func TestExamplesAreMade(t *testing.T) {
	before, now := filepath.Join(examples, "swarm-before.json"), filepath.Join(examples, "swarm.json")
	page := filepath.Join(t.TempDir(), "swarm.html")
	if _, err := do(t, "report", now, "--html", page); err != nil {
		t.Fatal(err)
	}
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, args := range [][]string{{before, now}, {"--force", now + "#4 machines", now + "#8 machines"}} {
		out, err := do(t, append([]string{"compare"}, args...)...)
		text.WriteString("$ starling-bench compare")
		for _, a := range args {
			text.WriteString(" " + quoted(filepath.Base(a)))
		}
		text.WriteString("\n" + out)
		if err != nil {
			text.WriteString("starling-bench: " + err.Error() + "\n")
		}
		text.WriteString("\n")
	}
	for name, want := range map[string][]byte{"swarm.html": html, "compare.txt": text.Bytes()} {
		name = filepath.Join(examples, name)
		if *update {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the program makes (go test ./cmd/starling-bench -update): %v", name, err)
		}
	}
}

func TestGuideIsRight(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join(examples, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(guide), "## A scenario file\n\n")
	text, _, ends := strings.Cut(rest, "\n\nA block is")
	if !ok || !ends {
		t.Fatal("the guide has no scenario file")
	}
	if _, err := trial.ParsePlan([]byte(text), "README.md", registry(newMeter(os.Stderr))); err != nil {
		t.Error(err)
	}
}
