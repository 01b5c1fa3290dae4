package agent

import (
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// A hotfix that comes in the middle of a bulky fetch is complete long before it, on a
// machine that fetches both from the cache and on one that has both from the first.
func TestHotfixOvertakesBulk(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	const perSecond, bulkBytes, hotfixBytes = 16 << 20, 64 << 20, 8 << 20
	capped := func(c *Config) { c.DownloadBytesPerSecond = perSecond }
	machines := []*machine{r.machine("m1", capped), r.machine("m2", capped)}
	bulk := goal(1, r.push(map[string][]byte{"big": noise(61, bulkBytes)}))
	hotfix := goal(1, r.push(map[string][]byte{"small": noise(62, hotfixBytes)}), func(g *starling.Goal) {
		g.App, g.Deployment, g.Priority = "urgent", "d2", starling.MaxPriority
	})
	chunks := chunksOf(t, r, bulk.Artifact)
	r.leader.setGoal(bulk)
	eventually(t, 20*time.Second, "the bulk is under way", func() bool {
		return machines[0].report().ChunksDone > 4 && machines[1].report().ChunksDone > 4
	})
	began := time.Now()
	r.leader.setGoal(hotfix)
	for _, m := range machines {
		eventually(t, 30*time.Second, "the hotfix is there", func() bool {
			return r.leader.report(m.node.Name, "urgent").State == starling.MachineHealthy
		})
		took := time.Since(began)
		if rep := m.report(); rep.State == starling.MachineHealthy || rep.ChunksDone > chunks*3/4 {
			t.Errorf("%s: the hotfix was there after %s, when the bulk had %d of %d chunks", m.node.Name, took, rep.ChunksDone, chunks)
		} else {
			t.Logf("%s: the hotfix was there after %s, when the bulk had %d of %d chunks", m.node.Name, took, rep.ChunksDone, chunks)
		}
		if u, known := m.agent.catalog.urgency(hotfix.Artifact); u.Priority != starling.MaxPriority || !known {
			t.Errorf("%s serves the hotfix with priority %d, %v", m.node.Name, u.Priority, known)
		}
	}
	for _, m := range machines {
		m.await(1, starling.MachineHealthy)
	}
}
