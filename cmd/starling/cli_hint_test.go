package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What to do about an error is on a line of its own, whether a server says so or the
// command line sees it by itself.
func TestHintsArePrinted(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusConflict)
		io.WriteString(w, `{"status":409,"title":"Conflict","detail":"it is too late","kind":"conflict","hint":"look at it and decide again"}`)
	}))
	t.Cleanup(srv.Close)
	t.Setenv("STARLING_ADDR", srv.URL)
	if _, errs, code := cli(t, "approve", "d-1"); code != exitFailed || errs != "starling: it is too late\nhint: look at it and decide again\n" {
		t.Errorf("exit %d: %q", code, errs)
	}
	for text, want := range map[string][]string{
		`deploy { keep = 99 }`:                          {`app "x": deploy.keep: 99`, "\nhint: how many releases machines keep"},
		`deploy { deadline = "soon" }`:                  {`app "x": deploy.deadline: duration "soon"`, "\nhint: a duration from 1s"},
		"deploy {\n strategy {\n wavs = [\"1%\"]\n}\n}": {"bad.hcl:", `"wavs"`, `Did you mean "waves"?`},
	} {
		file := writeFile(t, "bad.hcl", fmt.Sprintf("app \"x\" {\n%s\n}\n", text))
		_, errs, code := cli(t, "app", "apply", file)
		for _, w := range want {
			if code == 0 || !strings.Contains(errs, w) {
				t.Errorf("%s: exit %d, want %q in %q", text, code, w, errs)
			}
		}
	}
}
