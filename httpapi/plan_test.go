package httpapi

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/raftfsm"
)

// awaiting brings a deployment to awaiting_approval and returns its ID.
func awaiting(t *testing.T, b *backend) string {
	t.Helper()
	app := starling.App{Name: "gated"}
	app.Deploy.Strategy.Approval = true
	app.SetDefaults()
	digest := starling.DigestOf([]byte("v1"))
	for _, p := range []struct {
		t       raftfsm.Type
		payload any
	}{
		{raftfsm.TypeAppApply, raftfsm.AppApply{App: app}},
		{raftfsm.TypeArtifactRegister, raftfsm.ArtifactRegister{Artifact: starling.Artifact{Digest: digest}}},
		{raftfsm.TypeSubmit, raftfsm.Submit{ID: "d-gated", App: "gated", Artifact: digest, Regions: []string{b.region}}},
		{raftfsm.TypeStart, raftfsm.Start{ID: "d-gated"}},
		{raftfsm.TypePlaced, raftfsm.Placed{ID: "d-gated", Placing: starling.Placing{Name: b.region, Placed: true}}},
		{raftfsm.TypeAdvance, raftfsm.Advance{ID: "d-gated", From: starling.PhaseReplicating, To: starling.PhaseStaging}},
		{raftfsm.TypeAdvance, raftfsm.Advance{ID: "d-gated", From: starling.PhaseStaging, To: starling.PhaseAwaitingApproval}},
	} {
		if _, err := b.propose("test", p.t, p.payload); err != nil {
			t.Fatal(err)
		}
	}
	return "d-gated"
}

func TestApprovalByPlan(t *testing.T) {
	b := newBackend("r1")
	id := awaiting(t, b)
	srv := serve(t, Config{Backend: b})
	c, err := client.New(client.Config{Addr: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := c.DeploymentPlan(t.Context(), id)
	if err != nil || shown.ID != shown.Hash() {
		t.Fatalf("%+v, %v", shown, err)
	}
	other := starling.DigestOf([]byte("another plan"))
	res, body := request(t, srv, "POST", "/v1/deployments/"+id+"/approve", `{"plan":"`+other.String()+`"}`)
	if p := problemIn(t, res, body); res.StatusCode != http.StatusPreconditionFailed || p.Kind != "conflict" || p.Field != "plan" || p.Hint == "" {
		t.Errorf("another plan: %s", body)
	}
	d, err := c.Approve(t.Context(), id, shown.ID)
	if err != nil || d.Phase != starling.PhaseRollingOut || d.Approval == nil || d.Approval.Plan != shown.ID || d.Approval.By != "anonymous" {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestPlanChangesNothing(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	srv := serve(t, Config{Backend: b})
	c, err := client.New(client.Config{Addr: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	before := b.fsm.View().Index()
	spec := starling.App{Name: "new"}
	p, err := c.Plan(t.Context(), starling.PlanRequest{App: "new", Spec: &spec})
	if err != nil || p.App != "new" || p.ID.IsZero() {
		t.Errorf("%+v, %v", p, err)
	}
	if b.fsm.View().Index() != before {
		t.Error("a plan was committed")
	}
}

func TestRevisionIsTheEntityTag(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	srv := serve(t, Config{Backend: b})
	res, body := request(t, srv, "GET", "/v1/apps/hello", "")
	tag := res.Header.Get("ETag")
	if tag != `"1"` {
		t.Fatalf("ETag %s of %s", tag, body)
	}
	var app starling.App
	if err := json.Unmarshal([]byte(body), &app); err != nil {
		t.Fatal(err)
	}
	app.Deploy.Keep = 9
	changed := toJSON(t, app)
	first, body := request(t, srv, "PUT", "/v1/apps/hello", changed, "If-Match", tag)
	if first.StatusCode != http.StatusOK || first.Header.Get("ETag") == tag {
		t.Fatalf("%s: %s", first.Status, body)
	}
	second, body := request(t, srv, "PUT", "/v1/apps/hello", changed, "If-Match", tag)
	if p := problemIn(t, second, body); second.StatusCode != http.StatusPreconditionFailed || p.Field != "If-Match" || p.Hint == "" {
		t.Errorf("the same condition again: %s", body)
	}
}
