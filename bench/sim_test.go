package bench

import (
	"encoding/json"
	"reflect"
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
	for _, r := range []*SimResult{res, again} {
		r.WallS, r.CPUS, r.RSSMB = 0, 0, 0
	}
	if !reflect.DeepEqual(res, again) {
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
	for _, name := range []string{"machines", "bytes", "bound_s", "last_s", "wall_s", "median_s", "cache_copies", "wan_copies", "last_over_bound", "cpu_s", "rss_mb", "regions"} {
		if _, ok := fields[name]; !ok {
			t.Errorf("there is no %s", name)
		}
	}
}

// TestSimOfRegions rounds machines up to full cells.
func TestSimOfRegions(t *testing.T) {
	cfg := SimConfig{Machines: 50, Regions: 2, CellSize: 15, Caches: 2, Bytes: 20_000_000, RateMbit: 100, Seed: 3, Parallelism: 2}
	var told float64
	cfg.Tell = func(_ string, done, total float64, _ string) { told = done / total }
	res, err := cfg.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if res.Machines != 52 || res.Cells != 2 || res.CellSize != 13 || len(res.Regions) != 2 {
		t.Errorf("%+v", res)
	}
	if res.WANCopies != 1 || res.Regions[0].WANCopies != 0 || res.Unfinished > 0 || res.LastOver < 1 || told > 1 {
		t.Errorf("%+v, progress %.2f", res, told)
	}
}

func TestSimRefusesNonsense(t *testing.T) {
	for _, c := range []SimConfig{
		{Machines: 0, Bytes: 1}, {Machines: sim.MaxMachines + 1, Bytes: 1}, {Machines: 1}, {Machines: 1, Bytes: 1 << 60},
		{Machines: 1, Bytes: 1, RateMbit: -1}, {Machines: 1, Bytes: 1, Regions: 2}, {Machines: 1, Bytes: 1, Regions: -1},
		{Machines: 1, Bytes: 1, CellSize: -1}, {Machines: 1, Bytes: 1, Caches: -1}, {Machines: 1, Bytes: 1, ChunkBytes: 8},
		{Machines: 1, Bytes: 1 << 40, ChunkBytes: 16}, {Machines: 1, Bytes: 1, WANLatency: -1}, {Machines: 1, Bytes: 1, Sample: 2}, {Machines: 1, Bytes: 1, Sample: -1},
	} {
		if _, err := c.Run(t.Context()); !starling.IsInvalid(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
