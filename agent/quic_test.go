package agent

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/swarm"
	"github.com/starlingdeploy/starling/transport"
)

// The same over the real transport: QUIC with mutual TLS on loopback.
func TestMachinesOverQUIC(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	ca, err := pki.NewCA("quic", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	listen := func(n starling.Node) *transport.Endpoint {
		cert, key, err := ca.Issue(pki.Request{Name: n.Name, Region: n.Region, Roles: n.Roles, TTL: time.Hour, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		creds, err := pki.Load(ca.CertPEM(), cert, key)
		if err != nil {
			t.Fatal(err)
		}
		e, err := transport.Listen(transport.Config{Bind: "127.0.0.1:0", Credentials: creds, Logger: newLog()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		return e
	}
	accept := func(e *transport.Endpoint, k transport.Kind) Accept {
		return func(ctx context.Context) (net.Conn, starling.Identity, error) {
			c, err := e.Accept(ctx, k)
			if err != nil {
				return nil, starling.Identity{}, err
			}
			return c, c.Peer(), nil
		}
	}

	cacheNode := starling.Node{Name: "cache-1", Region: "here", Roles: []starling.Role{starling.RoleCache}, Alive: true}
	e := listen(cacheNode)
	cacheNode.Addr = e.Addr()
	r.cache = blobcache.NewServer(blobcache.ServerConfig{Region: "here", Source: r.store, Logger: newLog()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.cache.Serve(ctx, blobcache.Accept(accept(e, transport.KindBlob))) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.roster.set(cacheNode)

	var mu sync.Mutex
	var trace []swarm.Record // of m1
	var machines []*machine
	for _, name := range []string{"m1", "m2", "m3"} {
		m := &machine{r: r, node: machineNode(name), dir: t.TempDir()}
		e := listen(m.node)
		m.node.Addr = e.Addr()
		var record func(swarm.Record)
		if name == "m1" {
			record = func(rec swarm.Record) { mu.Lock(); defer mu.Unlock(); trace = append(trace, rec) }
		}
		m.run(Config{
			Trace: record, Node: m.node, DataDir: m.dir, Leader: r.leader, Members: r.roster, Verify: r.verify, Logger: newLog(),
			DialBlob: func(ctx context.Context, addr string) (net.Conn, error) { return e.Dial(ctx, addr, transport.KindBlob) },
			DialSwarm: func(ctx context.Context, addr string) (net.Conn, starling.Identity, error) {
				c, err := e.Dial(ctx, addr, transport.KindSwarm)
				if err != nil {
					return nil, starling.Identity{}, err
				}
				return c, c.Peer(), nil
			},
			AcceptBlob: accept(e, transport.KindBlob), AcceptSwarm: accept(e, transport.KindSwarm),
		})
		t.Cleanup(m.stop)
		machines = append(machines, m)
	}
	files := map[string][]byte{"version": []byte("v1"), "big": noise(40, 6<<20)}
	r.leader.setGoal(goal(1, r.push(files)))
	var sum starling.Bytes
	for _, m := range machines {
		rep := m.await(1, starling.MachineHealthy)
		sum = sum.Add(rep.Bytes)
		checkTree(t, m, files)
	}
	if sum.Peer == 0 || r.bytesOut() > 2*6<<20 {
		t.Errorf("machines count %+v, the cache %d", sum, r.bytesOut())
	}
	machines[0].stop()
	mu.Lock()
	defer mu.Unlock()
	if err := swarm.Replay(swarm.Config{Self: "m1"}, trace); err != nil || len(trace) < 20 {
		t.Errorf("replay of %d steps: %v", len(trace), err)
	}
}
