package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/starlingdeploy/starling"
)

// Artifacts lists artifacts, newest first.
func (c *Client) Artifacts(ctx context.Context) ([]*starling.Artifact, error) {
	return fetch[[]*starling.Artifact](ctx, c, http.MethodGet, "/v1/artifacts", nil, nil)
}

// Artifact returns one artifact's record.
func (c *Client) Artifact(ctx context.Context, d starling.Digest) (*starling.Artifact, error) {
	return fetch[*starling.Artifact](ctx, c, http.MethodGet, "/v1/artifacts/"+url.PathEscape(d.String()), nil, nil)
}

// MissingChunks returns those of the digests, 4,096 at most, that the caches lack.
func (c *Client) MissingChunks(ctx context.Context, ds []starling.Digest) ([]starling.Digest, error) {
	out, err := fetch[struct {
		Missing []starling.Digest `json:"missing"`
	}](ctx, c, http.MethodPost, "/v1/artifacts/missing", nil, map[string][]starling.Digest{"chunks": ds})
	return out.Missing, err
}

// PutChunk stores one chunk in the caches.
func (c *Client) PutChunk(ctx context.Context, d starling.Digest, data []byte) error {
	return c.do(ctx, http.MethodPut, "/v1/artifacts/chunks/"+url.PathEscape(d.String()), nil, data, nil)
}

// RegisterArtifact makes an artifact of chunks that the caches hold; app may be empty.
func (c *Client) RegisterArtifact(ctx context.Context, app string, manifest []byte) (*starling.Artifact, error) {
	// Twice is as once: so a server may send it again when the leader changes.
	again := idempotent(starling.DigestOf(manifest).String())
	return fetch[*starling.Artifact](ctx, c, http.MethodPost, "/v1/artifacts", again, struct {
		App      string `json:"app,omitempty"`
		Manifest []byte `json:"manifest"`
	}{app, manifest})
}

// Manifest returns an artifact's manifest bytes, whose SHA-256 is d; the caller checks them.
func (c *Client) Manifest(ctx context.Context, d starling.Digest) ([]byte, error) {
	return fetch[[]byte](ctx, c, http.MethodGet, "/v1/artifacts/"+url.PathEscape(d.String())+"/manifest", nil, nil)
}

// Chunk returns one chunk's bytes, whose SHA-256 is d; the caller checks them.
func (c *Client) Chunk(ctx context.Context, d starling.Digest) ([]byte, error) {
	return fetch[[]byte](ctx, c, http.MethodGet, "/v1/artifacts/chunks/"+url.PathEscape(d.String()), nil, nil)
}
