package httpapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
)

func TestOriginIsBelievedOfServersOnly(t *testing.T) {
	told := starling.Origin{Addr: "10.1.2.3", Agent: "curl/8"}
	request := func(id *starling.Identity) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/v1/deployments", nil)
		r.RemoteAddr = "192.0.2.7:4711"
		r.Header.Set("User-Agent", "starling\x00"+strings.Repeat("y", 1000))
		r.Header.Set("X-Forwarded-For", "10.9.9.9")
		tellOrigin(r.Header, told)
		if id != nil {
			r = r.WithContext(starling.WithIdentity(r.Context(), *id))
		}
		return r
	}
	if got := originOf(request(&starling.Identity{Name: "s1", Roles: []starling.Role{starling.RoleServer}})); got != told {
		t.Errorf("of a server: %+v", got)
	}
	for name, id := range map[string]*starling.Identity{"anybody": nil, "a machine": {Name: "m1", Roles: []starling.Role{starling.RoleMachine}}} {
		got := originOf(request(id))
		if got.Addr != "192.0.2.7" || !strings.HasPrefix(got.Agent, "starlingyyy") || len(got.Agent) != starling.MaxOriginBytes {
			t.Errorf("of %s: %+v", name, got)
		}
	}
}

func TestSubmissionsTellWhereTheyCameFrom(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	tok, err := b.CreateToken(t.Context(), "test", starling.NewToken{Name: "ci", Role: starling.ACLDeployer})
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, Config{Backend: b, ACLEnabled: true})
	res, body := request(t, srv, "POST", "/v1/deployments", `{"app":"hello","sha":"`+sha+`"}`, "Authorization", "Bearer "+tok.Secret, "User-Agent", "robot/1", "Idempotency-Key", "k")
	if res.StatusCode != http.StatusCreated {
		t.Fatal(body)
	}
	d := b.Deployments(starling.DeploymentFilter{Limit: 1})[0]
	if d.From == nil || d.From.Addr != "127.0.0.1" || d.From.Agent != "robot/1" || d.From.Token != tok.ID || d.Actor != "token:ci" {
		t.Errorf("%+v by %s", d.From, d.Actor)
	}
}
