package rpc

import (
	"context"
	"time"

	"github.com/starlingdeploy/starling"
)

// Routes of hooks that workers run once. A worker speaks to the leader of its own region, which
// passes on to the leader of the deployment's home what is the home's to decide.
const (
	RouteHookLease     = "POST /rpc/v1/hooks/lease"          // leader; callers: worker; waits
	RouteHookGrant     = "POST /rpc/v1/hooks/{id}/grant"     // leader of the home; callers: server of any region
	RouteHookHeartbeat = "POST /rpc/v1/hooks/{id}/heartbeat" // leader; callers: worker, or server of another region
	RouteHookLog       = "POST /rpc/v1/hooks/{id}/log"       // as above
	RouteHookEnd       = "POST /rpc/v1/hooks/{id}/end"       // as above
)

// Timing of hooks' leases, which may reach from one region to another.
const (
	HookHeartbeatEvery = 5 * time.Second
	HookTTL            = 30 * time.Second // of silence, after which another worker gets it
)

// HookLeaseRequest asks for a hook to run.
type HookLeaseRequest struct {
	WaitMS int64 `json:"wait_ms"` // at most MaxWait
}

// HookLeaseResponse holds a hook, or none after the wait.
type HookLeaseResponse struct {
	Job *HookJob `json:"job,omitempty"`
}

// HookJob is one run of a hook.
type HookJob struct {
	Deployment string           `json:"deployment"`
	App        starling.App     `json:"app"`
	SHA        string           `json:"sha,omitempty"`
	Artifact   starling.Digest  `json:"artifact"`
	RollbackOf string           `json:"rollback_of,omitempty"`
	Run        starling.HookRun `json:"run"`
	Deadline   time.Time        `json:"deadline"`
}

// HookCall names a run of a hook, in every call about it.
type HookCall struct {
	Hook  string `json:"hook"`
	Lease uint64 `json:"lease"`
	// Worker is set by the server of another region that passes the call on.
	Worker string `json:"worker,omitempty"`
}

// HookGrantRequest asks the home for the lease of a hook in the name of a worker.
type HookGrantRequest struct {
	Hook   string `json:"hook"`
	Worker string `json:"worker"`
}

// HookLogRequest appends to a hook's output, as LogRequest does to that of a build.
type HookLogRequest struct {
	HookCall
	Offset int64  `json:"offset"`
	Data   []byte `json:"data"` // MaxLogPostBytes at most
}

// HookEndRequest ends a hook.
type HookEndRequest struct {
	HookCall
	Failed    bool   `json:"failed,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Output    []byte `json:"output"` // starling.MaxHookLogBytes and a line at most
	Sandboxed bool   `json:"sandboxed,omitempty"`
}

// HookLease waits for a hook; the result is nil if there is none.
func (c *Client) HookLease(ctx context.Context, req HookLeaseRequest) (*HookJob, error) {
	var out HookLeaseResponse
	err := c.call(ctx, RouteHookLease, "", nil, req, &out)
	return out.Job, err
}

// HookGrant asks the home for the lease of a hook. ErrConflict: somebody else has it.
func (c *Client) HookGrant(ctx context.Context, id string, req HookGrantRequest) (*HookJob, error) {
	var out HookLeaseResponse
	err := c.call(ctx, RouteHookGrant, id, nil, req, &out)
	return out.Job, err
}

// HookHeartbeat renews the lease of a hook. ErrFenced or ErrNotFound: stop it at once.
func (c *Client) HookHeartbeat(ctx context.Context, id string, req HookCall) error {
	return c.call(ctx, RouteHookHeartbeat, id, nil, req, nil)
}

// HookLog appends to the output of a hook and returns the offset to go on from.
func (c *Client) HookLog(ctx context.Context, id string, req HookLogRequest) (int64, error) {
	var out LogResponse
	err := c.call(ctx, RouteHookLog, id, nil, req, &out)
	return out.Next, err
}

// HookEnd ends a hook. Calling it again with the same lease is no error.
func (c *Client) HookEnd(ctx context.Context, id string, req HookEndRequest) error {
	return c.call(ctx, RouteHookEnd, id, nil, req, nil)
}
