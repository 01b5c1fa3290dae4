package cell

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// machines returns n living machines m0000…, sorted by name.
func machines(n int) []starling.Node {
	out := make([]starling.Node, n)
	for i := range out {
		out[i] = starling.Node{
			Name: fmt.Sprintf("m%04d", i), Region: "us", Zone: string(rune('a' + i%3)), Roles: []starling.Role{starling.RoleMachine},
			Tags: map[string]string{"role": "web"}, Addr: fmt.Sprintf("10.0.%d.%d:7471", i/250, i%250), Alive: true,
		}
	}
	return out
}

func goalOf(app string, revision uint64) *starling.Goal {
	return &starling.Goal{
		App: app, Generation: starling.Generation{Epoch: 1, Sequence: 2}, Revision: revision, Deployment: "d1", Artifact: starling.DigestOf([]byte(app)),
		Stage: starling.StageActivate, Cutoff: starling.CutoffAll, Deploy: starling.DeploySpec{Targets: "role == web"},
	}
}

func TestTally(t *testing.T) {
	nodes := machines(7)
	nodes[4].Alive = false
	nodes[5].Tags = map[string]string{"role": "db"}
	ta := NewTally("us")
	ta.SetMembers(nodes)
	ta.SetDraining([]string{"m0006"})
	g := goalOf("web", 3)
	at := time.Unix(100, 0)
	say := func(i int, gen starling.Generation, s starling.MachineState, want Change) {
		t.Helper()
		r := starling.MachineReport{
			Node: fmt.Sprintf("m%04d", i), App: "web", Generation: gen, State: s, ChunksDone: 1, ChunksTotal: 4, FetchMS: int64(1000 * (i + 1)),
			Bytes: starling.Bytes{Peer: 5, WAN: 7}, Kept: []starling.Digest{g.Artifact, starling.DigestOf([]byte("old"))},
		}
		if change, err := ta.Record(r, at); err != nil || change != want {
			t.Fatalf("%s: change %d, %v", r.Node, change, err)
		}
	}
	say(0, g.Generation, starling.MachineHealthy, State)
	say(0, g.Generation, starling.MachineHealthy, Same)
	say(1, g.Generation, starling.MachineFetching, State)
	say(2, g.Generation, starling.MachineFailed, State)
	say(3, starling.Generation{Epoch: 1, Sequence: 3}, starling.MachineHealthy, State) // the next generation
	say(6, g.Generation, starling.MachineHealthy, State)                               // draining
	m, stamp := ta.Count(g, at)
	c := m.Counts
	if c.Target != 4 || c.Staged != 1 || c.Due != 4 || c.Healthy != 1 || c.Failed != 1 || c.Absent != 1 || m.Unheard != 1 || m.Revision != 3 {
		t.Errorf("counts %+v, unheard %d", c, m.Unheard)
	}
	if m.Bytes != (starling.Bytes{Peer: 15}) || m.Held[starling.DigestOf([]byte("old")).String()] != 3 || len(m.Held) != 1 {
		t.Errorf("bytes %+v, held %v", m.Bytes, m.Held)
	}
	if m.Progress[20] != 1 || m.Progress[5] != 2 || m.Fetch.Quantile(0.5) < 900 || len(c.Slowest) != 3 || c.Slowest[0].Node != "m0002" {
		t.Errorf("progress %v, fetch %v, slowest %+v", m.Progress, m.Fetch, c.Slowest)
	}
	if _, again := ta.Count(g, at); again != stamp {
		t.Error("the stamp grew without news")
	}
	// The report on the next generation was not lost.
	next := goalOf("web", 0)
	next.Generation.Sequence++
	if m, after := ta.Count(next, at); m.Counts.Healthy != 1 || m.Unheard != 3 || after == stamp {
		t.Errorf("the next generation: %+v", m)
	}
	if _, err := ta.Record(starling.MachineReport{Node: "stranger", App: "web"}, at); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("a stranger: %v", err)
	}
	if reports, seen := ta.Last("m0000"); len(reports) != 1 || reports[0].App != "web" || !seen.Equal(at) {
		t.Errorf("%+v at %s", reports, seen)
	}
	ta.KeepApps(nil, at.Add(-1))
	if !ta.Knows("web") {
		t.Error("what is new was forgotten")
	}
	ta.KeepApps(nil, at)
	if ta.Apps() != 0 {
		t.Error("an app without a goal is remembered")
	}
}

func TestManyMachinesAreRecountedRarely(t *testing.T) {
	ta := NewTally("us")
	ta.SetMembers(machines(recountMachines))
	g := goalOf("web", 1)
	at := time.Unix(100, 0)
	ta.Count(g, at)
	if _, err := ta.Record(starling.MachineReport{Node: "m0001", App: "web", Generation: g.Generation, State: starling.MachineStaged}, at); err != nil {
		t.Fatal(err)
	}
	if m, _ := ta.Count(g, at.Add(recountAfter-1)); m.Counts.Staged != 0 {
		t.Error("recounted too soon")
	}
	if m, _ := ta.Count(g, at.Add(recountAfter)); m.Counts.Staged != 1 {
		t.Error("not recounted")
	}
}

func TestTallyOfARegionThatIsHeld(t *testing.T) {
	ta := NewTally("us")
	ta.SetMembers(machines(3))
	g := goalOf("web", 3)
	g.Held = []string{"eu", "us"}
	at := time.Unix(100, 0)
	if m, _ := ta.Count(g, at); m.Counts.Target != 3 || m.Counts.Due != 0 {
		t.Errorf("held: %+v", m.Counts)
	}
	next := *g
	next.Revision, next.Held = 4, []string{"eu"}
	if m, _ := ta.Count(&next, at); m.Counts.Due != 3 {
		t.Errorf("let go: %+v", m.Counts)
	}
}
