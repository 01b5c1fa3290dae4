package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

var update = flag.Bool("update", false, "write golden files")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// logBuffer keeps log output for assertions.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func serve(t testing.TB, conf Config) *httptest.Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	srv := httptest.NewUnstartedServer(New(conf))
	srv.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	srv.Start()
	t.Cleanup(func() {
		cancel()
		srv.Close()
	})
	return srv
}

// request sends one request; header pairs follow the body.
func request(t *testing.T, srv *httptest.Server, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func problemIn(t *testing.T, res *http.Response, body string) Problem {
	t.Helper()
	if ct := res.Header.Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("%s: content type %q, body %s", res.Status, ct, body)
	}
	var p Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if p.Status != res.StatusCode || p.Title == "" || p.Detail == "" || p.Kind == "" {
		t.Errorf("incomplete problem for %s: %s", res.Status, body)
	}
	return p
}

// The client and the API agree on every call.
func TestClientSpeaksTheAPI(t *testing.T) {
	b := newBackend("r1")
	srv := serve(t, Config{Backend: b, Metrics: http.NotFoundHandler(), Version: "test"})
	c, err := client.New(client.Config{Addr: srv.URL, HTTP: srv.Client()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}

	none := uint64(0)
	app := starling.App{Name: "hello", Source: starling.SourceSpec{Git: "https://git.example/x"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	applied, err := c.ApplyApp(ctx, app, &none)
	check(err)
	if applied.Home != "r1" || applied.Build.Timeout == 0 {
		t.Errorf("applied %+v", applied)
	}
	if _, err := c.ApplyApp(ctx, app, &none); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("creating it again: %v", err)
	}
	_, err = c.ApplyApp(ctx, *applied, &applied.Revision)
	check(err)
	apps, err := c.Apps(ctx)
	check(err)
	if len(apps) != 1 {
		t.Errorf("%d apps", len(apps))
	}
	_, err = c.App(ctx, "hello")
	check(err)

	d, err := c.Submit(ctx, starling.Submission{App: "hello", SHA: sha, IdempotencyKey: "k"})
	check(err)
	why, err := c.Why(ctx, d.ID, "", "")
	check(err)
	if len(why.WaitsFor) != 1 || why.Account != nil {
		t.Errorf("why: %+v", why)
	}
	why, err = c.Why(ctx, d.ID, "m1", "r1")
	check(err)
	if why.Account == nil || len(why.Account.Sources) != 1 || why.Account.Sources[0].Bytes != 7 {
		t.Errorf("why of m1: %+v", why)
	}
	for _, bad := range [][2]string{{"M 1", ""}, {"m1", "../r1"}, {"", "r1"}} {
		if _, err := c.Why(ctx, d.ID, bad[0], bad[1]); !starling.IsInvalid(err) {
			t.Errorf("why of %q: %v", bad, err)
		}
	}
	if _, err := c.Why(ctx, d.ID, "m9", ""); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("why of a machine that is not there: %v", err)
	}
	cells, err := c.DeploymentCells(ctx, d.ID, "")
	check(err)
	if len(cells) != 1 || cells[0].Cell != "c1" || cells[0].Counts.Absent != 1 {
		t.Errorf("cells: %+v", cells)
	}
	if _, err := c.DeploymentCells(ctx, d.ID, "../r1"); !starling.IsInvalid(err) {
		t.Errorf("cells of no region: %v", err)
	}
	if _, err := c.DeploymentCells(ctx, d.ID, "r9"); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("cells of a region that is not there: %v", err)
	}
	again, err := c.Submit(ctx, starling.Submission{App: "hello", SHA: sha, IdempotencyKey: "k"})
	check(err)
	if d.ID != again.ID || d.Actor != "anonymous" || d.Phase != starling.PhaseQueued {
		t.Errorf("submitted %+v and %+v", d, again)
	}
	_, err = c.Deployment(ctx, d.ID)
	check(err)
	list, err := c.Deployments(ctx, starling.DeploymentFilter{App: "hello", Active: true, Limit: 10})
	check(err)
	if len(list) != 1 {
		t.Errorf("%d deployments", len(list))
	}
	if paused, err := c.Act(ctx, d.ID, starling.ActionPause); err != nil || !paused.Paused {
		t.Errorf("paused %+v, %v", paused, err)
	}
	wave := 0
	if _, err := c.ActWith(ctx, d.ID, starling.ActionPromote, starling.ActionOptions{Wave: &wave, All: true}); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("promoted in the queue: %v", err)
	}
	if _, err := c.Rollback(ctx, "hello", 0, ""); !errors.Is(err, starling.ErrConflict) && !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("rolling back to nothing: %v", err)
	}
	b.writeLog(d.ID, "building\n", true)
	var log strings.Builder
	if next, err := c.BuildLog(ctx, d.ID, 0, true, &log); err != nil || next != 9 || log.String() != "building\n" {
		t.Errorf("log %q, %d, %v", log.String(), next, err)
	}
	ended, err := c.Act(ctx, d.ID, starling.ActionCancel)
	check(err)
	waited, err := c.Wait(ctx, d.ID, time.Millisecond, nil)
	check(err)
	if ended.Phase != starling.PhaseCancelled || waited.Phase != ended.Phase {
		t.Errorf("ended %s, waited for %s", ended.Phase, waited.Phase)
	}
	releases, err := c.Releases(ctx, "hello")
	check(err)
	if releases == nil || len(releases) != 0 {
		t.Errorf("releases %v, want an empty list", releases)
	}

	content := []byte("content")
	chunk := starling.DigestOf(content)
	missing, err := c.MissingChunks(ctx, []starling.Digest{chunk})
	check(err)
	if !slices.Equal(missing, []starling.Digest{chunk}) {
		t.Errorf("missing %v", missing)
	}
	check(c.PutChunk(ctx, chunk, content))
	if err := c.PutChunk(ctx, chunk, []byte("else")); err == nil {
		t.Error("stored a chunk under another's digest")
	}
	got, err := c.Chunk(ctx, chunk)
	check(err)
	if !bytes.Equal(got, content) {
		t.Errorf("chunk %q", got)
	}
	m := starling.Manifest{Version: 1, Chunker: "x", Files: []starling.File{{Path: "f", Kind: starling.KindFile, Size: 7}}, Chunks: []starling.Chunk{{Digest: chunk, Size: 7}}}
	encoded, err := m.Encode()
	check(err)
	art, err := c.RegisterArtifact(ctx, "hello", encoded)
	check(err)
	_, err = c.Artifact(ctx, art.Digest)
	check(err)
	if arts, err := c.Artifacts(ctx); err != nil || len(arts) != 1 {
		t.Errorf("artifacts %v, %v", arts, err)
	}
	if man, err := c.Manifest(ctx, art.Digest); err != nil || !bytes.Equal(man, encoded) {
		t.Errorf("manifest %q, %v", man, err)
	}

	_, err = c.Regions(ctx)
	check(err)
	_, err = c.Nodes(ctx)
	check(err)
	_, err = c.Leader(ctx)
	check(err)
	_, err = c.RaftPeers(ctx)
	check(err)
	check(c.RemovePeer(ctx, "s9"))
	if err := c.TransferLeadership(ctx); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("transfer: %v", err)
	}
	if n, err := c.JoinServers(ctx, []string{"10.0.0.1"}); err != nil || n != 1 {
		t.Errorf("join %d, %v", n, err)
	}
	check(c.ForceLeave(ctx, "m2"))
	tok, err := c.CreateToken(ctx, starling.NewToken{Name: "ci", Role: starling.ACLDeployer})
	check(err)
	tokens, err := c.Tokens(ctx)
	check(err)
	if len(tokens) != 1 || !tokens[0].Hash.IsZero() || tok.Secret == "" || !tok.Hash.IsZero() {
		t.Errorf("tokens %+v, issued %+v", tokens, tok)
	}
	check(c.RevokeToken(ctx, tok.ID))
}

func TestDeploymentDocument(t *testing.T) {
	b := newBackend("r1")
	d := fixture(t, b)
	srv := serve(t, Config{Backend: b})
	res, body := request(t, srv, "GET", "/v1/deployments/"+d.ID, "")
	if res.StatusCode != 200 || res.Header.Get(HeaderIndex) != "2" {
		t.Fatalf("%s, index %q", res.Status, res.Header.Get(HeaderIndex))
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	// Names of DESIGN.md that other programs rely on.
	for _, field := range strings.Fields(`id app sha artifact generation phase reason created_at deadline
		timings{queued_ms,build_ms,replicate_ms,stage_ms,rollout_ms,total_ms}
		regions[{name,placed,chunks_done,chunks_total}] machines{target,staged,healthy,failed,absent}
		bytes{artifact,new,wan,cache_out,peer}`) {
		name, inner, _ := strings.Cut(strings.NewReplacer("[", "", "]", "", "}", "").Replace(field), "{")
		raw, ok := doc[name]
		if !ok {
			t.Errorf("%s is missing", name)
			continue
		}
		if inner == "" {
			continue
		}
		var obj map[string]json.RawMessage
		if json.Unmarshal(bytes.Trim(raw, "[]"), &obj) != nil {
			t.Errorf("%s is %s", name, raw)
		}
		for _, sub := range strings.Split(inner, ",") {
			if _, ok := obj[sub]; !ok {
				t.Errorf("%s lacks %s", name, sub)
			}
		}
	}
	golden(t, "deployment_fields.golden", strings.Join(fieldNames("", []byte(body)), "\n")+"\n")

	// Lists show the same documents, and none as an empty list.
	_, listed := request(t, srv, "GET", "/v1/deployments", "")
	if strings.TrimSpace(listed) != "["+strings.TrimSpace(body)+"]" {
		t.Errorf("list:\n%s\none:\n%s", listed, body)
	}
	if _, empty := request(t, srv, "GET", "/v1/deployments?app=none", ""); strings.TrimSpace(empty) != "[]" {
		t.Errorf("empty list %q", empty)
	}
}

// fieldNames returns the paths of all fields of a JSON value, sorted.
func fieldNames(prefix string, raw json.RawMessage) []string {
	var obj map[string]json.RawMessage
	if json.Unmarshal(raw, &obj) != nil {
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) == nil && len(items) > 0 {
			return fieldNames(prefix+"[]", items[0])
		}
		return []string{prefix}
	}
	var out []string
	for k, v := range obj {
		out = append(out, fieldNames(strings.TrimPrefix(prefix+"."+k, "."), v)...)
	}
	slices.Sort(out)
	return out
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it):\n%s", path, got)
	}
}

// saved is the state of a backend as the API hands it out.
func saved(t *testing.T, b *backend) string {
	t.Helper()
	var out strings.Builder
	if err := b.fsm.View().WriteSnapshot(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What the API saves, it takes back, while apps made since are gone.
func TestSnapshotThereAndBack(t *testing.T) {
	b := newBackend("r1")
	srv := serve(t, Config{Backend: b})
	request(t, srv, "POST", "/v1/apps", `{"name":"kept"}`)
	res, body := request(t, srv, "GET", "/v1/operator/snapshot", "")
	if res.StatusCode != 200 || body != saved(t, b) {
		t.Fatalf("%s: %q", res.Status, body)
	}
	request(t, srv, "POST", "/v1/apps", `{"name":"late"}`)
	before := b.fsm.View().Index()
	res, answer := request(t, srv, "PUT", "/v1/operator/snapshot", body)
	var info starling.SnapshotInfo
	if err := json.Unmarshal([]byte(answer), &info); err != nil || res.StatusCode != 200 || info.Region != "r1" || info.Records["apps"] != 1 || info.Index <= before {
		t.Errorf("%s: %s, %v", res.Status, answer, err)
	}
	if _, late := b.App("late"); late || len(b.Apps()) != 1 {
		t.Errorf("after the restore: %v", b.Apps())
	}
}

func TestProblems(t *testing.T) {
	b := newBackend("r1")
	d := fixture(t, b)
	srv := serve(t, Config{Backend: b})
	app := toJSON(t, map[string]any{"name": "new"})
	zero := starling.DigestOf(nil).String()
	half, foreign := saved(t, b)[:80], saved(t, newBackend("r9"))
	tests := []struct {
		name, method, path, body string
		header                   []string
		status                   int
		kind, field, text        string
	}{
		{name: "unknown path", method: "GET", path: "/v1/nothing", status: 404, kind: "not_found", text: "no part of the API"},
		{name: "unknown path below artifacts", method: "GET", path: "/v1/artifacts/x/y", status: 404, kind: "not_found"},
		{name: "wrong method", method: "PATCH", path: "/v1/apps", status: 405, kind: "method", text: "PATCH"},
		{name: "unknown app", method: "GET", path: "/v1/apps/none", status: 404, kind: "not_found", text: "none"},
		{name: "no name at all", method: "GET", path: "/v1/apps/A%20B", status: 404, kind: "not_found"},
		{name: "releases of an unknown app", method: "GET", path: "/v1/apps/none/releases", status: 404, kind: "not_found"},
		{name: "unknown deployment", method: "GET", path: "/v1/deployments/none", status: 404, kind: "not_found"},
		{name: "log of an unknown deployment", method: "GET", path: "/v1/deployments/none/logs", status: 404, kind: "not_found"},
		{name: "unknown artifact", method: "GET", path: "/v1/artifacts/" + zero, status: 404, kind: "not_found"},
		{name: "unknown manifest", method: "GET", path: "/v1/artifacts/" + zero + "/manifest", status: 404, kind: "not_found"},
		{name: "unknown chunk", method: "GET", path: "/v1/artifacts/chunks/" + zero, status: 404, kind: "not_found"},
		{name: "malformed digest", method: "GET", path: "/v1/artifacts/sha256:12", status: 400, kind: "invalid", field: "digest"},
		{name: "no metrics", method: "GET", path: "/v1/metrics", status: 404, kind: "not_found"},

		{name: "no JSON", method: "POST", path: "/v1/deployments", body: "{", status: 400, kind: "invalid", field: "body"},
		{name: "not JSON", method: "POST", path: "/v1/deployments", body: "app=hello", status: 400, kind: "invalid", field: "body", text: "byte 1"},
		{name: "more than one value", method: "POST", path: "/v1/deployments", body: "{} {}", status: 400, kind: "invalid", field: "body", text: "follows"},
		{name: "unknown field", method: "POST", path: "/v1/deployments", body: `{"app":"hello","shaa":"x"}`, status: 400, kind: "invalid", field: "shaa", text: "not a known field"},
		{name: "field of another type", method: "POST", path: "/v1/deployments", body: `{"app":7}`, status: 400, kind: "invalid", field: "app", text: "number"},
		{name: "empty submission", method: "POST", path: "/v1/deployments", status: 400, kind: "invalid", field: "app"},
		{name: "no commit", method: "POST", path: "/v1/deployments", body: `{"app":"hello"}`, status: 400, kind: "invalid", field: "sha"},
		{name: "short commit", method: "POST", path: "/v1/deployments", body: `{"app":"hello","sha":"abc"}`, status: 400, kind: "invalid", field: "sha", text: "full commit SHA"},
		{name: "commit and artifact", method: "POST", path: "/v1/deployments", body: `{"app":"hello","sha":"` + sha + `","artifact":"` + zero + `"}`, status: 400, kind: "invalid", field: "artifact"},
		{name: "bad artifact", method: "POST", path: "/v1/deployments", body: `{"app":"hello","artifact":"md5:1"}`, status: 400, kind: "invalid", field: "artifact", text: "sha256:"},
		{name: "priority", method: "POST", path: "/v1/deployments", body: `{"app":"hello","sha":"` + sha + `","priority":101}`, status: 400, kind: "invalid", field: "priority"},
		{name: "long key", method: "POST", path: "/v1/deployments", body: `{"app":"hello","sha":"` + sha + `"}`, header: []string{"Idempotency-Key", strings.Repeat("k", 129)}, status: 400, kind: "invalid", field: "Idempotency-Key"},
		{name: "submission for an unknown app", method: "POST", path: "/v1/deployments", body: `{"app":"none","sha":"` + sha + `"}`, status: 404, kind: "not_found"},
		{name: "large body", method: "POST", path: "/v1/deployments", body: strings.Repeat(" ", maxJSONBytes+1), status: 413, kind: "too_large"},

		{name: "app of another name", method: "PUT", path: "/v1/apps/other", body: app, status: 400, kind: "invalid", field: "name"},
		{name: "app without a name", method: "POST", path: "/v1/apps", body: `{}`, status: 400, kind: "invalid", field: "name"},
		{name: "app with a bad duration", method: "POST", path: "/v1/apps", body: `{"name":"x","deploy":{"deadline":"soon"}}`, status: 400, kind: "invalid", field: "deploy.deadline", text: "soon"},
		{name: "app with a bad selector", method: "POST", path: "/v1/apps", body: `{"name":"x","deploy":{"targets":"role ="}}`, status: 400, kind: "invalid", field: "deploy.targets"},
		{name: "revision of letters", method: "PUT", path: "/v1/apps/new", body: app, header: []string{"If-Match", "abc"}, status: 400, kind: "invalid", field: "If-Match"},
		{name: "revision of the past", method: "PUT", path: "/v1/apps/hello?if_revision=77", body: `{"source":{"git":"g"},"build":{"command":["x"]}}`, status: 412, kind: "conflict", field: "If-Match", text: "is at revision"},
		{name: "new app that exists", method: "PUT", path: "/v1/apps/hello", body: "{}", header: []string{"If-Match", `"0"`}, status: 412, kind: "conflict", field: "If-Match", text: "exists already"},
		{name: "change of no app", method: "PUT", path: "/v1/apps/other", body: "{}", header: []string{"If-Match", `"4"`}, status: 412, kind: "conflict", field: "If-Match", text: "there is no app"},
		{name: "plan of an unknown app", method: "POST", path: "/v1/apps/none/plan", status: 404, kind: "not_found"},
		{name: "plan of a word", method: "POST", path: "/v1/apps/hello/plan", body: `{"sha":"main"}`, status: 400, kind: "invalid", field: "sha"},
		{name: "plan of no app name", method: "POST", path: "/v1/apps/HELLO/plan", status: 400, kind: "invalid", field: "app"},
		{name: "plan of two things", method: "POST", path: "/v1/apps/hello/plan", body: `{"sha":"` + strings.Repeat("a", 40) + `","artifact":"` + zero + `"}`, status: 400, kind: "invalid", field: "artifact"},
		{name: "plan with a bad spec", method: "POST", path: "/v1/apps/hello/plan", body: `{"spec":{"deploy":{"strategy":{"waves":["200%"]}}}}`, status: 400, kind: "invalid", field: "deploy.strategy.waves"},
		{name: "plan with another app's spec", method: "POST", path: "/v1/apps/hello/plan", body: `{"spec":{"name":"other"}}`, status: 400, kind: "invalid", field: "spec.name"},
		{name: "plan with an unknown field", method: "POST", path: "/v1/apps/hello/plan", body: `{"spec":{"deploy":{"stratgy":{}}}}`, status: 400, kind: "invalid", field: "spec.deploy.stratgy"},
		{name: "approval of a word", method: "POST", path: "/v1/deployments/" + d.ID + "/approve", body: `{"plan":"yes"}`, status: 400, kind: "invalid", field: "plan"},
		{name: "plan of no deployment", method: "GET", path: "/v1/deployments/none/plan", status: 404, kind: "not_found"},
		{name: "rollback of an unknown app", method: "POST", path: "/v1/apps/none/rollback", status: 404, kind: "not_found"},
		{name: "rollback to a word", method: "POST", path: "/v1/apps/hello/rollback", body: `{"to":"one"}`, status: 400, kind: "invalid", field: "to"},

		{name: "list of too many", method: "GET", path: "/v1/deployments?limit=1001", status: 400, kind: "invalid", field: "limit"},
		{name: "list of a word", method: "GET", path: "/v1/deployments?limit=many", status: 400, kind: "invalid", field: "limit", text: "integer"},
		{name: "wait for a word", method: "GET", path: "/v1/apps?index=1&wait=long", status: 400, kind: "invalid", field: "wait"},
		{name: "wait backwards", method: "GET", path: "/v1/apps?index=1&wait=-1s", status: 400, kind: "invalid", field: "wait"},
		{name: "index of a word", method: "GET", path: "/v1/apps?index=x", status: 400, kind: "invalid", field: "index"},
		{name: "log from before its start", method: "GET", path: "/v1/deployments/" + d.ID + "/logs?offset=-1", status: 400, kind: "invalid", field: "offset"},
		{name: "events after a word", method: "GET", path: "/v1/events", header: []string{"Last-Event-ID", "x.y"}, status: 400, kind: "invalid", field: "Last-Event-ID"},
		{name: "approval out of turn", method: "POST", path: "/v1/deployments/" + d.ID + "/approve", status: 409, kind: "conflict"},
		{name: "action on an unknown deployment", method: "POST", path: "/v1/deployments/none/cancel", status: 404, kind: "not_found"},
		{name: "unknown action", method: "POST", path: "/v1/deployments/" + d.ID + "/explode", status: 404, kind: "not_found"},

		{name: "chunk under a wrong digest", method: "PUT", path: "/v1/artifacts/chunks/" + zero, body: "x", status: 400, kind: "corrupt"},
		{name: "large chunk", method: "PUT", path: "/v1/artifacts/chunks/" + zero, body: strings.Repeat("x", starling.MaxChunkBytes+1), status: 413, kind: "too_large"},
		{name: "question about nothing", method: "POST", path: "/v1/artifacts/missing", body: `{"chunks":[]}`, status: 400, kind: "invalid", field: "chunks"},
		{name: "question about an empty digest", method: "POST", path: "/v1/artifacts/missing", body: `{"chunks":[""]}`, status: 400, kind: "invalid", field: "chunks"},
		{name: "no manifest", method: "POST", path: "/v1/artifacts", body: `{}`, status: 400, kind: "invalid", field: "manifest"},
		{name: "broken manifest", method: "POST", path: "/v1/artifacts", body: `{"manifest":"e30="}`, status: 400, kind: "invalid", field: "manifest.version"},
		{name: "manifest for no app name", method: "POST", path: "/v1/artifacts", body: `{"manifest":"e30=","app":"A"}`, status: 400, kind: "invalid", field: "app"},

		{name: "token without a name", method: "POST", path: "/v1/acl/tokens", body: `{"role":"viewer"}`, status: 400, kind: "invalid", field: "name"},
		{name: "token of no role", method: "POST", path: "/v1/acl/tokens", body: `{"name":"x","role":"king"}`, status: 400, kind: "invalid", field: "role"},
		{name: "unknown token", method: "DELETE", path: "/v1/acl/tokens/none", status: 404, kind: "not_found"},
		{name: "bootstrap without ACLs", method: "POST", path: "/v1/acl/bootstrap", status: 409, kind: "conflict"},
		{name: "unknown peer", method: "DELETE", path: "/v1/operator/raft/none", status: 404, kind: "not_found"},
		{name: "no successor", method: "POST", path: "/v1/operator/raft/transfer-leadership", status: 409, kind: "conflict"},
		{name: "join nobody", method: "POST", path: "/v1/operator/join", body: `{"addrs":[]}`, status: 400, kind: "invalid", field: "addrs"},
		{name: "a live member forced to leave", method: "POST", path: "/v1/operator/force-leave", body: `{"name":"m1"}`, status: 409, kind: "conflict"},
		{name: "nobody forced to leave", method: "POST", path: "/v1/operator/force-leave", body: `{}`, status: 400, kind: "invalid", field: "name"},
		{name: "the last server leaves", method: "POST", path: "/v1/operator/leave", status: 409, kind: "conflict"},
		{name: "no snapshot", method: "PUT", path: "/v1/operator/snapshot", body: "x", status: 400, kind: "corrupt", text: "ends too early"},
		{name: "half a snapshot", method: "PUT", path: "/v1/operator/snapshot", body: half, status: 400, kind: "corrupt"},
		{name: "another region's snapshot", method: "PUT", path: "/v1/operator/snapshot", body: foreign, status: 409, kind: "conflict", text: "of region"},
		{name: "page of another site", method: "POST", path: "/v1/deployments", body: `{}`, header: []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, status: 403, kind: "forbidden"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			res, body := request(t, srv, tc.method, tc.path, tc.body, tc.header...)
			p := problemIn(t, res, body)
			if p.Status != tc.status || p.Kind != tc.kind || p.Field != tc.field || !strings.Contains(p.Detail, tc.text) {
				t.Errorf("got %s\nwant %d, kind %q, field %q, text %q", body, tc.status, tc.kind, tc.field, tc.text)
			}
		})
	}
}

func TestBackendErrors(t *testing.T) {
	tests := []struct {
		err    error
		status int
		kind   string
	}{
		{starling.ErrNotLeader, 503, "not_leader"},
		{starling.ErrUnavailable, 503, "unavailable"},
		{starling.ErrFenced, 410, "fenced"},
		{starling.ErrForbidden, 403, "forbidden"},
		{context.DeadlineExceeded, 503, "unavailable"},
		{errors.New("secret of the house"), 500, "internal"},
	}
	for _, tc := range tests {
		b := newBackend("r1")
		fixture(t, b)
		b.fail = tc.err
		var logs logBuffer
		h := New(Config{Backend: b, Logger: slog.New(slog.NewTextHandler(&logs, nil)), Patience: time.Millisecond})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/v1/deployments", strings.NewReader(`{"app":"hello","sha":"`+sha+`"}`)))
		p := problemIn(t, w.Result(), w.Body.String())
		if p.Status != tc.status || p.Kind != tc.kind {
			t.Errorf("%v: %s", tc.err, w.Body)
		}
		if (tc.status == 503) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("%v: Retry-After %q", tc.err, w.Header().Get("Retry-After"))
		}
		if strings.Contains(w.Body.String(), "secret") || (tc.status == 500) != strings.Contains(logs.String(), "secret of the house") {
			t.Errorf("%v: answered %s, logged %s", tc.err, w.Body, logs.String())
		}
	}
}

func TestBlockingQuery(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	srv := serve(t, Config{Backend: b})
	began := time.Now()
	res, _ := request(t, srv, "GET", "/v1/apps?index=2&wait=50ms", "")
	if res.Header.Get(HeaderIndex) != "2" || time.Since(began) < 50*time.Millisecond {
		t.Errorf("index %q after %s", res.Header.Get(HeaderIndex), time.Since(began))
	}
	answered := make(chan string)
	go func() {
		res, err := srv.Client().Get(srv.URL + "/v1/apps?index=2&wait=60s")
		if err != nil {
			answered <- err.Error()
			return
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			body = []byte(err.Error())
		}
		answered <- res.Header.Get(HeaderIndex) + string(body)
	}()
	app := starling.App{Name: "second"}
	app.SetDefaults()
	if _, err := b.ApplyApp(t.Context(), "test", app, nil); err != nil {
		t.Fatal(err)
	}
	if got := <-answered; !strings.HasPrefix(got, "3[") || !strings.Contains(got, "second") {
		t.Errorf("answered %s", got)
	}
}

func TestOpenAPINamesEveryOperation(t *testing.T) {
	srv := serve(t, Config{Backend: newBackend("r1"), Version: "1.2.3"})
	res, body := request(t, srv, "GET", "/openapi.json", "")
	if res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	var doc struct {
		OpenAPI string
		Info    struct{ Version string }
		Paths   map[string]map[string]struct {
			OperationID string
			RequestBody *struct{ Content map[string]any }
			Security    []any
		}
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || doc.Info.Version != "1.2.3" || strings.Contains(body, "ErrorModel") {
		t.Errorf("openapi %s, version %s", doc.OpenAPI, doc.Info.Version)
	}
	var got []string
	ids := map[string]bool{}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			name := strings.ToUpper(method) + " " + path
			got = append(got, name)
			if ids[op.OperationID] || op.OperationID == "" {
				t.Errorf("%s: operation id %q is not its own", name, op.OperationID)
			}
			ids[op.OperationID] = true
		}
	}
	slices.Sort(got)
	var want []string
	for _, o := range operations() {
		want = append(want, o.method+" "+o.pattern)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("described:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if doc.Paths["/v1/deployments"]["post"].RequestBody == nil || doc.Paths[pathChunk]["put"].RequestBody == nil {
		t.Error("bodies are not described")
	}
	// Every reference has its schema.
	for _, part := range strings.Split(body, `"$ref":"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		if !strings.Contains(body, `"`+name+`":{`) {
			t.Errorf("schema %s is referred to and missing", name)
		}
	}
}

func TestHealth(t *testing.T) {
	b := newBackend("r1")
	srv := serve(t, Config{Backend: b, ACLEnabled: true})
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/v1/status/leader": 200} {
		if res, _ := request(t, srv, "GET", path, ""); res.StatusCode != want {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	b.mu.Lock()
	b.leader = ""
	b.mu.Unlock()
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/v1/status/leader": 200} {
		if res, _ := request(t, srv, "GET", path, ""); res.StatusCode != want {
			t.Errorf("%s without a leader: %s", path, res.Status)
		}
	}
}

func TestReadyAsksTheServer(t *testing.T) {
	why := fmt.Errorf("%w: the disk of server s1 is low", starling.ErrUnavailable)
	srv := serve(t, Config{Backend: newBackend("r1"), Ready: func() error { return why }})
	if res, body := request(t, srv, "GET", "/readyz", ""); res.StatusCode != 503 || !strings.Contains(body, "the disk of server s1 is low") {
		t.Errorf("%s %q", res.Status, body)
	}
	if res, _ := request(t, srv, "GET", "/healthz", ""); res.StatusCode != 200 {
		t.Errorf("healthz: %s", res.Status)
	}
	why = nil
	if res, _ := request(t, srv, "GET", "/readyz", ""); res.StatusCode != 200 {
		t.Errorf("ready: %s", res.Status)
	}
}

func TestMetrics(t *testing.T) {
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("up 1\n")) })
	srv := serve(t, Config{Backend: newBackend("r1"), Metrics: metrics})
	if res, body := request(t, srv, "GET", "/v1/metrics", ""); res.StatusCode != 200 || body != "up 1\n" {
		t.Errorf("%s %q", res.Status, body)
	}
}
