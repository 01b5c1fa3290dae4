package httpapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/starlingdeploy/starling"
)

type regionPath struct {
	Region string `path:"region" doc:"Its name"`
}

type takeoverBody struct {
	Force bool `json:"force,omitempty" doc:"Even if it is still heard, or another region has seen more of it"`
}

type textAnswer struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

func text(s string) *textAnswer { return &textAnswer{"text/plain; charset=utf-8", []byte(s + "\n")} }

func (a *api) registerCluster() {
	register(a, route{
		method: http.MethodGet, path: "/v1/regions", id: "list-regions", summary: "Show what this region knows of all regions",
		role: starling.ACLViewer, place: atLeader,
	}, func(ctx context.Context, in *listRead) (*answer[[]starling.RegionStatus], error) {
		index, err := a.block(ctx, in.Blocking)
		if err != nil {
			return nil, err
		}
		return &answer[[]starling.RegionStatus]{index, list(a.Backend.RegionStatuses())}, nil
	})
	register(a, route{
		method: http.MethodGet, path: "/v1/regions/{region}", id: "get-region", summary: "Show what this region knows of a region",
		role: starling.ACLViewer, place: atLeader,
	}, func(_ context.Context, in *regionPath) (*answer[*starling.RegionDetail], error) {
		d, ok := a.Backend.Region(in.Region)
		if !ok {
			return nil, fmt.Errorf("region %.80q: %w", in.Region, starling.ErrNotFound)
		}
		return &answer[*starling.RegionDetail]{a.Backend.Leader().Index, d}, nil
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/regions/{region}/takeover", id: "take-over-region",
		summary: "Make this region the home of a lost region's apps",
		role:    starling.ACLOperator, place: atLeader, body: takeoverBody{},
	}, func(ctx context.Context, in *regionPath) (*answer[*starling.Takeover], error) {
		var body takeoverBody
		if err := decode(callOf(ctx).body, &body); err != nil {
			return nil, err
		}
		tk, err := a.Backend.TakeOver(ctx, callOf(ctx).actor, in.Region, body.Force)
		if err != nil {
			return nil, err
		}
		return &answer[*starling.Takeover]{a.Backend.Leader().Index, tk}, nil
	})
	register(a, route{
		method: http.MethodGet, path: "/v1/events", id: "watch-events", summary: "Watch this region's events (server-sent events)",
		role: starling.ACLViewer,
	}, a.events)
	register(a, route{
		method: http.MethodGet, path: "/v1/metrics", id: "get-metrics", summary: "Read this server's metrics, in Prometheus' text form",
		role: starling.ACLViewer,
	}, func(context.Context, *none) (*huma.StreamResponse, error) {
		if a.Metrics == nil {
			return nil, fmt.Errorf("metrics: %w", starling.ErrNotFound)
		}
		return &huma.StreamResponse{Body: func(hctx huma.Context) {
			r, w := humago.Unwrap(hctx)
			a.Metrics.ServeHTTP(w, r)
		}}, nil
	})
}

// registerOpen adds what needs no token: for load balancers, and for finding the leader.
func (a *api) registerOpen() {
	register(a, route{
		method: http.MethodGet, path: "/v1/status/leader", id: "get-leader", summary: "Show who leads this region",
	}, func(context.Context, *none) (*answer[starling.LeaderStatus], error) {
		l := a.Backend.Leader()
		return &answer[starling.LeaderStatus]{l.Index, l}, nil
	})
	register(a, route{
		method: http.MethodGet, path: "/healthz", id: "healthz", summary: "Tell that this process serves",
	}, func(context.Context, *none) (*textAnswer, error) { return text("ok"), nil })
	register(a, route{
		method: http.MethodGet, path: "/readyz", id: "readyz", summary: "Tell whether this region has a leader and this server takes its part",
	}, func(context.Context, *none) (*textAnswer, error) {
		if a.Backend.Leader().Name == "" {
			return nil, fmt.Errorf("the region has no leader: %w", starling.ErrUnavailable)
		}
		if a.Ready != nil {
			if err := a.Ready(); err != nil {
				return nil, err
			}
		}
		return text("ready"), nil
	})
}
