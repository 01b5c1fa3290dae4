package rpc

import (
	"context"
	"time"

	"github.com/starlingdeploy/starling"
)

// RouteAdmit is how the server at which a machine enrols asks the leader whether it may.
const RouteAdmit = "POST /rpc/v1/machines/admit" // leader; callers: server

// MaxClockOff is how much the clocks of a machine that enrols and of its server may differ.
const MaxClockOff = 5 * time.Minute

// Admission is what the leader needs to know of a machine that enrols. It holds no secret.
type Admission struct {
	RegisterRequest
	Key   starling.Digest `json:"key"`             // SHA-256 of the public key that the machine has shown to hold
	Token string          `json:"token,omitempty"` // ID of its join token; empty: the key is known already
	Hash  starling.Digest `json:"hash,omitzero"`   // SHA-256 of the token's secret
}

// Enrol asks for a certificate, on a stream of the kind for that. A *starling.BusyError says when to
// come back. ErrForbidden: the token does not do; ErrConflict: the name is taken; ErrClock.
func (c *Client) Enrol(ctx context.Context, req EnrolRequest) (EnrolResponse, error) {
	var out EnrolResponse
	return out, c.call(ctx, RouteEnrol, "", nil, req, &out)
}

// Renew asks for a new certificate of the caller's own key.
func (c *Client) Renew(ctx context.Context, req RenewRequest) (RenewResponse, error) {
	var out RenewResponse
	return out, c.call(ctx, RouteRenew, "", nil, req, &out)
}

// Admit asks the leader to admit a machine; its errors are those of Enrol.
func (c *Client) Admit(ctx context.Context, a Admission) (Ticket, error) {
	var out Ticket
	return out, c.call(ctx, RouteAdmit, "", nil, a, &out)
}
