package transport

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/starlingdeploy/starling"
)

// acceptConnections does nothing else: QUIC's own queue holds 32 connections and refuses more.
func (e *Endpoint) acceptConnections() {
	for {
		q, err := e.listener.Accept(e.ctx)
		if err != nil {
			return // only when the endpoint closes, or its socket broke, which every Dial then reports
		}
		e.work.Go(func() { e.serve(q) })
	}
}

// serve welcomes a verified connection and accepts its streams until it ends.
func (e *Endpoint) serve(q *quic.Conn) {
	if q.ConnectionState().TLS.NegotiatedProtocol == enrolALPN {
		e.serveEnrolment(q)
		return
	}
	l, err := newLink(q, e.credentials.Load(), false)
	if err != nil { // the handshake has verified just this
		e.refusedHandshake(q.RemoteAddr(), err)
		_ = q.CloseWithError(quic.ApplicationErrorCode(codeAbort), "no identity") // never fails
		return
	}
	switch e.join(l) {
	case codeShutdown:
		l.close(codeShutdown, "the process is ending")
		return
	case codeBusy:
		e.counters.busy.Add(1)
		e.warn("turned a connection away", slog.Any("peer", l.peer), slog.String("error", tooManyConnections))
		l.close(codeBusy, tooManyConnections)
		return
	}
	if err := welcome(q); err != nil {
		l.close(codeAbort, "cannot welcome")
		return
	}
	pending := make(chan struct{}, maxPendingPerConnection)
	for {
		stream, err := q.AcceptStream(e.ctx)
		if err != nil {
			l.close(codeShutdown, "the process is ending") // has no effect if the connection has ended already
			return
		}
		if e.cfg.now().After(l.expires) {
			e.counters.refused.Add(1)
			l.close(codeExpired, "a certificate has expired: connect anew")
			return
		}
		// A burst waits its turn; one who opens streams and says nothing holds up only this connection.
		select {
		case pending <- struct{}{}:
		case <-q.Context().Done():
			return
		}
		e.work.Go(func() {
			e.admit(l, stream)
			<-pending
		})
	}
}

const tooManyConnections = "too many connections are open"

// welcome tells the dialling side that it is in.
func welcome(q *quic.Conn) error {
	stream, err := q.OpenUniStream()
	if err != nil {
		return err
	}
	if _, err := stream.Write([]byte{protocolVersion}); err != nil {
		return err
	}
	return stream.Close()
}

// admit reads the kind of a stream, holds it against the table, and queues it for Accept.
func (e *Endpoint) admit(l *link, stream *quic.Stream) {
	k, err := readKind(stream, e.cfg.kindTimeout)
	if err != nil {
		e.counters.refused.Add(1)
		cancel(stream, codeSilent)
		return
	}
	if why := k.refuse(l.peer, l.self); why != codeNone {
		e.counters.refused.Add(1)
		e.warn("refused a stream", slog.Any("remote", l.quic.RemoteAddr()), slog.Any("error", explain(why, k, l.peer, l.self)))
		cancel(stream, why)
		return
	}
	l.enter()
	c := newConn(stream, l, k, false, &e.counters)
	select {
	case e.queues[k] <- c:
		e.counters.accepted.Add(1)
	default:
		e.counters.busy.Add(1)
		c.refuse(codeBusy)
	}
}

// kindReader is what readKind needs of a stream.
type kindReader interface {
	io.Reader
	SetReadDeadline(time.Time) error
}

// readKind reads the first byte of a stream. The kind may be one that nobody knows.
func readKind(r kindReader, timeout time.Duration) (Kind, error) {
	if err := r.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return 0, err
	}
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	return Kind(b[0]), r.SetReadDeadline(time.Time{})
}

// Accept returns the next stream of the given kind. Its error is ctx's, or wraps
// net.ErrClosed once the endpoint is closed.
func (e *Endpoint) Accept(ctx context.Context, k Kind) (*Conn, error) {
	if _, ok := k.rule(); !ok {
		return nil, fmt.Errorf("accept: %w: there are no streams of %s", starling.ErrForbidden, k)
	}
	select {
	case c := <-e.queues[k]:
		return c, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("accept a %s stream: %w", k, context.Cause(ctx))
	case <-e.ctx.Done():
		return nil, fmt.Errorf("accept a %s stream: %w", k, net.ErrClosed)
	}
}

// Listener returns Accept as a net.Listener, for http.Server and the like. Closing it leaves the endpoint open.
func (e *Endpoint) Listener(k Kind) net.Listener { return e.newListener(k) }

func (e *Endpoint) newListener(k Kind) *listener {
	ctx, closeFunc := context.WithCancelCause(e.ctx)
	return &listener{endpoint: e, kind: k, ctx: ctx, close: closeFunc}
}

type listener struct {
	endpoint *Endpoint
	kind     Kind
	ctx      context.Context
	close    context.CancelCauseFunc
}

func (l *listener) Accept() (net.Conn, error) {
	if l.ctx.Err() != nil {
		return nil, fmt.Errorf("accept a %s stream: %w", l.kind, net.ErrClosed)
	}
	c, err := l.endpoint.Accept(l.ctx, l.kind)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (l *listener) Close() error {
	l.close(net.ErrClosed)
	return nil
}

// Addr returns the advertised address, never a wildcard.
func (l *listener) Addr() net.Addr { return address(l.endpoint.addr) }

// address is an advertised host:port.
type address string

func (address) Network() string  { return network }
func (a address) String() string { return string(a) }
