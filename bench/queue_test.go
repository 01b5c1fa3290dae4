package bench

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// The whole scenario, small: three real servers, real clients.
func TestQueue(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "starling")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../cmd/starling").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := QueueConfig{Bin: bin, Servers: 3, Clients: []int{8}, Duration: 500 * time.Millisecond, Rounds: 1, Dir: t.TempDir()}
	res, err := c.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := res.Results[0]
	if p.Clients != 8 || p.Cycles <= 0 || p.CycleMS.P50 <= 0 || p.SubmitMS.P50 > p.CycleMS.Max || p.Entries <= 0 || p.CPUMSPerCycle <= 0 {
		t.Errorf("%+v", p)
	}
	if p.PostgresCycles != nil {
		t.Error("PostgreSQL has a figure though nobody asked for it")
	}
}

func TestQueueBesidePostgres(t *testing.T) {
	pg, err := findPostgres(t.Context())
	if starling.IsInvalid(err) {
		t.Skipf("NOT TESTED: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	// Unlike t.TempDir's, a folder that PostgreSQL's user can enter.
	dir, err := os.MkdirTemp("", "starling-queue-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	samples := map[int][]queueSample{}
	if err := pg.round(t.Context(), QueueConfig{Clients: []int{4}, Duration: time.Second, Dir: dir}, samples); err != nil {
		t.Fatal(err)
	}
	if s := samples[4]; len(s) != 1 || s[0].cycles <= 0 || s[0].cpuMS <= 0 {
		t.Errorf("%+v", samples)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestQueuePoint(t *testing.T) {
	ours := []queueSample{{cycles: 30, entries: 9}, {cycles: 10, entries: 3}, {cycles: 20, entries: 6, cpuMS: 7}}
	p := queuePoint(4, ours, []queueSample{{cycles: 8}, {cycles: 6}})
	if p.Cycles != 20 || p.CyclesMin != 10 || p.CyclesMax != 30 || p.CPUMSPerCycle != 7 || math.Abs(p.CommandsPerEntry-10) > 1e-9 {
		t.Errorf("%+v", p)
	}
	if p.PostgresCycles == nil || *p.PostgresCycles != 6 || p.PostgresCyclesHigh != 8 {
		t.Errorf("%+v", p)
	}
	if p := queuePoint(4, ours, nil); p.PostgresCycles != nil {
		t.Errorf("%+v", p)
	}
}

func TestQueueCheck(t *testing.T) {
	good := QueueConfig{Clients: []int{1, 512}, Duration: time.Second, Rounds: 1}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*QueueConfig){
		"no clients":        func(c *QueueConfig) { c.Clients = nil },
		"no client":         func(c *QueueConfig) { c.Clients = []int{0} },
		"too many clients":  func(c *QueueConfig) { c.Clients = []int{MaxQueueClients + 1} },
		"no time":           func(c *QueueConfig) { c.Duration = 0 },
		"no rounds":         func(c *QueueConfig) { c.Rounds = 0 },
		"very many rounds ": func(c *QueueConfig) { c.Rounds = maxQueueRounds + 1 },
	} {
		c := good
		spoil(&c)
		if err := c.Check(); !starling.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
