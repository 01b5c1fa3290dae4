package rpc

import (
	"context"

	"github.com/starlingdeploy/starling"
)

// RoutePush submits what a push deploys, as a webhook of another region has verified it.
const RoutePush = "POST /rpc/v1/pushes" // leader of the home; callers: server of any region

// PushRequest names a commit to deploy.
type PushRequest struct {
	App     string `json:"app"`
	SHA     string `json:"sha"`
	Webhook string `json:"webhook"` // of the caller's region
	// IdempotencyKey is the push's: a repetition finds the deployment.
	IdempotencyKey string `json:"idempotency_key"`
}

// Push submits a commit at the home of its app. ErrNotFound: there is no such app, or its home
// runs a program without webhooks.
func (c *Client) Push(ctx context.Context, req PushRequest) (out starling.PushDeployment, err error) {
	err = c.call(ctx, RoutePush, "", nil, req, &out)
	return out, err
}
