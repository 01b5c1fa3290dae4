package notify

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sha = "0123456789abcdef0123456789abcdef01234567"

var now = time.Unix(1_800_000_000, 0).UTC()

func deployment() *starling.Deployment {
	return &starling.Deployment{
		ID: "d-1", App: "hello", SHA: sha, Actor: "token:ci", Reason: `the health check said "no" <& more>`,
		Spec: starling.App{Source: starling.SourceSpec{Git: "git@github.com:acme/tools/hello.git"}},
	}
}

func phase(p starling.Phase) *starling.Event {
	return &starling.Event{Index: 7, N: 2, Region: "us", At: now, Type: raftfsm.EventDeploymentPhase, App: "hello", Deployment: "d-1", Phase: p, Actor: "server:s1"}
}

func TestWhoIsToldOfWhat(t *testing.T) {
	failed, reverted := deployment(), deployment()
	reverted.RevertedTo = starling.DigestOf([]byte("x"))
	prebuilt := deployment()
	prebuilt.SHA = ""
	sink := func(kind starling.SinkKind, apps string, notices ...starling.Notice) *starling.Sink {
		k := &starling.Sink{Kind: kind, Notices: notices}
		if apps != "" {
			k.Apps = []string{apps}
		}
		return k
	}
	tests := []struct {
		name string
		k    *starling.Sink
		e    *starling.Event
		d    *starling.Deployment
		want bool
	}{
		{"a phase", sink("webhook", "", "failed"), phase("failed"), failed, true},
		{"another phase", sink("webhook", "", "failed"), phase("succeeded"), failed, false},
		{"another app", sink("webhook", "other", "failed"), phase("failed"), failed, false},
		{"the app", sink("webhook", "hello", "failed"), phase("failed"), failed, true},
		{"a failure without a revert", sink("webhook", "", "reverted"), phase("failed"), failed, false},
		{"a revert", sink("webhook", "", "reverted"), phase("failed"), reverted, true},
		{"a submission", sink("webhook", "", "submitted"), &starling.Event{Type: raftfsm.EventDeploymentQueued, Phase: "queued"}, failed, true},
		{"queued again", sink("webhook", "", "submitted"), phase("queued"), failed, false},
		{"a wave", sink("webhook", "", starling.Notices()...), &starling.Event{Type: raftfsm.EventDeploymentWave}, failed, false},
		{"no deployment", sink("webhook", "", starling.Notices()...), phase("failed"), nil, false},
		{"a status without a commit", sink("github", "", "failed"), phase("failed"), prebuilt, false},
	}
	for _, tc := range tests {
		if got := For(tc.k, tc.e, tc.d); (got != nil) != tc.want {
			t.Errorf("%s: %+v", tc.name, got)
		}
	}
}

func TestForms(t *testing.T) {
	m := For(&starling.Sink{Kind: "webhook", Notices: starling.Notices()}, phase("failed"), deployment())
	if m.ID != "evt_us_7_2" || m.Type != "deployment.failed" || !strings.HasPrefix(m.Text, "hello 0123456789ab failed: the health check") {
		t.Errorf("%+v", m)
	}
	form := func(n starling.NewSink) (string, string, http.Header) {
		t.Helper()
		n.Name, n.Secret = "x", "a token"
		n.SetDefaults()
		target := Target{n.Kind, n.URL, n.Template, n.Secret}
		if err := target.Check(); err != nil {
			t.Fatal(err)
		}
		to, body, h, err := target.form(m)
		if err != nil || !json.Valid(body) {
			t.Fatalf("%s: %v", body, err)
		}
		return to, string(body), h
	}
	to, body, h := form(starling.NewSink{Kind: starling.SinkGitHub})
	if to != "https://api.github.com/repos/acme%2Ftools/hello/statuses/"+sha || h.Get("Authorization") != "Bearer a token" ||
		!strings.Contains(body, `"state": "failure"`) || !strings.Contains(body, `"context": "starling/hello"`) || !strings.Contains(body, `said \"no\"`) {
		t.Errorf("GitHub: %s %s", to, body)
	}
	to, body, h = form(starling.NewSink{Kind: starling.SinkGitLab})
	if to != "https://gitlab.com/api/v4/projects/acme%2Ftools%2Fhello/statuses/"+sha || h.Get("Private-Token") != "a token" || !strings.Contains(body, `"state": "failed"`) {
		t.Errorf("GitLab: %s %s", to, body)
	}
	to, body, _ = form(starling.NewSink{Kind: starling.SinkGitLab, URL: "https://git.example/{app}/{phase}", Template: `["{deployment}", "{nothing}"]`})
	if to != "https://git.example/hello/failed" || body != `["d-1", "{nothing}"]` {
		t.Errorf("of one's own: %s %s", to, body)
	}
	_, body, _ = form(starling.NewSink{Kind: starling.SinkSlack, URL: "https://hooks.slack.com/x"})
	var slack slackMessage
	if err := json.Unmarshal([]byte(body), &slack); err != nil || !strings.Contains(slack.Text, "&lt;&amp; more&gt;") ||
		len(slack.Blocks) != 2 || slack.Blocks[0].Type != "section" || slack.Blocks[0].Text.Type != "mrkdwn" || !strings.Contains(slack.Blocks[1].Elements[0].Text, "d-1") {
		t.Errorf("Slack: %s, %v", body, err)
	}
	for kind, states := range map[starling.SinkKind]map[starling.Phase]string{
		starling.SinkGitHub: {"queued": "pending", "rolling_out": "pending", "succeeded": "success", "failed": "failure", "cancelled": "error"},
		starling.SinkGitLab: {"queued": "pending", "rolling_out": "running", "succeeded": "success", "failed": "failed", "cancelled": "canceled"},
	} {
		for p, want := range states {
			if got := stateOf(kind, p); got != want {
				t.Errorf("%s of %s: %s", p, kind, got)
			}
		}
	}
}

func post(t *testing.T, p *Poster, url string) error {
	t.Helper()
	m := For(&starling.Sink{Kind: "webhook", Notices: starling.Notices()}, phase("failed"), deployment())
	return p.Post(t.Context(), &Target{Kind: starling.SinkWebhook, URL: url, Secret: "a secret of some length"}, m, now)
}

func TestPost(t *testing.T) {
	p := NewPoster(true)
	t.Cleanup(p.Close)
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	t.Cleanup(other.Close)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if _, err := webhook.Verify(starling.WebhookGeneric, "a secret of some length", r.Header, body, now); err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case "/busy":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		case "/flood":
			w.WriteHeader(http.StatusInternalServerError)
			for range 1 << 12 {
				if _, err := w.Write(make([]byte, 4<<10)); err != nil {
					return
				}
			}
		case "/hang":
			<-r.Context().Done()
		case "/wrong":
			w.WriteHeader(http.StatusUnprocessableEntity)
			io.WriteString(w, strings.Repeat("wrong\x00", 1000))
		}
	}))
	t.Cleanup(srv.Close)
	if err := post(t, p, srv.URL); err != nil {
		t.Errorf("taken: %v", err)
	}
	for path, want := range map[string]struct {
		status int
		final  bool
		after  time.Duration
	}{
		"/redirect": {307, true, 0}, "/busy": {429, false, 7 * time.Second}, "/flood": {500, false, 0}, "/wrong": {422, true, 0},
	} {
		err := post(t, p, srv.URL+path)
		var r *Refusal
		if !errors.As(err, &r) || r.Status != want.status || r.Final() != want.final || r.After != want.after || len(err.Error()) > 600 {
			t.Errorf("%s: %v", path, err)
		}
	}
	if elsewhere > 0 {
		t.Error("a redirect was followed")
	}
	p.client.Timeout = 50 * time.Millisecond
	if err := post(t, p, srv.URL+"/hang"); err == nil || strings.Contains(err.Error(), "/hang") {
		t.Errorf("a receiver that hangs, whose path may be a secret: %v", err)
	}
}

// Without leave, nothing reaches this host or a cloud's metadata, by whatever name.
func TestWhereMessagesDoNotGo(t *testing.T) {
	reached := 0
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	t.Cleanup(srv.Close)
	p := NewPoster(false)
	t.Cleanup(p.Close)
	_, port, _ := strings.Cut(strings.TrimPrefix(srv.URL, "https://"), ":")
	for _, url := range []string{srv.URL, "https://localhost:" + port, "https://[::1]:" + port, "https://[::ffff:127.0.0.1]:" + port, "https://0.0.0.0:" + port} {
		if err := post(t, p, url); err == nil || strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if err := post(t, p, "http://hooks.example/"); !starling.IsInvalid(err) {
		t.Errorf("plain HTTP: %v", err)
	}
	if reached > 0 {
		t.Error("this host was reached")
	}
	for addr, want := range map[string]bool{
		"169.254.169.254": true, "fe80::1": true, "fd00:ec2::254": true, "100.100.100.200": true, "224.0.0.1": true, "::": true,
		"10.0.0.5": false, "192.168.1.1": false, "140.82.112.3": false, "2606:50c0::1": false,
	} {
		if got := forbidden(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: forbidden %v", addr, got)
		}
	}
}
