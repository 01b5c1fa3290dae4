package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Artifact implements httpapi.Artifacts.
func (s *Server) Artifact(d starling.Digest) (*starling.Artifact, bool) {
	return s.cfg.FSM.View().Artifact(d)
}

// Artifacts implements httpapi.Artifacts.
func (s *Server) Artifacts() []*starling.Artifact { return s.cfg.FSM.View().Artifacts() }

// MissingChunks implements httpapi.Artifacts.
func (s *Server) MissingChunks(ctx context.Context, ds []starling.Digest) ([]starling.Digest, error) {
	if len(ds) > starling.MaxChunks {
		return nil, starling.Invalidf("digests", "%d, more than %d", len(ds), starling.MaxChunks)
	}
	return inBatches(ctx, ds, s.cfg.Blobs.Missing)
}

// inBatches asks the caches for digests, some at a time.
func inBatches(ctx context.Context, ds []starling.Digest, ask func(context.Context, []starling.Digest) ([]starling.Digest, error)) ([]starling.Digest, error) {
	missing := []starling.Digest{}
	for batch := range slices.Chunk(ds, missingBatchDigests) {
		m, err := ask(ctx, batch)
		if err != nil {
			return nil, fmt.Errorf("ask the caches: %w", err)
		}
		missing = append(missing, m...)
	}
	return missing, nil
}

// PutChunk implements httpapi.Artifacts.
func (s *Server) PutChunk(ctx context.Context, d starling.Digest, data []byte) error {
	if len(data) == 0 || len(data) > starling.MaxChunkBytes {
		return starling.Invalidf("chunk", "%d bytes are not within 1 and %d", len(data), starling.MaxChunkBytes)
	}
	if starling.DigestOf(data) != d {
		return fmt.Errorf("chunk %s: the data does not match: %w", d, starling.ErrCorrupt)
	}
	if err := s.cfg.Blobs.Put(ctx, d, data); err != nil {
		return fmt.Errorf("store chunk %s: %w", d, err)
	}
	return nil
}

// RegisterArtifact implements httpapi.Artifacts.
func (s *Server) RegisterArtifact(ctx context.Context, actor, app string, manifest []byte) (*starling.Artifact, error) {
	if app != "" {
		if err := starling.CheckName("app", app); err != nil {
			return nil, err
		}
		if _, ok := s.App(app); !ok {
			return nil, fmt.Errorf("app %s: %w", app, starling.ErrNotFound)
		}
	}
	m, err := starling.DecodeManifest(manifest)
	if err != nil {
		return nil, err
	}
	digest := starling.DigestOf(manifest)
	missing, err := inBatches(ctx, chunkDigests(m), s.cfg.Blobs.Lacking)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, starling.Invalidf("manifest.chunks", "the caches lack %d of %d chunks, %s among them: push them first",
			len(missing), len(m.Chunks), missing[0])
	}
	envelope, err := s.cfg.Sign(manifest)
	if err != nil {
		return nil, fmt.Errorf("sign artifact %s: %w", digest, err)
	}
	if err := s.cfg.Blobs.PutManifest(ctx, digest, envelope); err != nil {
		return nil, fmt.Errorf("store manifest %s: %w", digest, err)
	}
	files := 0
	for i := range m.Files {
		if m.Files[i].Kind == starling.KindFile {
			files++
		}
	}
	res, err := s.propose(ctx, actor, raftfsm.TypeArtifactRegister, raftfsm.ArtifactRegister{Artifact: starling.Artifact{
		Digest: digest, App: app, Bytes: m.Bytes(), Files: files, Chunks: len(m.Chunks),
		Region: s.cfg.Region, Actor: actor, CreatedAt: s.cfg.Now(),
	}})
	if err != nil {
		return nil, err
	}
	return res.Artifact, nil
}

// chunkDigests lists each distinct chunk of a manifest once.
func chunkDigests(m *starling.Manifest) []starling.Digest {
	seen := make(map[starling.Digest]bool, len(m.Chunks))
	var out []starling.Digest
	for i := range m.Chunks {
		if d := m.Chunks[i].Digest; !seen[d] {
			seen[d] = true
			out = append(out, d)
		}
	}
	return out
}

// Manifest implements httpapi.Artifacts.
func (s *Server) Manifest(ctx context.Context, artifact starling.Digest) ([]byte, error) {
	envelope, err := s.cfg.Blobs.Manifest(ctx, artifact)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", artifact, err)
	}
	// The payload of a DSSE envelope (https://github.com/secure-systems-lab/dsse). The
	// digest that was asked for vouches for it; who signed it is for machines to check.
	var dsse struct {
		Payload []byte `json:"payload"`
	}
	if err := json.Unmarshal(envelope, &dsse); err != nil || starling.DigestOf(dsse.Payload) != artifact {
		return nil, fmt.Errorf("manifest %s: the stored envelope does not match: %w", artifact, starling.ErrCorrupt)
	}
	return dsse.Payload, nil
}

// Chunk implements httpapi.Artifacts.
func (s *Server) Chunk(ctx context.Context, d starling.Digest) ([]byte, error) {
	data, err := s.cfg.Blobs.Get(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w", d, err)
	}
	return data, nil
}
