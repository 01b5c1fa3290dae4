package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/agent"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
	"golang.org/x/sync/errgroup"
)

// runMachine is the machine role: it takes its place in a cell, has the region's goals from
// there, and brings them about on this computer.
func (p *process) runMachine(ctx context.Context, g *errgroup.Group) error {
	upload, download, err := p.cfg.caps()
	if err != nil {
		return err
	}
	place, err := p.newPlace()
	if err != nil {
		return err
	}
	acceptBlob := p.accept(transport.KindBlob)
	if p.cfg.isCache() {
		acceptBlob = nil // the cache role serves for both
	}
	a, err := agent.New(agent.Config{
		Node: place.node, DataDir: filepath.Join(p.cfg.DataDir, "machine"), Env: p.cfg.Machine.Env,
		Leader: place.guide, Members: p.around,
		DialBlob: p.dialBlob, AcceptBlob: acceptBlob,
		DialSwarm: p.dialSwarm, AcceptSwarm: p.accept(transport.KindSwarm),
		Verify:               p.verify,
		UploadBytesPerSecond: upload, DownloadBytesPerSecond: download,
		Logger: p.log.With("part", "machine"),
	})
	if err != nil {
		return err
	}
	p.releases, p.account = a.Source(), a.Account
	g.Go(func() error { return place.member.Run(ctx) })
	g.Go(func() error { return place.run(ctx) })
	g.Go(func() error { p.followFeed(ctx, place.member); return nil })
	g.Go(func() error {
		return serveHTTP(ctx, p.endpoint.Listener(transport.KindCell), place.member.Handler(), p.log)
	})
	if p.pool != nil {
		g.Go(func() error { p.around.follow(ctx, p.pool); return nil })
	}
	g.Go(func() error { return a.Run(ctx) })
	return nil
}

const (
	feedFile     = "feed.json" // in data_dir: what machines were told last, signed
	maxFeedBytes = 64 << 20
)

// newMember makes this machine's part in cells.
func (p *process) newMember(node starling.Node, moved func()) (*cell.Member, error) {
	name := filepath.Join(p.cfg.DataDir, feedFile)
	log := p.log.With("part", "cell")
	last, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the goals of an earlier life: %w", err)
	}
	if len(last) > maxFeedBytes || !json.Valid(last) {
		last = nil // the cell has them
	}
	return cell.New(cell.Config{
		Node: node,
		Servers: cell.ServerClients(func(addr string) *rpc.Client {
			return &rpc.Client{HTTP: &http.Client{Transport: oneServer{p.toServers, addr}}}
		}),
		Peers: cell.PeerClients(p.peer),
		Verify: func(signed json.RawMessage) (*rpc.Feed, error) {
			return cell.OpenFeed(signed, p.cfg.Region, p.credentials, time.Now())
		},
		Last: last,
		Keep: func(signed json.RawMessage) {
			if err := renameio.WriteFile(name, signed, 0o600); err != nil {
				log.Warn("goals cannot be kept; a start without servers and peers goes on with older ones", "error", err)
			}
		},
		Moved: moved, Logger: log,
	}), nil
}

// peer returns a client of one member of the cell. Streams cost little: each request has one.
func (p *process) peer(to starling.Node) *rpc.Client {
	return &rpc.Client{HTTP: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := p.endpoint.Dial(ctx, to.Addr, transport.KindCell)
			if err != nil {
				return nil, err
			}
			if id := c.Peer(); id.Name != to.Name {
				return nil, errors.Join(fmt.Errorf("%s answers for %s: %w", id, to.Name, starling.ErrForbidden), c.Close())
			}
			return c, nil
		},
	}}}
}

// followFeed applies what this machine is told of others: where servers and caches are, and whose
// certificates are void.
func (p *process) followFeed(ctx context.Context, m *cell.Member) {
	var revoked []string
	for {
		feed, changed := m.Feed()
		if feed != nil {
			if p.cfg.isOnlyMachine() { // others see it in the region's gossip
				p.around.tell(slices.Concat(feed.Servers, feed.Caches))
			}
			if !slices.Equal(revoked, feed.Revoked) && !p.cfg.isServer() { // a server has the roster
				revoked = feed.Revoked
				p.revoke(revoked)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
