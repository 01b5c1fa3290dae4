package httpapi

import (
	"errors"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
)

func TestWebhooks(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	srv := serve(t, Config{Backend: b})
	res, body := request(t, srv, "POST", "/v1/webhooks", `{"name":"push","kind":"gitlab"}`)
	if res.StatusCode != 201 || !strings.Contains(body, `"secret":"secret of push"`) || !strings.Contains(body, `"/v1/hooks/push"`) || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("create: %s %s", res.Status, body)
	}
	if _, body := request(t, srv, "GET", "/v1/webhooks", ""); !strings.Contains(body, `"push"`) || strings.Contains(body, "sealed") || strings.Contains(body, "secret") || strings.Contains(body, "c2VhbGVk") {
		t.Errorf("list: %s", body)
	}
	for body, field := range map[string]string{
		`{"kind":"github"}`: "name", `{"name":"x","kind":"svn"}`: "kind", `{"name":"x","kind":"github","secret":"short"}`: "secret",
		`{"name":"x","kind":"github","apps":["A"]}`: "apps",
	} {
		res, answer := request(t, srv, "POST", "/v1/webhooks", body)
		if p := problemIn(t, res, answer); p.Pointer != "#/"+field || p.Hint == "" {
			t.Errorf("%s: %s", body, answer)
		}
	}

	res, body = request(t, srv, "POST", "/v1/hooks/push", "x", "X-Gitlab-Token", "good")
	if res.StatusCode != 200 || !strings.Contains(body, `"created":true`) {
		t.Errorf("a push: %s %s", res.Status, body)
	}
	if _, body := request(t, srv, "POST", "/v1/hooks/push", "x", "X-Gitlab-Token", "good"); !strings.Contains(body, `"created":false`) {
		t.Errorf("the same again: %s", body)
	}
	for name, tc := range map[string]struct {
		path, token, body string
		status            int
	}{
		"nobody":      {"/v1/hooks/push", "", "x", 403},
		"no webhook":  {"/v1/hooks/none", "good", "x", 404},
		"no push":     {"/v1/hooks/push", "good", "", 400},
		"a large one": {"/v1/hooks/push", "good", strings.Repeat("x", starling.MaxPushBodyBytes+1), 413},
	} {
		res, body := request(t, srv, "POST", tc.path, tc.body, "X-Gitlab-Token", tc.token)
		p := problemIn(t, res, body)
		if p.Status != tc.status || p.Hint == "" || tc.status == 403 && !strings.Contains(p.Hint, "secret") || tc.status == 400 && p.Pointer != "#/ref" {
			t.Errorf("%s: %s", name, body)
		}
	}
	if res, _ := request(t, srv, "DELETE", "/v1/webhooks/push", ""); res.StatusCode != 204 {
		t.Errorf("delete: %s", res.Status)
	}
}

// Strangers are turned away before their bodies are read.
func TestTooManyPushes(t *testing.T) {
	ts := newTurnstile()
	var leave []func()
	for i := range maxPushes {
		l, err := ts.enter()
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		leave = append(leave, l)
	}
	if _, err := ts.enter(); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("one more: %v", err)
	}
	leave[0]()
	if _, err := ts.enter(); err != nil {
		t.Errorf("after one has left: %v", err)
	}
	refused := 0
	for range 2 * maxPushBurst {
		l, err := ts.enter()
		if err == nil {
			l()
		} else {
			refused++
		}
	}
	if refused == 0 {
		t.Error("a flood was let in")
	}
}

func TestSinks(t *testing.T) {
	b := newBackend("r1")
	srv := serve(t, Config{Backend: b})
	res, body := request(t, srv, "POST", "/v1/sinks", `{"name":"chat","kind":"slack","url":"https://hooks.slack.com/services/T0/B0/SECRET"}`)
	if res.StatusCode != 201 || strings.Contains(body, "SECRET") || !strings.Contains(body, `"to":"https://hooks.slack.com/…"`) {
		t.Fatalf("create: %s %s", res.Status, body)
	}
	if _, body := request(t, srv, "GET", "/v1/sinks", ""); !strings.Contains(body, `"pending":3`) || strings.Contains(body, "sealed") || strings.Contains(body, "c2VhbGVk") {
		t.Errorf("list: %s", body)
	}
	for body, field := range map[string]string{
		`{"kind":"webhook","url":"https://x"}`:                                      "name",
		`{"name":"x","kind":"fax","url":"https://x"}`:                               "kind",
		`{"name":"x","kind":"webhook"}`:                                             "url",
		`{"name":"x","kind":"webhook","url":"ftp://x"}`:                             "url",
		`{"name":"x","kind":"webhook","url":"https://u:p@x"}`:                       "url",
		`{"name":"x","kind":"github","url":"https://{app}.x/","secret":"12345678"}`: "url",
		`{"name":"x","kind":"github"}`:                                              "secret",
		`{"name":"x","kind":"slack","url":"https://x","secret":"12345678"}`:         "secret",
		`{"name":"x","kind":"webhook","url":"https://x","template":"{}"}`:           "template",
		`{"name":"x","kind":"webhook","url":"https://x","notices":["birthday"]}`:    "notices",
	} {
		res, answer := request(t, srv, "POST", "/v1/sinks", body)
		if p := problemIn(t, res, answer); p.Pointer != "#/"+field || p.Hint == "" {
			t.Errorf("%s: %s", body, answer)
		}
	}
	if res, body := request(t, srv, "POST", "/v1/sinks/chat/test", ""); res.StatusCode != 200 || !strings.Contains(body, `"error":"422"`) {
		t.Errorf("try: %s %s", res.Status, body)
	}
	if res, _ := request(t, srv, "POST", "/v1/sinks/nobody/test", ""); res.StatusCode != 404 {
		t.Errorf("try nobody: %s", res.Status)
	}
	if res, _ := request(t, srv, "DELETE", "/v1/sinks/chat", ""); res.StatusCode != 204 {
		t.Errorf("delete: %s", res.Status)
	}
}
