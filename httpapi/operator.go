package httpapi

import (
	"context"
	"net/http"

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
}
