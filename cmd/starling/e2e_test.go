package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// The whole way, in two regions: deploy, update, fail and revert, roll back, a machine
// that was away, submissions at every server, reuse of an artifact.
func TestWholeWay(t *testing.T) {
	c := inProcess(t, world.Size{Regions: 2, Servers: 1, Caches: 1, Workers: 1, Machines: 4})
	home, far := c.apis["r1"], c.apis["r2"]
	r := newRepo(t)
	c.apply(home, r.app("hello", nil))

	v1sha := r.commit(release("v1", true))
	v1 := c.deploy(home, "hello", v1sha, starling.PhaseSucceeded)
	c.everywhere("hello", "v1")
	if v1.Machines.Healthy != 4 || v1.Machines.Target != 4 || v1.Generation.Sequence != 1 || v1.Attempt != 1 || !v1.Sandboxed {
		t.Errorf("v1: %+v", v1)
	}
	for _, p := range v1.Regions {
		if !p.Placed {
			t.Errorf("region %s does not hold the artifact of a deployment that succeeded", p.Name)
		}
	}

	// Any server asks any machine, wherever it is.
	for _, m := range c.w.WithRole(starling.RoleMachine) {
		y, err := far.Why(t.Context(), v1.ID, m.Name, "")
		if err != nil {
			t.Fatal(err)
		}
		if a := y.Account; a.Region != m.Region || a.Bytes.CacheOut+a.Bytes.Peer < v1.Bytes.Artifact || a.EndedAt.IsZero() {
			t.Errorf("%s: %+v", m.Name, a)
		}
	}

	// Submitted in the other region, which passes it on to the home.
	v2sha := r.commit(release("v2", true))
	c.deploy(far, "hello", v2sha, starling.PhaseSucceeded)
	c.everywhere("hello", "v2")

	broken := c.deploy(home, "hello", r.commit(release("v3", false)), starling.PhaseFailed)
	if broken.RevertedTo.IsZero() || !strings.Contains(broken.Reason, "this one is broken") {
		t.Errorf("a broken release: reverted to %s, reason %q", broken.RevertedTo.Short(), broken.Reason)
	}
	c.everywhere("hello", "v2")
	c.knowsWhatWas(v1, v1sha, v2sha)

	back, err := home.Rollback(t.Context(), "hello", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	if back = c.wait(home, back); back.Phase != starling.PhaseSucceeded || back.Artifact != v1.Artifact {
		t.Fatalf("rollback: %s to %s: %s", back.Phase, back.Artifact.Short(), back.Reason)
	}
	if moved := back.Bytes.New + back.Bytes.WAN + back.Bytes.CacheOut + back.Bytes.Peer; moved != 0 {
		t.Errorf("the rollback moved %d bytes", moved)
	}
	c.everywhere("hello", "v1")

	// A machine that is off misses a release and catches up by itself.
	away := c.w.WithRole(starling.RoleMachine)[3]
	c.end(away.Name)
	again := c.deploy(home, "hello", v2sha, starling.PhaseSucceeded)
	if !again.CacheHit || again.Attempt != 0 {
		t.Errorf("the same commit was built again: %+v", again)
	}
	c.run(away)
	c.everywhere("hello", "v2")

	for region, api := range c.apis {
		ds, err := api.Deployments(t.Context(), starling.DeploymentFilter{App: "hello", Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		if len(ds) != 5 {
			t.Errorf("region %s lists %d deployments, want 5", region, len(ds))
		}
		for _, d := range ds {
			if !d.Phase.Terminal() {
				t.Errorf("region %s says %s is %s", region, d.ID, d.Phase)
			}
		}
	}
}

// What an engineer can get wrong comes back as a clear error, or as a failed
// deployment with the reason in words.
func TestBadInput(t *testing.T) {
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Caches: 1, Workers: 1, Machines: 1})
	api, ctx := c.apis["r1"], t.Context()
	r := newRepo(t)
	sha := r.commit(release("v1", true))
	c.apply(api, r.app("hello", nil))

	submit := func(s starling.Submission) error {
		_, err := api.Submit(ctx, s)
		return err
	}
	wantError(t, submit(starling.Submission{App: "nobody", SHA: sha}), starling.ErrNotFound, "nobody")
	wantError(t, submit(starling.Submission{App: "hello", SHA: "main"}), nil, "40 or 64")
	wantError(t, submit(starling.Submission{App: "hello"}), nil, "sha")
	wantError(t, submit(starling.Submission{App: "hello", Artifact: starling.DigestOf([]byte("x"))}), starling.ErrNotFound, "artifact")

	lacking := c.deploy(api, "hello", strings.Repeat("ab", 20), starling.PhaseFailed)
	if !strings.Contains(lacking.Reason, strings.Repeat("ab", 20)) {
		t.Errorf("reason %q does not name the commit", lacking.Reason)
	}
	for name, change := range map[string]struct {
		f    func(*starling.App)
		want string
	}{
		"no-repository": {func(a *starling.App) { a.Source.Git = "/nowhere/at-all.git" }, "/nowhere/at-all.git"},
		"fails":         {func(a *starling.App) { a.Build.Command = []string{"sh", "-c", "echo so bad >&2; exit 7"} }, "so bad"},
		"no-output":     {func(a *starling.App) { a.Build.Command = []string{"true"} }, "out"},
		"hangs": {func(a *starling.App) {
			a.Build.Command = []string{"sleep", "1000"}
			a.Build.Timeout = starling.Duration(time.Second)
		}, "1s"},
		"escapes": {func(a *starling.App) {
			a.Build.Command = []string{"sh", "-c", "mkdir out && ln -s ../../../etc/passwd out/x"}
		}, "outside the tree"},
	} {
		app := r.app(name, change.f)
		c.apply(api, app)
		d := c.deploy(api, name, sha, starling.PhaseFailed)
		if !strings.Contains(d.Reason, change.want) {
			t.Errorf("%s: reason %q, want %q in it", name, d.Reason, change.want)
		}
	}
	if err := api.PutChunk(ctx, starling.DigestOf([]byte("right")), []byte("wrong")); err == nil {
		t.Error("a chunk that is not its digest was stored")
	}
	m := starling.Manifest{Version: starling.ManifestVersion, Chunker: "x",
		Files:  []starling.File{{Path: "a", Kind: starling.KindFile, Size: 3}},
		Chunks: []starling.Chunk{{Digest: starling.DigestOf([]byte("abc")), Size: 3}}}
	encoded, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.RegisterArtifact(ctx, "", encoded); err == nil {
		t.Error("an artifact was registered whose chunk nobody uploaded")
	}
}

// A folder pushed as an artifact is deployed, pulled back and compared.
func TestPrebuiltArtifact(t *testing.T) {
	c := inProcess(t, world.Size{Regions: 2, Servers: 1, Caches: 1, Machines: 2})
	api := c.apis["r1"]
	dir := t.TempDir()
	blob := make([]byte, 6<<20)
	rand.Read(blob)
	for name, content := range map[string][]byte{"version": []byte("p1\n"), "data/blob": blob} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	app := starling.App{Name: "files"}
	app.SetDefaults()
	c.apply(api, app)
	record, sent, err := push(t.Context(), api, "files", dir)
	if err != nil {
		t.Fatal(err)
	}
	if sent < int64(len(blob)) {
		t.Errorf("sent %d bytes of at least %d", sent, len(blob))
	}
	if _, sent, err = push(t.Context(), api, "files", dir); err != nil || sent != 0 {
		t.Errorf("pushing again sent %d bytes, %v", sent, err)
	}
	d, err := api.Submit(t.Context(), starling.Submission{App: "files", Artifact: record.Digest})
	if err != nil {
		t.Fatal(err)
	}
	if d = c.wait(api, d); d.Phase != starling.PhaseSucceeded {
		t.Fatalf("%s: %s", d.Phase, d.Reason)
	}
	c.everywhere("files", "p1")
	if d.Bytes.WAN == 0 || d.Bytes.WAN > record.Bytes*11/10 {
		t.Errorf("%d bytes crossed between the regions for an artifact of %d", d.Bytes.WAN, record.Bytes)
	}
	_, m, err := fetchManifest(t.Context(), c.apis["r2"], record.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(t.TempDir(), "back")
	if err := pull(t.Context(), c.apis["r2"], record.Digest, m, back); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(back, "data", "blob"))
	if err != nil || !bytes.Equal(got, blob) {
		t.Errorf("what came back differs: %d bytes, %v", len(got), err)
	}
}

// Cancel ends a build under way; its worker's token is worth nothing after it, and
// the app's next deployment is free to go.
func TestCancelFencesTheBuild(t *testing.T) {
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Caches: 1, Workers: 1, Machines: 1})
	api, ctx := c.apis["r1"], t.Context()
	r := newRepo(t)
	sha := r.commit(release("v1", true))
	c.apply(api, r.app("slow", func(a *starling.App) { a.Build.Command = []string{"sh", "-c", "echo begun; sleep 600"} }))
	d, err := api.Submit(ctx, starling.Submission{App: "slow", SHA: sha})
	if err != nil {
		t.Fatal(err)
	}
	c.eventually(30*time.Second, func() error {
		var log bytes.Buffer
		if _, err := api.BuildLog(ctx, d.ID, 0, false, &log); err != nil {
			return err
		}
		if !strings.Contains(log.String(), "begun") {
			return fmt.Errorf("the live log holds %q", log.String())
		}
		return nil
	})
	d, err = api.Act(ctx, d.ID, starling.ActionCancel)
	if err != nil || d.Phase != starling.PhaseCancelled {
		t.Fatalf("cancel: %v, %+v", err, d)
	}
	if again, err := api.Act(ctx, d.ID, starling.ActionCancel); err != nil || d.Fence == nil || *again.Fence != *d.Fence {
		t.Errorf("cancelled again: %v, the proof %+v, before %+v", err, again, d.Fence)
	}
	c.apply(api, r.app("slow", nil))
	c.deploy(api, "slow", sha, starling.PhaseSucceeded)
	if d, err = api.Deployment(ctx, d.ID); err != nil || d.Phase != starling.PhaseCancelled {
		t.Errorf("the cancelled one is now %v, %v", d, err)
	}
}

// A deployment whose deadline passes ends as failed and says where it stood.
func TestDeadline(t *testing.T) {
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Caches: 1, Machines: 1}) // no worker
	api := c.apis["r1"]
	r := newRepo(t)
	sha := r.commit(release("v1", true))
	c.apply(api, r.app("late", func(a *starling.App) { a.Deploy.Deadline = starling.Duration(2 * time.Second) }))
	d := c.deploy(api, "late", sha, starling.PhaseFailed)
	if over := d.EndedAt.Sub(d.Deadline); over < 0 || over > 2*time.Second || !strings.Contains(d.Reason, "queued") {
		t.Errorf("ended %s after its deadline: %q", over, d.Reason)
	}
}

// Three servers: submissions at followers, idempotent retries, and everything is
// there again after all of them were stopped.
func TestThreeServersRestart(t *testing.T) {
	c := inProcess(t, world.Size{Regions: 1, Servers: 3, Caches: 2, Workers: 1, Machines: 2})
	servers := c.w.WithRole(starling.RoleServer)
	r := newRepo(t)
	sha := r.commit(release("v1", true))
	c.apply(c.client(servers[2]), r.app("hello", nil))
	ids := map[string]bool{}
	for _, s := range servers {
		d, err := c.client(s).Submit(t.Context(), starling.Submission{App: "hello", SHA: sha, IdempotencyKey: "once"})
		if err != nil {
			t.Fatal(err)
		}
		ids[d.ID] = true
	}
	if len(ids) != 1 {
		t.Fatalf("one key made %d deployments", len(ids))
	}
	peers, err := c.client(servers[1]).RaftPeers(t.Context())
	if err != nil || len(peers) != 3 {
		t.Fatalf("raft peers %v, %v", peers, err)
	}
	for id := range ids {
		if d := c.wait(c.client(servers[0]), &starling.Deployment{ID: id}); d.Phase != starling.PhaseSucceeded {
			t.Fatalf("%s: %s", d.Phase, d.Reason)
		}
	}
	for _, s := range servers {
		c.end(s.Name)
	}
	for _, s := range servers {
		c.run(s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := c.w.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	for id := range ids {
		d, err := c.client(servers[1]).Deployment(t.Context(), id)
		if err != nil || d.Phase != starling.PhaseSucceeded {
			t.Errorf("after the restart: %v, %v", d, err)
		}
	}
	c.deploy(c.client(servers[0]), "hello", r.commit(release("v2", true)), starling.PhaseSucceeded)
	c.everywhere("hello", "v2")
}

// Events come in order, and a reader that was cut off goes on where it stopped.
func TestEventsResume(t *testing.T) {
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Machines: 1, Caches: 1})
	api := c.apis["r1"]
	app := starling.App{Name: "files"}
	app.SetDefaults()
	c.apply(api, app)
	read := func(after string, until int) (types []string, last string) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		enough := fmt.Errorf("enough")
		err := api.Events(ctx, after, func(e client.ServerEvent) error {
			if !strings.HasPrefix(e.Type, "app.") { // the region and its machines come when they do
				return nil
			}
			types, last = append(types, e.Type), e.ID
			if len(types) == until {
				return enough
			}
			return nil
		})
		if err != enough {
			t.Fatalf("events after %q: %v; got %v", after, err, types)
		}
		return types, last
	}
	_, first := read("0.0", 1)
	app.Deploy.Keep = 5
	c.apply(api, app)
	rest, _ := read(first, 1)
	if rest[0] != "app.applied" {
		t.Errorf("after %s came %v", first, rest)
	}
}
