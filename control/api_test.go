package control

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

func TestSubmit(t *testing.T) {
	b := newBench(t, "us", func(c *Config) { c.Regions = map[string][]string{"eu": {"eu1:7471"}, "us": {"self:1"}} })
	b.app("web", nil)
	b.app("prebuilt", func(a *starling.App) { a.Build = nil })
	art := b.artifact("v1")
	b.elect()
	ctx := t.Context()
	sha := strings.Repeat("ab", 20)
	d, created, err := b.server.Submit(ctx, "ann", starling.Submission{App: "web", SHA: sha, IdempotencyKey: "k"})
	if err != nil || !created || d.Actor != "ann" || !strings.HasPrefix(d.ID, "d-") || len(d.ID) != 14 {
		t.Fatalf("%+v, %t, %v", d, created, err)
	}
	if len(d.Regions) != 2 || d.Regions[0].Name != "eu" || d.Regions[1].Name != "us" {
		t.Errorf("regions %+v", d.Regions)
	}
	again, created, err := b.server.Submit(ctx, "ann", starling.Submission{App: "web", SHA: sha, IdempotencyKey: "k"})
	if err != nil || created || again.ID != d.ID {
		t.Errorf("a retry: %+v, %t, %v", again, created, err)
	}
	for _, bad := range []starling.Submission{
		{App: "web"}, {App: "web", SHA: "main"}, {App: "web", SHA: sha, Artifact: art}, {App: "prebuilt", SHA: sha},
		{App: "WEB", SHA: sha}, {App: "web", SHA: sha, Priority: 101}, {App: "web", SHA: sha, IdempotencyKey: strings.Repeat("k", 129)},
	} {
		if _, _, err := b.server.Submit(ctx, "ann", bad); !starling.IsInvalid(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, _, err := b.server.Submit(ctx, "ann", starling.Submission{App: "nope", SHA: sha}); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("unknown app: %v", err)
	}
	if _, _, err := b.server.Rollback(ctx, "ann", "web", 0, "", starling.Origin{}); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("rollback without a release: %v", err)
	}
}

func TestSubmitWaitsForTheArtifactOfAnotherRegion(t *testing.T) {
	b := newBench(t, "us", nil)
	b.app("web", nil)
	b.elect()
	art := starling.DigestOf([]byte("pushed in eu"))
	go func() {
		time.Sleep(20 * time.Millisecond) // any time within artifactWait will do
		cmd, _ := raftfsm.NewCommand(raftfsm.TypeMirror, b.clock.Now(), "", raftfsm.Mirror{Batch: starling.Mirror{
			Home: "eu", Index: 5, Artifacts: []*starling.Artifact{{Digest: art, Region: "eu", CreatedAt: b.clock.Now()}},
		}})
		_, _ = b.raft.Propose(context.Background(), cmd)
	}()
	d, _, err := b.server.Submit(t.Context(), "ann", starling.Submission{App: "web", Artifact: art})
	if err != nil || d.Artifact != art {
		t.Fatal(d, err)
	}
}

func TestSubmitWaitsForALeader(t *testing.T) {
	b := newBench(t, "us", nil)
	b.app("web", nil)
	b.raft.lead(false)
	got := make(chan error, 1)
	go func() {
		_, _, err := b.server.Submit(context.Background(), "ann", starling.Submission{App: "web", SHA: strings.Repeat("ab", 20)})
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("answered without a leader: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	b.raft.lead(true)
	b.elect()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

func TestApplyApp(t *testing.T) {
	b := newBench(t, "us", nil)
	b.elect()
	app := starling.App{Name: "web"}
	app.SetDefaults()
	a, err := b.server.ApplyApp(t.Context(), "ann", app, nil)
	if err != nil || a.Home != "us" || a.Revision == 0 {
		t.Fatal(a, err)
	}
	zero := uint64(0)
	if _, err := b.server.ApplyApp(t.Context(), "ann", app, &zero); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("with an old revision: %v", err)
	}
	app.Home = "eu"
	if _, err := b.server.ApplyApp(t.Context(), "ann", app, nil); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("with another home: %v", err)
	}
	if got := b.server.Apps(); len(got) != 1 || len(b.server.Releases("web")) != 0 {
		t.Errorf("apps %+v", got)
	}
}

func TestArtifactPush(t *testing.T) {
	b := oneRegion(t, 0)
	b.app("web", nil)
	b.elect()
	ctx := t.Context()
	data := []byte("hello")
	chunk := starling.DigestOf(data)
	m := starling.Manifest{
		Version: starling.ManifestVersion, Chunker: "test",
		Files:  []starling.File{{Path: "a", Kind: starling.KindFile, Mode: 0o644, Size: 10}},
		Chunks: []starling.Chunk{{Digest: chunk, Size: 5}, {Digest: chunk, Size: 5}},
	}
	manifest, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if missing, err := b.server.MissingChunks(ctx, []starling.Digest{chunk}); err != nil || len(missing) != 1 {
		t.Fatal(missing, err)
	}
	if _, err := b.server.RegisterArtifact(ctx, "ann", "web", manifest); !starling.IsInvalid(err) {
		t.Errorf("registered without its chunks: %v", err)
	}
	if err := b.server.PutChunk(ctx, chunk, []byte("hellO")); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("wrong bytes: %v", err)
	}
	if err := b.server.PutChunk(ctx, chunk, make([]byte, starling.MaxChunkBytes+1)); !starling.IsInvalid(err) {
		t.Errorf("too many bytes: %v", err)
	}
	if err := b.server.PutChunk(ctx, chunk, data); err != nil {
		t.Fatal(err)
	}
	if _, err := b.server.RegisterArtifact(ctx, "ann", "nope", manifest); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("for an unknown app: %v", err)
	}
	if _, err := b.server.RegisterArtifact(ctx, "ann", "", manifest[:20]); !starling.IsInvalid(err) {
		t.Errorf("truncated: %v", err)
	}
	a, err := b.server.RegisterArtifact(ctx, "ann", "web", manifest)
	if err != nil || a.Digest != starling.DigestOf(manifest) || a.Bytes != 10 || a.Files != 1 || a.Chunks != 2 || a.Actor != "ann" {
		t.Fatalf("%+v, %v", a, err)
	}
	if got, err := b.server.Manifest(ctx, a.Digest); err != nil || !bytes.Equal(got, manifest) {
		t.Errorf("manifest %q, %v", got, err)
	}
	if got, err := b.server.Chunk(ctx, chunk); err != nil || !bytes.Equal(got, data) {
		t.Errorf("chunk %q, %v", got, err)
	}
	b.blobs.manifests[a.Digest] = []byte(`{"payload":"aGk="}`)
	if _, err := b.server.Manifest(ctx, a.Digest); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("another's manifest: %v", err)
	}
	if len(b.server.Artifacts()) != 1 {
		t.Error("artifacts are not listed")
	}
}

func TestTokens(t *testing.T) {
	b := newBench(t, "us", nil)
	b.elect()
	ctx := t.Context()
	first, err := b.server.BootstrapToken(ctx)
	if err != nil || first.Role != starling.ACLOperator || !strings.HasPrefix(first.Secret, "st_") || len(first.Secret) != 3+52 {
		t.Fatalf("%+v, %v", first, err)
	}
	if _, err := b.server.BootstrapToken(ctx); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("a second bootstrap: %v", err)
	}
	short, err := b.server.CreateToken(ctx, "ann", starling.NewToken{Name: "ci", Role: starling.ACLDeployer, TTL: starling.Duration(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if short.Secret == first.Secret || short.ID == first.ID {
		t.Error("two tokens are the same")
	}
	for _, bad := range []starling.NewToken{{Role: starling.ACLViewer}, {Name: "x", Role: "god"}, {Name: "x", Role: starling.ACLViewer, TTL: -1}} {
		if _, err := b.server.CreateToken(ctx, "ann", bad); !starling.IsInvalid(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if got, err := b.server.Authenticate(short.Secret); err != nil || got.ID != short.ID {
		t.Errorf("%+v, %v", got, err)
	}
	for _, wrong := range []string{"", "st_", short.Secret + "a", strings.ToUpper(short.Secret), strings.Repeat("x", 1<<16), short.Hash.String()} {
		if _, err := b.server.Authenticate(wrong); !errors.Is(err, starling.ErrForbidden) {
			t.Errorf("secret %.20q: %v", wrong, err)
		}
	}
	b.clock.advance(time.Hour)
	if _, err := b.server.Authenticate(short.Secret); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("expired: %v", err)
	}
	if err := b.server.RevokeToken(ctx, "ann", first.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.server.Authenticate(first.Secret); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("revoked: %v", err)
	}
	if len(b.server.Tokens()) != 2 {
		t.Error("tokens are not listed")
	}
}

func TestLiveDeployment(t *testing.T) {
	b := oneRegion(t, 3)
	term := toStaging(t, b, nil, "eu")
	b.abroad(term, "eu", false, starling.Counts{Target: 5, Staged: 1})
	b.look(term)
	d, ok := b.server.Deployment("d1")
	if !ok || d.Machines.Target != 8 || d.Machines.Staged != 1 {
		t.Errorf("live counts %+v", d.Machines)
	}
	if d.Regions[0].Name != "eu" || d.Regions[0].ChunksDone != 3 || d.Regions[0].Placed {
		t.Errorf("live placing %+v", d.Regions)
	}
	if kept := b.deployment("d1"); kept.Machines.Target != 0 {
		t.Errorf("the record was changed: %+v", kept.Machines)
	}
	if _, ok := b.server.Deployment("nope"); ok {
		t.Error("found what is not there")
	}
}

func TestClusterViews(t *testing.T) {
	b := newBench(t, "us", func(c *Config) { c.Regions = map[string][]string{"eu": {"eu1:7471"}} },
		append(machineNodes("us", 2), node("us", "c1", starling.RoleCache), node("us", "w1", starling.RoleWorker))...)
	b.app("web", nil)
	b.submit("d1", "web", b.artifact("v1"))
	if n := b.server.Nodes(t.Context(), starling.NodeFilter{}); len(n) != 5 || n[1].Running != nil {
		t.Errorf("a follower's nodes: %+v", n)
	}
	term := b.elect()
	b.look(term)
	b.report(term, "web", starling.MachineFailed, "m0")
	n := b.server.Nodes(t.Context(), starling.NodeFilter{})
	if len(n) != 5 || n[1].Name != "m0" || n[1].Problem != "web: because of m0" || len(n[1].Running) != 1 || n[1].SeenAt.IsZero() {
		t.Errorf("nodes: %+v", n)
	}
	l := b.server.Leader()
	if !l.Self || l.Name != "s1" || l.Region != "us" || l.Index == 0 {
		t.Errorf("leader: %+v", l)
	}
	rs := b.server.RegionStatuses()
	if len(rs) != 2 || rs[0].Machines != 2 || rs[0].Caches != 1 || rs[0].Workers != 1 || rs[0].Leader != "s1" || !rs[0].Seen {
		t.Errorf("own region: %+v", rs)
	}
	if rs[1].Name != "eu" || rs[1].Machines != -1 || rs[1].Seen || len(rs[1].Servers) != 1 {
		t.Errorf("the other region: %+v", rs[1])
	}
}

func TestOperator(t *testing.T) {
	b := newBench(t, "us", nil)
	ctx := t.Context()
	if p, err := b.server.RaftPeers(); err != nil || len(p) != 1 {
		t.Error(p, err)
	}
	if err := b.server.RemovePeer(ctx, "ann", "s3"); err != nil || len(b.raft.removed) != 1 {
		t.Error(err)
	}
	if n, err := b.server.JoinServers(ctx, []string{"a:1", "b:2"}); n != 2 || err != nil {
		t.Error(n, err)
	}
	if _, err := b.server.JoinServers(ctx, nil); !starling.IsInvalid(err) {
		t.Error(err)
	}
	if err := b.server.ForceLeave(ctx, "m7"); err != nil || len(b.members.left) != 1 {
		t.Error(err)
	}
	if err := b.server.ForceLeave(ctx, "../m7"); !starling.IsInvalid(err) {
		t.Error(err)
	}
	if err := b.server.TransferLeadership(ctx, "ann"); err != nil || b.raft.IsLeader() {
		t.Error(err)
	}
}

func TestEventsAndIndex(t *testing.T) {
	b := newBench(t, "us", nil)
	b.app("web", nil)
	at := b.fsm.View().Index()
	got := make(chan uint64, 1)
	go func() { got <- b.server.WaitIndex(context.Background(), at) }()
	b.app("other", nil)
	if i := <-got; i <= at {
		t.Errorf("index %d is not above %d", i, at)
	}
	if e, gap := b.server.EventsAfter(0, 0, 1); len(e) != 1 || gap || e[0].App != "web" {
		t.Errorf("events %+v, %t", e, gap)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if i := b.server.WaitIndex(ctx, 1<<40); i == 0 {
		t.Error("no index after giving up")
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	b := newBench(t, "us", func(c *Config) { c.Metrics = reg })
	b.app("web", nil)
	b.submit("d1", "web", starling.Digest{})
	b.submit("d2", "web", starling.Digest{})
	b.elect()
	b.clock.advance(90 * time.Second)
	if _, err := b.server.Act(t.Context(), "ann", "d2", starling.ActionCancel, starling.ActionOptions{}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += "/" + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"starling_oldest_nonterminal_seconds":        90,
		"starling_deployments/queued":                1,
		"starling_deployments/building":              0,
		"starling_deployments_ended_total/cancelled": 1,
		"starling_leader":                            1,
		"starling_server_failure_tolerance":          1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an empty config was accepted")
	}
	for name, change := range map[string]func(*Config){
		"region": func(c *Config) { c.Region = "US" }, "name": func(c *Config) { c.Name = "" },
		"regions": func(c *Config) { c.Regions = map[string][]string{"../x": nil} }, "replicas": func(c *Config) { c.Replicas = -1 },
	} {
		b := newBench(t, "us", nil)
		cfg := b.server.cfg
		change(&cfg)
		if _, err := New(cfg); !starling.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
