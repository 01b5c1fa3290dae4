package bench

import (
	"encoding/json"
	"testing"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/sim"
)

func TestSim(t *testing.T) {
	cfg := SimConfig{Machines: 12, Bytes: 50_000_000, RateMbit: 100, Seed: 3, Faults: sim.Faults{Lie: 0.1}}
	res, err := cfg.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again, err := cfg.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if res.WallS <= 0 {
		t.Errorf("it took %v s", res.WallS)
	}
	res.WallS, again.WallS = 0, 0
	if *res != *again {
		t.Errorf("%+v, then %+v", res, again)
	}
	if res.Unfinished != 0 || res.LastS < res.BoundS || res.LastS > 2*res.BoundS || res.Accused != 1 || res.MedianS > res.LastS {
		t.Errorf("%+v", res)
	}
	b, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"machines", "bytes", "bound_s", "last_s", "wall_s", "median_s", "cache_copies"} {
		if _, ok := fields[name]; !ok {
			t.Errorf("there is no %s", name)
		}
	}
}

func TestSimRefusesNonsense(t *testing.T) {
	for _, c := range []SimConfig{
		{Machines: 0, Bytes: 1}, {Machines: sim.MaxMachines + 1, Bytes: 1}, {Machines: 1}, {Machines: 1, Bytes: 1 << 60},
		{Machines: 1, Bytes: 1, RateMbit: -1},
	} {
		if _, err := c.Run(t.Context()); !starling.IsInvalid(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
