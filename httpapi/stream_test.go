package httpapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/starlingdeploy/starling"
)

// watcher reads server-sent events one by one.
type watcher struct {
	t     *testing.T
	res   *http.Response
	lines *bufio.Scanner
}

func watch(t *testing.T, srv *httptest.Server, lastID string) *watcher {
	t.Helper()
	w := watchPath(t, srv, "", lastID)
	if ct := w.res.Header.Get("Content-Type"); w.res.StatusCode != 200 || ct != "text/event-stream" {
		t.Fatalf("%s, %s", w.res.Status, ct)
	}
	return w
}

// next returns the id, name and data of the next event.
func (w *watcher) next() (id, name string, ev starling.Event) {
	w.t.Helper()
	for w.lines.Scan() {
		field, value, _ := strings.Cut(w.lines.Text(), ": ")
		switch field {
		case "":
			id, name = "", "" // no data: nothing but a place to resume from
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			if err := json.Unmarshal([]byte(value), &ev); err != nil {
				w.t.Fatal(err)
			}
			return id, name, ev
		}
	}
	w.t.Fatalf("the stream ended: %v", w.lines.Err())
	return
}

func applyApp(t testing.TB, b *backend, name string) {
	t.Helper()
	app := starling.App{Name: name}
	app.SetDefaults()
	if _, err := b.ApplyApp(t.Context(), "test", app, nil); err != nil {
		t.Fatal(err)
	}
}

func TestEventsFromNowOnAndResumed(t *testing.T) {
	b := newBackend("r1")
	applyApp(t, b, "before")
	srv := serve(t, Config{Backend: b})
	w := watch(t, srv, "")
	applyApp(t, b, "one")
	applyApp(t, b, "two")
	id, name, ev := w.next()
	if ev.App != "one" || name != "" || id != fmt.Sprintf("%d.%d@r1", ev.Index, ev.N) {
		t.Errorf("first event %q %q %+v", id, name, ev)
	}
	w.res.Body.Close()

	// Nothing between is lost, nothing comes twice.
	applyApp(t, b, "three")
	w = watch(t, srv, id)
	for _, want := range []string{"two", "three"} {
		if _, _, ev := w.next(); ev.App != want {
			t.Errorf("resumed: %+v, want %s", ev, want)
		}
	}
	applyApp(t, b, "four")
	if _, _, ev := w.next(); ev.App != "four" {
		t.Errorf("live after resuming: %+v", ev)
	}
	// From the beginning.
	if _, _, ev := watch(t, srv, "0.0").next(); ev.App != "before" {
		t.Errorf("from the beginning: %+v", ev)
	}
}

// gapped has lost its oldest events.
type gapped struct {
	*backend
	from uint64
}

func (g *gapped) EventsAfter(index uint64, n, limit int) ([]starling.Event, bool) {
	gap := index < g.from
	if gap {
		index, n = g.from, 1<<30
	}
	events, _ := g.backend.EventsAfter(index, n, limit)
	return events, gap
}

func TestEventsTellOfAGap(t *testing.T) {
	b := newBackend("r1")
	for i := range 5 {
		applyApp(t, b, fmt.Sprintf("a%d", i))
	}
	srv := serve(t, Config{Backend: &gapped{b, 3}})
	w := watch(t, srv, "1.0")
	if id, name, _ := w.next(); name != "gap" || id != "" {
		t.Errorf("no gap but %q %q", id, name)
	}
	if _, name, ev := w.next(); name != "" || ev.App != "a3" {
		t.Errorf("after the gap: %q %+v", name, ev)
	}
	// Everything that this watcher has not seen is gone.
	srv = serve(t, Config{Backend: &gapped{b, 5}})
	w = watch(t, srv, "1.0")
	if _, name, _ := w.next(); name != "gap" {
		t.Errorf("no gap but %q", name)
	}
	applyApp(t, b, "later")
	if _, name, ev := w.next(); name != "" || ev.App != "later" {
		t.Errorf("after the gap: %q %+v", name, ev)
	}
}

func TestEventsOfAnotherRegionAreAGap(t *testing.T) {
	b := newBackend("r1")
	applyApp(t, b, "one")
	srv := serve(t, Config{Backend: b})
	w := watch(t, srv, "900.0")
	if _, name, _ := w.next(); name != "gap" {
		t.Errorf("no gap but %q", name)
	}
	applyApp(t, b, "two")
	if _, _, ev := w.next(); ev.App != "two" {
		t.Errorf("after the gap: %+v", ev)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	a := &api{streams: make(chan struct{}, 1)}
	leave, err := a.enterStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.enterStream(); err == nil {
		t.Error("one stream too many")
	}
	leave()
	if _, err := a.enterStream(); err != nil {
		t.Error(err)
	}
}

func TestBuildLog(t *testing.T) {
	b := newBackend("r1")
	d := fixture(t, b)
	srv := serve(t, Config{Backend: b})
	b.writeLog(d.ID, "one\n", false)
	path := "/v1/deployments/" + d.ID + "/logs"
	if res, body := request(t, srv, "GET", path, ""); body != "one\n" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("not followed: %q", body)
	}
	if _, body := request(t, srv, "GET", path+"?offset=1", ""); body != "ne\n" {
		t.Errorf("from an offset: %q", body)
	}
	// Followed, it comes as it is written, also through another server.
	far := newBackend("r2")
	far.to = func(string, string) (http.RoundTripper, error) { return toServer(t, srv), nil }
	for name, srv := range map[string]*httptest.Server{"direct": srv, "passed on": serve(t, Config{Backend: far})} {
		res, err := srv.Client().Get(srv.URL + path + "?follow=true")
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(res.Body)
		if line, err := in.ReadString('\n'); err != nil || line != "one\n" {
			t.Errorf("%s: %q, %v", name, line, err)
		}
		b.writeLog(d.ID, name+"\n", false)
		for line := ""; line != name+"\n"; {
			if line, err = in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		res.Body.Close()
	}
	b.writeLog(d.ID, "end\n", true)
	if _, body := request(t, srv, "GET", path+"?follow=true", ""); !strings.HasSuffix(body, "end\n") {
		t.Errorf("ended: %q", body)
	}
}

// toServer is a transport to another server, as Route gives it.
func toServer(t *testing.T, srv *httptest.Server) http.RoundTripper {
	t.Helper()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		out := r.Clone(r.Context())
		out.URL.Host = u.Host
		return srv.Client().Transport.RoundTrip(out)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestForwarding(t *testing.T) {
	home := newBackend("r1")
	d := fixture(t, home)
	homeSrv := serve(t, Config{Backend: home, ACLEnabled: true})
	tok, err := home.CreateToken(t.Context(), "test", starling.NewToken{Name: "ci", Role: starling.ACLOperator})
	if err != nil {
		t.Fatal(err)
	}
	// The far region knows the app and the token, as a mirror would.
	far := newBackend("r2")
	far.fsm = home.fsm
	var asked atomic.Value
	var fail error
	far.to = func(app, deployment string) (http.RoundTripper, error) {
		asked.Store(app + "|" + deployment)
		if fail != nil {
			return nil, fail
		}
		return toServer(t, homeSrv), nil
	}
	srv := serve(t, Config{Backend: far, ACLEnabled: true})
	auth := []string{"Authorization", "Bearer " + tok.Secret}

	tests := []struct {
		method, path, body string
		want               string // what Route is asked, "" for not at all
		status             int
	}{
		{"GET", "/v1/apps/hello", "", "hello|", 200},
		{"GET", "/v1/apps/hello?stale", "", "", 200},
		{"GET", "/v1/apps/hello?stale=false", "", "hello|", 200},
		{"GET", "/v1/apps", "", "", 200},
		{"GET", "/v1/apps/hello/releases", "", "hello|", 200},
		{"GET", "/v1/apps/Not%20A%20Name", "", "", 404},
		{"PUT", "/v1/apps/hello", `{"name":"hello"}`, "hello|", 200},
		{"POST", "/v1/apps", `{"name":"hello"}`, "hello|", 200},
		{"PUT", "/v1/apps/brand-new", `{"name":"brand-new"}`, "|", 200},
		{"POST", "/v1/deployments", `{"app":"hello","artifact":"` + starling.DigestOf([]byte("x")).String() + `"}`, "hello|", 404},
		{"POST", "/v1/deployments", `{"app":7}`, "", 400},
		{"GET", "/v1/deployments", "", "", 200},
		{"GET", "/v1/deployments/" + d.ID, "", "|" + d.ID, 200},
		{"GET", "/v1/deployments/" + d.ID + "?stale", "", "", 200},
		{"POST", "/v1/deployments/" + d.ID + "/pause", "", "|" + d.ID, 200},
		{"POST", "/v1/deployments/" + d.ID + "/pause?stale", "", "|" + d.ID, 200},
		{"GET", "/v1/nodes", "", "|", 200},
		{"GET", "/v1/regions", "", "|", 200},
		{"GET", "/v1/artifacts", "", "", 200},
		{"POST", "/v1/artifacts", `{"manifest":"e30="}`, "|", 400},
		{"GET", "/v1/operator/raft", "", "|", 200},
		{"GET", "/v1/operator/autopilot/health", "", "|", 200},
		{"GET", "/v1/operator/snapshot", "", "|", 200},
		{"PUT", "/v1/operator/snapshot", "x", "|", 400},
		{"POST", "/v1/operator/leave", "", "", 409},
		{"GET", "/v1/status/leader", "", "", 200},
		{"GET", "/v1/acl/tokens", "", "", 200},
		{"POST", "/v1/acl/tokens", `{"name":"x","role":"viewer"}`, "|", 201},
	}
	for _, tc := range tests {
		asked.Store("")
		res, body := request(t, srv, tc.method, tc.path, tc.body, auth...)
		if got := asked.Load().(string); got != tc.want || res.StatusCode != tc.status {
			t.Errorf("%s %s: asked for %q, want %q; %s %s", tc.method, tc.path, got, tc.want, res.Status, body)
		}
	}

	t.Run("refused before it is passed on", func(t *testing.T) {
		asked.Store("")
		if res, _ := request(t, srv, "GET", "/v1/apps/hello", ""); res.StatusCode != 401 || asked.Load() != "" {
			t.Errorf("%s, asked %q", res.Status, asked.Load())
		}
	})
	t.Run("no place", func(t *testing.T) {
		defer func() { fail = nil }()
		for err, status := range map[error]int{starling.ErrUnavailable: 503, starling.ErrNotFound: 404} {
			fail = fmt.Errorf("region r1: %w", err)
			res, body := request(t, srv, "GET", "/v1/apps/hello", "", auth...)
			if p := problemIn(t, res, body); p.Status != status || p.Hint == "" {
				t.Errorf("%v: %s", err, body)
			}
		}
	})
	t.Run("the place does not answer", func(t *testing.T) {
		old := far.to
		defer func() { far.to = old }()
		far.to = func(string, string) (http.RoundTripper, error) {
			return roundTrip(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }), nil
		}
		res, body := request(t, srv, "POST", "/v1/deployments", `{"app":"hello","sha":"`+sha+`"}`, auth...)
		if p := problemIn(t, res, body); p.Status != 503 {
			t.Errorf("%s", body)
		}
	})
}

// The whole request arrives as it was sent.
func TestForwardedRequestIsUnchanged(t *testing.T) {
	far := newBackend("r2")
	var got *http.Request
	var gotBody string
	far.to = func(string, string) (http.RoundTripper, error) {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(r.Body)
			got, gotBody = r, string(b)
			return &http.Response{StatusCode: 201, Header: http.Header{"Location": {"/there"}}, Body: io.NopCloser(strings.NewReader("done")), Request: r}, err
		}), nil
	}
	srv := serve(t, Config{Backend: far})
	sent := `{"app":"hello", "sha":"x", "unknown": [1,2]}`
	res, body := request(t, srv, "POST", "/v1/deployments?x=1&y=%20", sent, "Authorization", "Bearer st_x", "Idempotency-Key", "k")
	if res.StatusCode != 201 || body != "done" || res.Header.Get("Location") != "/there" {
		t.Errorf("answer %s %q", res.Status, body)
	}
	if gotBody != sent || got.Method != "POST" || got.URL.RequestURI() != "/v1/deployments?x=1&y=%20" ||
		got.Header.Get("Authorization") != "Bearer st_x" || got.Header.Get("Idempotency-Key") != "k" || got.Header.Get(HeaderForwarded) != "1" {
		t.Errorf("arrived: %s %s %v %q", got.Method, got.URL, got.Header, gotBody)
	}
}

func TestForwardingEnds(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	var srv *httptest.Server
	var hops atomic.Int64
	b.to = func(string, string) (http.RoundTripper, error) {
		hops.Add(1)
		return toServer(t, srv), nil // to itself
	}
	srv = serve(t, Config{Backend: b})
	res, body := request(t, srv, "GET", "/v1/apps/hello", "")
	p := problemIn(t, res, body)
	if p.Status != 503 || hops.Load() != maxForwards+1 {
		t.Errorf("after %d hops: %s", hops.Load(), body)
	}
	for _, header := range []string{"-5", "x", "99999999999999999999"} {
		if res, body := request(t, srv, "GET", "/v1/apps/hello", "", HeaderForwarded, header); res.StatusCode != 503 {
			t.Errorf("%s: %s %s", header, res.Status, body)
		}
	}
}
