package bench

import (
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// The scenario, small: a real server, some real enrolments, real feeds and reports. With one server
// the leader is not killed; the scenario itself, of three, shows that.
func TestFleet(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "starling")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../cmd/starling").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const machines = 600
	c := FleetConfig{Bin: bin, Servers: 1, Machines: machines, Enrol: 60, CellMax: 300, Churn: 0.05, Steady: time.Second, Dir: t.TempDir()}
	res, err := c.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", res)
	// An attempt waits for its answer for 20 s: on a computer that stands still for longer it has none.
	if e := res.Enrol; e.Enrolled != 60 || e.Registered != machines-60 || e.MS.P50 <= 0 || e.Unanswered > 0 && e.EnrolledS < 20 {
		t.Errorf("arrival %+v", e)
	}
	// Three relays a cell; one that was relieved as the cell grew may still wait for its last answer.
	if s := res.Steady; s.Connections < 1 || s.Connections > 4*res.Cells || s.RaftEntries > 20 {
		t.Errorf("steady state %+v with %d cells", s, res.Cells)
	}
	if d := res.Deployment; d.Told != machines || d.RaftEntries == 0 || d.RaftEntries > 50 || d.Posts > 6*machines {
		t.Errorf("deployment %+v", d)
	}
	if ch := res.Churn; ch.Machines != machines/20 || ch.WholeS <= 0 {
		t.Errorf("churn %+v", ch)
	}
}

// With memberlist's usual number of tellings this fleet has machines that hear nothing.
func TestFleetGossipMissesNobody(t *testing.T) {
	const cells, machines = 100, 999
	rng := rand.New(rand.NewPCG(3, 4))
	for range cells {
		for i, d := range gossip(machines, rng) {
			if d < 0 {
				t.Errorf("machine %d never hears", i)
			}
		}
	}
}

// The modelled gossip against what memberlist's does: from one member it reaches all but very few, in
// a time that grows with the logarithm of their number.
func TestFleetGossip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	last := time.Duration(0)
	for _, n := range []int{1, 2, 10, 100, 1280} {
		never, slowest := 0, time.Duration(0)
		for range 20 {
			for _, d := range gossip(n, rng) {
				slowest = max(slowest, d)
				if d < 0 {
					never++
				}
			}
		}
		t.Logf("%d members: the last of them after %s, %d of %d never", n, slowest, never, 20*n)
		if slowest < last || slowest > 2*time.Second || never > n/20 {
			t.Errorf("%d members: %s, %d of %d never", n, slowest, never, 20*n)
		}
		last = slowest / 2
	}
}

func TestFleetRefusesWhatCannotBe(t *testing.T) {
	good := FleetConfig{Servers: 3, Machines: 10, Enrol: 10, Steady: time.Second}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*FleetConfig){
		"machines": func(c *FleetConfig) { c.Machines = MaxFleetMachines + 1 },
		"enrol":    func(c *FleetConfig) { c.Enrol = 11 },
		"churn":    func(c *FleetConfig) { c.Churn = 0.6 },
		"steady":   func(c *FleetConfig) { c.Steady = 0 },
		"cell":     func(c *FleetConfig) { c.CellMax = starling.MaxCellMachines + 1 },
		"servers":  func(c *FleetConfig) { c.Servers = 2 },
	} {
		c := good
		edit(&c)
		if err := c.Check(); !starling.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
