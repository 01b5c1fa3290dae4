package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/world"
)

// shellOf returns the indented lines of a section of docs/integrations.md.
func shellOf(t *testing.T, section string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/integrations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("docs/integrations.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var script strings.Builder
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			script.WriteString(command)
		}
	}
	return script.String()
}

// stepOf returns what the step of docs/ci/action.yml runs.
func stepOf(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/ci/action.yml")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "      run: |\n")
	if !ok {
		t.Fatal("docs/ci/action.yml runs nothing")
	}
	return strings.ReplaceAll(text, "\n        ", "\n")
}

// sh runs a script as it stands, and returns what it prints, errors last, and its exit code.
func sh(t *testing.T, script string, env ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// toldOnes keeps what a webhook sink was told.
type toldOnes struct {
	mu  sync.Mutex
	all []string
}

func (w *toldOnes) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var m struct {
		Type string
		Data struct{ Deployment string }
	}
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, m.Data.Deployment+" "+m.Type)
}

func (w *toldOnes) of(id, kind string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.all {
		if s == id+" deployment."+kind {
			return true
		}
	}
	return false
}

// What docs/integrations.md and docs/ci say works as it stands there, by sh and curl against
// a real cluster, and whoever wants to know hears of it.
func TestIntegrationsAsDocumented(t *testing.T) {
	c := inProcess(t, world.Size{Regions: 1, Servers: 1, Caches: 1, Workers: 1, Machines: 1})
	api := c.apis["r1"]
	addr := "http://" + c.w.WithRole(starling.RoleServer)[0].HTTP
	t.Setenv("STARLING_ADDR", addr)
	t.Setenv("STARLING_TOKEN", "")
	var ops toldOnes
	srv := httptest.NewServer(&ops)
	t.Cleanup(srv.Close)

	r := newRepo(t)
	good := r.commit(release("v1", true))
	c.apply(api, r.app("hello", func(a *starling.App) {
		a.Source.Branch = "main"
		a.Deploy.Health.Deadline = starling.Duration(time.Second)
	}))
	if out := mustCLI(t, "notify", "create", "ops", "--url", srv.URL, "--on", "submitted,succeeded,reverted"); !strings.Contains(out, "whsec_") {
		t.Errorf("notify create: %s", out)
	}
	var hook starling.IssuedWebhook
	if err := json.Unmarshal([]byte(mustCLI(t, "webhook", "create", "push", "--kind", "generic", "--json")), &hook); err != nil {
		t.Fatal(err)
	}

	push := shellOf(t, "A push by hand")
	env := []string{"REPOSITORY=file://" + r.dir, "SHA=" + good, "SECRET=" + hook.Secret}
	var outcome starling.PushOutcome
	if out, code := sh(t, push, env...); code != 0 || json.Unmarshal([]byte(out), &outcome) != nil || len(outcome.Deployments) != 1 {
		t.Fatalf("a push: exit %d: %s", code, out)
	}
	first, err := api.Deployment(t.Context(), outcome.Deployments[0].ID)
	if err != nil || first.SHA != good || first.Actor != "webhook:push" {
		t.Fatalf("%+v, %v", first, err)
	}
	if d := c.wait(api, first); d.Phase != starling.PhaseSucceeded {
		t.Fatalf("%s: %s", d.Phase, d.Reason)
	}
	if out, code := sh(t, push, "REPOSITORY=file://"+r.dir, "SHA="+good, "SECRET=another secret of any length"); code == 0 || !strings.Contains(out, `"hint"`) {
		t.Errorf("another secret: exit %d: %s", code, out)
	}

	plain := shellOf(t, "A deployment by curl")
	ids := map[string]bool{}
	for range 2 {
		out, code := sh(t, plain, "BUILD=4711", "SHA="+good)
		var d starling.Deployment
		if code != 0 || json.Unmarshal([]byte(out), &d) != nil {
			t.Fatalf("curl: exit %d: %s", code, out)
		}
		ids[d.ID] = true
		c.wait(api, &d)
	}
	if len(ids) != 1 {
		t.Errorf("a retry made another deployment: %v", ids)
	}

	step, output := stepOf(t), filepath.Join(t.TempDir(), "output")
	action := func(app, sha string, run int) (string, int) {
		return sh(t, step, "APP="+app, "GITHUB_SHA="+sha, fmt.Sprintf("GITHUB_RUN_ID=%d", run), "GITHUB_RUN_ATTEMPT=1", "GITHUB_OUTPUT="+output, "STARLING_POLL=0.2")
	}
	if out, code := action("hello", good, 1); code != 0 || !strings.Contains(out, ": succeeded") {
		t.Errorf("the step: exit %d: %s", code, out)
	}
	b, err := os.ReadFile(output)
	id, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "deployment=")
	if err != nil || !ok {
		t.Fatalf("output %q, %v", b, err)
	}
	if out, code := action("hello", r.commit(release("v2", false)), 2); code != 1 || !strings.Contains(out, "broken") {
		t.Errorf("a release that is broken: exit %d: %s", code, out)
	}
	if out, code := action("nobody", good, 3); code != 2 || !strings.Contains(out, `"hint"`) {
		t.Errorf("an unknown app: exit %d: %s", code, out)
	}

	failed, err := api.Deployments(t.Context(), starling.DeploymentFilter{App: "hello", Limit: 1})
	if err != nil || failed[0].RevertedTo.IsZero() {
		t.Fatalf("%+v, %v", failed, err)
	}
	for want, heard := range map[string]func() bool{
		"the push's submission":   func() bool { return ops.of(first.ID, "submitted") },
		"the push's success":      func() bool { return ops.of(first.ID, "succeeded") },
		"the step's success":      func() bool { return ops.of(id, "succeeded") },
		"the broken one's revert": func() bool { return ops.of(failed[0].ID, "failed") },
	} {
		for end := time.Now().Add(30 * time.Second); !heard(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("nobody was told of %s", want)
			}
		}
	}
	if out := mustCLI(t, "notify", "test", "ops"); !strings.Contains(out, "ops took it: A test. The last deployment: hello") {
		t.Errorf("notify test: %s", out)
	}
	srv.Close()
	if _, errs, code := cli(t, "notify", "test", "ops"); code != exitFailed || !strings.Contains(errs, "ops did not take it: ") {
		t.Errorf("notify test of nobody: exit %d, %s", code, errs)
	}
	if out := mustCLI(t, "notify", "list"); !strings.Contains(out, "ops") || !strings.Contains(out, "none") {
		t.Errorf("notify list: %s", out)
	}
	if out := mustCLI(t, "webhook", "list"); !strings.Contains(out, "/v1/hooks/push") || strings.Contains(out, hook.Secret) {
		t.Errorf("webhook list: %s", out)
	}
}
