package sim

import (
	"testing"
	"time"
)

// TestHotfixPreemptsBulk starts a small artifact of higher priority in the middle of a
// large one.
func TestHotfixPreemptsBulk(t *testing.T) {
	const rate = 25_000_000 // 200 Mbit/s
	for _, c := range []struct {
		name     string
		machines int
		urgent   bool
		most     float64 // of the time that it takes alone
	}{
		{"8 machines", 8, false, 1.2},
		{"8 machines, uplinks that know what is urgent", 8, true, 1.2},
		{"40 machines", 40, false, 1.2},
		{"40 machines, uplinks that know what is urgent", 40, true, 1.2},
	} {
		t.Run(c.name, func(t *testing.T) {
			world := Config{Machines: c.machines, UpRate: rate, DownRate: rate, UrgentFirst: c.urgent}
			var alone, among, bulk time.Duration
			for seed := range uint64(4) {
				w := world
				w.Seed, w.Chunks = seed, 20
				alone += run(t, w).Last
				w.Chunks = 500
				before := run(t, w).Last
				w.Also = []Job{{At: 10 * time.Second, Chunks: 20, Priority: 10}}
				r := run(t, w)
				if r.Unfinished > 0 {
					t.Fatalf("%d machines never finish", r.Unfinished)
				}
				among += r.Jobs[1].Last
				bulk += r.Jobs[0].Last - before
			}
			ratio := float64(among) / float64(alone)
			t.Logf("alone %s, during bulk %s: %.2f times; it delays the bulk by %s", alone/4, among/4, ratio, bulk/4)
			if ratio > c.most {
				t.Errorf("the hotfix takes %.2f times as long as alone, want %.2f at most", ratio, c.most)
			}
		})
	}
}

// TestEqualsShareEvenly runs two equal artifacts at once, the second a little later.
func TestEqualsShareEvenly(t *testing.T) {
	const rate = 25_000_000
	for _, after := range []time.Duration{0, 2 * time.Second} {
		r := run(t, Config{Seed: 1, Chunks: 300, UpRate: rate, DownRate: rate, Also: []Job{{Chunks: 300, At: after}}})
		t.Logf("after %s: %+v", after, r.Jobs)
		if r.Unfinished > 0 {
			t.Fatalf("%d machines never finish", r.Unfinished)
		}
		if after == 0 {
			if w := min(r.Jobs[0].WhenFirst, r.Jobs[1].WhenFirst); w < 0.8 {
				t.Errorf("when the first artifact was complete, machines held %.2f of the other", w)
			}
		}
	}
}
