package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/starlingdeploy/starling"
)

// Sink is who is told of deployments, and how far they have been told.
type Sink struct {
	Name        string            `json:"name"`
	Kind        starling.SinkKind `json:"kind"`
	To          string            `json:"to"` // its URL without what is secret in it
	Template    string            `json:"template,omitempty"`
	Notices     []starling.Notice `json:"notices"`
	Apps        []string          `json:"apps"`
	CreatedAt   time.Time         `json:"created_at"`
	Actor       string            `json:"actor,omitempty"`
	Delivered   uint64            `json:"delivered"`
	Dropped     uint64            `json:"dropped"` // given up
	Pending     int               `json:"pending"`
	LastSuccess time.Time         `json:"last_success,omitzero"`
	LastError   string            `json:"last_error,omitempty"`
	LastErrorAt time.Time         `json:"last_error_at,omitzero"`
	Waiting     string            `json:"waiting,omitempty"` // ID of the event that is tried again
	Attempt     int               `json:"attempt,omitempty"` // how often it has failed
	NextTry     time.Time         `json:"next_try,omitzero"`
	Unsealed    string            `json:"unsealed,omitempty"` // why its secret cannot be read
	Secret      string            `json:"secret,omitempty"`   // in the answer to CreateSink only, if the server made one
}

// CreateWebhook lets pushes to repositories deploy apps; its secret is in the answer and
// nowhere else.
func (c *Client) CreateWebhook(ctx context.Context, n starling.NewWebhook) (*starling.IssuedWebhook, error) {
	return fetch[*starling.IssuedWebhook](ctx, c, http.MethodPost, "/v1/webhooks", nil, n)
}

// Webhooks lists the region's webhooks without their secrets.
func (c *Client) Webhooks(ctx context.Context) ([]*starling.Webhook, error) {
	return fetch[[]*starling.Webhook](ctx, c, http.MethodGet, "/v1/webhooks", nil, nil)
}

// DeleteWebhook forgets a webhook: what is sent to it from now on is answered 404.
func (c *Client) DeleteWebhook(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "/v1/webhooks/"+url.PathEscape(name), nil, nil, nil)
}

// CreateSink has somebody told of the region's deployments from now on. A secret that the
// server made is in the answer and nowhere else.
func (c *Client) CreateSink(ctx context.Context, n starling.NewSink) (*Sink, error) {
	return fetch[*Sink](ctx, c, http.MethodPost, "/v1/sinks", nil, n)
}

// Sinks lists the region's sinks and how far they have been told.
func (c *Client) Sinks(ctx context.Context) ([]*Sink, error) {
	return fetch[[]*Sink](ctx, c, http.MethodGet, "/v1/sinks", nil, nil)
}

// TrySink sends a sink one message now; the answer says whether it took it.
func (c *Client) TrySink(ctx context.Context, name string) (*starling.SinkTrial, error) {
	return fetch[*starling.SinkTrial](ctx, c, http.MethodPost, "/v1/sinks/"+url.PathEscape(name)+"/test", nil, nil)
}

// DeleteSink tells a sink no more.
func (c *Client) DeleteSink(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "/v1/sinks/"+url.PathEscape(name), nil, nil, nil)
}
