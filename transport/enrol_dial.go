package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

// internalError is the TLS alert of a server that has no time for a handshake.
const internalError = cryptoErrorFirst + 80

// noApplicationProtocol is the TLS alert of a server at which nobody enrols (RFC 7301, section 3.2).
const noApplicationProtocol = cryptoErrorFirst + 120

// EnrolDialer connects a process that has no certificate yet to servers that it knows by
// their CA's fingerprint. Its methods may be called at the same time.
type EnrolDialer struct {
	socket    *net.UDPConn
	transport *quic.Transport
	now       func() time.Time
}

// NewEnrolDialer opens a UDP socket on a free port of an IP address; empty: any. now is the wall
// clock by which certificates are judged; nil: time.Now.
func NewEnrolDialer(ip string, now func() time.Time) (*EnrolDialer, error) {
	if now == nil {
		now = time.Now
	}
	addr, err := net.ResolveUDPAddr("udp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	s, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	return &EnrolDialer{socket: s, transport: &quic.Transport{Conn: s, ConnectionIDLength: connectionIDBytes}, now: now}, nil
}

// Close ends all connections.
func (d *EnrolDialer) Close() error { return errors.Join(d.transport.Close(), d.socket.Close()) }

// EnrolConn is one stream to a server that does not know this side.
type EnrolConn struct{ *Conn }

// Close ends the stream and its connection: read the answer first.
func (c *EnrolConn) Close() error {
	err := c.Conn.Close()
	c.link.close(codeNone, "enrolled")
	return err
}

// Dial connects to the server at addr, host:port, whose CA must have one of the fingerprints. The error
// is a *starling.BusyError if the server has no room and says when it may have, wraps
// starling.ErrForbidden if it is no server of that cluster or enrols nobody, ErrClock too if that may
// be this side's clock, ErrUnavailable if it cannot be reached.
func (d *EnrolDialer) Dial(ctx context.Context, addr string, cas []starling.Digest) (*EnrolConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	bound, err := netip.ParseAddrPort(d.socket.LocalAddr().String())
	if err != nil {
		return nil, fmt.Errorf("enrol at %s: %w", addr, err)
	}
	remotes, err := resolve(ctx, addr, bound.Addr().Unmap())
	if err != nil {
		return nil, fmt.Errorf("enrol at %s: %w: %w", addr, starling.ErrUnavailable, err)
	}
	var failed error
	for _, remote := range remotes {
		c, err := d.dial(ctx, remote, cas)
		if err == nil {
			return c, nil
		}
		failed = both(failed, enrolError(err))
	}
	return nil, fmt.Errorf("enrol at %s: %w", addr, failed)
}

func (d *EnrolDialer) dial(ctx context.Context, remote netip.AddrPort, cas []starling.Digest) (*EnrolConn, error) {
	var server starling.Identity
	conf := pki.EnrolTLS(enrolALPN, cas, d.now, func(id starling.Identity) { server = id })
	q, err := d.transport.Dial(ctx, net.UDPAddrFromAddrPort(remote), conf, &quic.Config{
		Versions:              []quic.Version{quic.Version1},
		HandshakeIdleTimeout:  handshakeIdleTimeout,
		MaxIdleTimeout:        defaultIdleTimeout,
		KeepAlivePeriod:       keepAlivePeriod,
		MaxIncomingStreams:    -1,
		MaxIncomingUniStreams: 1,
	})
	if err != nil {
		return nil, err
	}
	l := &link{quic: q, peer: server, dialled: true}
	stream, err := d.open(ctx, l)
	if err != nil {
		l.close(codeAbort, "not welcome")
		return nil, err
	}
	l.enter()
	return &EnrolConn{newConn(stream, l, KindEnrol, true, new(counters))}, nil
}

func (d *EnrolDialer) open(ctx context.Context, l *link) (*quic.Stream, error) {
	if err := awaitWelcome(ctx, l.quic); err != nil {
		return nil, err
	}
	return openStream(ctx, l, KindEnrol)
}

// enrolError puts the end of an attempt into words.
func enrolError(err error) error {
	var tls *quic.TransportError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: nobody answered within %s", starling.ErrUnavailable, dialTimeout)
	case errors.As(err, &tls) && tls.Remote && (tls.ErrorCode == internalError || tls.ErrorCode == quic.ConnectionRefused): // or QUIC's own queue is full
		return &starling.BusyError{What: "the server has too many new connections"}
	case errors.As(err, &tls) && tls.Remote && tls.ErrorCode == noApplicationProtocol:
		return fmt.Errorf("%w: this server enrols nobody: it has no enrolment authority (tls { enrol_cert, enrol_key }, made by `starling tls ca enrol`)",
			starling.ErrForbidden)
	}
	return connError(err)
}
