package bench

import (
	"math"
	"testing"

	"github.com/starlingdeploy/starling"
)

// TestSimulatedBesideMeasured: the simulator's times are of the whole content over the
// part of a link that headers leave, and what is told is how far the measured are from them.
func TestSimulatedBesideMeasured(t *testing.T) {
	c := SwarmConfig{Machines: 4, Bytes: 60_000_000, RateMbit: 100, Caches: 1, Rounds: 1, Seed: 1, Simulate: true}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	r, err := c.simulated(&SwarmResult{LastS: 6, MedianS: 6})
	if err != nil {
		t.Fatal(err)
	}
	bound := 60e6 * 8 / (r.PayloadMbit * 1e6)
	if r.PayloadMbit >= 100 || r.MedianS > r.LastS || r.MedianS < bound || r.LastS > 1.5*bound || r.CacheCopies < 0.9 {
		t.Errorf("%+v; the bound is %.2f s", r, bound)
	}
	if off := 6/r.LastS - 1; math.Abs(r.LastOff-off) > 1e-9 {
		t.Errorf("%.3f off, want %.3f", r.LastOff, off)
	}
}

func TestSimulatedIsOfWhatTheSimulatorKnows(t *testing.T) {
	sound := SwarmConfig{Machines: 4, Bytes: 1, RateMbit: 100, Caches: 1, Rounds: 1, Simulate: true}
	for name, change := range map[string]func(*SwarmConfig){
		"unshaped": func(c *SwarmConfig) { c.RateMbit = 0 },
		"capped":   func(c *SwarmConfig) { c.CapMbit = 50 },
		"a delta":  func(c *SwarmConfig) { c.Delta = 0.1 },
	} {
		c := sound
		change(&c)
		if err := c.Check(); !starling.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
