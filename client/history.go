package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/starlingdeploy/starling"
)

// History lists an app's deployments, newest first, each with what it changed. before, if not
// empty, is the one to go on after; limit is 1 to 1000, 0: 100.
func (c *Client) History(ctx context.Context, app, before string, limit int) ([]starling.HistoryEntry, error) {
	q := url.Values{}
	if before != "" {
		q.Set("before", before)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return read[[]starling.HistoryEntry](ctx, c, "/v1/apps/"+url.PathEscape(app)+"/history", q)
}

// Diff tells what lies between two deployments of an app.
func (c *Client) Diff(ctx context.Context, app, from, to string) (*starling.DeploymentDiff, error) {
	q := url.Values{"from": {from}, "to": {to}}
	return fetch[*starling.DeploymentDiff](ctx, c, http.MethodGet, "/v1/apps/"+url.PathEscape(app)+"/diff?"+q.Encode(), nil, nil)
}

// Provenance says where a deployment's artifact came from.
func (c *Client) Provenance(ctx context.Context, id string) (*starling.Provenance, error) {
	return fetch[*starling.Provenance](ctx, c, http.MethodGet, "/v1/deployments/"+url.PathEscape(id)+"/provenance", nil, nil)
}

// Readiness returns an app's releases, newest first, with what a rollback to each would take.
func (c *Client) Readiness(ctx context.Context, app string) ([]starling.ReleaseStatus, error) {
	return read[[]starling.ReleaseStatus](ctx, c, "/v1/apps/"+url.PathEscape(app)+"/releases", url.Values{"readiness": {"true"}})
}
