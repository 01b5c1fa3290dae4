package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/lab"
)

// Set, they make this binary measure a swarm instead of running its tests: a lab is of
// a process of its own. The one is the starling binary, the other a failure script.
const (
	helper       = "STARLING_BENCH_TEST"
	helperFaults = "STARLING_BENCH_TEST_FAULTS"
	helperCap    = "STARLING_BENCH_TEST_CAP"
)

func TestMain(m *testing.M) {
	bin := os.Getenv(helper)
	if bin == "" {
		os.Exit(m.Run())
	}
	if err := errors.Join(lab.Isolate(), measure(bin)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// measure prints the result of a small swarm, with faults, or with all else that there is.
func measure(bin string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := SwarmConfig{Bin: bin, Machines: 4, Bytes: 8_000_000, RateMbit: 100, Seed: 1}
	var err error
	if c.Faults, err = ParseFaults(os.Getenv(helperFaults)); err != nil {
		return err
	}
	if c.CapMbit, err = strconv.Atoi(os.Getenv(helperCap)); err != nil {
		return err
	}
	switch {
	case c.CapMbit > 0:
		c.Bytes, c.RateMbit = 60_000_000, 0
	case len(c.Faults) == 0:
		c.Delta, c.Compare = 0.05, Rivals()
	}
	res, err := c.Run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(res)
}

func TestSwarmInNamespaces(t *testing.T) {
	if err := lab.Possible(); err != nil {
		t.Skip(err)
	}
	bin := filepath.Join(t.TempDir(), "starling")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../cmd/starling").CombinedOutput(); err != nil {
		t.Fatalf("%s\n%s", err, out)
	}
	for name, c := range map[string]struct {
		faults string
		cap    int
		check  func(*testing.T, *SwarmResult)
	}{
		"beside others": {"", 0, checkPlain},
		"with faults":   {"kill 1 at 20%; stop 1 at 30%", 0, checkHarmed},
		"cut in two":    {"cut 50% at 30%", 0, checkCut},
		"with caps":     {"", 100, checkCapped},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), helper+"="+bin, helperFaults+"="+c.faults, helperCap+"="+strconv.Itoa(c.cap), "TMPDIR="+dir)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err != nil {
				t.Fatalf("%s\n%s", err, &stderr)
			}
			var res SwarmResult
			if err := json.Unmarshal(stdout.Bytes(), &res); err != nil {
				t.Fatal(err)
			}
			c.check(t, &res)
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func checkPlain(t *testing.T, res *SwarmResult) {
	t.Helper()
	if len(res.Peers)+len(res.Notes) != len(Rivals()) {
		t.Errorf("rivals: %v, notes %q", res.Peers, res.Notes)
	}
	for _, r := range res.Rounds {
		if len(r.DoneS) != res.Machines || slices.Min(r.DoneS) < res.BoundS/2 || r.LastS != slices.Max(r.DoneS) {
			t.Errorf("%s: machines were done after %v s; the bound is %v s", r.System, r.DoneS, res.BoundS)
		}
		if r.WireCopies < 1 || r.CPUSPerGB <= 0 || r.RSSMBMax <= 0 {
			t.Errorf("%s: %+v", r.System, r)
		}
		last := r.Samples[len(r.Samples)-1]
		for i, n := range last.InBytes[1:] {
			if n < res.Bytes || last.AtS < r.LastS {
				t.Errorf("%s: %d bytes came to machine %d until %v s", r.System, n, i+1, last.AtS)
			}
		}
	}
	if d := res.Delta; d == nil || d.ChangedBytes != 400_000 || d.MovedBytesMax < d.ChangedBytes || d.WireBytesMax < d.MovedBytesMax || d.LastS <= 0 {
		t.Errorf("delta %+v", d)
	}
	var page bytes.Buffer
	if err := writeReport(&page, res, "<script>"); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(page.String(), `class="many`); n < 2*res.Machines*len(res.Rounds) {
		t.Errorf("%d curves", n)
	}
}

func checkCapped(t *testing.T, res *SwarmResult) {
	t.Helper()
	c := res.Cap
	// With other tests beside it, the computer may not have 100 Mbit/s to spare.
	if c == nil || c.Mbit != 100 || c.SeedUp < 0.8 || max(c.SeedUp, c.Up, c.Down) > 1.05 {
		t.Errorf("the cap and the busiest spells in units of it: %+v", c)
	}
}

func checkHarmed(t *testing.T, res *SwarmResult) {
	t.Helper()
	r := res.Rounds[0]
	done := slices.DeleteFunc(slices.Clone(r.DoneS), func(s float64) bool { return s == 0 })
	if len(done) != 2 || r.Phase != starling.PhaseSucceeded || res.CacheCopies < 1 {
		t.Errorf("done %v, phase %s, %v copies", r.DoneS, r.Phase, res.CacheCopies)
	}
	if len(r.Faults) != 2 || !r.Faults[0].Happened || !r.Faults[1].Happened || r.Faults[0].Nodes[0] == r.Faults[1].Nodes[0] {
		t.Errorf("faults %+v %+v", r.Faults[0], r.Faults[1])
	}
}

// Half of a cell that is cut off while it fetches catches up when it is found again; the other
// half goes on, and nobody is counted twice meanwhile (the round would fail).
func checkCut(t *testing.T, res *SwarmResult) {
	t.Helper()
	r, f := res.Rounds[0], res.Rounds[0].Faults[0]
	if len(f.Nodes) != 2 || !f.Happened || f.HealedS < f.AtS+cutFor.Seconds()-0.1 || f.WholeS < f.HealedS {
		t.Fatalf("the cut: %+v", f)
	}
	for i, name := range r.Machines {
		if s, cut := r.DoneS[i], slices.Contains(f.Nodes, name); s == 0 || cut && s < f.HealedS {
			t.Errorf("%s, cut off: %v, holds all after %.1f s", name, cut, s)
		}
	}
	if r.Phase != starling.PhaseSucceeded {
		t.Errorf("the deployment: %s", r.Phase)
	}
	t.Logf("cut at %.1f s, healed at %.1f s, whole at %.1f s; machines have all after %.1f s", f.AtS, f.HealedS, f.WholeS, r.DoneS)
}

func TestParseFaults(t *testing.T) {
	got, err := ParseFaults(" kill 10%  at 50%; slow 2 at 0% ;; restart cache at 3s; cut 1 at 1s; cut 50% at 30% for 1m")
	want := []Fault{
		{Action: Kill, Share: 0.1, Delivered: 0.5, Text: "kill 10% at 50%"},
		{Action: Slow, Count: 2, Text: "slow 2 at 0%"},
		{Action: Restart, Cache: true, After: 3 * time.Second, Text: "restart cache at 3s"},
		{Action: Cut, Count: 1, After: time.Second, For: cutFor, Text: "cut 1 at 1s"},
		{Action: Cut, Share: 0.5, Delivered: 0.3, For: time.Minute, Text: "cut 50% at 30% for 1m"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParseFaults(""); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{
		"kill", "kill 1", "kill 1 at", "kill 1 on 5%", "burn 1 at 5%", "kill 0 at 5%", "kill -1 at 5%", "kill x at 5%",
		"kill 101% at 5%", "kill 1 at 101%", "kill 1 at -3s", "kill 1 at 0s", "kill 1 at 5", "kill 1 at 5% now",
		"kill 1 at 5% for 3s", "cut 1 at 5% for", "cut 1 at 5% for 0s", "cut 1 at 5% for x",
		strings.Repeat("kill cache at 5%;", MaxFaults+1),
	} {
		if got, err := ParseFaults(bad); !starling.IsInvalid(err) {
			t.Errorf("%q: %+v, %v", bad, got, err)
		}
	}
}

func TestVictims(t *testing.T) {
	faults, err := ParseFaults("kill 10% at 50%; stop 25% at 1s; slow 2 at 0%; kill cache at 1s")
	if err != nil {
		t.Fatal(err)
	}
	got, err := victims(faults, 20, 1, 7)
	again, _ := victims(faults, 20, 1, 7)
	other, _ := victims(faults, 20, 1, 8)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(again) || fmt.Sprint(got) == fmt.Sprint(other) {
		t.Errorf("%v, then %v, with another seed %v; %v", got, again, other, err)
	}
	machines := slices.Concat(got[:3]...)
	slices.Sort(machines)
	if len(got[0]) != 2 || len(got[1]) != 5 || len(got[2]) != 2 || len(slices.Compact(machines)) != 9 || got[3][0] != 0 {
		t.Errorf("%v", got)
	}
	for _, c := range []struct{ machines, caches int }{{8, 1}, {20, 0}} { // 1, 2 and 2 of 8 would go
		if _, err := victims(faults, c.machines, c.caches, 7); (err != nil) != (c.caches == 0) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := victims(faults, 4, 1, 7); !starling.IsInvalid(err) {
		t.Errorf("nobody is left, and the error is %v", err)
	}
}

func TestFaultDue(t *testing.T) {
	byShare, byTime := Fault{Delivered: 0.5}, Fault{After: time.Second}
	for _, c := range []struct {
		fault     Fault
		since     time.Duration
		delivered float64
		want      bool
	}{
		{byShare, time.Hour, 0.49, false}, {byShare, 0, 0.5, true}, {Fault{}, 0, 0, true},
		{byTime, 999 * time.Millisecond, 1, false}, {byTime, time.Second, 0, true},
	} {
		if got := c.fault.due(c.since, c.delivered); got != c.want {
			t.Errorf("%+v", c)
		}
	}
}

func TestTorrent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, []byte("abcdefgh"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := newTorrent(file, "http://h:1/announce", 4)
	if err != nil {
		t.Fatal(err)
	}
	// SHA-1 of "abcd" and of "efgh".
	const pieces = "\x81\xfe\x8b\xfe\x87\x57\x6c\x3e\xcb\x22\x42\x6f\x8e\x57\x84\x73\x82\x91\x7a\xcf" +
		"\x2a\xed\x8a\xa9\xf8\x26\xc2\x1e\xf0\x7d\x5e\xe1\x5b\x48\xee\xa0\x6e\x9c\x8a\x62"
	want := "d8:announce19:http://h:1/announce4:infod6:lengthi8e4:name7:content12:piece lengthi4e6:pieces40:" + pieces + "7:privatei0eee"
	if string(got.encoded) != want {
		t.Errorf("%q", got.encoded)
	}
}

func TestCompleteSeeds(t *testing.T) {
	for answer, want := range map[string]int{
		"": 0, "d5:filesdee": 0, "d5:filesd20:abcdefghijklmnopqrstd8:completei2e10:downloadedi0e10:incompletei8eeee": 2, "8:completeix": 0,
	} {
		if got := completeSeeds([]byte(answer)); got != want {
			t.Errorf("%q: %d", answer, got)
		}
	}
}

func TestCheck(t *testing.T) {
	good := SwarmConfig{Machines: 8, Caches: 1, Rounds: 1, Bytes: 1}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*SwarmConfig){
		"rival":  func(c *SwarmConfig) { c.Compare = []string{"rsync"} },
		"rate":   func(c *SwarmConfig) { c.RateMbit = -1 },
		"rounds": func(c *SwarmConfig) { c.Rounds = 0 },
		"delta":  func(c *SwarmConfig) { c.Delta = MaxDelta + 0.01 },
		"faults": func(c *SwarmConfig) { c.Faults = []Fault{{Action: Kill, Count: 8}} },
		"both":   func(c *SwarmConfig) { c.Faults, c.Delta = []Fault{{Action: Kill, Count: 1}}, 0.05 },
	} {
		c := good
		change(&c)
		if err := c.Check(); !starling.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSpreadAndFinish(t *testing.T) {
	rounds := []*Round{{System: "a", LastS: 3}, {System: "b", LastS: 9}, {System: "a", LastS: 1}, {System: "a", LastS: 2}, {System: "a", LastS: 7}}
	last := func(r *Round) float64 { return r.LastS }
	if got := spread(rounds, "a", last); got != (Spread{Median: 2, Min: 1, Max: 7}) {
		t.Errorf("%+v", got)
	}
	if got := spread(rounds, "c", last); got != (Spread{}) {
		t.Errorf("%+v", got)
	}
	r := &Round{DoneS: []float64{4, 0, 2, 3}}
	if r.finish(1e9, 6); r.LastS != 4 || r.MedianS != 3 || r.CPUSPerGB != 2 {
		t.Errorf("%+v", r)
	}
}

func TestLogged(t *testing.T) {
	log := []byte("time=2026-01-01T00:00:01.500Z level=INFO msg=\"artifact fetched\" app=x\n" +
		"time=2026-01-01T00:00:02.000Z level=INFO msg=\"artifact complete\" cache_bytes=1 peer_bytes=2 local_bytes=3\n" +
		"time=bad msg=\"artifact fetched\"\n" +
		"time=2026-01-01T00:00:09.000Z level=INFO msg=\"artifact fetched\"\n" +
		"time=2026-01-01T00:00:10.000Z level=INFO msg=\"artifact complete\" cache_bytes=40 peer_bytes=50\n")
	at := func(s float64) time.Time {
		return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(s * float64(time.Second)))
	}
	for from, want := range map[float64]float64{0: 1.5, 1.5: 1.5, 1.6: 9} {
		if got := loggedAt(log, msgFetched, at(from)); !got.Equal(at(want)) {
			t.Errorf("from %v: %s", from, got)
		}
	}
	if got := loggedAt(log, msgFetched, at(11)); !got.IsZero() {
		t.Error(got)
	}
	if cache, peer, ok := loggedBytes(log, at(5)); cache != 40 || peer != 50 || !ok {
		t.Error(cache, peer, ok)
	}
	if _, _, ok := loggedBytes(log, at(11)); ok {
		t.Error("bytes out of nothing")
	}
}

func TestMachinesBegan(t *testing.T) {
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d := &starling.Deployment{CreatedAt: created, PhaseAt: created.Add(5 * time.Second),
		Timings: starling.Timings{QueuedMS: 10, BuildMS: 20, ReplicateMS: 30, StageMS: 1000}}
	for phase, want := range map[starling.Phase]time.Time{
		starling.PhaseQueued: {}, starling.PhaseBuilding: {}, starling.PhaseReplicating: d.PhaseAt,
		starling.PhaseStaging: created.Add(30 * time.Millisecond), starling.PhaseSucceeded: created.Add(30 * time.Millisecond),
	} {
		if d.Phase = phase; !machinesBegan(d).Equal(want) {
			t.Errorf("%s: %s", phase, machinesBegan(d))
		}
	}
}

func TestRecordingSince(t *testing.T) {
	from := time.Now()
	r := &recording{from: from, samples: []Sample{{AtS: 0.1}, {AtS: 1}, {AtS: 2}, {AtS: 9}}}
	r.cut(from.Add(2 * time.Second))
	got := r.since(from.Add(500 * time.Millisecond))
	if len(got) != 2 || math.Abs(got[0].AtS-0.5) > 1e-9 || math.Abs(got[1].AtS-1.5) > 1e-9 {
		t.Errorf("%+v", got)
	}
}

func TestChangeScattered(t *testing.T) {
	const size = 4 << 20
	dir := t.TempDir()
	write := func(name string) string {
		name = filepath.Join(dir, name)
		if err := writeRandom(name, size, 1); err != nil {
			t.Fatal(err)
		}
		return name
	}
	old, one, two := write("old"), write("one"), write("two")
	changed, places, err := changeScattered(one, 0.05, 3)
	if err != nil || changed != size/20 || places < 3 {
		t.Fatal(changed, places, err)
	}
	if _, _, err := changeScattered(two, 0.05, 3); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(old)
	b, _ := os.ReadFile(one)
	c, _ := os.ReadFile(two)
	differ := 0
	for i := range a {
		if a[i] != b[i] {
			differ++
		}
	}
	if !bytes.Equal(b, c) || differ > size/20 || differ < size/20*98/100 {
		t.Errorf("%d bytes differ, the same each time: %v", differ, bytes.Equal(b, c))
	}
	if _, _, err := changeScattered(one, 0.9, 3); err == nil {
		t.Error("more was changed than can be")
	}
}

// writeReport writes the page of one run with a result.
func writeReport(w io.Writer, res *SwarmResult, command string) error {
	result, err := json.Marshal(res)
	if err != nil {
		return err
	}
	pictures := res.pictures()
	one := &trial.Repeat{At: time.Now(), Result: result, Pictures: &pictures, Notes: res.Notes}
	return trial.WriteReport(w, &trial.File{Schema: trial.Schema, Command: command, Version: "v1", Runs: []*trial.Run{{Scenario: "swarm", Repeats: []*trial.Repeat{one}}}})
}

func TestReport(t *testing.T) {
	samples := func(n int) (out []Sample) {
		for i := range n {
			out = append(out, Sample{AtS: float64(i) / 10, InBytes: []int64{0, int64(i) * 1e5, int64(i) * 9e4}, OutBytes: []int64{int64(i) * 2e5, 0, 0}})
		}
		return out
	}
	res := &SwarmResult{Machines: 2, Bytes: 1e8, RateMbit: 80, BoundS: 10, Notes: []string{"<b>bold</b>"}, Rounds: []*Round{
		{System: ours, DoneS: []float64{11, 0}, LastS: 11, MedianS: 11, Samples: samples(5000), Faults: []*FaultResult{
			{Fault: "kill 1 at 5%", Nodes: []string{"</li>"}, Happened: true, AtS: 1, Delivered: 0.05}, {Fault: "stop 1 at 99%"}}},
		{System: "aria2", DoneS: []float64{12, 13}, LastS: 13, MedianS: 12}, // without samples
	}}
	var page bytes.Buffer
	if err := writeReport(&page, res, `x --html "<script>"`); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	for _, bad := range []string{"<script>", "<b>bold", "</li></li>", "src=", "href=", "url(", "@import", "NaN", "Inf", "ZgotmplZ"} {
		if strings.Contains(text, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	for _, want := range []string{"kill 1 at 5%", "it never came to it", "No interfaces were counted", "100 MB to 2 machines"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if len(text) > 100_000 {
		t.Errorf("%d bytes for few curves", len(text))
	}
}
