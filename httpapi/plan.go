package httpapi

import (
	"context"
	"net/http"

	"github.com/starlingdeploy/starling"
)

type (
	planAsk struct {
		App string `path:"app"`
	}
	planRead struct {
		ID string `path:"id"`
	}
)

// approvalBody names what was approved.
type approvalBody struct {
	Plan starling.Digest `json:"plan,omitzero" doc:"Hash of the plan that was shown; without it only what has not changed since the submission can be approved"`
}

func (a *api) registerPlans() {
	register(a, route{
		method: http.MethodPost, path: "/v1/apps/{app}/plan", id: "plan-app", summary: "Tell what a submission would do; nothing changes",
		role: starling.ACLViewer, place: atApplied, body: starling.PlanRequest{}, reads: true,
	}, a.plan)
	register(a, route{
		method: http.MethodGet, path: "/v1/deployments/{id}/plan", id: "get-plan", summary: "Show a deployment's plan, and the hash to approve it by",
		role: starling.ACLViewer, place: atDeployment,
	}, a.deploymentPlan)
	register(a, route{
		method: http.MethodPost, path: "/v1/deployments/{id}/approve", id: "approve-deployment",
		summary: "Let a deployment roll out, by the hash of the plan that was shown",
		role:    starling.ACLApprover, place: atDeployment, body: approvalBody{},
	}, a.approve)
}

func (a *api) plan(ctx context.Context, in *planAsk) (*answer[*starling.Plan], error) {
	var req starling.PlanRequest
	if err := decode(callOf(ctx).body, &req); err != nil {
		return nil, err
	}
	req.App = in.App
	if err := checkPlanRequest(in.App, &req); err != nil {
		return nil, err
	}
	p, err := a.Backend.Plan(ctx, req)
	if err != nil {
		return nil, err
	}
	return &answer[*starling.Plan]{a.Backend.Leader().Index, p}, nil
}

func checkPlanRequest(app string, req *starling.PlanRequest) error {
	if err := starling.CheckName("app", app); err != nil {
		return err
	}
	switch {
	case req.SHA != "" && !req.Artifact.IsZero():
		return starling.Invalidf("artifact", "a commit is named too: name one of the two, or neither")
	case req.Priority < 0 || req.Priority > starling.MaxPriority:
		return starling.Invalidf("priority", "%d is not within 0 and %d", req.Priority, starling.MaxPriority)
	case req.SHA != "":
		if err := starling.CheckSHA(req.SHA); err != nil {
			return err
		}
	}
	if req.Spec == nil {
		return nil
	}
	if req.Spec.Name == "" {
		req.Spec.Name = app
	}
	if req.Spec.Name != app {
		return starling.Invalidf("spec.name", "is %.80q, but the path says %.80q", req.Spec.Name, app)
	}
	req.Spec.SetDefaults()
	return req.Spec.Validate()
}

func (a *api) deploymentPlan(ctx context.Context, in *planRead) (*answer[*starling.Plan], error) {
	p, err := a.Backend.DeploymentPlan(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &answer[*starling.Plan]{a.Backend.Leader().Index, p}, nil
}

func (a *api) approve(ctx context.Context, in *planRead) (*answer[deploymentDoc], error) {
	c := callOf(ctx)
	var body approvalBody
	if err := decode(c.body, &body); err != nil {
		return nil, err
	}
	d, err := a.Backend.Approve(ctx, c.actor, in.ID, body.Plan)
	if err != nil {
		return nil, err
	}
	return &answer[deploymentDoc]{a.Backend.Leader().Index, document(d)}, nil
}
