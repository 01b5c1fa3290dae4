package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/quic-go/quic-go"

	"github.com/starlingdeploy/starling"
)

// code is the application error code of a cancelled stream or a closed connection.
type code uint64

// The codes. They are part of the protocol: numbers stay.
const (
	codeNone        code = 0 // the end that closed had no more use for it
	codeBusy        code = 1 // a bound was reached: try later
	codeSilent      code = 2 // no kind byte in time
	codeUnknownKind code = 3
	codeCallerRole  code = 4 // the caller's certificate lacks a role
	codeFarRole     code = 5 // the accepting side's certificate lacks a role
	codeRegion      code = 6 // the two must be of one region
	codeShutdown    code = 7 // the process is ending
	codeExpired     code = 8 // a certificate expired while the connection was open
	codeIdle        code = 9 // unused for long
	codeAbort       code = 10
	codeEnrolBusy   code = 11 // a bound on enrolment was reached; the reason says when to try again
	codeRevoked     code = 12 // the far side's certificate is void
)

// cryptoErrors is the range of QUIC error codes that carry a TLS alert (RFC 9001, section 4.8).
const (
	cryptoErrorFirst quic.TransportErrorCode = 0x100
	cryptoErrorLast  quic.TransportErrorCode = 0x1ff
)

// explain puts a refusal into words. It wraps starling.ErrForbidden or ErrUnavailable.
func explain(c code, k Kind, caller, far starling.Identity) error {
	r, _ := k.rule()
	switch c {
	case codeRevoked:
		return fmt.Errorf("%w: %s/%s or %s/%s was revoked", starling.ErrForbidden, caller.Region, caller.Name, far.Region, far.Name)
	case codeUnknownKind:
		return fmt.Errorf("%w: there are no streams of %s", starling.ErrForbidden, k)
	case codeCallerRole:
		if len(r.caller) == 0 {
			return fmt.Errorf("%w: %s streams are for machines without a certificate", starling.ErrForbidden, k)
		}
		return fmt.Errorf("%w: the caller's certificate of %s/%s lacks role %s for %s streams",
			starling.ErrForbidden, caller.Region, caller.Name, roleNames(r.caller), k)
	case codeFarRole:
		return fmt.Errorf("%w: the certificate of %s/%s lacks role %s for %s streams",
			starling.ErrForbidden, far.Region, far.Name, roleNames(r.far), k)
	case codeRegion:
		return fmt.Errorf("%w: %s streams stay in one region: %s/%s and %s/%s are of two",
			starling.ErrForbidden, k, caller.Region, caller.Name, far.Region, far.Name)
	case codeBusy:
		return fmt.Errorf("%w: %s/%s has too many %s streams waiting", starling.ErrUnavailable, far.Region, far.Name, k)
	case codeSilent:
		return fmt.Errorf("%w: %s/%s waited in vain for the kind of the stream", starling.ErrUnavailable, far.Region, far.Name)
	case codeShutdown:
		return fmt.Errorf("%w: the far side is ending", starling.ErrUnavailable)
	case codeExpired:
		return fmt.Errorf("%w: a certificate of %s/%s or %s/%s expired, dial again",
			starling.ErrUnavailable, caller.Region, caller.Name, far.Region, far.Name)
	case codeNone, codeIdle:
		return errors.New("closed by the far side")
	}
	return fmt.Errorf("cancelled by the far side (code %d)", c)
}

// connError puts the end of a connection into words.
func connError(err error) error {
	var (
		app   *quic.ApplicationError
		tls   *quic.TransportError
		idle  *quic.IdleTimeoutError
		shake *quic.HandshakeTimeoutError
		reset *quic.StatelessResetError
	)
	switch {
	case errors.As(err, &app):
		if !app.Remote {
			return net.ErrClosed
		}
		switch code(app.ErrorCode) {
		case codeEnrolBusy:
			return &starling.BusyError{What: "the server has too many machines enrolling", After: retryAfter(app.ErrorMessage)}
		case codeRevoked:
			return fmt.Errorf("%w: the far side closed the connection: %.200q", starling.ErrForbidden, app.ErrorMessage)
		}
		return fmt.Errorf("%w: the far side closed the connection: %.200q", starling.ErrUnavailable, app.ErrorMessage)
	case errors.As(err, &tls) && tls.ErrorCode >= cryptoErrorFirst && tls.ErrorCode <= cryptoErrorLast:
		if errors.Is(err, starling.ErrForbidden) { // our own verdict on the far side's certificate
			return err
		}
		if tls.Remote {
			return fmt.Errorf("%w: the far side refused this node's certificate: it is of another cluster or CA, expired, revoked, or a clock is wrong; the far side's log says which: %w",
				starling.ErrForbidden, err)
		}
		return fmt.Errorf("%w: the far side is no node of this cluster: %w", starling.ErrForbidden, err)
	case errors.As(err, &shake):
		return fmt.Errorf("%w: nobody answered: %w", starling.ErrUnavailable, err)
	case errors.As(err, &idle):
		return fmt.Errorf("%w: the far side fell silent: %w", starling.ErrUnavailable, err)
	case errors.As(err, &reset):
		return fmt.Errorf("%w: the far side has started anew: %w", starling.ErrUnavailable, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fmt.Errorf("%w: %w", starling.ErrUnavailable, err)
}

// fault turns an error of a QUIC stream into one that users of a net.Conn expect: io.EOF
// and time-outs as they are, everything else in a *net.OpError.
func (c *Conn) fault(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	var stream *quic.StreamError
	switch {
	case err == net.ErrClosed, errors.Is(err, quic.ErrStreamClosed):
		err = net.ErrClosed
	case errors.As(err, &stream) && !stream.Remote:
		err = net.ErrClosed
	case errors.As(err, &stream):
		caller, far := c.link.self, c.link.peer
		if !c.dialled {
			caller, far = far, caller
		}
		err = explain(code(stream.ErrorCode), c.kind, caller, far)
	default:
		err = connError(err)
	}
	return &net.OpError{Op: op, Net: network, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
