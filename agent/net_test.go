package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// Streams between test nodes run over loopback TCP. Each begins with a byte for its
// kind and the dialler's identity; the answer is the acceptor's.
const (
	testBlob  = 3
	testSwarm = 4
)

// endpoint is a node's listener.
type endpoint struct {
	id    starling.Identity
	ln    net.Listener
	kinds map[byte]chan testConn
	done  chan struct{}
	once  sync.Once

	mu    sync.Mutex
	conns map[net.Conn]bool
}

type testConn struct {
	net.Conn
	from starling.Identity
}

func listenEndpoint(id starling.Identity, addr string) (*endpoint, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	e := &endpoint{id: id, ln: ln, done: make(chan struct{}), conns: map[net.Conn]bool{},
		kinds: map[byte]chan testConn{testBlob: make(chan testConn), testSwarm: make(chan testConn)}}
	go e.run()
	return e, nil
}

func newEndpoint(t testing.TB, id starling.Identity) *endpoint {
	t.Helper()
	e, err := listenEndpoint(id, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	return e
}

func (e *endpoint) addr() string { return e.ln.Addr().String() }

func (e *endpoint) run() {
	for {
		conn, err := e.ln.Accept()
		if err != nil {
			return
		}
		go func() {
			kind, from, err := e.welcome(conn)
			ch := e.kinds[kind]
			if err != nil || ch == nil {
				conn.Close()
				return
			}
			select {
			case ch <- testConn{conn, from}:
			case <-e.done:
				conn.Close()
			}
		}()
	}
}

func (e *endpoint) welcome(conn net.Conn) (byte, starling.Identity, error) {
	var from starling.Identity
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return 0, from, err
	}
	var kind [1]byte
	if _, err := io.ReadFull(conn, kind[:]); err != nil {
		return 0, from, err
	}
	if err := readLine(conn, &from); err != nil {
		return 0, from, err
	}
	if err := writeLine(conn, e.id); err != nil {
		return 0, from, err
	}
	return kind[0], from, conn.SetDeadline(time.Time{})
}

func (e *endpoint) accept(kind byte) Accept {
	return func(ctx context.Context) (net.Conn, starling.Identity, error) {
		select {
		case c := <-e.kinds[kind]:
			return e.track(c.Conn), c.from, nil
		case <-ctx.Done():
			return nil, starling.Identity{}, ctx.Err()
		case <-e.done:
			return nil, starling.Identity{}, net.ErrClosed
		}
	}
}

// track remembers conns, so that cut can break them.
func (e *endpoint) track(c net.Conn) net.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns[c] = true
	return c
}

// cut breaks every stream of the node.
func (e *endpoint) cut() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		c.Close()
	}
	clear(e.conns)
}

func (e *endpoint) close() {
	e.once.Do(func() {
		close(e.done)
		e.ln.Close()
		e.cut()
	})
}

func (e *endpoint) dial(ctx context.Context, kind byte, addr string) (net.Conn, starling.Identity, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, starling.Identity{}, err
	}
	peer, err := e.greet(conn, kind)
	if err != nil {
		conn.Close()
		return nil, starling.Identity{}, err
	}
	return e.track(conn), peer, nil
}

func (e *endpoint) greet(conn net.Conn, kind byte) (peer starling.Identity, err error) {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return peer, err
	}
	if _, err := conn.Write([]byte{kind}); err != nil {
		return peer, err
	}
	if err := writeLine(conn, e.id); err != nil {
		return peer, err
	}
	if err := readLine(conn, &peer); err != nil {
		return peer, err
	}
	return peer, conn.SetDeadline(time.Time{})
}

func (e *endpoint) dialBlob(ctx context.Context, addr string) (net.Conn, error) {
	c, _, err := e.dial(ctx, testBlob, addr)
	return c, err
}

func (e *endpoint) dialSwarm(ctx context.Context, addr string) (net.Conn, starling.Identity, error) {
	return e.dial(ctx, testSwarm, addr)
}

func writeLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

func readLine(r io.Reader, v any) error {
	var line []byte
	for b := make([]byte, 1); len(line) < 4096; {
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if b[0] == '\n' {
			return json.Unmarshal(line, v)
		}
		line = append(line, b[0])
	}
	return errors.New("the line is too long")
}

// roster is a membership that tests set.
type roster struct {
	mu      sync.Mutex
	nodes   []starling.Node
	changed chan struct{}
}

func newRoster(nodes ...starling.Node) *roster {
	return &roster{nodes: nodes, changed: make(chan struct{})}
}

func (r *roster) Members() []starling.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]starling.Node(nil), r.nodes...)
}

func (r *roster) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// set adds or replaces a node.
func (r *roster) set(n starling.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.nodes {
		if r.nodes[i].Name == n.Name {
			r.nodes = append(append([]starling.Node{}, r.nodes[:i]...), r.nodes[i+1:]...)
			break
		}
	}
	r.nodes = append(r.nodes, n)
	close(r.changed)
	r.changed = make(chan struct{})
}

func identityOf(n starling.Node) starling.Identity {
	return starling.Identity{Cluster: "test", Region: n.Region, Name: n.Name, Roles: n.Roles}
}

func machineNode(name string) starling.Node {
	return starling.Node{Name: name, Region: "here", Zone: "a", Rack: fmt.Sprintf("r%d", len(name)%3),
		Roles: []starling.Role{starling.RoleMachine}, Tags: map[string]string{"role": "web"}, Alive: true}
}
