package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/membership"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
)

// process holds what all roles of one process share: its identity, its QUIC endpoint,
// its place in the gossip, and its ways to servers and caches.
type process struct {
	cfg         *Config
	log         *slog.Logger
	credentials *pki.Credentials // those at the start; the endpoint may have newer ones
	revoked     *pki.Revocations // of this region
	endpoint    *transport.Endpoint
	pool        *membership.Pool  // the region's; nil: a machine that is in its cell's only
	around      *surroundings     // of a machine; nil: it is none
	members     pool              // whom this process knows: pool or around
	servers     *rpc.Client       // the servers of this region
	toServers   *anyServer        // and the way to them
	stop        func()            // ends the process in good order; runAgent sets it
	blobs       *blobcache.Client // any cache or machine
	caches      *blobcache.Region // the caches of this region as one

	public   net.Listener                          // the HTTP API's; servers only
	releases blobcache.Source                      // what the machine role holds, for the cache role to serve
	account  func(starling.Digest) ([]byte, error) // and how it came here
}

// newProcess opens the ports, HTTP first so that the gossip can tell its address.
func newProcess(cfg *Config, log *slog.Logger) (_ *process, err error) {
	p := &process{cfg: cfg, log: log, revoked: pki.NewRevocations(cfg.Region)}
	if p.credentials, err = p.loadIdentity(); err != nil {
		return nil, err
	}
	p.credentials = p.credentials.WithRevocations(p.revoked)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if cfg.isServer() {
		if p.public, err = p.listenHTTP(); err != nil {
			return nil, err
		}
	}
	if p.endpoint, err = p.listenQUIC(); err != nil {
		return nil, err
	}
	if cfg.isMachine() {
		p.around = newSurroundings()
		p.members = p.around
	}
	if !cfg.isOnlyMachine() {
		if p.pool, err = p.openRegion(p.ownRoles()...); err != nil {
			return nil, err
		}
		if p.around == nil {
			p.members = p.pool
		} else {
			p.around.region = p.pool
		}
	}
	p.toServers = p.newAnyServer()
	p.servers = &rpc.Client{HTTP: &http.Client{Transport: p.toServers}}
	_, download, err := cfg.caps()
	if err != nil {
		return nil, err
	}
	p.blobs = blobcache.NewClient(blobcache.NewLimit(download).Reads(p.dialBlob))
	p.blobs.Role = cfg.roles()[0]
	p.caches = blobcache.NewRegion(p.blobs, p.members.Members, p.replicas())
	return p, nil
}

// loadIdentity reads the certificate and sees that it is for this process.
func (p *process) loadIdentity() (*pki.Credentials, error) {
	c, err := pki.LoadFiles(p.cfg.TLS.CA, p.cfg.TLS.Cert, p.cfg.TLS.Key)
	if err != nil {
		return nil, err
	}
	id := c.Identity
	if id.Name != p.cfg.Name || id.Region != p.cfg.Region {
		return nil, starling.Invalidf("tls.cert", "is for %s in region %s, but this process is %s in %s", id.Name, id.Region, p.cfg.Name, p.cfg.Region)
	}
	for _, r := range p.cfg.roles() {
		if !id.Has(r) {
			return nil, starling.Invalidf("tls.cert", "lacks the role %s: make one with `starling tls cert create --role %s`", r, r)
		}
	}
	return c, nil
}

// ownRoles are the roles that this process announces in the region's pool: machines are in their cells'.
func (p *process) ownRoles() []starling.Role {
	return slices.DeleteFunc(p.cfg.roles(), func(r starling.Role) bool { return r == starling.RoleMachine })
}

// openRegion begins to take part in the region's gossip.
func (p *process) openRegion(roles ...starling.Role) (*membership.Pool, error) {
	key, err := p.cfg.gossipKey()
	if err != nil {
		return nil, err
	}
	return membership.Start(membership.Config{
		Cluster: p.credentials.Identity.Cluster, Node: p.node(roles...), Bind: p.cfg.gossipAddr(), Advertise: p.cfg.Advertise,
		Key: key, KeyringFile: filepath.Join(p.cfg.DataDir, "keyring.json"), Join: p.cfg.Join,
		PeersFile: filepath.Join(p.cfg.DataDir, "peers.json"), Logger: p.log.With("part", "gossip"),
	})
}

// node is what this process announces in a pool.
func (p *process) node(roles ...starling.Role) starling.Node {
	n := starling.Node{
		Name: p.cfg.Name, Region: p.cfg.Region, Zone: p.cfg.Zone, Rack: p.cfg.Rack,
		Roles: roles, Addr: p.endpoint.Addr(), Alive: true,
	}
	if slices.Contains(roles, starling.RoleMachine) {
		n.Tags = p.cfg.Machine.Tags
	}
	if p.cfg.isServer() {
		port := p.public.Addr().(*net.TCPAddr).Port
		n.HTTP = net.JoinHostPort(p.cfg.Advertise, strconv.Itoa(port))
	}
	return n
}

func (p *process) replicas() int {
	if p.cfg.isServer() {
		return p.cfg.Server.Replicas
	}
	return defaultReplicas
}

// bulkCoalesce is how long a process that moves bulk data, and no Raft, may let packets
// gather: fewer wake-ups for the same bytes.
const bulkCoalesce = 2 * time.Millisecond

// swarmWindowBytes is how much of one chunk may be under way to a machine. It fetches from
// several peers of its own region at once, whose queues should stay short: 32 MB/s from
// each at a round trip of 4 ms.
const swarmWindowBytes = 128 << 10

// listenQUIC opens the one UDP port of this process.
func (p *process) listenQUIC() (*transport.Endpoint, error) {
	conf := transport.Config{
		Bind: p.cfg.quicAddr(), Advertise: p.cfg.Advertise, Credentials: p.credentials,
		Logger: p.log.With("part", "transport"),
	}
	if !p.cfg.isServer() {
		conf.ReceiveCoalesce = bulkCoalesce
	} else if p.cfg.TLS.EnrolCert != "" {
		conf.Enrolment = &transport.Enrolment{PerSecond: p.cfg.Server.EnrolPerSecond}
	}
	if p.cfg.isOnlyMachine() {
		conf.MaxStreamWindowBytes = swarmWindowBytes
	}
	if t := p.cfg.Tuning; t != nil {
		conf.DisableGRO = t.DisableGRO
		if t.ReceiveCoalesce != "" {
			d, err := time.ParseDuration(t.ReceiveCoalesce)
			if err != nil {
				return nil, starling.Invalidf("transport.receive_coalesce", "%v", err)
			}
			conf.ReceiveCoalesce = d
		}
		if t.StreamWindow != "" {
			n, err := parseBytes("transport.stream_window", t.StreamWindow)
			if err != nil {
				return nil, err
			}
			conf.MaxStreamWindowBytes = int(n)
		}
	}
	return transport.Listen(conf)
}

// close leaves the gossip and closes the ports, as far as they were opened. A server
// that stops does not leave: it would lose its vote, and it is to come back.
func (p *process) close() error {
	var errs []error
	if p.pool != nil {
		if !p.cfg.isServer() {
			errs = append(errs, p.pool.Leave())
		}
		errs = append(errs, p.pool.Close())
	}
	if p.blobs != nil {
		p.blobs.Close()
	}
	if p.endpoint != nil {
		errs = append(errs, p.endpoint.Close())
	}
	if p.public != nil {
		if err := p.public.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (p *process) dialBlob(ctx context.Context, addr string) (net.Conn, error) {
	return p.endpoint.Dial(ctx, addr, transport.KindBlob)
}

// accept adapts the endpoint to packages that know nothing of QUIC.
func (p *process) accept(kind transport.Kind) func(context.Context) (net.Conn, starling.Identity, error) {
	return func(ctx context.Context) (net.Conn, starling.Identity, error) {
		c, err := p.endpoint.Accept(ctx, kind)
		if err != nil {
			return nil, starling.Identity{}, err
		}
		return c, c.Peer(), nil
	}
}

func (p *process) signedBy(envelope []byte, want starling.Digest) (*starling.Signature, error) {
	return artifact.SignedBy(envelope, want, p.credentials)
}

func (p *process) sign(manifest []byte) ([]byte, error) {
	return artifact.Sign(manifest, p.credentials)
}
