package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

const (
	sha    = "0123456789abcdef0123456789abcdef01234567"
	secret = "It's a Secret to Everybody"
)

var now = time.Unix(1_800_000_000, 0)

func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i+1 < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

// The vectors that GitHub and Standard Webhooks publish.
func TestPublishedVectors(t *testing.T) {
	h := headers("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")
	if _, err := Verify(starling.WebhookGitHub, secret, h, []byte("Hello, World!"), now); err != nil {
		t.Errorf("GitHub's: %v", err)
	}
	const std = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	at := time.Unix(1614265330, 0)
	want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got := Sign(std, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, []byte(`{"test": 2432232314}`)); got != want {
		t.Errorf("Standard Webhooks': %s", got)
	}
}

func gitHub(body string) http.Header {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return headers("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)), "X-GitHub-Event", "push", "X-GitHub-Delivery", "guid")
}

func signed(id string, at time.Time, body string) http.Header {
	return headers(HeaderID, id, HeaderTimestamp, strconv.FormatInt(at.Unix(), 10), HeaderSignature, "v1,bm9uZQ== "+Sign(secret, id, at, []byte(body)))
}

func TestWhoIsBelieved(t *testing.T) {
	const body = `{"a":1}`
	without := func(h http.Header, name string) http.Header { h.Del(name); return h }
	with := func(h http.Header, name, value string) http.Header { h.Set(name, value); return h }
	tests := []struct {
		name string
		kind starling.WebhookKind
		h    http.Header
		body string
		ok   bool
	}{
		{"GitHub", starling.WebhookGitHub, gitHub(body), body, true},
		{"GitHub, another body", starling.WebhookGitHub, gitHub(body), body + " ", false},
		{"GitHub, no signature", starling.WebhookGitHub, without(gitHub(body), "X-Hub-Signature-256"), body, false},
		{"GitHub, half a signature", starling.WebhookGitHub, with(gitHub(body), "X-Hub-Signature-256", gitHub(body).Get("X-Hub-Signature-256")[:30]), body, false},
		{"GitHub, no hex", starling.WebhookGitHub, with(gitHub(body), "X-Hub-Signature-256", "sha256=zz"), body, false},
		{"GitLab's token", starling.WebhookGitLab, headers("X-Gitlab-Token", secret), body, true},
		{"GitLab, another token", starling.WebhookGitLab, headers("X-Gitlab-Token", secret+"x"), body, false},
		{"GitLab, no token", starling.WebhookGitLab, headers(), body, false},
		{"GitLab's signature", starling.WebhookGitLab, signed("m", now, body), body, true},
		{"GitLab, a wrong signature beside the token", starling.WebhookGitLab, with(signed("m", now, body+" "), "X-Gitlab-Token", secret), body, false},
		{"generic", starling.WebhookGeneric, signed("m", now, body), body, true},
		{"generic, a little slow", starling.WebhookGeneric, signed("m", now.Add(-MaxSkew), body), body, true},
		{"generic, old", starling.WebhookGeneric, signed("m", now.Add(-MaxSkew-time.Second), body), body, false},
		{"generic, from the future", starling.WebhookGeneric, signed("m", now.Add(MaxSkew+time.Second), body), body, false},
		{"generic, another time", starling.WebhookGeneric, with(signed("m", now.Add(-time.Hour), body), HeaderTimestamp, strconv.FormatInt(now.Unix(), 10)), body, false},
		{"generic, another ID", starling.WebhookGeneric, with(signed("m", now, body), HeaderID, "n"), body, false},
		{"generic, another body", starling.WebhookGeneric, signed("m", now, body), body + " ", false},
		{"generic, no ID", starling.WebhookGeneric, without(signed("m", now, body), HeaderID), body, false},
		{"generic, no signature", starling.WebhookGeneric, without(signed("m", now, body), HeaderSignature), body, false},
		{"generic, the secret itself", starling.WebhookGeneric, headers("X-Gitlab-Token", secret), body, false},
	}
	for _, tc := range tests {
		id, err := Verify(tc.kind, secret, tc.h, []byte(tc.body), now)
		if tc.ok != (err == nil) || tc.ok != (id != "") || err != nil && !errors.Is(err, starling.ErrForbidden) {
			t.Errorf("%s: %q, %v", tc.name, id, err)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the secret is in %v", tc.name, err)
		}
	}
	// A signing token is never accepted as a token, which would show it to whoever listens.
	const signing = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	if _, err := Verify(starling.WebhookGitLab, signing, headers("X-Gitlab-Token", signing), nil, now); err == nil {
		t.Error("a signing token was taken for a token")
	}
}

// A captured request cannot be made another one by what is not signed.
func TestWhatIdentifiesAPush(t *testing.T) {
	id := func(kind starling.WebhookKind, h http.Header, body string) string {
		t.Helper()
		id, err := Verify(kind, secret, h, []byte(body), now)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	again := gitHub("x")
	again.Set("X-GitHub-Delivery", "another")
	again.Set("Idempotency-Key", "another")
	if id(starling.WebhookGitHub, gitHub("x"), "x") != id(starling.WebhookGitHub, again, "x") {
		t.Error("GitHub: another GUID makes another push of the same signed body")
	}
	if id(starling.WebhookGitHub, gitHub("x"), "x") == id(starling.WebhookGitHub, gitHub("y"), "y") {
		t.Error("GitHub: two pushes are one")
	}
	if id(starling.WebhookGeneric, signed("m", now, "x"), "x") != id(starling.WebhookGeneric, signed("m", now.Add(time.Second), "x"), "x") {
		t.Error("generic: a retry with the same ID is another push")
	}
	if id(starling.WebhookGeneric, signed("m", now, "x"), "x") == id(starling.WebhookGeneric, signed("n", now, "x"), "x") {
		t.Error("generic: two IDs are one push")
	}
	token := func(uuid string) http.Header { return headers("X-Gitlab-Token", secret, "X-Gitlab-Event-UUID", uuid) }
	if id(starling.WebhookGitLab, token("1"), "x") == id(starling.WebhookGitLab, token("2"), "x") {
		t.Error("GitLab: the same branch pushed back and forth is one push")
	}
}

func TestPushes(t *testing.T) {
	gh := func(event string) http.Header { return headers("X-GitHub-Event", event) }
	gl := func(event string) http.Header { return headers("X-Gitlab-Event", event) }
	const repo = `"repository":{"clone_url":"https://github.com/acme/hello.git","ssh_url":"git@github.com:acme/hello.git","default_branch":"main"}`
	const zeros = "0000000000000000000000000000000000000000"
	tests := []struct {
		name    string
		kind    starling.WebhookKind
		h       http.Header
		body    string
		branch  string
		ignored string
		field   string
	}{
		{"GitHub", starling.WebhookGitHub, gh("push"), `{"ref":"refs/heads/feature/x","after":"` + sha + `",` + repo + `}`, "feature/x", "", ""},
		{"GitHub's ping", starling.WebhookGitHub, gh("ping"), `{"zen":"x"}`, "", "no event that deploys", ""},
		{"GitHub's tag", starling.WebhookGitHub, gh("push"), `{"ref":"refs/tags/v1","after":"` + sha + `",` + repo + `}`, "", "tag", ""},
		{"GitHub's deleted branch", starling.WebhookGitHub, gh("push"), `{"ref":"refs/heads/main","deleted":true,"after":"` + zeros + `",` + repo + `}`, "", "deleted", ""},
		{"GitHub as a form", starling.WebhookGitHub, gh("push"), `payload=%7B%7D`, "", "", "body"},
		{"GitHub without a repository", starling.WebhookGitHub, gh("push"), `{"ref":"refs/heads/main","after":"` + sha + `"}`, "", "", "repository"},
		{"GitLab", starling.WebhookGitLab, gl("Push Hook"), `{"ref":"refs/heads/main","after":"` + sha + `","project":{"git_http_url":"https://gitlab.example/a/b.git","default_branch":"main"}}`, "main", "", ""},
		{"GitLab's tag", starling.WebhookGitLab, gl("Tag Push Hook"), `{}`, "", "Tag Push Hook", ""},
		{"GitLab's deleted branch", starling.WebhookGitLab, gl("Push Hook"), `{"ref":"refs/heads/main","after":"` + zeros + `","project":{}}`, "", "deleted", ""},
		{"generic", starling.WebhookGeneric, nil, `{"repository":"https://git.example/x.git","ref":"refs/heads/main","sha":"` + sha + `"}`, "main", "", ""},
		{"generic, deleted", starling.WebhookGeneric, nil, `{"repository":"https://git.example/x.git","ref":"refs/heads/main","sha":"` + zeros + `"}`, "", "deleted", ""},
		{"generic, no repository", starling.WebhookGeneric, nil, `{"ref":"refs/heads/main","sha":"` + sha + `"}`, "", "", "repository"},
		{"generic, a name for a ref", starling.WebhookGeneric, nil, `{"repository":"x","ref":"main","sha":"` + sha + `"}`, "", "", "ref"},
		{"generic, a short SHA", starling.WebhookGeneric, nil, `{"repository":"https://x/y","ref":"refs/heads/main","sha":"abc"}`, "", "", "sha"},
		{"generic, no SHA", starling.WebhookGeneric, nil, `{"repository":"https://x/y","ref":"refs/heads/main"}`, "", "", "sha"},
		{"nothing", starling.WebhookGeneric, nil, ``, "", "", "body"},
	}
	for _, tc := range tests {
		push, ignored, err := ParsePush(tc.kind, tc.h, []byte(tc.body))
		var f *starling.FieldError
		switch {
		case tc.field != "" && (!errors.As(err, &f) || f.Field != tc.field):
			t.Errorf("%s: %v", tc.name, err)
		case tc.field == "" && (err != nil || !strings.Contains(ignored, tc.ignored) || (tc.ignored == "") != (ignored == "")):
			t.Errorf("%s: %q, %v", tc.name, ignored, err)
		case tc.branch != "" && (push == nil || push.Branch != tc.branch || push.SHA != sha):
			t.Errorf("%s: %+v", tc.name, push)
		}
	}
}

func TestSameRepo(t *testing.T) {
	same := []string{
		"https://github.com/Acme/hello.git", "https://github.com/acme/hello", "https://github.com/acme/hello/",
		"git@github.com:acme/hello.git", "ssh://git@github.com:22/acme/hello.git", "https://user:token@github.com:443/acme/hello.git",
	}
	for _, a := range same {
		for _, b := range same {
			if !SameRepo(a, b) {
				t.Errorf("%s is not %s", a, b)
			}
		}
	}
	others := []string{"https://github.com/acme/hello2", "https://github.com/other/hello", "https://gitlab.com/acme/hello", "", "https://github.com/", "https://evil.example/github.com/acme/hello", "file:///acme/hello"}
	for _, b := range others {
		if SameRepo(same[0], b) || SameRepo(b, same[0]) {
			t.Errorf("%s is %s", same[0], b)
		}
	}
	if !SameRepo("file:///srv/git/x.git", "/srv/git/x.git") || SameRepo("", "") {
		t.Error("paths on a worker")
	}
	if got := RepoPath("git@github.com:Acme/Hello.git"); got != "Acme/Hello" {
		t.Errorf("path %q", got)
	}
	app := &starling.App{Source: starling.SourceSpec{Git: same[0]}}
	for _, tc := range []struct {
		branch, pushed, def string
		want                bool
	}{{"main", "main", "", true}, {"main", "dev", "dev", false}, {"", "main", "main", true}, {"", "dev", "main", false}, {"", "main", "", false}} {
		app.Source.Branch = tc.branch
		p := &Push{Repos: []string{"x", same[3]}, Branch: tc.pushed, Default: tc.def}
		if p.Concerns(app) != tc.want {
			t.Errorf("%+v", tc)
		}
	}
}

// Whatever is sent, nothing but a signed push is taken for one.
func FuzzVerify(f *testing.F) {
	f.Add("m", "1800000000", "v1,x", []byte("{}"))
	f.Fuzz(func(t *testing.T, id, ts, sig string, body []byte) {
		h := headers(HeaderID, id, HeaderTimestamp, ts, HeaderSignature, sig)
		for _, kind := range []starling.WebhookKind{starling.WebhookGitHub, starling.WebhookGitLab, starling.WebhookGeneric} {
			if got, err := Verify(kind, secret, h, body, now); err == nil && !strings.Contains(sig, Sign(secret, id, time.Unix(mustInt(ts), 0), body)) {
				t.Errorf("%s took %q", kind, fmt.Sprint(got))
			}
			_, _, _ = ParsePush(kind, headers("X-GitHub-Event", "push", "X-Gitlab-Event", "Push Hook"), body)
		}
	})
}

func mustInt(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
