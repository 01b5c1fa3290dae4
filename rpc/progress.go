package rpc

import (
	"context"
	"time"

	"github.com/starlingdeploy/starling"
)

// ProgressResponse is what has changed in how the deployments homed in a region stand.
type ProgressResponse struct {
	Term        string                        `json:"term"`    // whose versions these are
	Version     uint64                        `json:"version"` // to ask for next
	Deployments []starling.DeploymentProgress `json:"deployments"`
}

// Progress asks a region's leader what has changed since a version of a term, "" and 0 for
// all that is under way. It answers after wait at the latest.
func (c *Client) Progress(ctx context.Context, term string, version uint64, wait time.Duration) (ProgressResponse, error) {
	var out ProgressResponse
	q := blocking(version, wait)
	q.Set("term", term)
	return out, c.call(ctx, RouteProgress, "", q, nil, &out)
}
