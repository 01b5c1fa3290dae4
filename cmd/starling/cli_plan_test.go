package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
)

// planServer answers plans that change something or not, and apps at revision 7.
func planServer(t *testing.T, change bool) (addr string, asked func() (starling.PlanRequest, string)) {
	var req starling.PlanRequest
	var ifMatch string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/plan") && r.Method == http.MethodPost:
			if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
				t.Error(err)
			}
			_ = json.NewEncoder(w).Encode(starling.Plan{App: "web", Change: change, Revision: 7})
		case r.Method == http.MethodPut:
			if ifMatch = r.Header.Get("If-Match"); ifMatch != "7" {
				w.WriteHeader(http.StatusPreconditionFailed)
				_, _ = io.WriteString(w, `{"status":412,"title":"Precondition Failed","detail":"app web is at revision 7","field":"If-Match","hint":"read the app again"}`)
				return
			}
			_ = json.NewEncoder(w).Encode(starling.App{Name: "web", Home: "us", Revision: 8})
		default:
			_ = json.NewEncoder(w).Encode(starling.App{Name: "web", Home: "us", Revision: 7})
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() (starling.PlanRequest, string) { return req, ifMatch }
}

func TestPlanExitCodes(t *testing.T) {
	t.Chdir(t.TempDir()) // no repository
	file := filepath.Join(t.TempDir(), "app.hcl")
	if err := os.WriteFile(file, []byte("app \"web\" {\n  deploy {\n    keep = 5\n  }\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	still, _ := planServer(t, false)
	moves, asked := planServer(t, true)
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, c := range map[string]struct {
		args []string
		code int
		text string
	}{
		"nothing changes": {[]string{"--addr", still}, 0, "nothing would change"},
		"a change":        {[]string{"--addr", moves, "--file", file}, exitChange, "starling app apply --check-revision 7 " + file},
		"as JSON":         {[]string{"--addr", moves, "--json"}, exitChange, `"change": true`},
		"nobody answers":  {[]string{"--addr", gone.URL}, exitNoPlan, ""},
		"a bad file":      {[]string{"--addr", still, "--file", os.DevNull}, exitNoPlan, ""},
		"another's file":  {[]string{"--addr", still, "--file", file + ".none"}, exitNoPlan, ""},
		"a bad digest":    {[]string{"--addr", still, "--artifact", "v1"}, exitNoPlan, ""},
	} {
		out, errs, code := cli(t, append([]string{"plan", "web"}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.text) || (code == exitNoPlan) != (strings.TrimSpace(errs) != "starling:" && errs != "") {
			t.Errorf("%s: exit %d\n%s%s", name, code, out, errs)
		}
	}
	if _, errs, code := cli(t, "plan", "web", "--addr", moves, "--file", file); code != exitChange {
		t.Fatal(code, errs)
	}
	if req, _ := asked(); req.SHA != "" || req.Spec == nil || req.Spec.Deploy.Keep != 5 {
		t.Errorf("asked for %+v", req)
	}
}

func TestApplySendsWhatItHasRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "app.hcl")
	if err := os.WriteFile(file, []byte("app \"web\" {\n  deploy {\n    keep = 5\n  }\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr, asked := planServer(t, true)
	out := mustCLI(t, "app", "apply", "--addr", addr, file)
	if _, ifMatch := asked(); ifMatch != "7" || !strings.Contains(out, "revision 8") || !strings.Contains(out, "deploy.keep: 0 → 5") {
		t.Errorf("If-Match %q; %s", ifMatch, out)
	}
	mustCLI(t, "app", "apply", "--addr", addr, "--check-revision", "7", file)
	if _, errs, code := cli(t, "app", "apply", "--addr", addr, "--check-revision", "6", file); code != exitFailed || !strings.Contains(errs, "hint: read the app again") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if _, errs, code := cli(t, "app", "apply", "--addr", addr, "--force", file); code != exitFailed || !strings.Contains(errs, "revision 7") {
		t.Errorf("without a condition: exit %d: %s", code, errs)
	}
}
