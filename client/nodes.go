package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/starlingdeploy/starling"
)

// Nodes returns the members of the server's region and its machines.
func (c *Client) Nodes(ctx context.Context) ([]starling.NodeStatus, error) {
	return c.FindNodes(ctx, starling.NodeFilter{})
}

// FindNodes returns those that f chooses, by name, page by page until there are no more, or
// f.Limit of them if that is set.
func (c *Client) FindNodes(ctx context.Context, f starling.NodeFilter) ([]starling.NodeStatus, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	all := []starling.NodeStatus{}
	for {
		page, err := fetch[[]starling.NodeStatus](ctx, c, http.MethodGet, "/v1/nodes"+nodeQuery(f), nil, nil)
		if err != nil {
			return nil, err
		}
		if len(all) > 0 && len(page) > 0 && page[0].Name <= f.After {
			return all, nil // a server that knows no pages gave all the first time
		}
		all = append(all, page...)
		if f.Limit > 0 || len(page) != starling.MaxListedNodes {
			return all, nil
		}
		f.After = page[len(page)-1].Name
	}
}

func nodeQuery(f starling.NodeFilter) string {
	q := url.Values{}
	for k, v := range map[string]string{"role": string(f.Role), "cell": f.Cell, "zone": f.Zone, "state": f.State, "after": f.After} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

func nodePath(name string) string { return "/v1/nodes/" + url.PathEscape(name) }

// Node returns all that the server's region knows of one node.
func (c *Client) Node(ctx context.Context, name string) (*starling.NodeDetail, error) {
	return fetch[*starling.NodeDetail](ctx, c, http.MethodGet, nodePath(name), nil, nil)
}

// standing says how a machine's standing changes.
type standing struct {
	Off     bool `json:"off,omitempty"`
	Unknown bool `json:"unknown,omitempty"`
}

// DrainNode makes a machine no goal's target; with back it is one again.
func (c *Client) DrainNode(ctx context.Context, name string, back bool) (*starling.Machine, error) {
	return fetch[*starling.Machine](ctx, c, http.MethodPost, nodePath(name)+"/drain", nil, standing{Off: back})
}

// RevokeNode makes a machine's certificates void; with back they are good again.
func (c *Client) RevokeNode(ctx context.Context, name string, back bool) (*starling.Machine, error) {
	return fetch[*starling.Machine](ctx, c, http.MethodPost, nodePath(name)+"/revoke", nil, standing{Off: back})
}

// RevokeUnknownNode is RevokeNode for a name that the region may not know: of a machine with
// a certificate made by hand that never registered.
func (c *Client) RevokeUnknownNode(ctx context.Context, name string) (*starling.Machine, error) {
	return fetch[*starling.Machine](ctx, c, http.MethodPost, nodePath(name)+"/revoke", nil, standing{Unknown: true})
}

// RemoveNode forgets a machine; a revoked one only with force.
func (c *Client) RemoveNode(ctx context.Context, name string, force bool) error {
	path := nodePath(name)
	if force {
		path += "?force=true"
	}
	return c.do(ctx, http.MethodDelete, path, nil, nil, nil)
}

// Cells returns the cells of the region's machines.
func (c *Client) Cells(ctx context.Context) ([]starling.CellStatus, error) {
	return fetch[[]starling.CellStatus](ctx, c, http.MethodGet, "/v1/cells", nil, nil)
}

// RotateCells gives a cell another gossip key, or, with all, each of them.
func (c *Client) RotateCells(ctx context.Context, cell string, all bool) error {
	in := struct {
		Cell string `json:"cell,omitempty"`
		All  bool   `json:"all,omitempty"`
	}{cell, all}
	return c.do(ctx, http.MethodPost, "/v1/operator/gossip/rotate-cell", nil, in, nil)
}

// CreateJoinToken makes a token with which machines enrol.
func (c *Client) CreateJoinToken(ctx context.Context, n starling.NewJoinToken) (*starling.IssuedJoinToken, error) {
	return fetch[*starling.IssuedJoinToken](ctx, c, http.MethodPost, "/v1/join-tokens", nil, n)
}

// JoinTokens lists join tokens without their secrets.
func (c *Client) JoinTokens(ctx context.Context) ([]*starling.JoinToken, error) {
	return fetch[[]*starling.JoinToken](ctx, c, http.MethodGet, "/v1/join-tokens", nil, nil)
}

// RevokeJoinToken ends a join token at once; machines that came with it stay.
func (c *Client) RevokeJoinToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/v1/join-tokens/"+url.PathEscape(id), nil, nil, nil)
}
