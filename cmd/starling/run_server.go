package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/control"
	"github.com/starlingdeploy/starling/httpapi"
	"github.com/starlingdeploy/starling/membership"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
	"github.com/starlingdeploy/starling/web"
	"golang.org/x/sync/errgroup"
)

// Bounds of the HTTP servers.
const (
	readHeaderWithin = 10 * time.Second
	maxHeaderBytes   = 64 << 10
	idleHTTPConnLife = 2 * time.Minute
	drainHTTPWithin  = 3 * time.Second
)

// runServer is the server role: Raft over QUIC, the control loops above it, the
// internal protocol for the other processes, and the HTTP API for people.
func (p *process) runServer(ctx context.Context, g *errgroup.Group) error {
	fsm := raftfsm.New(p.cfg.Region)
	autopilot, err := p.cfg.autopilot()
	if err != nil {
		return err
	}
	reserve, err := p.cfg.diskReserve()
	if err != nil {
		return err
	}
	history, err := p.cfg.history()
	if err != nil {
		return err
	}
	raft, err := raftnode.Open(raftnode.Config{
		Name: p.cfg.Name, Region: p.cfg.Region,
		DataDir: filepath.Join(p.cfg.DataDir, "raft"),
		Layer:   p.endpoint.RaftLayer(), FSM: fsm,
		Level:      func() int { return fsm.View().Level() },
		Recoveries: func() int { return fsm.View().Recoveries() },
		Peers:      p.raftPeers, Changed: p.pool.Changed, SetTag: p.pool.SetTag,
		BootstrapExpect: p.cfg.Server.BootstrapExpect, Stats: p.peerStats, Autopilot: autopilot, DiskReserve: reserve,
		Logger: p.log.With("part", "raft"),
	})
	if err != nil {
		return err
	}
	takeoverAfter, err := p.cfg.takeoverAfter()
	if err != nil {
		return errors.Join(err, raft.Close())
	}
	metrics := prometheus.NewRegistry()
	if err := metrics.Register(raft.Metrics()); err != nil {
		return errors.Join(err, raft.Close())
	}
	enrolment, err := p.enrolment()
	if err != nil {
		return errors.Join(err, raft.Close())
	}
	cellMax, err := p.cfg.cellMax()
	if err != nil {
		return errors.Join(err, raft.Close())
	}
	cellQuiet, err := p.cfg.cellQuiet()
	if err != nil {
		return errors.Join(err, raft.Close())
	}
	gossip, err := p.cfg.gossipKey()
	if err != nil {
		return errors.Join(err, raft.Close())
	}
	secrets, err := secretKey(gossip, p.cfg.Region)
	if err != nil {
		return errors.Join(err, raft.Close())
	}
	server, err := control.New(control.Config{
		Region: p.cfg.Region, Name: p.cfg.Name,
		Raft: raft, FSM: fsm, Members: p.pool, Blobs: p.caches,
		Regions: p.cfg.Regions, DialControl: p.dialControl, Sign: p.sign, SignedBy: p.signedBy, Account: p.blobs.GetAccount, Stop: p.stop,
		CA:      pki.Fingerprint(p.credentials.Root()),
		History: history, Replicas: p.replicas(), TakeoverAfter: takeoverAfter,
		CellMax: cellMax, CellQuiet: cellQuiet, CellKey: p.cellKey, DialCell: p.dialCell, SignFeed: p.signFeed,
		SecretKey: secrets, NotifyLocal: p.cfg.Server.NotifyLocal,
		Enrolment: enrolment, Revoked: p.revoke, Metrics: metrics, Logger: p.log.With("part", "control"),
	})
	if err != nil {
		return errors.Join(err, raft.Close())
	}
	acl := p.cfg.HTTP == nil || orTrue(p.cfg.HTTP.ACL)
	api := httpapi.New(httpapi.Config{
		Backend: server, ACLEnabled: acl, Version: version, Ready: raft.Ready, Page: web.Page(),
		Metrics: promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}), Logger: p.log.With("part", "http"),
	})
	g.Go(func() error {
		err := server.Run(ctx)
		return errors.Join(err, raft.Close())
	})
	g.Go(func() error {
		return serveHTTP(ctx, p.endpoint.Listener(transport.KindControl), internalHandler(server.RPC(), api), p.log)
	})
	if enrolment != nil {
		g.Go(func() error {
			return serveHTTP(ctx, p.endpoint.Listener(transport.KindEnrol), server.EnrolHandler(), p.log)
		})
	}
	g.Go(func() error { return serveHTTP(ctx, p.public, api, p.log) })
	g.Go(func() error { return keepHeapRoomy(ctx) })
	g.Go(func() error { // the process ends with the disk, and whoever restarts it has it look again
		select {
		case <-raft.Failed():
			return raft.Err()
		case <-ctx.Done():
			return nil
		}
	})
	return nil
}

// internalHandler serves the internal protocol to every role, and passed-on requests
// of the public API to servers only.
func internalHandler(rpc, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/rpc/") {
			rpc.ServeHTTP(w, r)
			return
		}
		if id, ok := starling.IdentityFrom(r.Context()); !ok || !id.Has(starling.RoleServer) {
			http.Error(w, "only servers pass requests on", http.StatusForbidden)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// peerStats asks another server how its Raft is. Programs before this one do not tell
// where their log ends, but what they have applied.
func (p *process) peerStats(ctx context.Context, peer raftnode.Peer) (raftnode.PeerStats, error) {
	c := rpc.Client{HTTP: &http.Client{Transport: oneServer{p.toServers, peer.Addr}}}
	st, err := c.Status(ctx)
	return raftnode.PeerStats{
		LastContact: time.Duration(st.LastContactMS) * time.Millisecond,
		LastTerm:    st.LastTerm, LastIndex: max(st.LastIndex, st.Index),
	}, err
}

// raftPeers is the gossip's view of the servers of this region.
func (p *process) raftPeers() []raftnode.Peer {
	var peers []raftnode.Peer
	reserved := p.pool.Reserved()
	for _, n := range p.pool.Members() {
		if !n.Has(starling.RoleServer) {
			continue
		}
		state := raftnode.PeerFailed
		switch p.pool.State(n.Name) {
		case membership.StateAlive:
			state = raftnode.PeerAlive
		case membership.StateLeft:
			state = raftnode.PeerLeft
		}
		peers = append(peers, raftnode.Peer{Name: n.Name, Addr: n.Addr, State: state, Tags: reserved[n.Name]})
	}
	return peers
}

func (p *process) dialCell(ctx context.Context, addr string) (net.Conn, error) {
	return p.endpoint.Dial(ctx, addr, transport.KindCell)
}

func (p *process) signFeed(feed *rpc.Feed) (json.RawMessage, error) {
	return cell.SignFeed(feed, p.credentials)
}

// cellKey derives the gossip key of one of the region's cells from the one in the configuration.
func (p *process) cellKey(cell string, epoch uint64) ([]byte, error) {
	region, err := p.cfg.gossipKey()
	if err != nil {
		return nil, err
	}
	return cellKey(region, p.cfg.Region, cell, epoch)
}

func (p *process) dialControl(ctx context.Context, addr string) (net.Conn, error) {
	return p.endpoint.Dial(ctx, addr, transport.KindControl)
}

// listenHTTP opens the public API's port, with TLS unless the configuration says no.
func (p *process) listenHTTP() (net.Listener, error) {
	l, err := net.Listen("tcp", p.cfg.httpAddr())
	if err != nil {
		return nil, fmt.Errorf("http: %w: set another port in ports { http = … }, or stop what uses it", err)
	}
	if p.cfg.HTTP != nil && !orTrue(p.cfg.HTTP.TLS) {
		return l, nil
	}
	cert, key := p.cfg.TLS.HTTPCert, p.cfg.TLS.HTTPKey
	if cert == "" {
		cert, key = p.cfg.TLS.Cert, p.cfg.TLS.Key
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tls.http_cert: %w", err), l.Close())
	}
	return tls.NewListener(l, &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}), nil
}

// serveHTTP serves h on l until ctx ends. Requests that came over QUIC carry the
// identity in the caller's certificate.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderWithin,
		IdleTimeout:       idleHTTPConnLife,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if q, ok := c.(*transport.Conn); ok && q.Kind() != transport.KindEnrol { // those are nobody yet
				return starling.WithIdentity(ctx, q.Peer())
			}
			return ctx
		},
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainHTTPWithin)
		defer cancel()
		if s.Shutdown(drain) != nil {
			s.Close() // long polls and streams end here
		}
	}()
	err := s.Serve(l)
	if ctx.Err() == nil {
		return fmt.Errorf("http: %w", err)
	}
	<-stopped
	return nil
}
