package httpapi

import (
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
)

func TestPage(t *testing.T) {
	b := newBackend("r1")
	script := strings.Repeat("let x = 1;", 100)
	files := fstest.MapFS{
		".keep":           {},
		"index.html":      {Data: []byte("<!doctype html><title>the page</title>")},
		"assets/app-1.js": {Data: []byte(script)},
	}
	srv := serve(t, Config{Backend: b, ACLEnabled: true, Page: files})
	for _, path := range []string{"/ui/", "/ui/index.html", "/ui/deployments/d-1", "/ui/apps/hello", "/ui/cluster"} {
		res, body := request(t, srv, "GET", path, "")
		if res.StatusCode != 200 || !strings.Contains(body, "the page") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %s %s", path, res.Status, body)
		}
		if got := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'self';") || strings.Contains(got, "unsafe") {
			t.Errorf("%s: the policy is %q", path, got)
		}
		if got := res.Header.Get("Cache-Control"); got != "no-cache" {
			t.Errorf("%s: may be cached: %q", path, got)
		}
	}
	res, body := request(t, srv, "GET", "/ui/assets/app-1.js", "", "Accept-Encoding", "gzip")
	zipped, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zipped)
	if err != nil || string(plain) != script || !strings.Contains(res.Header.Get("Cache-Control"), "immutable") || !strings.Contains(res.Header.Get("Content-Type"), "javascript") {
		t.Errorf("the script: %v, %d bytes, %v", err, len(plain), res.Header)
	}
	if res, body := request(t, srv, "GET", "/ui/assets/app-0.js", ""); res.StatusCode != 404 {
		t.Errorf("a file of an older build: %s %s", res.Status, body)
	}
	if res, body := request(t, srv, "GET", "/ui/../v1/apps", ""); res.StatusCode == 200 {
		t.Errorf("the API without a token: %s", body)
	}
	if res, body := request(t, srv, "POST", "/ui/", ""); res.StatusCode != 405 {
		t.Errorf("POST: %s %s", res.Status, body)
	}
}

func TestTheRootLeadsBrowsersToThePage(t *testing.T) {
	srv := serve(t, Config{Backend: newBackend("r1"), Page: fstest.MapFS{"index.html": {Data: []byte("page")}}})
	if res, body := request(t, srv, "GET", "/", "", "Accept", "text/html,*/*"); res.StatusCode != 200 || body != "page" {
		t.Errorf("a browser: %s %s", res.Status, body)
	}
	if res, body := request(t, srv, "GET", "/", ""); problemIn(t, res, body).Status != http.StatusNotFound {
		t.Errorf("a program: %s %s", res.Status, body)
	}
}

func TestAProgramWithoutThePageSaysSo(t *testing.T) {
	srv := serve(t, Config{Backend: newBackend("r1")})
	res, body := request(t, srv, "GET", "/ui/", "")
	if p := problemIn(t, res, body); p.Status != http.StatusNotFound || !strings.Contains(p.Detail, "without the page") || p.Hint == "" {
		t.Errorf("%s %s", res.Status, body)
	}
}

func TestWhoAsks(t *testing.T) {
	b := newBackend("r1")
	open := serve(t, Config{Backend: b, Version: "v9"})
	if res, body := request(t, open, "GET", "/v1/acl/self", ""); res.StatusCode != 200 || !strings.Contains(body, `"role":"operator","tokens":false`) || !strings.Contains(body, `"version":"v9"`) {
		t.Errorf("without tokens: %s %s", res.Status, body)
	}
	closed := serve(t, Config{Backend: b, ACLEnabled: true})
	_, body := request(t, closed, "POST", "/v1/acl/bootstrap", "")
	_, secret, _ := strings.Cut(body, `"secret":"`)
	secret, _, _ = strings.Cut(secret, `"`)
	if res, body := request(t, closed, "GET", "/v1/acl/self", "", "Authorization", "Bearer "+secret); res.StatusCode != 200 ||
		!strings.Contains(body, `"name":"bootstrap","role":"operator","tokens":true`) || strings.Contains(body, secret) {
		t.Errorf("with one: %s %s", res.Status, body)
	}
}
