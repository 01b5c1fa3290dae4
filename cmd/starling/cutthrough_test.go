package main

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/world"
)

// Machines have the artifact on disk while another region does not hold it yet, but do
// not activate it; and the timeline tells so.
func TestMachinesStageWhileARegionReplicates(t *testing.T) {
	c := inProcess(t, world.Size{Regions: 2, Servers: 1, Caches: 1, Workers: 1, Machines: 4})
	api := c.apis["r1"]
	r := newRepo(t)
	c.apply(api, r.app("hello", nil))
	caches := c.w.WithRole(starling.RoleCache)
	away := caches[slices.IndexFunc(caches, func(p *world.Proc) bool { return p.Region == "r2" })]
	c.end(away.Name)
	d, err := api.Submit(t.Context(), starling.Submission{App: "hello", SHA: r.commit(release("v1", true))})
	if err != nil {
		t.Fatal(err)
	}
	c.eventually(time.Minute, func() error {
		now, err := api.Deployment(t.Context(), d.ID)
		switch {
		case err != nil:
			return err
		case now.Phase != starling.PhaseReplicating || now.Machines.Staged < 2:
			return fmt.Errorf("%s with %d machines staged", now.Phase, now.Machines.Staged)
		}
		return nil
	})
	for _, m := range c.w.WithRole(starling.RoleMachine) {
		if v := current(m, "hello"); v != "" {
			t.Errorf("%s runs %s before the gate is open", m.Name, v)
		}
	}
	c.run(away)
	if d = c.wait(api, d); d.Phase != starling.PhaseSucceeded {
		t.Fatalf("%s: %s", d.Phase, d.Reason)
	}
	c.everywhere("hello", "v1")

	last := int64(0)
	for _, want := range []starling.Moment{
		{Region: "r1", Event: starling.MomentBuildBegan}, {Region: "r1", Event: starling.MomentFirstUpload},
		{Region: "r1", Event: starling.MomentManifest}, {Region: "r1", Event: starling.MomentFirstFetch},
		{Region: "r1", Event: starling.MomentAllStaged}, {Region: "r2", Event: starling.MomentFirstByte},
		{Region: "r2", Event: starling.MomentPlaced}, {Region: "r1", Event: starling.MomentGateOpen},
		{Region: "r1", Event: starling.MomentRolloutBegan}, {Region: "r1", Event: starling.MomentEnded},
	} {
		i := slices.IndexFunc(d.Timeline(), func(m starling.Moment) bool { return m.Region == want.Region && m.Event == want.Event })
		if i < 0 {
			t.Fatalf("no %s of %s on the timeline %+v", want.Event, want.Region, d.Timeline())
		}
		if at := d.Timeline()[i].AtMS; at < last {
			t.Errorf("%s of %s is too early on the timeline %+v", want.Event, want.Region, d.Timeline())
		} else {
			last = at
		}
	}
}
