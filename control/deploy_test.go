package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

func TestTwoRegionsDeployFailOverAndRevert(t *testing.T) {
	w := newWorld(t, map[string]int{"us": 3, "eu": 1})
	us, eu := w.regions["us"], w.regions["eu"]
	w.eventually("leaders", func() bool { return us.leader() != nil && eu.leader() != nil })
	w.join(node("us", "w1", starling.RoleWorker), w.worker)
	for _, region := range []string{"us", "eu"} {
		w.join(node(region, "c1", starling.RoleCache), w.cacheActor())
		for i := range 3 {
			w.join(node(region, fmt.Sprintf("m%d", i), starling.RoleMachine), w.machineActor())
		}
	}
	app := starling.App{Name: "web", Source: starling.SourceSpec{Git: "https://git.example/web"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	app.Deploy.Strategy = starling.Strategy{Waves: []string{"40%", "100%"}, AutoRevert: true}
	app.SetDefaults()
	w.home(func(s *Server) error { _, err := s.ApplyApp(w.ctx, "ann", app, nil); return err })

	sha := func(c string) string { return strings.Repeat(c, 40) }
	v1 := w.submit(starling.Submission{App: "web", SHA: sha("1")})
	d := w.await(v1, starling.PhaseSucceeded)
	if n := d.Machines; n.Target != 6 || n.Healthy != 6 || n.Failed != 0 {
		t.Errorf("machines %+v", n)
	}
	if d.Bytes.WAN != 100 || d.Bytes.Peer != 6*90 || d.Bytes.CacheOut != 6*10 || d.Bytes.New != 100 {
		t.Errorf("bytes %+v", d.Bytes)
	}
	t.Logf("timings %+v", d.Timings)
	if len(d.Regions) != 2 || !d.Regions[0].Placed || !d.Regions[1].Placed || d.Timings.TotalMS == 0 {
		t.Errorf("regions %+v, timings %+v", d.Regions, d.Timings)
	}
	w.home(func(s *Server) error {
		part, err := s.BuildLog(w.ctx, v1, 0)
		if err == nil && (string(part.Data) != "building "+sha("1")+"\n" || !part.Done) {
			t.Errorf("log %+v", part)
		}
		return err
	})
	w.eventually("the end is mirrored", func() bool {
		d, ok := w.led(eu).Deployment(v1)
		return ok && d.Phase == starling.PhaseSucceeded
	})
	w.checkRoutes(v1)

	// The leader dies while machines are staging; another one brings it to its end.
	w.hold.Store(true)
	v2 := w.submit(starling.Submission{App: "web", SHA: sha("2")})
	w.await(v2, starling.PhaseStaging)
	dead := w.led(us)
	dead.stop()
	us.members.alive(dead.node.Name, false)
	w.hold.Store(false)
	d = w.await(v2, starling.PhaseSucceeded)
	if n := d.Machines; n.Target != 6 || n.Healthy != 6 {
		t.Errorf("machines after the failover %+v", n)
	}

	// A release that fails is reverted everywhere, under a newer generation.
	w.failing.Store(true)
	v3 := w.submit(starling.Submission{App: "web", SHA: sha("3")})
	bad := w.await(v3, starling.PhaseFailed)
	if !strings.Contains(bad.Reason, "health check: connection refused") || bad.RevertedTo != d.Artifact {
		t.Errorf("failure: %q, reverted to %s", bad.Reason, bad.RevertedTo)
	}
	w.failing.Store(false)
	w.eventually("the revert reaches eu", func() bool {
		g, ok := w.led(eu).cfg.FSM.View().Goal("web")
		return ok && g.Artifact == d.Artifact && g.Generation.Compare(bad.Generation) > 0
	})

	// Back to v1: no bytes cross between regions.
	var back string
	w.home(func(s *Server) error {
		d, _, err := s.Rollback(w.ctx, "ann", "web", 0, "", starling.Origin{})
		if err == nil {
			back = d.ID
		}
		return err
	})
	d = w.await(back, starling.PhaseSucceeded)
	if d.Artifact != starling.DigestOf([]byte(sha("1"))) || d.Bytes.WAN != 0 {
		t.Errorf("rolled back to %s, %d bytes between regions", d.Artifact, d.Bytes.WAN)
	}
}

// checkRoutes asks every server where requests belong and goes there. The lead may
// change meanwhile: then the next answer counts.
func (w *world) checkRoutes(id string) {
	w.t.Helper()
	leads := func(s *worldServer, app, deployment string) bool {
		rt, err := s.Route(w.ctx, app, deployment)
		if err != nil {
			return false
		}
		if rt == nil {
			t, _ := s.leading()
			return t != nil && s.node.Region == "us"
		}
		st, err := (&rpc.Client{HTTP: &http.Client{Transport: rt}}).Status(w.ctx)
		return err == nil && st.Region == "us" && st.IsLeader
	}
	for _, r := range w.regions {
		for _, s := range r.servers {
			name := r.name + "/" + s.node.Name
			w.eventually(name+" finds the app's leader", func() bool { return leads(s, "web", "") })
			w.eventually(name+" finds the deployment's leader", func() bool { return leads(s, "", id) })
		}
	}
	if _, err := w.led(w.regions["eu"]).Route(w.ctx, "nope", ""); !errors.Is(err, starling.ErrNotFound) {
		w.t.Errorf("route of an unknown app: %v", err)
	}
	w.eventually("us knows eu", func() bool {
		st := w.led(w.regions["us"]).RegionStatuses()
		return len(st) == 2 && st[1].Name == "eu" && st[1].Seen && st[1].Caches == 1 && st[1].Leader == "s0"
	})
}

// A leader that hangs holds its region's requests, and other regions' polls: they leave
// it after a few seconds, however long its connections live.
func TestAHangingHomeLeaderDelaysOthersBriefly(t *testing.T) {
	w := newWorld(t, map[string]int{"us": 3, "eu": 1})
	us, eu := w.regions["us"], w.regions["eu"]
	w.eventually("leaders", func() bool { return us.leader() != nil && eu.leader() != nil })
	app := starling.App{Name: "web"}
	app.SetDefaults()
	w.home(func(s *Server) error { _, err := s.ApplyApp(w.ctx, "ann", app, nil); return err })
	hung := w.led(us)
	watcher := w.led(eu)
	for _, s := range us.servers { // so that eu polls the leader
		if s != hung {
			watcher.suspects.add(s.node.Addr, time.Now())
		}
	}
	mirrored := func(revision uint64) func() bool {
		return func() bool {
			a, ok := watcher.App("web")
			return ok && a.Revision >= revision
		}
	}
	w.eventually("the app is mirrored", mirrored(1))
	if st := watcher.RegionStatuses(); st[1].Name != "us" || !st[1].Seen {
		t.Errorf("eu sees %+v", st)
	}
	rt, err := watcher.Route(w.ctx, "web", "")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	hung.hang()
	us.members.alive(hung.node.Name, false)
	w.eventually("another leader", func() bool { l := us.leader(); return l != nil && l != hung })
	st, err := (&rpc.Client{HTTP: &http.Client{Transport: rt}}).Status(w.ctx)
	if err != nil || !st.IsLeader {
		t.Errorf("a request on its way: %+v, %v", st, err)
	}
	t.Logf("a request reached the next leader after %s", time.Since(began))
	app.Deploy.Targets = "role == web"
	var revision uint64
	w.home(func(s *Server) error {
		a, err := s.ApplyApp(w.ctx, "ann", app, nil)
		if err == nil {
			revision = a.Revision
		}
		return err
	})
	w.eventually("the change is mirrored", mirrored(revision))
	took := time.Since(began)
	t.Logf("mirrored after %s", took)
	if took > 3*silentWithin { // QUIC would have taken ten seconds, and then some
		t.Errorf("the mirror hung for %s", took)
	}
	if !watcher.suspects.has(hung.node.Addr, time.Now()) {
		t.Error("the hanging leader is not suspected")
	}
}

// What one entry has changed crosses between regions in one command, although it
// is larger than an entry.
func TestALargeMirrorBatchIsCommitted(t *testing.T) {
	w := newWorld(t, map[string]int{"us": 1, "eu": 1})
	us, eu := w.regions["us"], w.regions["eu"]
	w.eventually("leaders", func() bool { return us.leader() != nil && eu.leader() != nil })
	app := starling.App{Name: "web", Build: &starling.BuildSpec{Command: []string{strings.Repeat("x", raftfsm.MaxAppBytes-3000)}}}
	app.Source.Git = "https://git.example/web"
	app.SetDefaults()
	w.home(func(s *Server) error { _, err := s.ApplyApp(w.ctx, "ann", app, nil); return err })
	var cmds []raftfsm.Command
	for i := range 96 { // each makes a copy of the app
		cmd, err := raftfsm.NewCommand(raftfsm.TypeSubmit, time.Now(), "ann", raftfsm.Submit{ID: fmt.Sprintf("d%d", i), App: "web", SHA: strings.Repeat("a", 40)})
		if err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	w.home(func(s *Server) error { _, err := s.commit(w.ctx, cmds...); return err })
	b, err := json.Marshal(w.led(us).cfg.FSM.View().ChangedSince("us", 0))
	if err != nil || len(b) < raftfsm.MaxEntryBytes {
		t.Fatalf("a batch of %d bytes shows nothing, %v", len(b), err)
	}
	w.eventually("all are mirrored", func() bool {
		return len(w.led(eu).Deployments(starling.DeploymentFilter{Limit: len(cmds)})) == len(cmds)
	})
}
