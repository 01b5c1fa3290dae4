package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/transport"
)

// Bounds of the way to the servers.
const (
	idleConnsPerServer = 8
	idleConnLife       = 90 * time.Second
	dialServerWithin   = 3 * time.Second // one server of several
	suspectFor         = 15 * time.Second
)

// errUndelivered marks a request that no server has seen.
var errUndelivered = errors.New("the server cannot be reached")

// anyServer sends each request to one of the region's live servers, and stays with it
// while it answers. One that does not is left alone for a while: gossip and QUIC take
// seconds to notice a death, and a heartbeat has no seconds to lose.
type anyServer struct {
	region string
	addrs  func() []string // live servers by gossip, in this process's order of preference
	base   *http.Transport

	mu       sync.Mutex
	suspects map[string]time.Time // by address, until when
}

func (p *process) newAnyServer() *anyServer {
	return &anyServer{
		region: p.cfg.Region, addrs: p.ownServers, suspects: map[string]time.Time{},
		base: &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, dialServerWithin)
				defer cancel()
				c, err := p.endpoint.Dial(ctx, addr, transport.KindControl)
				if err != nil {
					return nil, errors.Join(errUndelivered, err)
				}
				return c, nil
			},
			MaxIdleConnsPerHost: idleConnsPerServer,
			IdleConnTimeout:     idleConnLife,
			DisableCompression:  true,
		},
	}
}

// ownServers lists the live servers of this region. Each process begins at another one, so
// that the load spreads over followers too. Those that a machine was given come last, in
// case what it knows is of long ago.
func (p *process) ownServers() []string {
	var addrs []string
	for _, n := range p.members.Members() {
		if n.Alive && n.Has(starling.RoleServer) {
			addrs = append(addrs, n.Addr)
		}
	}
	addrs = p.turned(addrs)
	if !p.cfg.isMachine() {
		return addrs
	}
	for _, a := range p.turned(p.cfg.firstServers()) {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// turned returns addresses beginning with this process's own first.
func (p *process) turned(addrs []string) []string {
	if len(addrs) == 0 {
		return nil
	}
	h := fnv.New32a()
	h.Write([]byte(p.cfg.Name))
	first := int(h.Sum32() % uint32(len(addrs)))
	return slices.Concat(addrs[first:], addrs[:first])
}

// RoundTrip implements http.RoundTripper. A request that could not even be delivered
// goes on to the next server; one that may have been is for the caller to repeat.
func (a *anyServer) RoundTrip(req *http.Request) (*http.Response, error) {
	var errs []error
	for _, addr := range a.order() {
		try, err := a.requestTo(req, addr)
		if err != nil {
			return nil, err
		}
		res, err := a.base.RoundTrip(try)
		if err == nil {
			return res, nil
		}
		errs = append(errs, err)
		if errors.Is(req.Context().Err(), context.Canceled) {
			break // the caller's wish says nothing of the server
		}
		a.suspect(addr)
		if req.Context().Err() != nil || !errors.Is(err, errUndelivered) {
			break
		}
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("%w: no live server of region %s is known", starling.ErrUnavailable, a.region)
	}
	return nil, errors.Join(errs...)
}

// oneServer sends every request to one server.
type oneServer struct {
	of   *anyServer
	addr string
}

// RoundTrip implements http.RoundTripper.
func (o oneServer) RoundTrip(req *http.Request) (*http.Response, error) {
	req, err := o.of.requestTo(req, o.addr)
	if err != nil {
		return nil, err
	}
	return o.of.base.RoundTrip(req)
}

// requestTo copies req for one server.
func (a *anyServer) requestTo(req *http.Request, addr string) (*http.Request, error) {
	try := req.Clone(req.Context())
	try.URL.Host = addr
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, fmt.Errorf("request body: %w", err)
		}
		try.Body = body
	} else if req.Body != nil {
		try.Body = io.NopCloser(req.Body)
	}
	return try, nil
}

// order returns the servers to try, those under suspicion last.
func (a *anyServer) order() []string {
	addrs := a.addrs()
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for addr, until := range a.suspects {
		if now.After(until) || !slices.Contains(addrs, addr) {
			delete(a.suspects, addr)
		}
	}
	slices.SortStableFunc(addrs, func(x, y string) int {
		return a.suspects[x].Compare(a.suspects[y])
	})
	return addrs
}

func (a *anyServer) suspect(addr string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.suspects[addr] = time.Now().Add(suspectFor)
}
