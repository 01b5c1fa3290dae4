package main

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/transport"
	"golang.org/x/sync/errgroup"
)

// runCache is the cache role: it stores chunks, serves them, and brings here what the
// region's servers want.
func (p *process) runCache(ctx context.Context, g *errgroup.Group) error {
	maxBytes, err := parseBytes("cache.max_bytes", p.cfg.Cache.MaxBytes)
	if err != nil {
		return err
	}
	log := p.log.With("part", "cache")
	store, err := blobcache.OpenStore(filepath.Join(p.cfg.DataDir, "blobs"), maxBytes, log)
	if err != nil {
		return err
	}
	var source blobcache.Source = store
	if p.releases != nil {
		source = both{store: store, releases: p.releases}
	}
	patcher := blobcache.NewPatcher()
	others := blobcache.NewRegion(p.blobs, func() []starling.Node {
		return slices.DeleteFunc(p.members.Members(), func(n starling.Node) bool { return n.Name == p.cfg.Name })
	}, p.replicas())
	upload, _, err := p.cfg.caps()
	if err != nil {
		return err
	}
	total, err := parseRate("cache.egress", p.cfg.Cache.Egress)
	if err != nil {
		return err
	}
	egress := blobcache.NewEgress(total, upload)
	var replicator *blobcache.Replicator
	server := blobcache.NewServer(blobcache.ServerConfig{
		Region: p.cfg.Region, Source: source, Store: store, Account: p.account, Logger: log,
		VerifyManifest: func(envelope []byte, artifact starling.Digest) error {
			_, _, err := p.verify(envelope, artifact)
			return err
		},
		Patcher: patcher, ReadBase: others.Chunk, Upload: egress.Limit(),
		Urgency: func(artifact starling.Digest) (blobcache.Urgency, bool) { return replicator.Urgency(artifact) },
	})
	replicator = blobcache.NewReplicator(blobcache.ReplicatorConfig{
		Name: p.cfg.Name, Store: store, Client: p.blobs, Control: p.servers,
		Members: p.members.Members, Changed: p.members.Changed,
		Verify: func(envelope []byte, artifact starling.Digest) (*starling.Manifest, error) {
			m, _, err := p.verify(envelope, artifact)
			return m, err
		},
		OutBytes: server.OutBytes, Egress: egress, Patcher: patcher, ReadBase: others.Chunk, Logger: log,
	})
	g.Go(func() error {
		parts, ctx := errgroup.WithContext(ctx)
		parts.Go(func() error { return server.Serve(ctx, p.accept(transport.KindBlob)) })
		parts.Go(func() error { return replicator.Run(ctx) })
		return errors.Join(parts.Wait(), store.Close())
	})
	return nil
}
