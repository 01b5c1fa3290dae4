package httpapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/starlingdeploy/starling"
)

type (
	artifactRead struct {
		Digest starling.Digest `path:"digest"`
	}
	none struct{}
	// bytesAnswer is content that never changes, named by its digest.
	bytesAnswer struct {
		ContentType  string `header:"Content-Type"`
		CacheControl string `header:"Cache-Control"`
		NoSniff      string `header:"X-Content-Type-Options"`
		Body         []byte
	}
)

type missingBody struct {
	Chunks []starling.Digest `json:"chunks" doc:"4096 at most"`
}

type missingAnswer struct {
	Missing []starling.Digest `json:"missing"`
}

type registerBody struct {
	App      string `json:"app,omitempty" doc:"The app that it belongs to; empty: any"`
	Manifest []byte `json:"manifest" doc:"The manifest's bytes, in base64; their SHA-256 is the artifact's digest"`
}

func (a *api) registerArtifacts() {
	register(a, route{
		method: http.MethodGet, path: "/v1/artifacts", id: "list-artifacts", summary: "List artifacts, newest first",
		role: starling.ACLViewer,
	}, func(ctx context.Context, in *listRead) (*answer[[]*starling.Artifact], error) {
		index, err := a.block(ctx, in.Blocking)
		if err != nil {
			return nil, err
		}
		return &answer[[]*starling.Artifact]{index, list(a.Backend.Artifacts())}, nil
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/artifacts", id: "register-artifact", summary: "Record an artifact whose chunks are all stored",
		role: starling.ACLDeployer, place: atLeader, body: registerBody{}, maxBytes: maxRegisterBytes, status: http.StatusCreated,
	}, a.registerArtifact)
	register(a, route{
		method: http.MethodGet, path: "/v1/artifacts/{digest}", id: "get-artifact", summary: "Show an artifact",
		role: starling.ACLViewer,
	}, func(_ context.Context, in *artifactRead) (*answer[*starling.Artifact], error) {
		index := a.Backend.Leader().Index
		art, ok := a.Backend.Artifact(in.Digest)
		if !ok {
			return nil, fmt.Errorf("artifact %s: %w", in.Digest, starling.ErrNotFound)
		}
		return &answer[*starling.Artifact]{index, art}, nil
	})
	register(a, route{
		method: http.MethodGet, path: pathManifest, id: "get-manifest", summary: "Read an artifact's manifest",
		role: starling.ACLViewer,
	}, func(ctx context.Context, in *artifactRead) (*bytesAnswer, error) {
		b, err := a.Backend.Manifest(ctx, in.Digest)
		return immutable("application/json", b, err)
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/artifacts/missing", id: "missing-chunks", summary: "Ask which chunks the caches lack",
		role: starling.ACLDeployer, body: missingBody{},
	}, a.missingChunks)
	register(a, route{
		method: http.MethodPut, path: pathChunk, id: "put-chunk", summary: "Store a chunk",
		role: starling.ACLDeployer, raw: true, maxBytes: starling.MaxChunkBytes, status: http.StatusNoContent,
	}, func(ctx context.Context, in *artifactRead) (*none, error) {
		return nothing(a.Backend.PutChunk(ctx, in.Digest, callOf(ctx).body))
	})
	register(a, route{
		method: http.MethodGet, path: pathChunk, id: "get-chunk", summary: "Read a chunk",
		role: starling.ACLViewer,
	}, func(ctx context.Context, in *artifactRead) (*bytesAnswer, error) {
		b, err := a.Backend.Chunk(ctx, in.Digest)
		return immutable("application/octet-stream", b, err)
	})
}

func (a *api) registerArtifact(ctx context.Context, _ *none) (*answer[*starling.Artifact], error) {
	c := callOf(ctx)
	var body registerBody
	if err := decode(c.body, &body); err != nil {
		return nil, err
	}
	if len(body.Manifest) == 0 {
		return nil, starling.Invalidf("manifest", "is missing")
	}
	if body.App != "" {
		if err := starling.CheckName("app", body.App); err != nil {
			return nil, err
		}
	}
	art, err := a.Backend.RegisterArtifact(ctx, c.actor, body.App, body.Manifest)
	if err != nil {
		return nil, err
	}
	return &answer[*starling.Artifact]{a.Backend.Leader().Index, art}, nil
}

func (a *api) missingChunks(ctx context.Context, _ *none) (*answer[missingAnswer], error) {
	var body missingBody
	if err := decode(callOf(ctx).body, &body); err != nil {
		return nil, err
	}
	if len(body.Chunks) == 0 || len(body.Chunks) > maxMissingDigests {
		return nil, starling.Invalidf("chunks", "%d digests: want 1 to %d", len(body.Chunks), maxMissingDigests)
	}
	for _, d := range body.Chunks {
		if d.IsZero() {
			return nil, starling.Invalidf("chunks", "one digest is empty")
		}
	}
	missing, err := a.Backend.MissingChunks(ctx, body.Chunks)
	if err != nil {
		return nil, err
	}
	return &answer[missingAnswer]{a.Backend.Leader().Index, missingAnswer{list(missing)}}, nil
}

func immutable(contentType string, b []byte, err error) (*bytesAnswer, error) {
	if err != nil {
		return nil, err
	}
	return &bytesAnswer{contentType, "private, max-age=31536000, immutable", "nosniff", b}, nil
}

// nothing answers without a body.
func nothing(err error) (*none, error) {
	if err != nil {
		return nil, err
	}
	return &none{}, nil
}
