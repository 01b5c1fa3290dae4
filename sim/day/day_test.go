package day

import (
	"maps"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// short is a morning of a small company: all that happens in a day happens in it.
func short(seed uint64) Config {
	return Config{Seed: seed, Deployments: 250, Span: 2 * time.Hour, Workers: 20, Apps: 100, Regions: 2, Machines: 1000}
}

// brief is an hour of it.
func brief(seed uint64) Config {
	return Config{Seed: seed, Deployments: 60, Span: time.Hour, Workers: 20, Apps: 40, Regions: 1, Machines: 500}
}

func run(t *testing.T, c Config) *Result {
	t.Helper()
	r, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	r.WallS = 0
	return r
}

func TestDay(t *testing.T) {
	t.Parallel()
	r := run(t, short(1))
	t.Logf("%+v", r)
	if r.Succeeded+r.BuildFailed+r.Reverted+r.Late != 250 || r.Succeeded < 200 || r.BuildFailed == 0 || r.Reverted == 0 {
		t.Errorf("%d succeeded, %d builds failed, %d were reverted, %d late", r.Succeeded, r.BuildFailed, r.Reverted, r.Late)
	}
	if r.InTime < 0.98 || r.Hotfix.Count == 0 || r.Hotfix.InTime < 1 {
		t.Errorf("in time were %.3f, of %d hotfixes %.3f", r.InTime, r.Hotfix.Count, r.Hotfix.InTime)
	}
	if r.Writes < 8 || r.Writes > 50 {
		t.Errorf("%.1f commands for each deployment", r.Writes)
	}
}

// The same seed gives the same day, another one another.
func TestDayIsDeterministic(t *testing.T) {
	t.Parallel()
	a, b, c := run(t, brief(7)), run(t, brief(7)), run(t, brief(8))
	if !reflect.DeepEqual(a, b) {
		t.Errorf("two days with one seed:\n%+v\n%+v", a, b)
	}
	if reflect.DeepEqual(a.Total, c.Total) {
		t.Error("another seed gives the same day")
	}
}

// With more load than the workers can build, they are what breaks first, and that is said;
// hotfixes still come through.
func TestWorkersBreakFirst(t *testing.T) {
	t.Parallel()
	days, err := Loads(short(3), []float64{0.5, 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	calm, busy := days[0], days[1]
	if calm.InTime < Target || busy.InTime > 0.9 || busy.Use["workers"].Peak < 0.95 {
		t.Errorf("in time were %.3f and %.3f, with workers in use to %.2f", calm.InTime, busy.InTime, busy.Use["workers"].Peak)
	}
	if busy.LateIn["a free worker"] < busy.Late/2 || busy.Hotfix.Queued.P90 > busy.Phases["queued"].P90/2 {
		t.Errorf("late were %v; hotfixes were queued for %+v, all for %+v", busy.LateIn, busy.Hotfix.Queued, busy.Phases["queued"])
	}
	if text := BreaksFirst(days); !strings.HasPrefix(text, "at 3 times the load: most of the late waited for a free worker") {
		t.Errorf("%q", text)
	}
	enough := brief(3)
	enough.Workers = 60
	if n, err := WorkersFor(enough, 60); err != nil || n != 60 {
		t.Errorf("%d workers are enough, %v", n, err)
	}
}

func TestDayRefusesWhatIsOutOfBounds(t *testing.T) {
	for _, c := range []Config{
		{Workers: -1}, {Workers: MaxWorkers + 1}, {Deployments: MaxDeployments, Load: 2}, {Load: -1}, {Span: time.Second}, {Regions: 99}, {Apps: -3}, {Machines: -1},
	} {
		if _, err := Run(c); !starling.IsInvalid(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A link gives all to the highest priority, of that most to the nearest deadline, and all
// bytes arrive in the time that they take.
func TestLinkShares(t *testing.T) {
	w := &world{conf: Config{Span: time.Hour}}
	l := w.newLink(100)
	ends := map[string]time.Duration{}
	send := func(name string, bytes float64, priority int, deadline time.Duration) *transfer {
		return l.send(bytes, priority, deadline, func() { ends[name] = w.now.Round(time.Millisecond) })
	}
	send("near", 750, 0, time.Minute)
	send("far", 500, 0, time.Hour)
	gone := send("gone", 1e6, 0, 2*time.Hour)
	w.at(0, func() { l.cancel(gone) })
	w.at(5*time.Second, func() { send("urgent", 300, 1, time.Hour) })
	for do, ok := w.next(time.Hour); ok; do, ok = w.next(time.Hour) {
		do()
	}
	// near: 5 s at 75, then 3 s nothing, then 5 s at 75; far: 10 s at 25, then all.
	want := map[string]time.Duration{"urgent": 8 * time.Second, "near": 13 * time.Second, "far": 15500 * time.Millisecond}
	if !maps.Equal(ends, want) {
		t.Errorf("ended %v, want %v", ends, want)
	}
	if busy := l.busy.mean(w.conf.Span) * 3600; math.Abs(busy-15.5) > 0.01 {
		t.Errorf("busy for %.3f s", busy)
	}
}
