package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/starlingdeploy/starling"
)

// network is the name of this transport in net.Addr and net.OpError.
const network = "quic"

// copyBufferBytes is the size of the pieces in which ReadFrom and WriteTo move bytes.
const copyBufferBytes = 256 << 10

// Conn is one stream, as a net.Conn. As with any net.Conn, Close may be called at any time and
// ends blocked calls; one Read and one Write may run at the same time.
type Conn struct {
	stream  *quic.Stream
	link    *link
	kind    Kind
	dialled bool
	counter *counters

	// QUIC wants no Close while a Write runs, net.Conn wants Close to end that Write.
	writing sync.Mutex  // held by Write and CloseWrite
	inWrite atomic.Bool // set before closed is looked at; Close does it the other way round
	closed  atomic.Bool
}

var (
	_ net.Conn      = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
)

// newConn takes a stream into the link's count; Close takes it out again.
func newConn(stream *quic.Stream, l *link, k Kind, dialled bool, counter *counters) *Conn {
	if r, ok := k.rule(); ok {
		stream.SetPriority(r.urgency, true)
	}
	counter.streams.Add(1)
	return &Conn{stream: stream, link: l, kind: k, dialled: dialled, counter: counter}
}

// Peer returns the verified identity of the far side.
func (c *Conn) Peer() starling.Identity { return c.link.peer }

// Kind returns what the stream carries.
func (c *Conn) Kind() Kind { return c.kind }

// Read implements net.Conn. A stream that the far side refused gives an error that wraps
// starling.ErrForbidden, or ErrUnavailable if it was too busy.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	c.counter.bytesIn.Add(uint64(n))
	return n, c.fault("read", err)
}

// Write implements net.Conn. It returns when all but the last packet's worth of p is sent.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.inWrite.Store(true)
	defer c.inWrite.Store(false)
	if c.closed.Load() {
		return 0, c.fault("write", net.ErrClosed)
	}
	n, err := c.stream.Write(p)
	c.counter.bytesOut.Add(uint64(n))
	return n, c.fault("write", err)
}

// ReadFrom implements io.ReaderFrom in pieces of copyBufferBytes: each Write waits
// for room in the congestion window, so large ones cost fewer wake-ups.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{r}, make([]byte, copyBufferBytes))
}

// WriteTo implements io.WriterTo in pieces of up to copyBufferBytes.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{c}, make([]byte, copyBufferBytes))
}

// CloseWrite ends this side's data; the far side reads io.EOF after the last byte.
func (c *Conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.closed.Load() {
		return c.fault("close", net.ErrClosed)
	}
	if err := c.stream.Close(); err != nil { // the stream was cancelled: its context knows why
		return c.fault("close", context.Cause(c.stream.Context()))
	}
	return nil
}

// Close ends both directions. What was written before is still delivered, as long as
// the endpoint stays open; what the far side goes on to send is refused. A Write that is
// under way fails, and the far side sees the stream cancelled.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if c.inWrite.Load() {
		c.stream.CancelWrite(quic.StreamErrorCode(codeAbort))
	} else {
		c.writing.Lock()
		// Fails only if the far side no longer wants to read, which is no concern any more.
		_ = c.stream.Close()
		c.writing.Unlock()
	}
	c.stream.CancelRead(quic.StreamErrorCode(codeNone))
	c.counter.streams.Add(-1)
	c.link.leave()
	return nil
}

// refuse cancels both directions with a reason that the far side can read.
func (c *Conn) refuse(why code) {
	if c.closed.Swap(true) {
		return
	}
	cancel(c.stream, why)
	c.counter.streams.Add(-1)
	c.link.leave()
}

func cancel(s *quic.Stream, why code) {
	s.CancelWrite(quic.StreamErrorCode(why))
	s.CancelRead(quic.StreamErrorCode(why))
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.link.quic.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.link.quic.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.stream.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

func (c *Conn) String() string {
	return fmt.Sprintf("%s stream with %s at %s", c.kind, c.link.peer, c.RemoteAddr())
}
