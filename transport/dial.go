package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/starlingdeploy/starling"
)

// slotKey is one place in the pool of dialled connections.
type slotKey struct {
	addr string
	lane int
}

// The lanes to one address. Streams of one lane share a connection, and so its flow-control window: one
// that is not read can stop the others.
const (
	laneRaft = iota
	laneSmall
	laneBlob // and those after it
)

// lane chooses the connection for a stream. Blob streams take turns on theirs.
func (e *Endpoint) lane(k Kind) int {
	switch k {
	case KindRaft:
		return laneRaft
	case KindBlob:
		return laneBlob + int(e.blobTurn.Add(1)%uint32(e.cfg.BlobConnections))
	}
	return laneSmall
}

// slot is guarded by Endpoint.mu.
type slot struct {
	link     *link
	attempt  *attempt // under way
	stale    bool     // the credentials changed during the attempt
	failures int      // in a row
	retryAt  time.Time
	err      error // of the last attempt
}

// attempt is shared by all who wait for the same connection. link and err are set when done closes.
type attempt struct {
	done chan struct{}
	link *link
	err  error
}

// Dial opens a stream of the given kind to the endpoint at addr, host:port. It connects first
// if there is no live connection; all callers share one attempt. After a
// failed one, Dial fails at once for a short while (backoffMost at most) rather than try again.
//
// The error wraps starling.ErrForbidden if the certificate of either side does not allow the
// stream, ErrUnavailable if the far side cannot be reached or has no room.
func (e *Endpoint) Dial(ctx context.Context, addr string, k Kind) (*Conn, error) {
	c, err := e.dial(ctx, addr, k)
	if err != nil {
		return nil, fmt.Errorf("dial %s for a %s stream: %w", addr, k, err)
	}
	return c, nil
}

func (e *Endpoint) dial(ctx context.Context, addr string, k Kind) (*Conn, error) {
	self := e.credentials.Load().Identity
	if why := k.refuse(self, self); why == codeUnknownKind || why == codeCallerRole {
		return nil, explain(why, k, self, self)
	}
	key := slotKey{addr, e.lane(k)}
	var last error
	for range 2 { // once more, if the pooled connection turns out dead
		l, err := e.connect(ctx, key)
		if err != nil {
			return nil, both(last, err)
		}
		if why := k.refuse(l.self, l.peer); why != codeNone {
			l.leave()
			return nil, explain(why, k, l.self, l.peer)
		}
		stream, err := openStream(ctx, l, k)
		if err == nil {
			return newConn(stream, l, k, true, &e.counters), nil
		}
		l.leave()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		last = connError(err)
		e.drop(key, l)
	}
	return nil, last
}

// openStream waits while the far side's bound on streams is reached. The kind byte is
// sent at once: until it is there, the far side cannot know of the stream.
func openStream(ctx context.Context, l *link, k Kind) (*quic.Stream, error) {
	stream, err := l.quic.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := stream.Write([]byte{byte(k)}); err != nil {
		cancel(stream, codeAbort)
		return nil, err
	}
	return stream, nil
}

// connect returns the slot's live connection, entered once, or makes it.
func (e *Endpoint) connect(ctx context.Context, key slotKey) (*link, error) {
	e.mu.Lock()
	if e.ended {
		e.mu.Unlock()
		return nil, net.ErrClosed
	}
	s := e.slots[key]
	if s == nil {
		if len(e.slots) >= e.cfg.MaxConnections {
			e.mu.Unlock()
			e.counters.busy.Add(1)
			return nil, fmt.Errorf("%w: %d addresses are being dialled already", starling.ErrUnavailable, e.cfg.MaxConnections)
		}
		s = new(slot)
		e.slots[key] = s
	}
	if l := s.link; l != nil && e.usable(l) {
		l.enter()
		e.mu.Unlock()
		return l, nil
	}
	s.link = nil
	if s.attempt == nil {
		if wait := time.Until(s.retryAt); wait > 0 {
			err := s.err
			e.mu.Unlock()
			return nil, fmt.Errorf("next attempt in %s: %w", wait.Round(time.Millisecond), err)
		}
		s.attempt = &attempt{done: make(chan struct{})}
		e.work.Go(func() { e.try(key, s, s.attempt) })
	}
	a := s.attempt
	e.mu.Unlock()

	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-a.done:
	}
	if a.err != nil {
		return nil, a.err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !a.link.alive() {
		return nil, connError(context.Cause(a.link.quic.Context()))
	}
	a.link.enter()
	return a.link, nil
}

// usable reports whether new streams may be opened on a pooled connection. An expired one is retired.
func (e *Endpoint) usable(l *link) bool {
	if e.cfg.now().After(l.expires) {
		l.retired.Store(true)
	}
	return l.alive() && !l.retired.Load()
}

// drop takes a dead connection out of its slot.
func (e *Endpoint) drop(key slotKey, l *link) {
	l.retired.Store(true)
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.slots[key]; s != nil && s.link == l {
		s.link = nil
	}
}

// try makes one attempt and settles the slot.
func (e *Endpoint) try(key slotKey, s *slot, a *attempt) {
	ctx, cancel := context.WithTimeout(e.ctx, dialTimeout)
	defer cancel()
	a.link, a.err = e.dialAddress(ctx, key.addr)
	if a.err != nil {
		e.counters.failedDials.Add(1)
	}
	e.mu.Lock()
	s.attempt = nil
	switch {
	case a.err != nil:
		s.failures++
		s.err = a.err
		s.retryAt = time.Now().Add(backoff(s.failures))
	case s.stale:
		a.link.retired.Store(true) // good for those who wait, not for later ones
		s.stale = false
	default:
		s.link, s.failures, s.err = a.link, 0, nil
	}
	e.mu.Unlock()
	close(a.done)
}

// backoff doubles from backoffFirst to backoffMost, and is cut at random by up to a half, so that
// many who lost the same peer do not come back together.
func backoff(failures int) time.Duration {
	d := min(backoffFirst<<min(failures-1, 10), backoffMost)
	return d/2 + rand.N(d/2)
}

// dialAddress tries the addresses of a host one after the other.
func (e *Endpoint) dialAddress(ctx context.Context, addr string) (*link, error) {
	self := e.credentials.Load()
	if err := self.Valid(e.cfg.now()); err != nil {
		return nil, fmt.Errorf("this node's own certificate: %w", err)
	}
	remotes, err := resolve(ctx, addr, e.socket.bound().Addr())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", starling.ErrUnavailable, err)
	}
	var failed error
	for _, remote := range remotes {
		q, err := e.transport.Dial(ctx, net.UDPAddrFromAddrPort(remote), e.tls.Client(), e.diallingCfg)
		if err != nil {
			failed = both(failed, e.attemptError(err))
			continue
		}
		l, err := newLink(q, self, true)
		if err == nil {
			err = e.welcomed(ctx, l)
		}
		if err == nil {
			return l, nil
		}
		_ = q.CloseWithError(quic.ApplicationErrorCode(codeAbort), "not welcome") // never fails
		failed = both(failed, e.attemptError(err))
	}
	return nil, failed
}

// both is errors.Join on one line.
func both(first, second error) error {
	if first == nil {
		return second
	}
	return fmt.Errorf("%w; then: %w", first, second)
}

// attemptError tells an attempt that ran out of time from one that the endpoint's end cut short.
func (e *Endpoint) attemptError(err error) error {
	switch {
	case e.ctx.Err() != nil:
		return net.ErrClosed
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: nobody answered within %s", starling.ErrUnavailable, dialTimeout)
	}
	return connError(err)
}

// welcomed waits for the word that the far side has verified this side and has room for it.
func (e *Endpoint) welcomed(ctx context.Context, l *link) error {
	if err := awaitWelcome(ctx, l.quic); err != nil {
		return err
	}
	switch e.join(l) {
	case codeNone:
		return nil
	case codeBusy:
		e.counters.busy.Add(1)
		return fmt.Errorf("%w: %s", starling.ErrUnavailable, tooManyConnections)
	default:
		return net.ErrClosed
	}
}

func awaitWelcome(ctx context.Context, q *quic.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, welcomeTimeout)
	defer cancel()
	stream, err := q.AcceptUniStream(ctx)
	if err != nil {
		return err
	}
	if err := stream.SetReadDeadline(time.Now().Add(welcomeTimeout)); err != nil {
		return err
	}
	// To its end: to cancel it would cross with the far side's closing it.
	word, err := io.ReadAll(io.LimitReader(stream, maxWelcomeBytes))
	if err != nil {
		return err
	}
	return checkWelcome(word)
}

// checkWelcome reads the version of the protocol. Later versions may say more after it.
func checkWelcome(word []byte) error {
	if len(word) == 0 {
		return fmt.Errorf("%w: the far side's welcome is empty", starling.ErrUnavailable)
	}
	if word[0] != protocolVersion {
		return fmt.Errorf("%w: the far side speaks version %d of the transport, this side version %d", starling.ErrUnavailable, word[0], protocolVersion)
	}
	return nil
}

// resolve returns the addresses to dial that the family of the socket's own address can reach.
func resolve(ctx context.Context, addr string, bound netip.Addr) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("address %.100q: %.20q is no port", addr, portText)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var found []netip.AddrPort
	for _, ip := range ips {
		ip = ip.Unmap()
		if bound.Is4() && !ip.Is4() || bound.Is6() && !bound.IsUnspecified() && ip.Is4() {
			continue
		}
		if len(found) < maxAddresses {
			found = append(found, netip.AddrPortFrom(ip, uint16(port)))
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%.100q has no address that can be reached from %s", host, bound)
	}
	return found, nil
}
