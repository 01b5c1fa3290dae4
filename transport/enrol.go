package transport

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"
)

// enrolALPN is the protocol of connections on which only this side has a certificate. They carry
// one stream, of KindEnrol.
const enrolALPN = "starling-enrol/1"

// Bounds of enrolment. What strangers can make this process hold is DefaultEnrolConnections times
// initialConnectionWindowBytes, and each for enrolLife at most.
const (
	DefaultEnrolConnections = 128
	DefaultEnrolPerSecond   = 200

	maxEnrolConnections  = 4096
	maxEnrolPerSecond    = 100_000
	enrolLife            = 15 * time.Second // of a connection, all that the server does included
	maxEnrolRetryAfter   = time.Minute
	minEnrolRetryAfter   = 50 * time.Millisecond
	enrolRetryAfterWords = "try again in %d ms" // what codeEnrolBusy says; part of the protocol
)

// Enrolment bounds the connections of machines that have no certificate yet. Zero values mean the
// defaults.
type Enrolment struct {
	MaxConnections int // at a time
	PerSecond      int // that are let in; a second's worth may come at once
}

func (c *Enrolment) check() error {
	switch {
	case c == nil:
	case c.MaxConnections < 0 || c.MaxConnections > maxEnrolConnections:
		return fmt.Errorf("Enrolment.MaxConnections is %d, want 1 to %d", c.MaxConnections, maxEnrolConnections)
	case c.PerSecond < 0 || c.PerSecond > maxEnrolPerSecond:
		return fmt.Errorf("Enrolment.PerSecond is %d, want 1 to %d", c.PerSecond, maxEnrolPerSecond)
	}
	return nil
}

// admission lets in as many as there is room for. To each of the others it deals a later moment, one
// after the other at the rate at which it can let in, so that they do not come back together.
type admission struct {
	max    int
	rate   *rate.Limiter
	knocks *rate.Limiter // handshakes, also of those who are then sent away
	step   time.Duration // between two moments, at least

	mu    sync.Mutex
	open  int
	stay  time.Duration // moving average of how long a place is taken
	since uint64
	busy  uint64
	next  time.Time // the latest moment that was dealt
}

func newAdmission(c Enrolment) *admission {
	if c.MaxConnections == 0 {
		c.MaxConnections = DefaultEnrolConnections
	}
	if c.PerSecond == 0 {
		c.PerSecond = DefaultEnrolPerSecond
	}
	return &admission{
		max:    c.MaxConnections,
		rate:   rate.NewLimiter(rate.Limit(c.PerSecond), c.PerSecond),
		knocks: rate.NewLimiter(rate.Limit(2*c.PerSecond), 2*c.PerSecond),
		step:   time.Second / time.Duration(c.PerSecond),
	}
}

// knock reports whether there is time for a handshake, after which a caller gets a place or hears when
// to come back. In a larger crowd it costs a tenth to say only that it is too much: what
// strangers cause must not keep a server from its Raft.
func (a *admission) knock(now time.Time) bool {
	if a.knocks.AllowN(now, 1) {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy++
	return false
}

// enter takes a place, to be given back by leave, or says how long to stay away.
func (a *admission) enter(now time.Time) (after time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open < a.max && a.rate.AllowN(now, 1) {
		a.open++
		a.since++
		return 0, true
	}
	a.busy++
	if earliest := now.Add(minEnrolRetryAfter); a.next.Before(earliest) {
		a.next = earliest
	}
	if a.next.Sub(now) < maxEnrolRetryAfter {
		a.next = a.next.Add(max(a.step, a.stay/time.Duration(a.max))) // Little's law
	}
	return a.next.Sub(now), false
}

func (a *admission) leave(took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
	a.stay += (took - a.stay) / 8
}

func (a *admission) stats() (open int, since, busy uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open, a.since, a.busy
}

// serveEnrolment welcomes a caller without a certificate, or says when to come back, and
// accepts its one stream.
func (e *Endpoint) serveEnrolment(q *quic.Conn) {
	defer e.budget.release(q)
	began := time.Now()
	after, ok := e.enrolment.enter(began)
	if !ok {
		// Never fails: the error is the one that the connection has by then.
		_ = q.CloseWithError(quic.ApplicationErrorCode(codeEnrolBusy), fmt.Sprintf(enrolRetryAfterWords, after.Milliseconds()))
		return
	}
	defer func() { e.enrolment.leave(time.Since(began)) }()
	self := e.credentials.Load()
	l := &link{quic: q, self: self.Identity, expires: self.Leaf.NotAfter}
	ctx, end := context.WithTimeout(e.ctx, enrolLife)
	defer end()
	if err := e.acceptEnrolStream(ctx, l); err != nil {
		e.warn("ended an enrolment", slog.Any("remote", q.RemoteAddr()), slog.Any("error", err))
		l.close(codeSilent, "no request in time")
		return
	}
	select {
	case <-q.Context().Done(): // the caller has its answer
	case <-ctx.Done():
		l.close(codeIdle, "it took too long")
	}
}

func (e *Endpoint) acceptEnrolStream(ctx context.Context, l *link) error {
	if err := welcome(l.quic); err != nil {
		return err
	}
	ctx, end := context.WithTimeout(ctx, e.cfg.kindTimeout)
	defer end()
	stream, err := l.quic.AcceptStream(ctx)
	if err != nil {
		return err
	}
	k, err := readKind(stream, e.cfg.kindTimeout)
	if err != nil {
		cancel(stream, codeSilent)
		return err
	}
	if k != KindEnrol {
		e.counters.refused.Add(1)
		cancel(stream, codeCallerRole)
		return fmt.Errorf("%s streams are for those who have a certificate", k)
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
	return nil
}

// retryAfter reads what serveEnrolment says; 0 if it says something else.
func retryAfter(reason string) time.Duration {
	var ms int64
	if n, err := fmt.Sscanf(reason, enrolRetryAfterWords, &ms); n != 1 || err != nil || ms < 0 {
		return 0
	}
	return min(time.Duration(min(ms, maxEnrolRetryAfter.Milliseconds()))*time.Millisecond, maxEnrolRetryAfter)
}
