package sim

import (
	"math/bits"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling/swarm"
)

func run(t interface {
	Helper()
	Fatal(...any)
}, cfg Config) Result {
	t.Helper()
	r, err := Run(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ratio(r Result) float64 { return float64(r.Last) / float64(r.Bound) }

// seeds runs a world with several seeds and returns the mean and the worst of Last
// over the bound, the worst of Last over the median, and the most copies.
func seeds(t *testing.T, cfg Config, n int) (mean, worst, tail, copies float64) {
	t.Helper()
	for seed := range uint64(n) {
		cfg.Seed = seed + 1
		r := run(t, cfg)
		if r.Unfinished > 0 {
			t.Fatalf("seed %d: %d machines never finish", cfg.Seed, r.Unfinished)
		}
		for _, a := range r.Accused {
			if f := r.PerMachine[a.Machine].Fault; f != "lie" && f != "corrupt" {
				t.Errorf("seed %d: %s, whose fault is %q, is called a liar", cfg.Seed, r.PerMachine[a.Machine].Name, f)
			}
		}
		mean += ratio(r) / float64(n)
		worst = max(worst, ratio(r))
		tail = max(tail, float64(r.Last)/float64(r.Median))
		copies = max(copies, r.OriginCopies)
	}
	t.Logf("last over bound %.3f, at worst %.3f; over the median %.3f; %.3f copies", mean, worst, tail, copies)
	return mean, worst, tail, copies
}

const mbit = 125_000 // bytes a second

// equalLinks is a world of links of so many Mbit/s, and 250 MB.
func equalLinks(machines int, rate int64) Config {
	return Config{Machines: machines, Chunks: 238, UpRate: rate * mbit, DownRate: rate * mbit}
}

// TestNearTheBound holds the swarm to the least possible time where nothing fails.
func TestNearTheBound(t *testing.T) {
	fast := equalLinks(8, 1000)
	fast.CacheRate = 10_000 * mbit
	cut := equalLinks(8, 50)
	cut.VarySizes = true
	three := equalLinks(30, 1000)
	three.Caches = 3
	for _, c := range []struct {
		name               string
		cfg                Config
		seeds              int
		most, tail, copies float64
	}{
		{"1 machine", equalLinks(1, 1000), 1, 1.02, 1, 1},
		{"8 machines, 50 Mbit/s", equalLinks(8, 50), 12, 1.10, 1.05, 1.05},
		{"8 machines, 100 Mbit/s", equalLinks(8, 100), 12, 1.10, 1.05, 1.05},
		{"8 machines, 200 Mbit/s", equalLinks(8, 200), 12, 1.10, 1.05, 1.05},
		{"8 machines, 1 Gbit/s", equalLinks(8, 1000), 6, 1.10, 1.05, 1.05},
		{"8 machines, a fast cache", fast, 6, 1.15, 1.15, 1.05},
		{"8 machines, chunks cut by content", cut, 12, 1.15, 1.05, 1.06},
		{"30 machines, 3 caches", three, 3, 1.15, 1.10, 1.05},
		{"40 machines, 100 Mbit/s", equalLinks(40, 100), 2, 1.15, 1.05, 1.05},
		{"200 machines, 100 Mbit/s", equalLinks(200, 100), 1, 1.25, 1.06, 1.06},
	} {
		t.Run(c.name, func(t *testing.T) {
			if raceEnabled && c.cfg.Machines > 100 {
				t.Skip("half a minute under the race detector, in a package of one goroutine")
			}
			_, worst, tail, copies := seeds(t, c.cfg, c.seeds)
			if worst > c.most || tail > c.tail || copies > c.copies {
				t.Errorf("want %.2f of the bound, %.2f of the median, %.2f copies at most", c.most, c.tail, c.copies)
			}
		})
	}
}

// TestFaultsCostTheirShare spoils a tenth of the machines in each way. The bound counts
// without the capacity of those that lie, stall or die. What else is lost is in the
// factors: a machine that is not heard, or stops sending, brings nothing of what it
// takes from the cache, so a tenth more has to leave it.
func TestFaultsCostTheirShare(t *testing.T) {
	large := equalLinks(200, 100)
	large.Seed = 1
	var sound time.Duration
	if !raceEnabled {
		sound = run(t, large).Last
	}
	for _, c := range []struct {
		name               string
		faults             Faults
		mean, most, copies float64 // for 10 machines
		mean40             float64 // for 40, where the tail of a lost share is heard of late
		growth200          float64 // for 200, over the time that it takes without a fault
	}{
		{"vanish", Faults{Vanish: 0.1}, 1.15, 1.25, 1.3, 1.25, 1.15},
		{"lie", Faults{Lie: 0.1}, 1.10, 1.15, 1.05, 1.28, 1.20},
		{"stall", Faults{Stall: 0.1}, 1.10, 1.15, 1.05, 1.22, 1.20},
		{"corrupt", Faults{Corrupt: 0.1}, 1.10, 1.15, 1.05, 1.22, 1.25},
		{"freeze", Faults{Freeze: 0.1}, 1.20, 1.30, 1.15, 1.40, 1.40},
		{"churn", Faults{Churn: 0.1}, 1.15, 1.25, 1.1, 1.25, 1.10},
		{"late", Faults{Late: 0.1}, 1.12, 1.20, 1.05, 1.20, 1.15},
		{"muffled", Faults{Muffled: 0.1}, 1.15, 1.25, 1.1, 1.30, 1.10},
		{"mute", Faults{Mute: 0.1}, 1.20, 1.25, 1.15, 1.35, 1.35},
		{"slow", Faults{Slow: 0.1}, 1.20, 1.30, 1.15, 1.30, 1.45},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := equalLinks(10, 100)
			cfg.Faults = c.faults
			n := 8
			if c.faults.Slow > 0 {
				n = 3
			}
			mean, worst, _, copies := seeds(t, cfg, n)
			if mean > c.mean || worst > c.most || copies > c.copies {
				t.Errorf("want %.2f of the bound in the mean, %.2f at worst, %.2f copies at most", c.mean, c.most, c.copies)
			}
			if raceEnabled {
				return
			}
			cfg.Machines = 40
			if mean, _, _, copies = seeds(t, cfg, 2); mean > c.mean40 || copies > 1.3 {
				t.Errorf("40 machines: want %.2f of the bound in the mean, 1.3 copies at most", c.mean40)
			}
			large.Faults = c.faults
			r := run(t, large)
			growth := r.Last.Seconds() / sound.Seconds()
			t.Logf("200 machines: %.3f times as long as without a fault, %.3f copies", growth, r.OriginCopies)
			if growth > c.growth200 || r.OriginCopies > 1.6 {
				t.Errorf("200 machines: want %.2f times as long at most, 1.6 copies", c.growth200)
			}
		})
	}
}

// TestFastCachesGiveOneCopy: where the caches could send the artifact many times over in
// the time that the machines' own links take, they are still asked for one copy. What is
// on its way through the swarm is not missed.
func TestFastCachesGiveOneCopy(t *testing.T) {
	for name, cfg := range map[string]Config{
		"many chunks each": {Machines: 80, Chunks: 480, Caches: 4, CacheRate: 10_000 * mbit, Faults: Faults{Vanish: 0.05}},
		// The caches come round to everybody within a third of a second.
		"a long queue": {Machines: 80, Chunks: 320, ChunkBytes: 2 << 20, Caches: 8, CacheRate: 2_000 * mbit},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Seed = 1
			r := run(t, cfg)
			t.Logf("last over bound %.3f, %.3f copies", ratio(r), r.OriginCopies)
			if r.Unfinished > 0 || ratio(r) > 1.2 || r.OriginCopies > 1.03 {
				t.Errorf("%d never finish; want 1.2 of the bound and 1.03 copies at most", r.Unfinished)
			}
		})
	}
}

// TestLiarsAreNamedSoon: within two chunks' time of the beginning, by all that are
// linked to them. Nobody else is named; seeds checks that everywhere.
func TestLiarsAreNamedSoon(t *testing.T) {
	cfg := equalLinks(10, 100)
	cfg.Seed, cfg.Faults = 1, Faults{Lie: 0.1, Corrupt: 0.1, Stall: 0.1}
	r := run(t, cfg)
	named := make(map[string]Accused)
	for _, a := range r.Accused {
		named[r.PerMachine[a.Machine].Fault] = a
	}
	chunk := span(1<<20, cfg.UpRate)
	for _, fault := range []string{"lie", "corrupt"} {
		// 9 others, of which one serves nobody: it never asks.
		if a := named[fault]; a.By < 7 || a.At > 12*chunk {
			t.Errorf("%s: named by %d, first after %s; a chunk takes %s", fault, a.By, a.At, chunk)
		}
	}
	if len(named) != 2 {
		t.Errorf("named are %v", named)
	}
}

// TestSharedLinks has racks whose link to the others is narrower than their machines'.
func TestSharedLinks(t *testing.T) {
	cfg := equalLinks(40, 100)
	cfg.Racks, cfg.RackRate, cfg.ZoneRate = 3, 3*100*mbit, 9*100*mbit
	_, worst, _, copies := seeds(t, cfg, 2)
	if worst > 2.2 || copies > 1.2 {
		t.Error("want 2.2 of the bound and 1.2 copies at most: the brain spreads over all racks alike")
	}
}

// TestFaults lets several things go wrong at once, and caches; every machine that can
// finish must do so.
func TestFaults(t *testing.T) {
	outages := func(n, apart int, every, length time.Duration) []Outage {
		var out []Outage
		for i := range n {
			out = append(out, Outage{Machine: i * apart, At: time.Duration(i+1) * every, For: length})
		}
		return out
	}
	for _, c := range []struct {
		name   string
		cfg    Config
		most   time.Duration // the bound is 1 s, unless links are slow
		copies float64
	}{
		{"all liars at once, two fifths of the machines", Config{Faults: Faults{Corrupt: 0.125, Lie: 0.125, Stall: 0.16}}, 3 * time.Second, 1.5},
		{"a bit of everything", Config{Faults: Faults{Corrupt: 0.05, Lie: 0.05, Stall: 0.05, Freeze: 0.05, Vanish: 0.05, Churn: 0.05, Late: 0.05, Muffled: 0.05, Mute: 0.05}}, 6 * time.Second, 1.6},
		{"machines that die", Config{Outages: outages(4, 7, 250*time.Millisecond, 0)}, 3 * time.Second, 1.3},
		{"machines that come and go", Config{Outages: outages(8, 3, 150*time.Millisecond, time.Second)}, 5 * time.Second, 1.3},
		{"a late start", Config{StartSpread: 2 * time.Second}, 4 * time.Second, 1.3},
		{"one of three caches gone", Config{Caches: 3, CacheDown: []Outage{{Machine: 1, At: 100 * time.Millisecond}}}, 5 * time.Second, 1.3},
		{"the cache away for a while", Config{CacheDown: []Outage{{At: 500 * time.Millisecond, For: 2 * time.Second}}}, 12 * time.Second, 1.3},
		{"no cache at first", Config{CacheDown: []Outage{{At: 0, For: 3 * time.Second}}}, 12 * time.Second, 1.2},
		{"a change of a tenth", Config{Held: 0.9}, time.Second, 1.1},
		{"nothing new", Config{Held: 1}, time.Second, 0},
		{"slow links", Config{UpRate: 2_500_000, DownRate: 2_500_000, CacheRate: 25_000_000}, 120 * time.Second, 1.1},
		{"one chunk", Config{Chunks: 1}, time.Second, 1},
		{"few chunks", Config{Chunks: 5}, time.Second, 1.2},
		{"far zones", Config{CellLatency: 40 * time.Millisecond}, 5 * time.Second, 1.1},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Seed, c.cfg.Machines, c.cfg.Limit = 3, 24, 10*time.Minute
			if c.cfg.Chunks == 0 {
				c.cfg.Chunks = 120
			}
			r := run(t, c.cfg)
			t.Logf("bound %s, median %s, last %s, %.3f copies, %.4f wasted", r.Bound, r.Median, r.Last,
				r.OriginCopies, float64(r.Wasted)/float64(max(r.Bytes, 1)*int64(r.Machines)))
			if r.Unfinished > 0 {
				t.Fatalf("%d machines never finish", r.Unfinished)
			}
			if r.Last > c.most {
				t.Errorf("the last is done after %s, want %s at most", r.Last, c.most)
			}
			if r.OriginCopies > c.copies {
				t.Errorf("%.3f copies left the caches, want %.2f at most", r.OriginCopies, c.copies)
			}
		})
	}
}

// world draws a world without faults.
func drawWorld(t *rapid.T) Config {
	return Config{
		Seed:       rapid.Uint64().Draw(t, "seed"),
		Machines:   rapid.IntRange(1, 40).Draw(t, "machines"),
		Chunks:     rapid.IntRange(1, 120).Draw(t, "chunks"),
		ChunkBytes: rapid.SampledFrom([]int{64 << 10, 256 << 10, 1 << 20}).Draw(t, "chunk bytes"),
		VarySizes:  rapid.Bool().Draw(t, "vary"),
		Zones:      rapid.IntRange(1, 4).Draw(t, "zones"),
		Racks:      rapid.IntRange(1, 5).Draw(t, "racks"),
		Caches:     rapid.IntRange(1, 4).Draw(t, "caches"),
		CacheRate:  rapid.SampledFrom([]int64{125_000_000, 1_000_000_000}).Draw(t, "cache rate"),
		Held:       rapid.SampledFrom([]float64{0, 0, 0.5}).Draw(t, "held"),
	}
}

// TestAnyTopology draws worlds without faults: all finish, near the bound but for a
// few chunks' time per doubling of the machines, and about one copy leaves the caches:
// a quarter more at most, where the artifact is small and several caches are soon done
// with it, before the news are around.
func TestAnyTopology(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := drawWorld(t)
		cfg.Limit = 5 * time.Minute
		r := run(t, cfg)
		if r.Unfinished > 0 {
			t.Fatalf("%d of %d machines never finish", r.Unfinished, r.Machines)
		}
		chunk := span(2*int64(cfg.ChunkBytes), 125_000_000)
		allowed := r.Bound*5/4 + chunk*time.Duration(8*bits.Len(uint(cfg.Machines))) + 500*time.Millisecond
		if r.Last > allowed {
			t.Fatalf("the last is done after %s; the bound is %s, allowed were %s", r.Last, r.Bound, allowed)
		}
		if most := 1.25 * float64(r.Bytes); r.OriginCopies*float64(r.Bytes) > most+float64(3*cfg.ChunkBytes) {
			t.Fatalf("%.3f copies left the caches", r.OriginCopies)
		}
	})
}

// TestAnyFaults draws worlds with any faults: no chunk is lost for good, and nobody
// waits for ever. The time allowed is four times the bound and a while for time-outs
// to run off, one after the other; slow machines take longer, and are not timed.
func TestAnyFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := drawWorld(t)
		cfg.Limit = 3 * time.Hour
		share := func(name string) float64 { return float64(rapid.IntRange(0, 9).Draw(t, name)) / 100 }
		cfg.Faults = Faults{
			Slow: share("slow"), SlowFactor: 0.05, Stall: share("stall"), Lie: share("lie"), Corrupt: share("corrupt"),
			Freeze: share("freeze"), Vanish: share("vanish"), Churn: share("churn"), Late: share("late"),
			Muffled: share("muffled"), Mute: share("mute"),
		}
		cfg.UpRate = rapid.SampledFrom([]int64{5_000_000, 125_000_000}).Draw(t, "rate")
		cfg.DownRate = cfg.UpRate
		cfg.RackRate = rapid.SampledFrom([]int64{0, 2, 4}).Draw(t, "rack rate") * cfg.UpRate
		r := run(t, cfg)
		if r.Unfinished > 0 {
			t.Fatalf("%d of %d machines never finish", r.Unfinished, r.Machines)
		}
		for _, a := range r.Accused {
			if f := r.PerMachine[a.Machine].Fault; f != "lie" && f != "corrupt" {
				t.Fatalf("%s, whose fault is %q, is called a liar", r.PerMachine[a.Machine].Name, f)
			}
		}
		if allowed := 4*r.Bound + 2*time.Minute; r.Last > allowed {
			t.Fatalf("the last is done after %s; the bound is %s, allowed were %s", r.Last, r.Bound, allowed)
		}
	})
}

func TestSameSeedSameRun(t *testing.T) {
	cfg := Config{Seed: 9, Machines: 25, Chunks: 80, VarySizes: true, Faults: Faults{Corrupt: 0.04, Lie: 0.04, Stall: 0.04},
		Outages: []Outage{{Machine: 4, At: 200 * time.Millisecond, For: time.Second}}}
	a, b := run(t, cfg), run(t, cfg)
	if a.Hash != b.Hash || a.Last != b.Last || a.Steps != b.Steps {
		t.Errorf("two runs differ: %x after %d steps, %x after %d", a.Hash, a.Steps, b.Hash, b.Steps)
	}
	cfg.Seed++
	if c := run(t, cfg); c.Hash == a.Hash {
		t.Error("another seed gives the same run")
	}
}

// TestReplay feeds the record of a machine in a troubled swarm to a new brain.
func TestReplay(t *testing.T) {
	cfg := Config{Seed: 4, Machines: 20, Chunks: 100, Faults: Faults{Corrupt: 0.05, Stall: 0.05, Slow: 0.05, SlowFactor: 0.1}, Record: 7}
	r := run(t, cfg)
	if len(r.Record) < 100 {
		t.Fatalf("the record has %d steps", len(r.Record))
	}
	self := swarm.Config{Self: r.PerMachine[cfg.Record-1].Name, Seed: cfg.Seed}
	if err := swarm.Replay(self, r.Record); err != nil {
		t.Error(err)
	}
	self.Seed++
	if err := swarm.Replay(self, r.Record); err == nil {
		t.Error("another seed gives the same effects: the replay checks nothing")
	}
}

func TestBytesAddUp(t *testing.T) {
	cfg := Config{Seed: 2, Machines: 12, Chunks: 60, VarySizes: true, Held: 0.3}
	r := run(t, cfg)
	var out, in int64
	for _, m := range r.PerMachine {
		if got := m.FromPeers + m.FromCaches; got != r.Bytes {
			t.Errorf("%s received %d bytes of %d", m.Name, got, r.Bytes)
		}
		in += m.FromPeers + m.FromCaches
		out += m.Sent
	}
	out += int64(r.OriginCopies*float64(r.Bytes) + 0.5)
	if extra := out - in; extra < 0 || extra > r.Wasted+int64(len(r.PerMachine))*int64(128<<10) {
		t.Errorf("%d bytes sent, %d received, %d wasted", out, in, r.Wasted)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{
		{Machines: -1}, {Machines: MaxMachines + 1}, {Chunks: -1}, {ChunkBytes: 1}, {Held: 2}, {UpRate: -1},
		{Faults: Faults{Stall: 2}}, {Outages: []Outage{{Machine: 8}}}, {CacheDown: []Outage{{Machine: 1}}}, {Faults: Faults{SlowFactor: -1}},
	} {
		if _, err := Run(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

func BenchmarkRun(b *testing.B) {
	for b.Loop() {
		r, err := Run(Config{Seed: 1, Machines: 200, Chunks: 500})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(ratio(r), "last/bound")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(r.Steps)/float64(b.N), "ns/step")
	}
}
