package trial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// speed is a scenario whose result is its parameter and its seed.
func speed() *Scenario {
	var v struct {
		Speed float64  `json:"speed"`
		Bytes int64    `json:"bytes"`
		Seed  uint64   `json:"seed"`
		Names []string `json:"names"`
		Bad   string   `json:"-"`
	}
	s := New("speed", "How fast")
	s.Params.Float64Var(&v.Speed, "speed", 1, "`m/s` of it")
	s.Params.StringSliceVar(&v.Names, "names", []string{"x"}, "names")
	s.Params.StringVar(&v.Bad, "bad", "", "fail, break or crash")
	s.Params.Uint64Var(&v.Seed, "seed", 1, "seed")
	s.Params.String("dir", "/tmp", "where")
	Place(s.Params, "dir")
	BytesVar(s.Params, &v.Bytes, "bytes", 1000, "size")
	s.Metrics = []Metric{{Name: "speed", Unit: "m/s", Better: Higher}, {Name: "seed", Unit: "seed"}}
	s.Check = func() error {
		if v.Speed < 0 {
			return starling.Invalidf("--speed", "must not be negative")
		}
		return nil
	}
	s.Run = func(ctx context.Context, tell Progress) (*Outcome, error) {
		tell.Tell("driving", 1, 2, "m")
		out := &Outcome{Result: v}
		switch v.Bad {
		case "fail":
			return nil, errors.New("it does not move")
		case "break":
			out.Broken = errors.New("lost one")
		case "slow":
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return out, nil
	}
	return s
}

var speeds = Registry{speed, func() *Scenario { return New("other", "Another") }}

func parse(t *testing.T, text string) *Plan {
	t.Helper()
	p, err := ParsePlan([]byte(text), "x.hcl", speeds)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParsePlan(t *testing.T) {
	p := parse(t, `
repeat     = 3
warmup     = 1
interleave = true
seed       = 9
scenario "speed" "a" {
  speed    = 2.5
  bytes    = "10MB"
  names    = ["p", "q"]
  duration = "5s"
}
scenario "speed" {
  repeat = 2
  seed   = 40
  bytes  = 1048576
}
`)
	if !p.Interleave || p.Seed != 9 || len(p.Runs) != 2 {
		t.Fatalf("%+v", p)
	}
	a, b := p.Runs[0], p.Runs[1]
	if a.Label != "a" || a.Repeat != 3 || a.Warmups != 1 || b.Label != "" || b.Repeat != 2 || b.Warmups != 1 {
		t.Errorf("%+v, %+v", a, b)
	}
	if got := fmt.Sprint(parameters(a.Params)); got != "map[bad: bytes:10MB duration:5s names:[p,q] seed:1 speed:2.5]" {
		t.Error(got)
	}
	if got := fmt.Sprint(parameters(b.Params)); got != "map[bad: bytes:1048576 duration:10m0s names:[x] seed:40 speed:1]" {
		t.Error(got)
	}
	if a.Limit() != 5*time.Second {
		t.Error(a.Limit())
	}
}

func TestParsePlanNamesEveryMistake(t *testing.T) {
	for text, want := range map[string]string{
		``:                                      `x.hcl:1,1-1: no scenario.`,
		`scenario "speed" {`:                    `x.hcl:1,`,
		`scenario "sped" {}`:                    `x.hcl:1,10-16: unknown scenario sped. There are speed and other.`,
		`scenario {}`:                           `a scenario has a name and a label`,
		`repeats = 2`:                           `x.hcl:1,1-8: unknown field repeats. Outside of scenarios there are repeat, warmup, interleave and seed.`,
		`repeat = 0`:                            `x.hcl:1,10-11: repeat is out of bounds. repeat is 1 to 100`,
		`repeat = 1e9`:                          `repeat is out of bounds`,
		`interleave = 3`:                        `x.hcl:1,14-15: interleave cannot be that. It is of type bool`,
		`scenarios "speed" {}`:                  `unknown block scenarios`,
		"scenario \"speed\" {\n  a {}\n}":       `unknown block a. A scenario has fields only.`,
		"scenario \"speed\" {\n  speedy = 1\n}": `x.hcl:2,3-9: unknown field speedy. Scenario speed has speed, names, bad, seed, dir, bytes, duration, and repeat and warmup.`,
		"scenario \"speed\" {\n  speed = \"fast\"\n  names = {a=1}\n}": "x.hcl:2,11-17: speed cannot be that. It is of type float64, m/s: ParseFloat: parsing \"fast\": invalid syntax.\nx.hcl:3,11-16: names has a value of the wrong kind.",
		`scenario "speed" { speed = [1] }`:                             `it is one value, not a list`,
		`scenario "speed" { speed = null }`:                            `a value of the wrong kind`,
		`scenario "speed" { speed = other }`:                           `Variables not allowed`,
		`scenario "speed" { bytes = "10 parsec" }`:                     `want a size like 500MB`,
		"scenario \"speed\" {}\nscenario \"speed\" {}":                 `x.hcl:2,1-17: a second scenario speed. Give it a label of its own.`,
	} {
		_, err := ParsePlan([]byte(text), "x.hcl", speeds)
		if !starling.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
	}
	if _, err := ReadPlan(t.TempDir()+"/none.hcl", speeds); !starling.IsInvalid(err) {
		t.Error(err)
	}
	many := strings.Builder{}
	for i := range MaxRuns + 1 {
		fmt.Fprintf(&many, "scenario \"speed\" \"%d\" {}\n", i)
	}
	if _, err := ParsePlan([]byte(many.String()), "x.hcl", speeds); err == nil || !strings.Contains(err.Error(), "too many scenarios") {
		t.Error(err)
	}
}

func TestOrder(t *testing.T) {
	text := `repeat = 4
warmup = 1
scenario "speed" "a" {}
scenario "speed" "b" { repeat = 6 }
`
	plain := parse(t, text).order()
	if len(plain) != 12 || plain[0] != (measurement{0, 0, true}) || plain[5] != (measurement{1, 0, true}) || plain[11] != (measurement{1, 5, false}) {
		t.Errorf("%v", plain)
	}
	orders := map[string]bool{}
	for seed := range 8 {
		p := parse(t, "interleave = true\n"+text)
		p.Seed = uint64(seed)
		order := p.order()
		if !slices.Equal(order, p.order()) {
			t.Error("one seed gives two orders")
		}
		orders[fmt.Sprint(order)] = true
		for turn := range 4 { // both runs once in each turn
			x, y := order[2+2*turn], order[3+2*turn]
			if x.run == y.run || x.number != turn || y.number != turn || x.warmup {
				t.Errorf("turn %d: %v, %v", turn, x, y)
			}
		}
	}
	if len(orders) < 4 {
		t.Errorf("8 seeds give %d orders", len(orders))
	}
}

// watchNothing watches.
func watchNothing() Watch {
	return Watch{Begin: func(string) {}, Tell: func(string, float64, float64, string) {}, End: func(*Repeat, []Summary) {}}
}

func TestMeasure(t *testing.T) {
	p := parse(t, `
repeat     = 3
warmup     = 2
interleave = true
scenario "speed" "a" { seed = 10 }
scenario "speed" "b" { seed = 20 }
`)
	var begun []string
	w := watchNothing()
	w.Begin = func(what string) { begun = append(begun, what) }
	f, err := p.Measure(t.Context(), File{Command: "c", Version: "v"}, w)
	if err != nil {
		t.Fatal(err)
	}
	if len(begun) != 10 || !strings.HasPrefix(begun[3], "4 of 10: speed ") || !strings.HasSuffix(begun[3], ", warm-up 2") {
		t.Errorf("%q", begun)
	}
	for i, seeds := range [][]float64{{10, 11, 12}, {20, 21, 22}} {
		run := f.Runs[i]
		if got := run.values("seed"); !slices.Equal(got, seeds) {
			t.Errorf("seeds %v", got)
		}
		if len(run.Summary) != 2 || run.Summary[0].Name != "speed" || run.Summary[1].Median != seeds[1] || run.Summary[1].N != 3 {
			t.Errorf("%+v", run.Summary)
		}
		if _, ok := run.Parameters["dir"]; ok || run.Parameters["seed"] != fmt.Sprint(seeds[0]) {
			t.Errorf("parameters %v", run.Parameters)
		}
		if run.Repeats[1].Pictures != nil && run.Repeats[0].Pictures != nil || run.Repeats[0].Pictures == nil && run.Repeats[1].Pictures == nil {
			t.Error("not one repeat, but two or none have pictures")
		}
		if s := run.Repeats[0].Steps; len(s) != 1 || s[0].Name != "driving" {
			t.Errorf("steps %v", s)
		}
	}
	if f.Schema != Schema || f.Command != "c" || f.Version != "v" || !f.Interleaved || f.Plan == "" || f.Computer.Cores < 1 {
		t.Errorf("%+v", f)
	}
}

func TestMeasureThatFailsKeepsWhatWasMeasured(t *testing.T) {
	p := parse(t, `
scenario "speed" "good" {}
scenario "speed" "broken" { bad = "break" }
scenario "speed" "bad" { bad = "fail" }
scenario "speed" "later" {}
`)
	f, err := p.Measure(t.Context(), File{}, watchNothing())
	if err == nil || !strings.Contains(err.Error(), "it does not move") || f == nil {
		t.Fatal(f, err)
	}
	if f.Stopped != err.Error() || len(f.Runs) != 4 || len(f.Runs[0].Repeats) != 1 || f.Runs[1].Repeats[0].Broken != "lost one" || len(f.Runs[3].Repeats) != 0 {
		t.Errorf("%+v", f)
	}
	late := parse(t, "scenario \"speed\" {\n  bad = \"slow\"\n  duration = \"10ms\"\n}\n")
	if _, err := late.Measure(t.Context(), File{}, watchNothing()); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	refused := parse(t, `scenario "speed" { speed = -1 }`)
	if f, err := refused.Measure(t.Context(), File{}, watchNothing()); !starling.IsInvalid(err) || f != nil {
		t.Error(f, err)
	}
}

func TestFigures(t *testing.T) {
	metrics := []Metric{{Name: "ack.p50"}, {Name: "by.*.s"}, {Name: "results[clients].rate"}, {Name: "missing.x"}, {Name: "ok"}, {Name: "text"}, {Name: "p"}}
	got, err := figures(metrics, []byte(`{"ack":{"p50":1.5},"by":{"b":{"s":2},"a":{"s":3}},"results":[{"clients":16,"rate":4},{"clients":"x","rate":5},7],"ok":true,"text":"8","p":null}`))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range got {
		lines = append(lines, fmt.Sprintf("%s=%v", f.Name, f.Value))
	}
	if want := "ack.p50=1.5 by.a.s=3 by.b.s=2 results[16].rate=4 results[x].rate=5 ok=1"; strings.Join(lines, " ") != want {
		t.Errorf("%s\nwant %s", strings.Join(lines, " "), want)
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]string{"10GB": "10GB", "1 MiB": "1048576", "1.5kB": "1500", "64": "64", "0": "0", "2000MB": "2GB"} {
		var b bytes
		if err := b.Set(text); err != nil || b.String() != want {
			t.Errorf("%q: %s, %v", text, &b, err)
		}
	}
	for _, text := range []string{"", "GB", "1e30", "NaN", "ten"} {
		var b bytes
		if err := b.Set(text); err == nil {
			t.Errorf("%q is %s", text, &b)
		}
	}
}
