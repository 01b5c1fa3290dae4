package httpapi

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/starlingdeploy/starling"
)

type peerName struct {
	Name string `path:"name"`
}

type joinBody struct {
	Addrs []string `json:"addrs" doc:"Gossip addresses, host or host:port; 64 at most"`
}

type joinAnswer struct {
	Joined int `json:"joined" doc:"How many answered"`
}

type leaveBody struct {
	Name string `json:"name"`
}

func (a *api) registerOperator() {
	register(a, route{
		method: http.MethodGet, path: "/v1/operator/raft", id: "list-raft-peers", summary: "List the servers of this region's Raft",
		role: starling.ACLOperator, place: atLeader,
	}, func(context.Context, *none) (*answer[[]starling.RaftPeer], error) {
		peers, err := a.Backend.RaftPeers()
		if err != nil {
			return nil, err
		}
		return &answer[[]starling.RaftPeer]{a.Backend.Leader().Index, list(peers)}, nil
	})
	register(a, route{
		method: http.MethodDelete, path: "/v1/operator/raft/{name}", id: "remove-raft-peer", summary: "Take a dead server out of Raft",
		role: starling.ACLOperator, place: atLeader, status: http.StatusNoContent,
	}, func(ctx context.Context, in *peerName) (*none, error) {
		return nothing(a.Backend.RemovePeer(ctx, callOf(ctx).actor, in.Name))
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/operator/raft/transfer-leadership", id: "transfer-leadership", summary: "Make another server the leader",
		role: starling.ACLOperator, place: atLeader, status: http.StatusNoContent,
	}, func(ctx context.Context, _ *none) (*none, error) {
		return nothing(a.Backend.TransferLeadership(ctx, callOf(ctx).actor))
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/operator/join", id: "join-servers", summary: "Join gossip addresses",
		role: starling.ACLOperator, body: joinBody{},
	}, func(ctx context.Context, _ *none) (*answer[joinAnswer], error) {
		var body joinBody
		if err := decode(callOf(ctx).body, &body); err != nil {
			return nil, err
		}
		if len(body.Addrs) == 0 || len(body.Addrs) > maxJoinAddrs {
			return nil, starling.Invalidf("addrs", "%d addresses: want 1 to %d", len(body.Addrs), maxJoinAddrs)
		}
		n, err := a.Backend.JoinServers(ctx, body.Addrs)
		if err != nil {
			return nil, err
		}
		return &answer[joinAnswer]{a.Backend.Leader().Index, joinAnswer{n}}, nil
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/operator/force-leave", id: "force-leave", summary: "Declare a failed member gone for good",
		role: starling.ACLOperator, body: leaveBody{}, status: http.StatusNoContent,
	}, func(ctx context.Context, _ *none) (*none, error) {
		var body leaveBody
		if err := decode(callOf(ctx).body, &body); err != nil {
			return nil, err
		}
		if err := starling.CheckName("name", body.Name); err != nil {
			return nil, err
		}
		return nothing(a.Backend.ForceLeave(ctx, body.Name))
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/operator/leave", id: "leave", summary: "Take this very server out of its region for good, and stop it",
		role: starling.ACLOperator, status: http.StatusNoContent,
	}, func(ctx context.Context, _ *none) (*none, error) {
		return nothing(a.Backend.LeaveServer(ctx, callOf(ctx).actor))
	})
	a.registerRepair()
}

// registerRepair adds what shows how the servers are and what brings a region back.
func (a *api) registerRepair() {
	register(a, route{
		method: http.MethodGet, path: "/v1/operator/autopilot/health", id: "get-server-health", summary: "Show how the servers are, as the leader sees them",
		role: starling.ACLOperator, place: atLeader,
	}, func(context.Context, *none) (*answer[starling.RaftHealth], error) {
		h, err := a.Backend.Health()
		if err != nil {
			return nil, err
		}
		return &answer[starling.RaftHealth]{a.Backend.Leader().Index, h}, nil
	})
	register(a, route{
		method: http.MethodGet, path: "/v1/operator/snapshot", id: "save-snapshot", summary: "Save this region's state; the last line is the checksum of all before it",
		role: starling.ACLOperator, place: atLeader,
	}, a.saveSnapshot)
	register(a, route{
		method: http.MethodPut, path: "/v1/operator/snapshot", id: "restore-snapshot", summary: "Put a saved state in place of this region's",
		role: starling.ACLOperator, place: atLeader, stream: true, maxBytes: maxSnapshotBytes,
	}, func(ctx context.Context, _ *none) (*answer[*starling.SnapshotInfo], error) {
		c := callOf(ctx)
		info, err := a.Backend.RestoreSnapshot(ctx, c.actor, c.stream)
		if err != nil {
			return nil, err
		}
		return &answer[*starling.SnapshotInfo]{a.Backend.Leader().Index, info}, nil
	})
}

// saveSnapshot streams the state. An error after the first byte can only cut it off,
// which its reader sees by the missing checksum.
func (a *api) saveSnapshot(ctx context.Context, _ *none) (*huma.StreamResponse, error) {
	write, err := a.Backend.SaveSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	return a.streamed("application/x-ndjson", func(s *stream) {
		if err := write(s); err != nil {
			a.Logger.Warn("a snapshot was cut off", "error", err)
			panic(http.ErrAbortHandler) // so that the caller sees it too
		}
	})
}
