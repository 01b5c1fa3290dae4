package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/raftfsm"
)

// A consistent read is confirmed by its place; others are not, and those that cannot be are refused.
func TestConsistentReads(t *testing.T) {
	b := newBackend("r1")
	d := fixture(t, b)
	srv := serve(t, Config{Backend: b})
	for path, want := range map[string]int{
		"/v1/apps?consistent": 1, "/v1/apps/hello?consistent": 1, "/v1/apps/hello/releases?consistent": 1,
		"/v1/deployments?consistent=true": 1, "/v1/deployments/" + d.ID + "?consistent": 1,
		"/v1/apps/hello": 0, "/v1/apps?consistent=false": 0, "/v1/deployments": 0,
	} {
		before := b.confirmed
		res, body := request(t, srv, "GET", path, "")
		if res.StatusCode != 200 || b.confirmed-before != want {
			t.Errorf("%s: %s, confirmed %d times, want %d: %s", path, res.Status, b.confirmed-before, want, body)
		}
	}
	for path, word := range map[string]string{
		"/v1/regions?consistent": "has no consistent form", "/v1/apps/hello?consistent&stale": "the contrary",
	} {
		res, body := request(t, srv, "GET", path, "")
		if p := problemIn(t, res, body); p.Status != 400 || p.Field != "consistent" || !strings.Contains(p.Detail, word) {
			t.Errorf("%s: %s", path, body)
		}
	}
	b.unsure = fmt.Errorf("a broken disk: %w", starling.ErrCorrupt)
	if res, body := request(t, srv, "GET", "/v1/apps?consistent", ""); res.StatusCode != 400 {
		t.Errorf("unconfirmed: %s %s", res.Status, body)
	}
}

func TestGoalIsShown(t *testing.T) {
	b := newBackend("r1")
	d := fixture(t, b)
	c, err := client.New(client.Config{Addr: serve(t, Config{Backend: b}).URL})
	if err != nil {
		t.Fatal(err)
	}
	if g, err := c.Goal(t.Context(), "hello"); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("before the first: %+v, %v", g, err)
	}
	res, err := b.propose("w", raftfsm.TypeJobLease, raftfsm.JobLease{Worker: "w/0"})
	if err != nil || res.Deployment == nil {
		t.Fatalf("%+v, %v", res, err)
	}
	artifact := starling.DigestOf([]byte("a"))
	if _, err := b.propose("w", raftfsm.TypeJobComplete, raftfsm.JobComplete{ID: d.ID, Lease: res.Index, Artifact: starling.Artifact{Digest: artifact}}); err != nil {
		t.Fatal(err)
	}
	g, err := c.Consistent().Goal(t.Context(), "hello")
	if err != nil || g.Artifact != artifact || g.Generation != (starling.Generation{Epoch: 1, Sequence: 1}) || b.confirmed != 1 {
		t.Errorf("%+v, %v, confirmed %d times", g, err, b.confirmed)
	}
}

// A server that loses the lead while it serves a change or a consistent read takes it to
// its successor: the caller waits and sees no error.
func TestRequestsMoveOnWithTheLead(t *testing.T) {
	next := newBackend("r1")
	d := fixture(t, next)
	nextSrv := serve(t, Config{Backend: next})
	deposed := newBackend("r1")
	fixture(t, deposed)
	srv := serve(t, Config{Backend: deposed})
	for name, tc := range map[string]struct {
		method, path, body string
		err                error
		status             int
	}{
		"submit":           {"POST", "/v1/deployments", `{"app":"hello","sha":"` + sha + `"}`, starling.ErrNotLeader, 201},
		"submit, unknown":  {"POST", "/v1/deployments", `{"app":"hello","sha":"` + sha + `"}`, starling.ErrOutcomeUnknown, 201},
		"cancel":           {"POST", "/v1/deployments/" + d.ID + "/pause", "", starling.ErrNotLeader, 200},
		"consistent read":  {"GET", "/v1/deployments?consistent", "", starling.ErrNotLeader, 200},
		"approve, unknown": {"POST", "/v1/deployments/" + d.ID + "/approve", "", fmt.Errorf("%w: %w", starling.ErrOutcomeUnknown, starling.ErrUnavailable), 503},
	} {
		t.Run(name, func(t *testing.T) {
			deposed.fail, deposed.unsure = tc.err, tc.err
			asked := 0
			deposed.to = func(string, string) (http.RoundTripper, error) {
				if asked++; asked <= 2 {
					return nil, nil // it has not noticed yet
				}
				return toServer(t, nextSrv), nil
			}
			res, body := request(t, srv, tc.method, tc.path, tc.body)
			if res.StatusCode != tc.status {
				t.Errorf("%s %s", res.Status, body)
			}
		})
	}
	t.Run("not for ever", func(t *testing.T) {
		deposed.fail = starling.ErrNotLeader
		deposed.to = nil
		brief := serve(t, Config{Backend: deposed, Patience: 200 * time.Millisecond})
		res, body := request(t, brief, "POST", "/v1/apps/hello/rollback", `{}`)
		if p := problemIn(t, res, body); p.Status != 503 || p.Kind != "not_leader" {
			t.Errorf("%s", body)
		}
	})
}

// Without a key of the caller's a server gives one, so that it may send the request twice.
func TestSubmissionsGetAKey(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	srv := serve(t, Config{Backend: b})
	for range 2 {
		if res, body := request(t, srv, "POST", "/v1/deployments", `{"app":"hello","sha":"`+sha+`"}`); res.StatusCode != 201 {
			t.Fatalf("%s %s", res.Status, body)
		}
	}
	keys := map[string]bool{}
	for _, d := range b.Deployments(starling.DeploymentFilter{}) {
		if d.IdempotencyKey != "" {
			keys[d.IdempotencyKey] = true
		}
	}
	if len(keys) != 2 {
		t.Errorf("keys %v", keys)
	}
}
