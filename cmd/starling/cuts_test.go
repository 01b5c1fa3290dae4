package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// cuts are the broken links between named servers, one direction each. What is sent over
// one waits until it is healed: then it arrives late, beside what newer connections bring.
type cuts struct {
	mu      sync.Mutex
	names   map[string]string // by address
	cut     map[[2]string]bool
	changed chan struct{}
}

func newCuts() *cuts {
	return &cuts{names: map[string]string{}, cut: map[[2]string]bool{}, changed: make(chan struct{})}
}

func (c *cuts) name(addr, name string) { c.edit(func() { c.names[addr] = name }) }

func (c *cuts) edit(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// oneWay breaks the links from one server to others.
func (c *cuts) oneWay(from string, to ...string) {
	c.edit(func() {
		for _, t := range to {
			c.cut[[2]string{from, t}] = true
		}
	})
}

// isolate breaks the links between a server and others, both ways.
func (c *cuts) isolate(name string, others ...string) {
	c.oneWay(name, others...)
	for _, o := range others {
		c.oneWay(o, name)
	}
}

func (c *cuts) heal() { c.edit(func() { clear(c.cut) }) }

func (c *cuts) state(from, to string) (broken bool, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut[[2]string{from, to}], c.changed
}

func (c *cuts) dial(from, addr string, dial func() (net.Conn, error)) (net.Conn, error) {
	c.mu.Lock()
	to := c.names[addr]
	c.mu.Unlock()
	for _, way := range [][2]string{{from, to}, {to, from}} {
		if broken, _ := c.state(way[0], way[1]); broken {
			return nil, fmt.Errorf("dial %s: the link is cut", addr)
		}
	}
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: conn, cuts: c, from: from, to: to, closed: make(chan struct{})}, nil
}

// cutConn is a connection as its dialling side has it.
type cutConn struct {
	net.Conn
	cuts     *cuts
	from, to string
	once     sync.Once
	closed   chan struct{}

	mu       sync.Mutex
	deadline time.Time
}

// pass waits until the way is open, the connection closed, or its deadline over.
func (c *cutConn) pass(from, to string) error {
	for {
		broken, changed := c.cuts.state(from, to)
		if !broken {
			return nil
		}
		c.mu.Lock()
		deadline := c.deadline
		c.mu.Unlock()
		var over <-chan time.Time
		if !deadline.IsZero() {
			over = time.After(time.Until(deadline))
		}
		select {
		case <-changed:
		case <-c.closed:
			return net.ErrClosed
		case <-over:
			return os.ErrDeadlineExceeded
		}
	}
}

func (c *cutConn) Write(b []byte) (int, error) {
	if err := c.pass(c.from, c.to); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if perr := c.pass(c.to, c.from); perr != nil {
		return 0, perr
	}
	return n, err
}

func (c *cutConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *cutConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	return c.Conn.SetDeadline(t)
}

// cutLayer is Raft's way to the other servers.
type cutLayer struct {
	raft.StreamLayer
	cuts *cuts
	name string
}

// Dial implements raft.StreamLayer.
func (l cutLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return l.cuts.dial(l.name, string(addr), func() (net.Conn, error) { return l.StreamLayer.Dial(addr, timeout) })
}

// wait pauses unless ctx ends, and reports whether it did not.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
