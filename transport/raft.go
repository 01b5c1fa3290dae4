package transport

import (
	"context"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// RaftLayer returns the streams of KindRaft as hashicorp/raft's NetworkTransport wants
// them. A raft.ServerAddress is the advertised address of an endpoint.
func (e *Endpoint) RaftLayer() raft.StreamLayer {
	return &raftLayer{listener: e.newListener(KindRaft)}
}

type raftLayer struct{ *listener }

// Dial implements raft.StreamLayer. A timeout of 0 means none but the endpoint's own.
func (r *raftLayer) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx := r.ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	c, err := r.endpoint.Dial(ctx, string(to), KindRaft)
	if err != nil {
		return nil, err
	}
	return c, nil
}
