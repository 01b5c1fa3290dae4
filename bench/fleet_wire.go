package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/enrol"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
)

// Bounds of a robot's calls.
const (
	fleetCallWithin = 10 * time.Second
	fleetPollWithin = rpc.MaxWait + 10*time.Second
	maxVerified     = 256 // feeds that are remembered as verified
)

// robotWire is a relay's own way to the servers: a QUIC endpoint with its own certificate.
type robotWire struct {
	f    *fleet
	node starling.Node

	mu       sync.Mutex
	endpoint *transport.Endpoint // nil: not opened yet
	clients  map[string]*rpc.Client
	closed   bool
}

func newRobotWire(f *fleet, node starling.Node) *robotWire {
	return &robotWire{f: f, node: node, clients: map[string]*rpc.Client{}}
}

func (w *robotWire) client(addr string) (*rpc.Client, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, errRobotGone
	}
	if w.endpoint == nil {
		creds, err := w.f.issue(w.node.Name, starling.RoleMachine)
		if err != nil {
			return nil, err
		}
		if w.endpoint, err = transport.Listen(transport.Config{Bind: "127.0.0.1:0", Credentials: creds}); err != nil {
			return nil, err
		}
	}
	if w.clients[addr] == nil {
		w.clients[addr] = controlClient(w.endpoint, addr)
	}
	return w.clients[addr], nil
}

// controlClient returns a client of one server.
func controlClient(e *transport.Endpoint, addr string) *rpc.Client {
	return &rpc.Client{HTTP: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return e.Dial(ctx, addr, transport.KindControl)
		},
		MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, DisableCompression: true,
	}}}
}

func (w *robotWire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, c := range w.clients {
		c.HTTP.CloseIdleConnections()
	}
	if w.endpoint != nil {
		w.f.note(w.endpoint.Close())
	}
}

// retire closes once the last poll has ended.
func (w *robotWire) retire(ctx context.Context) {
	select {
	case <-time.After(fleetPollWithin):
	case <-ctx.Done():
	}
	w.close()
}

// poll does a relay's PollServer.
func (w *robotWire) poll(ctx context.Context, e cell.PollServer) cell.Event {
	ctx, cancel := context.WithTimeout(ctx, fleetPollWithin)
	defer cancel()
	c, err := w.client(e.Server)
	if err != nil {
		return cell.ServerSaid{Err: err}
	}
	wait := time.Duration(0)
	if e.Wait {
		wait = rpc.MaxWait
	}
	w.f.polling(e.Server, 1)
	r, err := c.Feed(ctx, e.Have, wait)
	w.f.polling(e.Server, -1)
	ev := cell.ServerSaid{Signed: r.Signed, Cell: r.Cell, Err: err}
	if err == nil && len(r.Signed) > 0 {
		ev.Signed, ev.Feed, ev.Err = w.f.verify(r.Signed)
	}
	return ev
}

func (w *robotWire) report(ctx context.Context, e cell.SendCell) cell.Event {
	ctx, cancel := context.WithTimeout(ctx, rpc.CellRefreshEvery)
	defer cancel()
	c, err := w.client(e.Server)
	if err != nil {
		return cell.CellTaken{Sent: e, Err: err}
	}
	r, err := c.ReportCell(ctx, e.Report)
	return cell.CellTaken{Sent: e, Response: r, Err: err}
}

// verify opens a feed from a server, and remembers it: each server signs one text for all its
// relays, so that one copy serves the fleet.
func (f *fleet) verify(signed json.RawMessage) (json.RawMessage, *rpc.Feed, error) {
	text := starling.DigestOf(signed)
	f.mu.Lock()
	known, ok := f.verified[text]
	f.mu.Unlock()
	if ok {
		return known.signed, known.feed, nil
	}
	feed, err := cell.OpenFeed(signed, f.region, f.creds, time.Now())
	if err != nil {
		return nil, nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.verified) >= maxVerified {
		clear(f.verified)
	}
	f.verified[text] = verified{signed, feed}
	return signed, feed, nil
}

// verified is a text of a server, and what it says.
type verified struct {
	signed json.RawMessage
	feed   *rpc.Feed
}

func (f *fleet) polling(server string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.polls[server] += n
}

func (f *fleet) issue(name string, role starling.Role) (*pki.Credentials, error) {
	f.issuing.Lock()
	defer f.issuing.Unlock()
	return f.world.Issue(pki.Request{Name: name, Region: f.region, Roles: []starling.Role{role}})
}

// newCSR makes a machine's key, which nobody needs afterwards, and asks for a certificate for it.
func newCSR() ([]byte, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	return pki.NewCSR(key)
}

// enrol does what `starling agent --join-token` does at its first start: a handshake of its own with
// any server, which answers with a certificate and the machine's place.
func (f *fleet) enrol(ctx context.Context, d *transport.EnrolDialer, server string, n *starling.Node, csr []byte) (*rpc.Ticket, error) {
	r, _, err := enrol.Once(ctx, func(ctx context.Context, addr string, cas []starling.Digest) (enrol.Stream, error) {
		return d.Dial(ctx, addr, cas)
	}, server, []starling.Digest{f.token.CA}, f.region, &rpc.EnrolRequest{
		Token: f.token.Text(), CSR: csr, Name: n.Name, Zone: n.Zone, Rack: n.Rack, Tags: n.Tags, Gossip: n.Addr, At: time.Now(),
	})
	if err != nil {
		return nil, err
	}
	return &r.Ticket, nil
}

// speakFor sends requests in the name of machines, as a server passes them on.
type speakFor struct {
	base   http.RoundTripper
	region string
}

type robotName struct{}

// RoundTrip implements http.RoundTripper.
func (s speakFor) RoundTrip(r *http.Request) (*http.Response, error) {
	name, _ := r.Context().Value(robotName{}).(string)
	id, err := json.Marshal(starling.Identity{Cluster: fleetCluster, Region: s.region, Name: name, Roles: []starling.Role{starling.RoleMachine}})
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set(rpc.HeaderPeer, string(id))
	return s.base.RoundTrip(r)
}

// register gives a machine its place through a connection that machines share.
func (f *fleet) register(ctx context.Context, n *starling.Node) (*rpc.Ticket, error) {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, robotName{}, n.Name), fleetCallWithin)
	defer cancel()
	f.mu.Lock()
	leader := f.leader
	f.mu.Unlock()
	if leader == nil {
		return nil, fmt.Errorf("no leader: %w", starling.ErrUnavailable)
	}
	t, err := leader.Register(ctx, rpc.RegisterRequest{Name: n.Name, Zone: n.Zone, Rack: n.Rack, Tags: n.Tags, Gossip: n.Addr})
	return &t, err
}

// findLeader has machines register at the present leader, to which alone a shared connection may pass them on.
func (f *fleet) findLeader(ctx context.Context) error {
	for _, p := range f.servers {
		api, err := p.Client()
		if err != nil {
			return err
		}
		asked, cancel := context.WithTimeout(ctx, fleetCallWithin)
		status, err := api.Leader(asked)
		cancel()
		if err != nil || status.Addr == "" {
			continue
		}
		base := controlClient(f.endpoint, status.Addr).HTTP.Transport
		f.mu.Lock()
		f.leader = &rpc.Client{HTTP: &http.Client{Transport: speakFor{base, f.region}}}
		f.mu.Unlock()
		return nil
	}
	return fmt.Errorf("no server names a leader: %w", starling.ErrUnavailable)
}

// note keeps the first error of what happens in the background, for the end.
func (f *fleet) note(err error) {
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noted = errors.Join(f.noted, err)
}
