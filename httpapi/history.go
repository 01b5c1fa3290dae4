package httpapi

import (
	"context"
	"net/http"

	"github.com/starlingdeploy/starling"
)

type (
	releasesRead struct {
		App string `path:"app"`
		Blocking
		Stale
		Consistent
		Readiness bool `query:"readiness" doc:"true: also ask the regions which machines hold each release, and how long a rollback would take"`
	}
	historyRead struct {
		App    string `path:"app"`
		Before string `query:"before" doc:"Go on after this deployment"`
		Limit  int    `query:"limit" doc:"1 to 1000; 100 unless given"`
		Stale
		Consistent
	}
	diffRead struct {
		App  string `path:"app"`
		From string `query:"from" doc:"ID of the earlier deployment"`
		To   string `query:"to" doc:"ID of the later deployment"`
		Stale
	}
	provenanceRead struct {
		ID string `path:"id"`
		Stale
	}
)

func (a *api) registerHistory() {
	register(a, route{
		method: http.MethodGet, path: "/v1/apps/{app}/history", id: "get-history",
		summary: "Tell who deployed what, when and from where, and what each deployment changed, newest first",
		role:    starling.ACLViewer, place: atApp, consistent: true,
	}, a.history)
	register(a, route{
		method: http.MethodGet, path: "/v1/apps/{app}/diff", id: "diff-deployments",
		summary: "Tell what lies between two deployments: fields of the spec, and commits", role: starling.ACLViewer, place: atApp,
	}, a.diff)
	register(a, route{
		method: http.MethodGet, path: "/v1/deployments/{id}/provenance", id: "get-provenance",
		summary: "Tell who built a deployment's artifact, from what, and who signed it", role: starling.ACLViewer, place: atDeployment,
	}, a.provenance)
}

func (a *api) history(_ context.Context, in *historyRead) (*answer[[]starling.HistoryEntry], error) {
	limit, err := deploymentsLimit(in.Limit)
	if err != nil {
		return nil, err
	}
	all, err := a.Backend.History(starling.DeploymentFilter{App: in.App, Before: in.Before, Limit: limit})
	if err != nil {
		return nil, err
	}
	return &answer[[]starling.HistoryEntry]{a.Backend.Leader().Index, list(all)}, nil
}

func (a *api) diff(_ context.Context, in *diffRead) (*answer[*starling.DeploymentDiff], error) {
	for field, id := range map[string]string{"from": in.From, "to": in.To} {
		if id == "" {
			return nil, starling.Invalidf(field, "is missing: name a deployment, as in the app's history")
		}
	}
	d, err := a.Backend.Diff(in.App, in.From, in.To)
	if err != nil {
		return nil, err
	}
	return &answer[*starling.DeploymentDiff]{a.Backend.Leader().Index, d}, nil
}

func (a *api) provenance(ctx context.Context, in *provenanceRead) (*answer[*starling.Provenance], error) {
	p, err := a.Backend.Provenance(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &answer[*starling.Provenance]{a.Backend.Leader().Index, p}, nil
}
