package main

import (
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

func TestSummaryShowsHooks(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	d := &starling.Deployment{ID: "d1", Phase: starling.PhaseFailed, Hooks: []starling.HookRun{
		{Scope: starling.HookDeployment, Region: "us", State: starling.HookDone, Attempt: 2, Worker: "w1/hook", BeganAt: at, EndedAt: at.Add(1500 * time.Millisecond)},
		{Scope: starling.HookRegion, Region: "eu", State: starling.HookDropped},
	}}
	var out strings.Builder
	if err := printSummary(&out, d); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"  hook pre.deployment done on worker w1 of us in 1.5s (attempt 2)\n", "  hook pre.region.eu dropped\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the summary lacks %q:\n%s", want, out.String())
		}
	}
}
