package blobcache

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// chunkOf returns n reproducible random bytes and their digest.
func chunkOf(t testing.TB, seed, n int) (starling.Digest, []byte) {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1}), b); err != nil {
		t.Fatal(err)
	}
	return starling.DigestOf(b), b
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok, or fails the test after a long while.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// network carries streams between named nodes in one process, over real loopback TCP
// or in memory, with the identities that transport would have verified.
type network struct {
	t   testing.TB
	tcp bool

	mu    sync.Mutex
	nodes map[string]*netNode // by address
}

type netNode struct {
	incoming chan stream
	done     chan struct{}
	listener net.Listener
}

type stream struct {
	conn net.Conn
	peer starling.Identity
}

func newNetwork(t testing.TB, tcp bool) *network {
	return &network{t: t, tcp: tcp, nodes: map[string]*netNode{}}
}

// serve runs a server under an address until the returned function is called.
func (n *network) serve(addr string, s *Server) (stop func()) {
	n.t.Helper()
	node := &netNode{incoming: make(chan stream), done: make(chan struct{})}
	if n.tcp {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			n.t.Fatal(err)
		}
		node.listener = l
	}
	n.mu.Lock()
	n.nodes[addr] = node
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := s.Serve(ctx, func(ctx context.Context) (net.Conn, starling.Identity, error) {
			select {
			case in := <-node.incoming:
				return in.conn, in.peer, nil
			case <-ctx.Done():
				return nil, starling.Identity{}, ctx.Err()
			}
		})
		if err != nil {
			n.t.Errorf("serve %s: %v", addr, err)
		}
	})
	var once sync.Once
	stop = func() {
		once.Do(func() {
			n.mu.Lock()
			delete(n.nodes, addr)
			n.mu.Unlock()
			close(node.done)
			cancel()
			wg.Wait()
			if node.listener != nil {
				node.listener.Close()
			}
		})
	}
	n.t.Cleanup(stop)
	return stop
}

// dialer returns how a node with the given identity reaches others.
func (n *network) dialer(peer starling.Identity) Dial {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		n.mu.Lock()
		node := n.nodes[addr]
		n.mu.Unlock()
		if node == nil {
			return nil, &net.OpError{Op: "dial", Net: "test", Err: io.ErrClosedPipe}
		}
		near, far, err := node.pair(ctx)
		if err != nil {
			return nil, err
		}
		select {
		case node.incoming <- stream{far, peer}:
			return near, nil
		case <-node.done:
			near.Close()
			far.Close()
			return nil, &net.OpError{Op: "dial", Net: "test", Err: io.ErrClosedPipe}
		case <-ctx.Done():
			near.Close()
			far.Close()
			return nil, ctx.Err()
		}
	}
}

func (n *netNode) pair(ctx context.Context) (near, far net.Conn, err error) {
	if n.listener == nil {
		near, far = net.Pipe()
		return near, far, nil
	}
	type result struct {
		conn net.Conn
		err  error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := n.listener.Accept()
		accepted <- result{c, err}
	}()
	var d net.Dialer
	near, err = d.DialContext(ctx, "tcp", n.listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	r := <-accepted
	return near, r.conn, r.err
}

func identity(region, name string, roles ...starling.Role) starling.Identity {
	return starling.Identity{Cluster: "test", Region: region, Name: name, Roles: roles}
}

// client returns a client with the given identity, closed at the end of the test.
func (n *network) client(peer starling.Identity) *Client {
	c := NewClient(n.dialer(peer))
	n.t.Cleanup(c.Close)
	return c
}
