package control

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Progress is told when it changes, twice a second at most, and once more at the end.
func TestProgressIsToldAtABoundedRate(t *testing.T) {
	b := oneRegion(t, 3)
	term := toStaging(t, b, nil)
	var version uint64
	ask := func() []starling.DeploymentProgress {
		news, next := term.ProgressSince(b.fsm.View(), version, b.clock.Now())
		version = next
		return news
	}
	b.clock.advance(progressEvery)
	first := ask()
	if len(first) != 1 || first[0].Phase != starling.PhaseStaging || first[0].Machines.Target != 3 || len(first[0].Regions) != 1 {
		t.Fatalf("first %+v", first)
	}
	if n := len(term.progress.stages["d1"]); n == 0 {
		t.Error("its stages are not estimated")
	}
	b.report(term, "web", starling.MachineStaged, "m0")
	b.look(term)
	if news := ask(); len(news) != 0 {
		t.Errorf("at once: %+v", news)
	}
	b.clock.advance(progressEvery)
	news := ask()
	if len(news) != 1 || news[0].Machines.Staged != 1 || news[0].Regions[0].Staged != 1 || !news[0].Regions[0].Heard {
		t.Errorf("after half a second: %+v", news)
	}
	if took := news[0].At.Sub(news[0].PhaseAt); news[0].LeftMS != 2*took.Milliseconds() {
		t.Errorf("one of three took %s, %d ms are left", took, news[0].LeftMS)
	}
	b.clock.advance(progressEvery)
	if news := ask(); len(news) != 0 {
		t.Errorf("nothing has changed: %+v", news)
	}
	b.must(raftfsm.TypeFinish, raftfsm.Finish{ID: "d1", Phase: starling.PhaseCancelled, Reason: "cancelled by ann"})
	b.clock.advance(progressEvery)
	if news := ask(); len(news) != 1 || news[0].Phase != starling.PhaseCancelled || news[0].Reason != "cancelled by ann" {
		t.Errorf("the end: %+v", news)
	}
	b.clock.advance(progressEndedFor + progressEvery)
	if ask(); len(term.progress.told)+len(term.progress.stages) != 0 {
		t.Errorf("kept after the end: %+v, %+v", term.progress.told, term.progress.stages)
	}
}

// A server that does not lead hears of progress from those that do, its own region's
// leader and another's.
func TestProgressOfAnotherRegion(t *testing.T) {
	w := newWire()
	us := newBench(t, "us", func(c *Config) {
		c.Regions = map[string][]string{"eu": {"s1.eu:7471"}}
		c.DialControl = w.dialer(identity(node("us", "s1", starling.RoleServer)))
		c.Now = time.Now
	})
	t.Cleanup(us.server.transport.CloseIdleConnections)
	eu := newBench(t, "eu", func(c *Config) { c.Now = time.Now })
	eu.app("web", nil)
	eu.submit("d1", "web", eu.artifact("v1"), "eu")
	eu.elect()
	w.serve(t, "s1.eu:7471", eu.server.RPC())
	us.app("own", nil)
	us.submit("d2", "own", us.artifact("v1"), "us")
	us.elect()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	heard := map[string]starling.Phase{}
	us.server.FollowProgress(ctx, func(news []starling.DeploymentProgress) {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range news {
			heard[p.Deployment+" of "+p.Home] = p.Phase
		}
		if len(heard) == 2 {
			cancel()
		}
	})
	if heard["d1 of eu"] != starling.PhaseQueued || heard["d2 of us"] != starling.PhaseQueued {
		t.Errorf("heard %v", heard)
	}
	res, err := clientOf(eu.server, euServer).Progress(t.Context(), "another term", 99, time.Second)
	if err != nil || len(res.Deployments) != 1 {
		t.Errorf("with a version of another term: %+v, %v", res, err)
	}
	again, err := clientOf(eu.server, euServer).Progress(t.Context(), res.Term, res.Version, progressEvery)
	if err != nil || len(again.Deployments) != 0 || again.Version != res.Version {
		t.Errorf("without news: %+v, %v", again, err)
	}
}
