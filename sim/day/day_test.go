package day

import (
	"testing"
	"time"
)

// short is a morning of a small company: all that happens in a day happens in it.
func short(seed uint64) Config {
	return Config{Seed: seed, Deployments: 250, Span: 2 * time.Hour, Workers: 20, Apps: 100, Regions: 2, Machines: 1000}
}

func run(t *testing.T, c Config) *Result {
	t.Helper()
	r, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	r.HeapMB, r.WallS = 0, 0
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
