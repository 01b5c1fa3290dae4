package rpc

import (
	"context"

	"github.com/starlingdeploy/starling"
)

// RouteReadiness asks the leader of a region; callers: server of any region.
const RouteReadiness = "POST /rpc/v1/readiness"

// MaxReadinessArtifacts bounds what is asked about at a time.
const MaxReadinessArtifacts = 64

// ReadinessRequest asks what a region's machines hold of an app.
type ReadinessRequest struct {
	App       string            `json:"app"`
	Targets   string            `json:"targets"` // selector of the machines in question
	Artifacts []starling.Digest `json:"artifacts"`
}

// Readiness is the answer. Held counts by digest, of the machines that the goal in force
// selects and that have reported on it.
type Readiness struct {
	Region   string            `json:"region"`
	Machines int               `json:"machines"` // alive and selected
	Absent   int               `json:"absent"`
	Held     map[string]int    `json:"held,omitempty"`
	Placed   []starling.Digest `json:"placed,omitempty"` // those that the region's caches hold
}

// Readiness asks the called region what its machines hold.
func (c *Client) Readiness(ctx context.Context, r ReadinessRequest) (Readiness, error) {
	var out Readiness
	return out, c.call(ctx, RouteReadiness, "", nil, r, &out)
}
