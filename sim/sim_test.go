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

// TestNearTheBound holds the swarm to the least possible time where all links are equal.
func TestNearTheBound(t *testing.T) {
	const gbit = 125_000_000
	for _, c := range []struct {
		name string
		cfg  Config
		most float64 // of the bound
	}{
		{"1 machine", Config{Machines: 1, Chunks: 300}, 1.02},
		{"8 machines, a cache as fast as one of them", Config{Machines: 8, Chunks: 500}, 1.10},
		{"8 machines, a fast cache", Config{Machines: 8, Chunks: 500, CacheRate: 10 * gbit}, 1.10},
		{"8 machines, chunks cut by content", Config{Machines: 8, Chunks: 500, VarySizes: true}, 1.20},
		{"30 machines, 3 caches", Config{Machines: 30, Chunks: 400, Caches: 3}, 1.15},
		{"200 machines", Config{Machines: 200, Chunks: 500}, 1.15},
	} {
		t.Run(c.name, func(t *testing.T) {
			if raceEnabled && c.cfg.Machines > 100 {
				t.Skip("half a minute under the race detector, in a package of one goroutine")
			}
			c.cfg.Seed = 1
			r := run(t, c.cfg)
			t.Logf("bound %s, last %.3f, median %.3f of it; %.3f copies left the caches; %d steps",
				r.Bound, ratio(r), float64(r.Median)/float64(r.Bound), r.OriginCopies, r.Steps)
			if r.Unfinished > 0 || ratio(r) > c.most {
				t.Errorf("%d unfinished, the last after %s: %.3f of the bound %s, want %.2f", r.Unfinished, r.Last, ratio(r), r.Bound, c.most)
			}
			if r.OriginCopies > 1.05 {
				t.Errorf("%.3f copies left the caches", r.OriginCopies)
			}
		})
	}
}

// TestFaults lets things go wrong; every honest machine must finish all the same.
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
		{"slow machines", Config{Faults: Faults{Slow: 0.125, SlowFactor: 0.25}}, 8 * time.Second, 1.1},
		{"wrong bytes", Config{Faults: Faults{Corrupt: 0.125}}, 5 * time.Second, 1.1},
		{"false claims", Config{Faults: Faults{Lie: 0.125}}, 5 * time.Second, 1.1},
		{"silence", Config{Faults: Faults{Stall: 0.125}}, 5 * time.Second, 1.1},
		{"all liars at once, a third of the machines", Config{Faults: Faults{Corrupt: 0.125, Lie: 0.125, Stall: 0.16}}, 10 * time.Second, 1.5},
		{"machines that die", Config{Outages: outages(4, 7, 250*time.Millisecond, 0)}, 5 * time.Second, 1.3},
		{"machines that come and go", Config{Outages: outages(8, 3, 150*time.Millisecond, time.Second)}, 8 * time.Second, 1.3},
		{"a late start", Config{StartSpread: 2 * time.Second}, 5 * time.Second, 1.2},
		{"one of three caches gone", Config{Caches: 3, CacheDown: []Outage{{Machine: 1, At: 100 * time.Millisecond}}}, 5 * time.Second, 1.1},
		{"the cache away for a while", Config{CacheDown: []Outage{{At: 500 * time.Millisecond, For: 2 * time.Second}}}, 8 * time.Second, 1.2},
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

// TestAnyTopology draws worlds without faults: all finish, near the bound but for a
// few chunks' time per doubling of the machines, and about one copy leaves the caches.
func TestAnyTopology(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
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
			Limit:      5 * time.Minute,
		}
		r := run(t, cfg)
		if r.Unfinished > 0 {
			t.Fatalf("%d of %d machines never finish", r.Unfinished, r.Machines)
		}
		chunk := span(2*int64(cfg.ChunkBytes), 125_000_000)
		allowed := r.Bound*5/4 + chunk*time.Duration(8*bits.Len(uint(cfg.Machines))) + 500*time.Millisecond
		if r.Last > allowed {
			t.Fatalf("the last is done after %s; the bound is %s, allowed were %s", r.Last, r.Bound, allowed)
		}
		if most := 1.05 * float64(r.Bytes); r.OriginCopies*float64(r.Bytes) > most+float64(2*cfg.ChunkBytes) {
			t.Fatalf("%.3f copies left the caches", r.OriginCopies)
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
