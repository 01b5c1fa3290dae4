package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/starlingdeploy/starling"
)

// Plan tells what a submission would do; nothing changes.
func (c *Client) Plan(ctx context.Context, req starling.PlanRequest) (*starling.Plan, error) {
	return fetch[*starling.Plan](ctx, c, http.MethodPost, "/v1/apps/"+url.PathEscape(req.App)+"/plan", nil, req)
}

// DeploymentPlan returns the plan of a deployment, with the hash to approve it by.
func (c *Client) DeploymentPlan(ctx context.Context, id string) (*starling.Plan, error) {
	return fetch[*starling.Plan](ctx, c, http.MethodGet, "/v1/deployments/"+url.PathEscape(id)+"/plan", nil, nil)
}

// Approve lets a deployment roll out that waits for it. plan is the hash of the plan that was
// shown; if that has changed since, the error is an ErrConflict. Zero: none is named.
func (c *Client) Approve(ctx context.Context, id string, plan starling.Digest) (*starling.Deployment, error) {
	body := struct {
		Plan starling.Digest `json:"plan,omitzero"`
	}{plan}
	return fetch[*starling.Deployment](ctx, c, http.MethodPost, "/v1/deployments/"+url.PathEscape(id)+"/approve", nil, body)
}
