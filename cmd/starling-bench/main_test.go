package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
)

// do runs the program, without drawing.
func do(t *testing.T, args ...string) (string, error) {
	t.Helper()
	quiet, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	m := newMeter(quiet)
	defer m.close()
	root := newRoot(m)
	var out bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(quiet)
	err = root.ExecuteContext(t.Context())
	return out.String(), err
}

// The names that other programs rely on: they are flags, and fields of scenario files.
func TestFlagNames(t *testing.T) {
	for name, flags := range map[string]string{
		"chunk": "bytes seed duration json", "submit": "duration json", "queue": "duration compare json",
		"swarm": "machines bytes rate duration seed compare html json", "sim": "machines bytes rate duration seed json", "day": "machines seed json", "chaos": "machines duration seed json",
	} {
		cmd, _, err := newRoot(newMeter(os.Stderr)).Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		for flag := range strings.FieldsSeq(flags) {
			if cmd.Flag(flag) == nil {
				t.Errorf("%s has no --%s", name, flag)
			}
		}
	}
}

func TestList(t *testing.T) {
	out, err := do(t, "list")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range registry(newMeter(os.Stderr)).All() {
		if !strings.Contains(out, s.Name+" ") || !strings.Contains(out, s.Purpose) {
			t.Errorf("%s is not listed: %s", s.Name, out)
		}
		one, err := do(t, "list", s.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range s.Metrics {
			if m.Unit == "" || m.Help == "" || !strings.Contains(one, m.Name+" ") {
				t.Errorf("%s: figure %s", s.Name, m.Name)
			}
		}
		if len(s.Metrics) == 0 {
			t.Errorf("%s has no figures", s.Name)
		}
	}
}

func TestOneScenario(t *testing.T) {
	dir := t.TempDir()
	page, kept := filepath.Join(dir, "page.html"), filepath.Join(dir, "result.json")
	out, err := do(t, "sim", "--machines", "20", "--bytes", "20MB", "--seed", "3", "--json", "--html", page, "--out", kept)
	if err != nil {
		t.Fatal(err)
	}
	var result map[string]any
	if err := json.Unmarshal([]byte(out), &result); err != nil || strings.Count(out, "\n") != 1 || result["machines"] != 20.0 {
		t.Errorf("%v: %s", err, out)
	}
	f, err := trial.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	if r := f.Runs[0]; r.Parameters["seed"] != "3" || r.Parameters["bytes"] != "20MB" || r.Summary[0].Name != "last_s" || r.Summary[0].Median != result["last_s"] {
		t.Errorf("%+v", r)
	}
	again := filepath.Join(dir, "again.html")
	if _, err := do(t, "report", kept, "--html", again); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(page)
	b, _ := os.ReadFile(again)
	if len(a) == 0 || !bytes.Equal(a, b) {
		t.Errorf("the page of the run has %d bytes, of its file %d", len(a), len(b))
	}
}

func TestRunAndCompare(t *testing.T) {
	dir := t.TempDir()
	file, kept := filepath.Join(dir, "x.hcl"), filepath.Join(dir, "result.json")
	text := "repeat = 2\ninterleave = true\n" +
		"scenario \"sim\" \"near\" {\n  machines = 10\n  bytes = \"20MB\"\n}\n" +
		"scenario \"sim\" \"far\" {\n  machines = 40\n  bytes = \"20MB\"\n}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := do(t, "run", file, "--out", kept)
	if err != nil || !strings.Contains(out, "sim near") || !strings.Contains(out, "last_s") {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := do(t, "compare", kept, kept); err != nil || !strings.Contains(out, string(trial.NoDifference)) {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := do(t, "compare", kept+"#near", kept+"#far"); !starling.IsInvalid(err) || !strings.Contains(err.Error(), `--machines: "10", then "40"`) {
		t.Error(err)
	}
	out, err = do(t, "compare", "--force", "--json", kept+"#near", kept+"#far")
	if err == nil || starling.IsInvalid(err) || !strings.Contains(err.Error(), trial.ErrWorse.Error()) || !strings.Contains(out, `"verdict":"worse"`) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestWrongUsage(t *testing.T) {
	for _, args := range [][]string{
		{"run"}, {"run", "/nowhere.hcl"}, {"compare", "a"}, {"compare", "/nowhere", "/nowhere"}, {"compare", "a", "b", "--least", "x"}, {"report", "x"},
		{"list", "nothing"}, {"sim", "--bytes", "many"}, {"sim", "--nothing"}, {"sim", "more"}, {"sim", "--machines", "0"}, {"queue", "--compare", "mysql"},
		{"swarm", "--delta", "x"}, {"swarm", "--faults", "x"}, {"chaos", "--servers", "2"}, {"chunk", "--bytes", "-1"}, {"submit", "--count", "0"},
	} {
		if _, err := do(t, args...); !starling.IsInvalid(err) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
