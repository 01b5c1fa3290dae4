package cell

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

func TestGoalsComeDownAndReportsGoUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		const n = 120
		all := w.add("c1", n)
		w.await(5*time.Second, "the first goals", func() bool { return knows(all, 10) })
		g := goalOf("web", 1)
		w.tell(11, "s1/1", g)
		took := w.await(2*time.Second, "a goal to the last machine", func() bool { return knows(all, 11) })
		t.Logf("told within %s", took)
		time.Sleep(5 * time.Second)
		w.mu.Lock()
		w.count.reports, w.count.cells = 0, 0
		w.mu.Unlock()
		say(g, starling.MachineHealthy, all...)
		took = w.await(2*time.Second, "all reports at the leader", func() bool {
			sum, alive := w.picture("web")
			return sum.Counts.Healthy == n && sum.Counts.Target == n && sum.Unheard == 0 && alive == n
		})
		t.Logf("reported within %s", took)
		w.mu.Lock()
		if w.count.reports > n || w.count.cells > 20 {
			t.Errorf("%d posts of members and %d of cells for %d machines", w.count.reports, w.count.cells, n)
		}
		w.mu.Unlock()
	})
}

func TestCellOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		all := w.add("c1", 1)
		g := goalOf("web", 1)
		w.tell(11, "s1/1", g)
		w.await(2*time.Second, "the goal", func() bool { return knows(all, 11) })
		say(g, starling.MachineHealthy, all...)
		w.await(3*time.Second, "the report", func() bool {
			sum, alive := w.picture("web")
			return sum.Counts.Healthy == 1 && alive == 1
		})
		goals, err := all[0].Goals(t.Context(), 0, "", time.Second)
		if err != nil || goals.Index != 11 || len(goals.Goals) != 1 || goals.Reign != "" {
			t.Errorf("goals %+v, %v", goals, err)
		}
		w.mu.Lock()
		asks := w.count.asks
		w.mu.Unlock()
		if asks != 0 {
			t.Errorf("asked itself %d times", asks)
		}
		_ = rpc.CellRelays
	})
}
