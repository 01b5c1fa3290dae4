package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/starlingdeploy/starling"
)

// deploymentDoc is a deployment as programs outside rely on it: fields that a record
// leaves out while they are empty are always there.
type deploymentDoc struct {
	*starling.Deployment
	SHA      string             `json:"sha"`
	Artifact starling.Digest    `json:"artifact"`
	Reason   string             `json:"reason"`
	Regions  []starling.Placing `json:"regions"`
	// Timeline is what has happened so far, in order of time.
	Timeline []starling.Moment `json:"timeline"`
}

// Schema implements huma.SchemaProvider.
func (deploymentDoc) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{AllOf: []*huma.Schema{
		r.Schema(reflect.TypeFor[starling.Deployment](), true, ""),
		{Type: huma.TypeObject, Properties: map[string]*huma.Schema{"timeline": r.Schema(reflect.TypeFor[[]starling.Moment](), true, "")}},
	}}
}

func document(d *starling.Deployment) deploymentDoc {
	return deploymentDoc{d, d.SHA, d.Artifact, d.Reason, list(d.Regions), d.Timeline()}
}

type (
	deploymentList struct {
		Blocking
		App    string `query:"app" doc:"Of this app only"`
		Active bool   `query:"active" doc:"Only those that have not ended"`
		Before string `query:"before" doc:"Go on after this deployment"`
		Limit  int    `query:"limit" doc:"1 to 1000; 100 unless given"`
		Consistent
	}
	deploymentRead struct {
		ID string `path:"id"`
		Blocking
		Stale
		Consistent
	}
	deploymentAct struct {
		ID string `path:"id"`
	}
	whyRead struct {
		ID      string `path:"id"`
		Machine string `query:"machine" doc:"Also ask this machine how the artifact came to it, chunk by chunk"`
		Region  string `query:"region" doc:"Of the machine, where several regions have one of its name"`
		Stale
	}
	cellsRead struct {
		ID     string `path:"id"`
		Region string `query:"region" doc:"Only the cells of this region"`
		Stale
	}
	curveRead struct {
		ID string `path:"id"`
		Stale
	}
	submitWrite struct {
		Key string `header:"Idempotency-Key" doc:"Makes a retry safe; 128 bytes at most"`
	}
)

func (a *api) registerDeployments() {
	register(a, route{
		method: http.MethodGet, path: "/v1/deployments", id: "list-deployments", summary: "List deployments, newest first",
		role: starling.ACLViewer, consistent: true,
	}, a.listDeployments)
	register(a, route{
		method: http.MethodPost, path: "/v1/deployments", id: "submit", summary: "Deploy a commit or an artifact of an app",
		role: starling.ACLDeployer, place: atSubmitted, body: starling.Submission{}, keyed: true,
	}, a.submit)
	register(a, route{
		method: http.MethodGet, path: "/v1/deployments/{id}", id: "get-deployment", summary: "Show a deployment",
		role: starling.ACLViewer, place: atDeployment, consistent: true,
	}, a.getDeployment)
	register(a, route{
		method: http.MethodGet, path: "/v1/deployments/{id}/logs", id: "get-build-log", summary: "Read or follow a deployment's log, of its builds and hooks",
		role: starling.ACLViewer, place: atDeployment,
	}, a.readLog)
	register(a, route{
		method: http.MethodGet, path: "/v1/deployments/{id}/why", id: "explain-deployment", summary: "Tell what a deployment waits for, where its bytes came from, and what bounded a machine",
		role: starling.ACLViewer, place: atDeployment, anywhere: true,
	}, a.why)
	register(a, route{
		method: http.MethodGet, path: "/v1/deployments/{id}/cells", id: "list-deployment-cells", summary: "Show how each cell of machines stands with a deployment under way",
		role: starling.ACLViewer, place: atDeployment,
	}, a.deploymentCells)
	register(a, route{
		method: http.MethodGet, path: "/v1/deployments/{id}/curve", id: "get-deployment-curve", summary: "Show how the artifact came to the machines over time, as far as the home's leader remembers",
		role: starling.ACLViewer, place: atDeployment,
	}, func(ctx context.Context, in *curveRead) (*answer[[]starling.CurvePoint], error) {
		points, err := a.Backend.DeploymentCurve(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		return &answer[[]starling.CurvePoint]{a.Backend.Leader().Index, list(points)}, nil
	})
	for action, role := range map[starling.Action]starling.ACLRole{
		starling.ActionCancel:  starling.ACLDeployer,
		starling.ActionPause:   starling.ACLApprover,
		starling.ActionResume:  starling.ACLApprover,
		starling.ActionPromote: starling.ACLApprover,
		starling.ActionAbort:   starling.ACLDeployer,
	} {
		register(a, route{
			method: http.MethodPost, path: "/v1/deployments/{id}/" + string(action), id: string(action) + "-deployment",
			summary: string(action) + " a deployment", role: role, place: atDeployment, body: starling.ActionOptions{},
			keyed: action != starling.ActionPromote, // the others are harmless twice by themselves
		}, func(ctx context.Context, in *deploymentAct) (*answer[deploymentDoc], error) {
			return a.act(ctx, in.ID, action)
		})
	}
}

func (a *api) listDeployments(ctx context.Context, in *deploymentList) (*answer[[]deploymentDoc], error) {
	limit, err := deploymentsLimit(in.Limit)
	if err != nil {
		return nil, err
	}
	index, err := a.block(ctx, in.Blocking)
	if err != nil {
		return nil, err
	}
	docs := []deploymentDoc{}
	for _, d := range a.Backend.Deployments(starling.DeploymentFilter{App: in.App, Active: in.Active, Before: in.Before, Limit: limit}) {
		docs = append(docs, document(d))
	}
	return &answer[[]deploymentDoc]{index, docs}, nil
}

// deploymentsLimit is how many deployments a list has of which a caller wants so many; 0: it
// does not say.
func deploymentsLimit(wanted int) (int, error) {
	switch {
	case wanted == 0:
		return defDeploymentsList, nil
	case wanted < 0 || wanted > maxDeploymentsList:
		return 0, starling.Invalidf("limit", "%d is not within 1 and %d", wanted, maxDeploymentsList)
	}
	return wanted, nil
}

func (a *api) getDeployment(ctx context.Context, in *deploymentRead) (*answer[deploymentDoc], error) {
	index, err := a.block(ctx, in.Blocking)
	if err != nil {
		return nil, err
	}
	d, ok := a.Backend.Deployment(in.ID)
	if !ok {
		return nil, noDeployment(in.ID)
	}
	return &answer[deploymentDoc]{index, document(d)}, nil
}

func noDeployment(id string) error {
	return fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
}

func checkKey(key string) error {
	if len(key) > maxIdempotencyKey {
		return starling.Invalidf("Idempotency-Key", "%d bytes, more than %d", len(key), maxIdempotencyKey)
	}
	return nil
}

func (a *api) submit(ctx context.Context, in *submitWrite) (*created[deploymentDoc], error) {
	c := callOf(ctx)
	var s starling.Submission
	if err := decode(c.body, &s); err != nil {
		return nil, err
	}
	s.IdempotencyKey, s.From = in.Key, c.from
	if err := checkSubmission(&s); err != nil {
		return nil, err
	}
	d, isNew, err := a.Backend.Submit(ctx, c.actor, s)
	if err != nil {
		return nil, err
	}
	return submitted(d, isNew), nil
}

func checkSubmission(s *starling.Submission) error {
	if err := checkKey(s.IdempotencyKey); err != nil {
		return err
	}
	if err := starling.CheckName("app", s.App); err != nil {
		return err
	}
	switch {
	case s.SHA == "" && s.Artifact.IsZero():
		return starling.Invalidf("sha", "is missing: name the commit to build, or an artifact")
	case s.SHA != "" && !s.Artifact.IsZero():
		return starling.Invalidf("artifact", "a commit is named too: name one of the two")
	case s.Priority < 0 || s.Priority > starling.MaxPriority:
		return starling.Invalidf("priority", "%d is not within 0 and %d", s.Priority, starling.MaxPriority)
	case s.SHA != "":
		return starling.CheckSHA(s.SHA)
	}
	return nil
}

// submitted answers 201 to a new deployment and 200 to one that the same key made before.
func submitted(d *starling.Deployment, isNew bool) *created[deploymentDoc] {
	status := http.StatusOK
	if isNew {
		status = http.StatusCreated
	}
	return &created[deploymentDoc]{status, "/v1/deployments/" + d.ID, document(d)}
}

func (a *api) act(ctx context.Context, id string, action starling.Action) (*answer[deploymentDoc], error) {
	c := callOf(ctx)
	var o starling.ActionOptions
	if err := decode(c.body, &o); err != nil {
		return nil, err
	}
	d, err := a.Backend.Act(ctx, c.actor, id, action, o)
	if err != nil {
		return nil, err
	}
	return &answer[deploymentDoc]{a.Backend.Leader().Index, document(d)}, nil
}

func (a *api) why(ctx context.Context, in *whyRead) (*answer[*starling.Why], error) {
	for field, name := range map[string]string{"machine": in.Machine, "region": in.Region} {
		if name == "" {
			continue
		}
		if err := starling.CheckName(field, name); err != nil {
			return nil, err
		}
	}
	if in.Region != "" && in.Machine == "" {
		return nil, starling.Invalidf("machine", "is missing: a region is that of a machine")
	}
	w, err := a.Backend.Why(ctx, in.ID, in.Machine, in.Region)
	if err != nil {
		return nil, err
	}
	return &answer[*starling.Why]{a.Backend.Leader().Index, w}, nil
}

func (a *api) deploymentCells(ctx context.Context, in *cellsRead) (*answer[[]starling.CellProgress], error) {
	if in.Region != "" {
		if err := starling.CheckName("region", in.Region); err != nil {
			return nil, err
		}
	}
	cells, err := a.Backend.DeploymentCells(ctx, in.ID, in.Region)
	if err != nil {
		return nil, err
	}
	return &answer[[]starling.CellProgress]{a.Backend.Leader().Index, cells}, nil
}
