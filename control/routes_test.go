package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/rpc"
)

var (
	usServer  = node("us", "s9", starling.RoleServer)
	usWorker  = node("us", "w1", starling.RoleWorker)
	usCache   = node("us", "c1", starling.RoleCache)
	usMachine = node("us", "m0", starling.RoleMachine)
	euServer  = node("eu", "s1", starling.RoleServer)
	euMachine = node("eu", "m0", starling.RoleMachine)
	euWorker  = node("eu", "w1", starling.RoleWorker)
)

// call sends a request as a node and returns the status.
func call(s *Server, route, body string, as *starling.Node, header ...string) (int, string) {
	return callCtx(context.Background(), s, route, body, as, header...)
}

func callCtx(ctx context.Context, s *Server, route, body string, as *starling.Node, header ...string) (int, string) {
	method, path, _ := strings.Cut(route, " ")
	req := httptest.NewRequest(method, strings.Replace(path, "{id}", "d1", 1), strings.NewReader(body))
	if as != nil {
		ctx = starling.WithIdentity(ctx, identity(*as))
	}
	req = req.WithContext(ctx)
	for _, h := range header {
		req.Header.Add(rpc.HeaderPeer, h)
	}
	rec := httptest.NewRecorder()
	s.RPC().ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

func TestWhoMayCallWhat(t *testing.T) {
	b := oneRegion(t, 1)
	b.app("web", nil)
	b.elect()
	everybody := []*starling.Node{nil, &usServer, &usWorker, &usCache, &usMachine, &euServer, &euMachine, &euWorker}
	tests := []struct {
		route, body string
		may         []*starling.Node
	}{
		{rpc.RouteStatus, "", everybody[1:]},
		{rpc.RouteGoals, "", []*starling.Node{&usMachine}},
		{rpc.RouteMachineReports, "[]", []*starling.Node{&usMachine}},
		{rpc.RouteWants, "", []*starling.Node{&usCache}},
		{rpc.RouteCacheReport, `{"name":"c1"}`, []*starling.Node{&usCache}},
		{rpc.RouteLease, "{}", []*starling.Node{&usWorker}},
		{rpc.RouteHeartbeat, "{}", []*starling.Node{&usWorker}},
		{rpc.RouteJobLog, "{}", []*starling.Node{&usWorker}},
		{rpc.RouteComplete, "{}", []*starling.Node{&usWorker}},
		{rpc.RouteFail, "{}", []*starling.Node{&usWorker}},
		{rpc.RouteHookLease, "{}", []*starling.Node{&usWorker}},
		{rpc.RouteHookGrant, `{"worker":"w9"}`, []*starling.Node{&usServer, &euServer}},
		{rpc.RouteHookHeartbeat, "{}", []*starling.Node{&usWorker, &euServer}},
		{rpc.RouteHookLog, "{}", []*starling.Node{&usWorker, &euServer}},
		{rpc.RouteHookEnd, "{}", []*starling.Node{&usWorker, &euServer}},
		{rpc.RoutePush, "{}", []*starling.Node{&usServer, &euServer}},
		{rpc.RouteMirror, "", []*starling.Node{&usServer, &euServer}},
		{rpc.RouteAccount + "?machine=m0", "", []*starling.Node{&usServer, &euServer}},
		{rpc.RouteRegionReports, "[]", []*starling.Node{&usServer, &euServer}},
		{rpc.RouteProgress, "", []*starling.Node{&usServer, &euServer}},
	}
	for _, tt := range tests {
		for _, who := range everybody {
			may := false
			for _, m := range tt.may {
				may = may || m == who
			}
			code, body := call(b.server, tt.route, tt.body, who)
			if got := code != http.StatusForbidden; got != may {
				t.Errorf("%s as %+v: status %d (%s), may call: %t", tt.route, who, code, body, may)
			}
		}
	}
}

func TestNobodySpeaksForOthers(t *testing.T) {
	b := oneRegion(t, 2)
	b.app("web", nil)
	b.submit("d1", "web", starling.Digest{})
	b.elect()
	w1 := clientOf(b.server, usWorker)
	job, err := w1.Lease(t.Context(), rpc.LeaseRequest{})
	if err != nil || job == nil {
		t.Fatal(job, err)
	}
	other := node("us", "w10", starling.RoleWorker)
	peer := func(n starling.Node, cluster string) string {
		id := identity(n)
		id.Cluster = cluster
		j, _ := json.Marshal(id)
		return string(j)
	}
	lease, _ := json.Marshal(rpc.HeartbeatRequest{Lease: job.Lease})
	tests := []struct {
		name, route, body string
		as                starling.Node
		header            []string
		status            int
	}{
		{"a machine for another", rpc.RouteMachineReports, `[{"node":"m1"}]`, usMachine, nil, 403},
		{"a cache for another", rpc.RouteCacheReport, `{"name":"c2"}`, usCache, nil, 403},
		{"a region for another", rpc.RouteRegionReports, `[{"region":"us"}]`, euServer, nil, 403},
		{"a worker with another's lease", rpc.RouteHeartbeat, string(lease), other, nil, 403},
		{"the worker itself", rpc.RouteHeartbeat, string(lease), usWorker, nil, 204},
		{"a worker that claims to pass on", rpc.RouteHeartbeat, string(lease), other, []string{peer(usWorker, "test")}, 403},
		{"a foreign server that claims to pass on", rpc.RouteHeartbeat, string(lease), euServer, []string{peer(usWorker, "test")}, 403},
		{"a server that passes on", rpc.RouteHeartbeat, string(lease), usServer, []string{peer(usWorker, "test")}, 204},
		{"a server with another cluster's peer", rpc.RouteHeartbeat, string(lease), usServer, []string{peer(usWorker, "evil")}, 400},
		{"a server with two peers", rpc.RouteHeartbeat, string(lease), usServer, []string{peer(usWorker, "test"), peer(usWorker, "test")}, 400},
		{"a server with nonsense", rpc.RouteHeartbeat, string(lease), usServer, []string{"{"}, 400},
		{"a server with a long peer", rpc.RouteHeartbeat, string(lease), usServer, []string{strings.Repeat(" ", maxPeerHeaderBytes) + peer(usWorker, "test")}, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if code, body := call(b.server, tt.route, tt.body, &tt.as, tt.header...); code != tt.status {
				t.Errorf("status %d (%s), want %d", code, body, tt.status)
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	b := oneRegion(t, 1)
	b.elect()
	long := `[` + strings.Repeat(`{"node":"m0"},`, rpc.MaxReports) + `{"node":"m0"}]`
	log, _ := json.Marshal(rpc.LogRequest{Data: make([]byte, rpc.MaxLogPostBytes+1)})
	for _, tt := range []struct {
		route, body string
		as          starling.Node
	}{
		{rpc.RouteLease, "{", usWorker},
		{rpc.RouteLease, `{"slot":-1}`, usWorker},
		{rpc.RouteLease, strings.Repeat(" ", rpc.MaxBodyBytes+1), usWorker},
		{rpc.RouteMachineReports, long, usMachine},
		{rpc.RouteJobLog, string(log), usWorker},
		{rpc.RouteRegionReports, `[{"region":"eu","counts":{"failed":-1}}]`, euServer},
		{strings.Replace(rpc.RouteGoals, "goals", "goals?index=x", 1), "", usMachine},
		{strings.Replace(rpc.RouteWants, "wants", "wants?wait=1y", 1), "", usCache},
	} {
		if code, body := call(b.server, tt.route, tt.body, &tt.as); code != http.StatusBadRequest {
			t.Errorf("%s %.40s: status %d (%.100s), want 400", tt.route, tt.body, code, body)
		}
	}
}

func TestJobProtocol(t *testing.T) {
	b := oneRegion(t, 0)
	b.app("web", nil)
	b.submit("d1", "web", starling.Digest{})
	b.elect()
	ctx := t.Context()
	w1 := clientOf(b.server, usWorker)
	job, err := w1.Lease(ctx, rpc.LeaseRequest{})
	if err != nil || job == nil || job.Deployment != "d1" || job.Lease == 0 || job.BuildKey == "" {
		t.Fatalf("job %+v, %v", job, err)
	}
	writes := b.raft.written(raftfsm.TypeJobLease)
	if again, err := w1.Lease(ctx, rpc.LeaseRequest{Slot: 1, Holding: []string{"d1"}}); err != nil || again != nil {
		t.Fatalf("a second job: %+v, %v", again, err)
	}
	if n := b.raft.written(raftfsm.TypeJobLease); n != writes {
		t.Error("an idle question cost a log entry")
	}

	// The log: what is new is taken, gaps are asked for, repeats are dropped.
	next, err := w1.JobLog(ctx, "d1", rpc.LogRequest{Lease: job.Lease, Data: []byte("hello ")})
	if err != nil || next != 6 {
		t.Fatal(next, err)
	}
	if next, err = w1.JobLog(ctx, "d1", rpc.LogRequest{Lease: job.Lease, Offset: 10, Data: []byte("gap")}); err != nil || next != 6 {
		t.Fatal(next, err)
	}
	if next, err = w1.JobLog(ctx, "d1", rpc.LogRequest{Lease: job.Lease, Offset: 3, Data: []byte("lo world")}); err != nil || next != 11 {
		t.Fatal(next, err)
	}
	part, err := b.server.BuildLog(ctx, "d1", 0)
	if err != nil || string(part.Data) != "hello world" || part.Next != 11 || part.Done {
		t.Fatalf("log %+v, %v", part, err)
	}

	// A worker that forgot its job gets it again, under a new lease.
	again, err := w1.Lease(ctx, rpc.LeaseRequest{})
	if err != nil || again == nil || again.Lease == job.Lease || again.Attempt != 2 {
		t.Fatalf("after a restart: %+v, %v", again, err)
	}
	if err := w1.Heartbeat(ctx, "d1", rpc.HeartbeatRequest{Lease: job.Lease}); !errors.Is(err, starling.ErrFenced) {
		t.Errorf("heartbeat with the old lease: %v", err)
	}
	if next, err = w1.JobLog(ctx, "d1", rpc.LogRequest{Lease: again.Lease, Data: []byte("second")}); err != nil || next != 6 {
		t.Fatal(next, err)
	}
	full := "hello world\n--- attempt 2 ---\nsecond"
	if part, err = b.server.BuildLog(ctx, "d1", 0); err != nil || string(part.Data) != full {
		t.Fatalf("log %q, %v", part.Data, err)
	}

	// Completing twice is one completion; with the old lease it is none.
	art := starling.Artifact{Digest: starling.DigestOf([]byte("out")), Bytes: 5, Files: 1, Chunks: 1, Region: "mars"}
	if err := w1.Complete(ctx, "d1", rpc.CompleteRequest{Lease: job.Lease, Artifact: art}); !errors.Is(err, starling.ErrFenced) {
		t.Errorf("completing with the old lease: %v", err)
	}
	logData := []byte("second, from the caches")
	_ = b.blobs.Put(ctx, starling.DigestOf(logData), logData)
	complete := func() error {
		return w1.Complete(ctx, "d1", rpc.CompleteRequest{Lease: again.Lease, Artifact: art, Log: starling.DigestOf(logData)})
	}

	// Nor does a result count whose manifest the caches do not have.
	if err := complete(); !starling.IsInvalid(err) {
		t.Errorf("completing without a manifest: %v", err)
	}
	b.blobs.built("out")
	b.blobs.away = errors.New("no cache answers")
	if err := complete(); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("completing while the caches are away: %v", err)
	}
	wantPhase(t, b.deployment("d1"), starling.PhaseBuilding)
	b.blobs.away = nil
	for range 2 {
		if err := complete(); err != nil {
			t.Fatal(err)
		}
		b.blobs.away = errors.New("a retry needs no cache")
	}
	b.blobs.away = nil
	wantPhase(t, b.deployment("d1"), starling.PhaseReplicating)
	if a, ok := b.server.Artifact(art.Digest); !ok || a.Region != "us" || a.App != "web" {
		t.Errorf("artifact %+v", a)
	}
	if part, err = b.server.BuildLog(ctx, "d1", 0); err != nil || string(part.Data) != full || !part.Done {
		t.Fatalf("log at the end %+v, %v", part, err)
	}
	b.elect() // the next leader has no memory of it
	if part, err = b.server.BuildLog(ctx, "d1", 8); err != nil || string(part.Data) != string(logData[8:]) || !part.Done {
		t.Fatalf("log from the caches %+v, %v", part, err)
	}
}

func TestCancelFencesTheWorker(t *testing.T) {
	b := oneRegion(t, 0)
	b.app("web", nil)
	b.submit("d1", "web", starling.Digest{})
	b.elect()
	w1 := clientOf(b.server, usWorker)
	job, err := w1.Lease(t.Context(), rpc.LeaseRequest{})
	if err != nil || job == nil {
		t.Fatal(job, err)
	}
	d, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionCancel, starling.ActionOptions{})
	if err != nil || d.Phase != starling.PhaseCancelled || d.Reason != "cancelled by ann" {
		t.Fatal(d, err)
	}
	if err := w1.Heartbeat(t.Context(), "d1", rpc.HeartbeatRequest{Lease: job.Lease}); !errors.Is(err, starling.ErrFenced) {
		t.Errorf("heartbeat: %v", err)
	}
	if err := w1.Fail(t.Context(), "d1", rpc.FailRequest{Lease: job.Lease}); !errors.Is(err, starling.ErrFenced) {
		t.Errorf("fail: %v", err)
	}
	if part, err := b.server.BuildLog(t.Context(), "d1", 0); err != nil || !part.Done {
		t.Errorf("log of a cancelled build: %+v, %v", part, err)
	}
}

func TestOneJobGoesToOneOfManyWaiting(t *testing.T) {
	b := oneRegion(t, 0)
	b.app("web", nil)
	b.elect()
	const workers = 20
	got := make(chan *rpc.Job, workers)
	for i := range workers {
		go func() {
			job, err := clientOf(b.server, usWorker).Lease(t.Context(), rpc.LeaseRequest{Slot: i, WaitMS: 300})
			if err != nil {
				t.Error(err)
			}
			got <- job
		}()
	}
	b.submit("d1", "web", starling.Digest{})
	jobs := 0
	for range workers {
		if j := <-got; j != nil {
			jobs++
		}
	}
	if n := b.raft.written(raftfsm.TypeJobLease); jobs != 1 || n != 1 {
		t.Errorf("%d jobs, %d log entries; want one of each", jobs, n)
	}
}

func TestLogBounds(t *testing.T) {
	b := newLogBoard()
	at := time.Unix(0, 0)
	piece := bytes.Repeat([]byte("x"), rpc.MaxLogPostBytes)
	next := int64(0)
	for range 2 * maxLogBytesPerJob / rpc.MaxLogPostBytes {
		next = b.append("d1", "build.1", 1, next, piece, at)
	}
	first := b.logs["d1"].section("build.1")
	if next != 2*maxLogBytesPerJob || len(first.data) != starling.MaxLogSectionBytes || first.whole() {
		t.Errorf("took %d bytes, kept %d", next, len(first.data))
	}
	for i := range 2 * starling.MaxLogSections {
		b.append("d1", fmt.Sprintf("hook.%d", i), 1, 0, piece, at)
	}
	kept := 0
	for _, s := range b.logs["d1"].sections {
		kept += len(s.data)
	}
	if len(b.logs["d1"].sections) != starling.MaxLogSections || kept != maxLogBytesPerJob {
		t.Errorf("%d sections, %d bytes in all", len(b.logs["d1"].sections), kept)
	}
	for i := range maxLogJobs + 10 {
		b.append(strings.Repeat("a", i+1), "build.1", 1, 0, []byte("x"), at.Add(time.Duration(i+1)*time.Second))
	}
	if len(b.logs) != maxLogJobs {
		t.Errorf("%d logs, want %d", len(b.logs), maxLogJobs)
	}
	if _, ok := b.logs["d1"]; ok {
		t.Error("the oldest log is still there")
	}
}

func TestGoalsReachMachinesAtOnceAndOnlyThen(t *testing.T) {
	b := oneRegion(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.server.feedGoals(ctx) }()
	defer func() { cancel(); <-done }()
	m := clientOf(b.server, usMachine)
	if g, err := m.Goals(ctx, 0, "", 0); err != nil || len(g.Goals) != 0 {
		t.Fatal(g, err)
	}
	art := b.artifact("v1")
	b.app("web", nil)
	b.submit("d1", "web", art)
	before := b.fsm.View().Index()
	b.must(raftfsm.TypeStart, raftfsm.Start{ID: "d1"})
	g, err := m.Goals(ctx, before, "s1/1", 10*time.Second)
	if err != nil || len(g.Goals) != 1 || g.Goals[0].Artifact != art || g.Index <= before {
		t.Fatalf("goals %+v, %v", g, err)
	}
	b.app("other", nil) // no goal changes
	if again, err := m.Goals(ctx, g.Index, g.Reign, 50*time.Millisecond); err != nil || again.Index != g.Index {
		t.Errorf("an unrelated change woke the machine: %+v, %v", again, err)
	}
}

// A follower tells its machines, too, that there is another leader, which knows nothing of them.
func TestMachinesHearOfANewLeader(t *testing.T) {
	b := oneRegion(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.server.feedGoals(ctx) }()
	defer func() { cancel(); <-done }()
	m := clientOf(b.server, usMachine)
	g, err := m.Goals(ctx, 0, "", 10*time.Second)
	if err != nil || g.Reign == "" {
		t.Fatal(g, err)
	}
	b.raft.follow(false, raftnode.Peer{}) // an election
	time.AfterFunc(50*time.Millisecond, func() { b.raft.follow(false, raftnode.Peer{Name: "s2", Addr: "s2:1"}) })
	next, err := m.Goals(ctx, g.Index, g.Reign, 10*time.Second)
	if err != nil || next.Reign != "s2/3" || next.Index != g.Index {
		t.Errorf("after %+v: %+v, %v", g, next, err)
	}
}

func TestFollowersPassOn(t *testing.T) {
	w := newWire()
	leader := oneRegion(t, 0)
	leader.app("web", nil)
	leader.submit("d1", "web", starling.Digest{})
	leader.elect()
	w.serve(t, leader.raft.addr, leader.server.RPC())

	self := node("us", "s2", starling.RoleServer)
	follower := newBench(t, "us", func(c *Config) {
		c.Name = self.Name
		c.DialControl = w.dialer(identity(self))
	}, self)
	follower.raft.name = self.Name
	follower.raft.follow(false, raftnode.Peer{Name: "s1", Addr: leader.raft.addr})
	defer follower.server.transport.CloseIdleConnections()

	w1 := clientOf(follower.server, usWorker)
	job, err := w1.Lease(t.Context(), rpc.LeaseRequest{})
	if err != nil || job == nil || job.Deployment != "d1" {
		t.Fatalf("job %+v, %v", job, err)
	}
	if err := w1.Heartbeat(t.Context(), "d1", rpc.HeartbeatRequest{Lease: job.Lease}); err != nil {
		t.Fatal(err)
	}
	if err := clientOf(follower.server, node("us", "w2", starling.RoleWorker)).Heartbeat(t.Context(), "d1", rpc.HeartbeatRequest{Lease: job.Lease}); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("another worker through the follower: %v", err)
	}
	st, err := w1.Status(t.Context())
	if err != nil || st.Name != "s2" || st.IsLeader || st.Leader != leader.raft.addr {
		t.Errorf("status %+v, %v", st, err)
	}

	// Two followers that take each other for the leader must not pass on in circles.
	leader.server.setTerm(nil)
	leader.raft.follow(false, raftnode.Peer{Name: "s2", Addr: "nowhere"})
	err = w1.Heartbeat(t.Context(), "d1", rpc.HeartbeatRequest{Lease: job.Lease})
	if !errors.Is(err, starling.ErrNotLeader) {
		t.Errorf("without a leader: %v", err)
	}
	w.cut(leader.raft.addr)
	if err = w1.Heartbeat(t.Context(), "d1", rpc.HeartbeatRequest{Lease: job.Lease}); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("with the leader cut off: %v", err)
	}
}

// No bytes from a peer may bring a server down or make it answer "internal".
func FuzzRoutes(f *testing.F) {
	b := oneRegion(f, 1)
	b.app("web", nil)
	b.submit("d1", "web", starling.Digest{})
	term := b.elect()
	b.look(term)
	routes := []struct {
		route string
		as    starling.Node
	}{
		{rpc.RouteLease, usWorker}, {rpc.RouteHeartbeat, usWorker}, {rpc.RouteJobLog, usWorker},
		{rpc.RouteComplete, usWorker}, {rpc.RouteFail, usWorker}, {rpc.RouteMachineReports, usMachine},
		{rpc.RouteCacheReport, usCache}, {rpc.RouteRegionReports, euServer}, {rpc.RouteHeartbeat, usServer},
	}
	f.Add(0, []byte(`{"slot":1}`), "")
	f.Add(2, []byte(`{"lease":3,"offset":-1,"data":"aGk="}`), "")
	f.Add(3, []byte(`{"lease":3,"artifact":{"digest":"sha256:00"}}`), "")
	f.Add(5, []byte(`[{"node":"m0","app":"web","state":"healthy"}]`), "")
	f.Add(6, []byte(`{"name":"c1","holds":[{"chunks_done":-5,"caches":["c1"]}]}`), "")
	f.Add(7, []byte(`[{"region":"eu","app":"web","counts":{"samples":[{"reason":"x"}]}}]`), "")
	f.Add(8, []byte(`{}`), `{"Cluster":"test","Region":"us","Name":"w1","Roles":["worker"]}`)
	hurry, cancel := context.WithCancel(context.Background())
	cancel() // no long poll waits
	f.Fuzz(func(t *testing.T, which int, body []byte, peer string) {
		r := routes[((which%len(routes))+len(routes))%len(routes)]
		var header []string
		if peer != "" {
			header = append(header, peer)
		}
		if code, text := callCtx(hurry, b.server, r.route, string(body), &r.as, header...); code >= 500 && code != http.StatusServiceUnavailable {
			t.Errorf("%s: status %d: %s", r.route, code, text)
		}
		if err := term.proposeAll(t.Context(), term.Decide(b.fsm.View(), term.now())); err != nil {
			t.Fatal(err)
		}
	})
}
