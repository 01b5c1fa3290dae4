package httpapi

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
)

type operation struct {
	method, pattern string
	role            starling.ACLRole // "": open
}

// operations is what the API must have, with the role that each needs.
func operations() []operation {
	const viewer, deployer, approver, operator = starling.ACLViewer, starling.ACLDeployer, starling.ACLApprover, starling.ACLOperator
	return []operation{
		{"GET", "/v1/apps", viewer}, {"POST", "/v1/apps", deployer}, {"PUT", "/v1/apps", deployer},
		{"GET", "/v1/apps/{app}", viewer}, {"PUT", "/v1/apps/{app}", deployer},
		{"GET", "/v1/apps/{app}/releases", viewer}, {"POST", "/v1/apps/{app}/rollback", deployer},
		{"GET", "/v1/apps/{app}/goal", viewer},
		{"GET", "/v1/deployments", viewer}, {"POST", "/v1/deployments", deployer},
		{"GET", "/v1/deployments/{id}", viewer}, {"GET", "/v1/deployments/{id}/logs", viewer}, {"GET", "/v1/deployments/{id}/why", viewer},
		{"GET", "/v1/deployments/{id}/cells", viewer}, {"GET", "/v1/deployments/{id}/curve", viewer}, {"GET", "/v1/caches", viewer},
		{"POST", "/v1/apps/{app}/plan", viewer}, {"GET", "/v1/deployments/{id}/plan", viewer},
		{"GET", "/v1/apps/{app}/history", viewer}, {"GET", "/v1/apps/{app}/diff", viewer}, {"GET", "/v1/deployments/{id}/provenance", viewer},
		{"POST", "/v1/deployments/{id}/cancel", deployer}, {"POST", "/v1/deployments/{id}/approve", approver},
		{"POST", "/v1/deployments/{id}/promote", approver}, {"POST", "/v1/deployments/{id}/abort", deployer},
		{"POST", "/v1/deployments/{id}/pause", approver}, {"POST", "/v1/deployments/{id}/resume", approver},
		{"GET", "/v1/artifacts", viewer}, {"POST", "/v1/artifacts", deployer},
		{"GET", "/v1/artifacts/{digest}", viewer}, {"GET", "/v1/artifacts/{digest}/manifest", viewer},
		{"POST", "/v1/artifacts/missing", deployer},
		{"PUT", "/v1/artifacts/chunks/{digest}", deployer}, {"GET", "/v1/artifacts/chunks/{digest}", viewer},
		{"GET", "/v1/regions", viewer}, {"GET", "/v1/regions/{region}", viewer}, {"POST", "/v1/regions/{region}/takeover", operator},
		{"GET", "/v1/nodes", viewer}, {"GET", "/v1/nodes/{name}", viewer}, {"DELETE", "/v1/nodes/{name}", operator},
		{"POST", "/v1/nodes/{name}/drain", operator}, {"POST", "/v1/nodes/{name}/revoke", operator},
		{"GET", "/v1/cells", viewer}, {"POST", "/v1/operator/gossip/rotate-cell", operator},
		{"GET", "/v1/join-tokens", operator}, {"POST", "/v1/join-tokens", operator}, {"DELETE", "/v1/join-tokens/{id}", operator},
		{"GET", "/v1/webhooks", operator}, {"POST", "/v1/webhooks", operator}, {"DELETE", "/v1/webhooks/{name}", operator},
		{"GET", "/v1/sinks", operator}, {"POST", "/v1/sinks", operator}, {"DELETE", "/v1/sinks/{name}", operator}, {"POST", "/v1/sinks/{name}/test", operator},
		{"GET", "/v1/events", viewer}, {"GET", "/v1/metrics", viewer},
		{"POST", "/v1/hooks/{name}", ""}, {"POST", "/v1/acl/bootstrap", ""}, {"GET", "/v1/acl/self", viewer}, {"GET", "/v1/acl/tokens", operator}, {"POST", "/v1/acl/tokens", operator}, {"DELETE", "/v1/acl/tokens/{id}", operator},
		{"GET", "/v1/operator/raft", operator}, {"DELETE", "/v1/operator/raft/{name}", operator},
		{"POST", "/v1/operator/raft/transfer-leadership", operator}, {"POST", "/v1/operator/join", operator}, {"POST", "/v1/operator/force-leave", operator},
		{"POST", "/v1/operator/leave", operator}, {"GET", "/v1/operator/autopilot/health", operator},
		{"GET", "/v1/operator/snapshot", operator}, {"PUT", "/v1/operator/snapshot", operator},
		{"GET", "/v1/status/leader", ""}, {"GET", "/healthz", ""}, {"GET", "/readyz", ""},
	}
}

func TestRoles(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	secrets := map[starling.ACLRole]string{}
	for _, role := range []starling.ACLRole{starling.ACLViewer, starling.ACLDeployer, starling.ACLApprover, starling.ACLOperator} {
		tok, err := b.CreateToken(t.Context(), "test", starling.NewToken{Name: string(role), Role: role})
		if err != nil {
			t.Fatal(err)
		}
		secrets[role] = tok.Secret
	}
	var logs logBuffer
	srv := serve(t, Config{Backend: b, ACLEnabled: true, Logger: slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	for _, secret := range []string{"st_unknown", "bearer", strings.Repeat("x", 5000)} {
		res, body := request(t, srv, "POST", "/v1/deployments", "", "Authorization", "Bearer "+secret)
		unauthorized(t, "an unknown secret", res, body)
		if strings.Contains(body, secret) && secret != "bearer" {
			t.Errorf("the secret is in the answer: %s", body)
		}
	}
	digest := starling.DigestOf([]byte("x")).String()
	fill := strings.NewReplacer("{app}", "hello", "{id}", "d-none", "{digest}", digest, "{name}", "none", "{region}", "r9")
	for _, o := range operations() {
		path := fill.Replace(o.pattern)
		if o.pattern == "/v1/events" {
			path += "?after=bad" // ends at once, after the check of the role
		}
		if o.role != "" {
			for name, header := range map[string]string{
				"nothing": "", "another scheme": "Basic " + secrets[starling.ACLOperator], "no secret": "Bearer ",
			} {
				res, body := request(t, srv, o.method, path, "", "Authorization", header)
				unauthorized(t, o.method+" "+o.pattern+" with "+name, res, body)
			}
		}
		for role, secret := range secrets {
			if o.pattern == "/v1/acl/tokens" && o.method == "POST" && role == starling.ACLOperator {
				continue // below
			}
			res, body := request(t, srv, o.method, path, "", "Authorization", "Bearer "+secret)
			refused := res.StatusCode == http.StatusForbidden || res.StatusCode == http.StatusUnauthorized
			if want := o.role != "" && !role.Allows(o.role); refused != want {
				t.Errorf("%s %s as %s: %s %s", o.method, o.pattern, role, res.Status, body)
			}
			if refused && problemIn(t, res, body).Hint == "" {
				t.Errorf("%s %s as %s: no hint in %s", o.method, o.pattern, role, body)
			}
		}
	}
	if strings.Contains(logs.String(), "st_") {
		t.Error("a secret is in the log")
	}
}

func unauthorized(t *testing.T, what string, res *http.Response, body string) {
	t.Helper()
	if p := problemIn(t, res, body); p.Status != http.StatusUnauthorized || p.Hint == "" || res.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("%s: %s", what, body)
	}
}

func TestActorsAndTokens(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	srv := serve(t, Config{Backend: b, ACLEnabled: true})
	res, body := request(t, srv, "POST", "/v1/acl/bootstrap", "")
	if res.StatusCode != 201 || !strings.Contains(body, `"secret":"st_`) || strings.Contains(body, "hash") || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("bootstrap: %s %s", res.Status, body)
	}
	if res, body := request(t, srv, "POST", "/v1/acl/bootstrap", ""); res.StatusCode != 409 {
		t.Errorf("second bootstrap: %s %s", res.Status, body)
	}
	operator := "Bearer st_secret-of-bootstrap"
	if res, body := request(t, srv, "POST", "/v1/acl/tokens", `{"name":"ci","role":"deployer"}`, "Authorization", operator); res.StatusCode != 201 {
		t.Fatalf("create: %s %s", res.Status, body)
	}
	if _, body := request(t, srv, "GET", "/v1/acl/tokens", "", "Authorization", operator); strings.Contains(body, "hash") || strings.Contains(body, "sha256") || strings.Contains(body, "st_") {
		t.Errorf("the list of tokens tells too much: %s", body)
	}
	res, body = request(t, srv, "POST", "/v1/deployments", `{"app":"hello","sha":"`+sha+`"}`, "Authorization", "bearer st_secret-of-ci")
	if res.StatusCode != 201 || !strings.Contains(body, `"actor":"token:ci"`) || res.Header.Get("Location") == "" {
		t.Errorf("submit: %s %s", res.Status, body)
	}
	if res, body := request(t, srv, "DELETE", "/v1/acl/tokens/t-ci", "", "Authorization", operator); res.StatusCode != 204 {
		t.Fatalf("revoke: %s %s", res.Status, body)
	}
	if res, _ := request(t, srv, "GET", "/v1/apps", "", "Authorization", "Bearer st_secret-of-ci"); res.StatusCode != 401 {
		t.Errorf("revoked token: %s", res.Status)
	}
}

// A token made at the leader a moment ago is waited for.
func TestTokenOnItsWay(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	late := &lateToken{backend: b}
	srv := serve(t, Config{Backend: late, ACLEnabled: true})
	if res, body := request(t, srv, "GET", "/v1/apps", "", "Authorization", "Bearer st_secret-of-late"); res.StatusCode != 200 {
		t.Errorf("%s %s", res.Status, body)
	}
}

// lateToken makes its token once it has been asked for in vain.
type lateToken struct{ *backend }

func (l *lateToken) Authenticate(secret string) (*starling.Token, error) {
	t, err := l.backend.Authenticate(secret)
	if err != nil {
		if _, merr := l.token("test", "token.create", starling.NewToken{Name: "late", Role: starling.ACLViewer}); merr != nil {
			return nil, merr
		}
	}
	return t, err
}
