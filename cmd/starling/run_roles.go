package main

import (
	"context"
	"net"
	"path/filepath"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/build"
	"github.com/starlingdeploy/starling/transport"
	"golang.org/x/sync/errgroup"
)

// runWorker is the worker role: it leases builds and uploads what they yield.
func (p *process) runWorker(ctx context.Context, g *errgroup.Group) error {
	worker, err := build.New(ctx, build.Config{
		Name: p.cfg.Name, Region: p.cfg.Region,
		DataDir: filepath.Join(p.cfg.DataDir, "build"),
		Slots:   p.cfg.Worker.Slots, ReadOnlyPaths: p.cfg.Worker.ReadOnlyPaths,
		AllowFileRepos: p.cfg.Worker.AllowFileRepos,
		Sandbox:        build.SandboxMode(p.cfg.Worker.Sandbox),
		Leader:         p.servers, Blobs: p.caches, Sign: p.sign,
		Hooks: p.servers, Artifacts: p.caches, Verify: p.verify,
		Logger: p.log.With("part", "build"),
	})
	if err != nil {
		return err
	}
	g.Go(func() error { return worker.Run(ctx) })
	return nil
}

func (p *process) verify(envelope []byte, want starling.Digest) (*starling.Manifest, []byte, error) {
	return artifact.Verify(envelope, want, p.credentials)
}

func (p *process) dialSwarm(ctx context.Context, addr string) (net.Conn, starling.Identity, error) {
	c, err := p.endpoint.Dial(ctx, addr, transport.KindSwarm)
	if err != nil {
		return nil, starling.Identity{}, err
	}
	return c, c.Peer(), nil
}
