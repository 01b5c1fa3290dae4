package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := New(Config{Addr: srv.URL, Token: "st_token", HTTP: srv.Client()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConfig(t *testing.T) {
	t.Setenv("STARLING_ADDR", "host.example:7470")
	t.Setenv("STARLING_TOKEN", "secret")
	t.Setenv("STARLING_CACERT", "")
	conf := FromEnv()
	if conf != (Config{Addr: "host.example:7470", Token: "secret"}) {
		t.Errorf("from the environment: %+v", conf)
	}
	for addr, want := range map[string]string{
		"": DefaultAddr, "host:1": "https://host:1", "http://host:1": "http://host:1", "https://[::1]:7": "https://[::1]:7",
	} {
		if c, err := New(Config{Addr: addr}); err != nil || c.servers.urls[0].String() != want {
			t.Errorf("%q: %v, %v", addr, c, err)
		}
	}
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, conf := range map[string]Config{
		"another scheme": {Addr: "ftp://host"}, "no host": {Addr: "http://"}, "no address": {Addr: "::"},
		"no authority": {CACert: empty}, "no file": {CACert: empty + "x"},
	} {
		if _, err := New(conf); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestErrorsAreTheDomains(t *testing.T) {
	tests := []struct {
		status int
		body   string
		is     error
		text   string
	}{
		{404, `{"title":"Not Found","detail":"app x: not found","hint":"look"}`, starling.ErrNotFound, "app x: not found (look)"},
		{409, `{"detail":"too late"}`, starling.ErrConflict, "too late"},
		{401, `{"detail":"no token"}`, starling.ErrForbidden, "no token"},
		{403, `{"detail":"not yours"}`, starling.ErrForbidden, "not yours"},
		{503, `{"detail":"no leader"}`, starling.ErrUnavailable, "no leader"},
		{502, "<html>proxy", starling.ErrUnavailable, "proxy"},
		{400, `{"field":"sha","detail":"is short"}`, nil, "sha: is short"},
		{500, "", nil, "500"},
		{400, strings.Repeat("x", 1<<20), nil, "400"},
	}
	for _, tc := range tests {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer st_token" {
				t.Errorf("authorization %q", r.Header.Get("Authorization"))
			}
			w.WriteHeader(tc.status)
			io.WriteString(w, tc.body)
		})
		_, err := c.App(t.Context(), "x")
		var e *Error
		if !errors.As(err, &e) || e.Status != tc.status || !strings.Contains(err.Error(), tc.text) || len(err.Error()) > 2000 {
			t.Errorf("%d %.40q: %v", tc.status, tc.body, err)
		}
		if tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%d is not %v: %v", tc.status, tc.is, err)
		}
		if strings.Contains(tc.body, `"field"`) {
			var f *starling.FieldError
			if !errors.As(err, &f) || f.Field != "sha" || f.Problem != "is short" {
				t.Errorf("field error %+v", f)
			}
		}
	}
}

func TestNobodyThere(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	c, err := New(Config{Addr: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apps(t.Context()); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestPathsAreEscaped(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() != "/v1/apps/..%2F..%2Fx%3Fy" || r.URL.RawQuery != "" {
			t.Errorf("path %s, query %s", r.URL.EscapedPath(), r.URL.RawQuery)
		}
		io.WriteString(w, "{}")
	})
	if _, err := c.App(t.Context(), "../../x?y"); err != nil {
		t.Error(err)
	}
}

// Wait goes on over the time when there is no leader, and tells of progress.
func TestWait(t *testing.T) {
	var calls atomic.Int64
	phases := []starling.Phase{starling.PhaseQueued, "", "", starling.PhaseRollingOut, starling.PhaseSucceeded}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		phase := phases[calls.Add(1)-1]
		if phase == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if err := json.NewEncoder(w).Encode(starling.Deployment{ID: "d", Phase: phase}); err != nil {
			t.Error(err)
		}
	})
	var seen []starling.Phase
	d, err := c.Wait(t.Context(), "d", time.Millisecond, func(d *starling.Deployment) { seen = append(seen, d.Phase) })
	if err != nil || d.Phase != starling.PhaseSucceeded || fmt.Sprint(seen) != "[queued rolling_out succeeded]" {
		t.Errorf("%+v, %v, saw %v", d, err, seen)
	}

	gone := serve(t, http.NotFound)
	if _, err := gone.Wait(t.Context(), "d", time.Millisecond, nil); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("an unknown deployment: %v", err)
	}
	never := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := never.Wait(ctx, "d", time.Millisecond, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a cluster without a leader: %v", err)
	}
}

func TestEventsResume(t *testing.T) {
	var calls atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		last := r.Header.Get("Last-Event-ID")
		switch calls.Add(1) {
		case 1: // ends after one event and half another
			if last != "1.0" {
				t.Errorf("begins after %q", last)
			}
			io.WriteString(w, "retry: 1000\n\n: still here\n\nid: 2.0\ndata: {\"app\":\"a\"}\n\nid: 2.1\ndata: {\"app\":")
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			if last != "2.0" {
				t.Errorf("resumes after %q", last)
			}
			io.WriteString(w, "event: gap\ndata: {}\n\nid: 9.0\ndata: {\"app\":\"b\"}\n\n")
		default:
			t.Errorf("call %d after %q", calls.Load(), last)
		}
	})
	stop := errors.New("enough")
	var got []string
	err := c.Events(t.Context(), "1.0", func(ev ServerEvent) error {
		if ev.Gap {
			got = append(got, "gap")
		} else {
			got = append(got, ev.ID+ev.App)
		}
		if ev.App == "b" {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || fmt.Sprint(got) != "[2.0a gap 9.0b]" {
		t.Errorf("%v, %v", got, err)
	}

	refused := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	if err := refused.Events(t.Context(), "", func(ServerEvent) error { return nil }); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("refused: %v", err)
	}
}

func TestBuildLogTellsWhereItStopped(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "follow=true&offset=3" {
			t.Errorf("query %s", r.URL.RawQuery)
		}
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "four")
	})
	var out strings.Builder
	if next, err := c.BuildLog(t.Context(), "d", 3, true, &out); next != 7 || out.String() != "four" || !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("%d, %q, %v", next, out.String(), err)
	}
}
