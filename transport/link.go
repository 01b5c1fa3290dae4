package transport

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

// link is one QUIC connection between two verified nodes.
type link struct {
	quic    *quic.Conn
	self    starling.Identity
	peer    starling.Identity
	expires time.Time // when the first of the two certificates does
	dialled bool

	streams   atomic.Int64 // in use, of those this process has opened or accepted
	idleSince atomic.Int64 // Unix nanoseconds; when streams last became zero
	retired   atomic.Bool  // no new streams: the credentials have changed
}

func newLink(q *quic.Conn, self *pki.Credentials, dialled bool) (*link, error) {
	certs := q.ConnectionState().TLS.PeerCertificates
	if len(certs) == 0 {
		return nil, errors.New("the far side presented no certificate")
	}
	peer, err := pki.IdentityOf(certs[0])
	if err != nil {
		return nil, err
	}
	l := &link{quic: q, self: self.Identity, peer: peer, expires: self.Leaf.NotAfter, dialled: dialled}
	if certs[0].NotAfter.Before(l.expires) {
		l.expires = certs[0].NotAfter
	}
	l.idleSince.Store(time.Now().UnixNano())
	return l, nil
}

func (l *link) enter() { l.streams.Add(1) }

func (l *link) leave() {
	if l.streams.Add(-1) == 0 {
		l.idleSince.Store(time.Now().UnixNano())
	}
}

func (l *link) alive() bool { return l.quic.Context().Err() == nil }

// idle reports whether nothing has used the link for d.
func (l *link) idle(now time.Time, d time.Duration) bool {
	return l.streams.Load() == 0 && now.Sub(time.Unix(0, l.idleSince.Load())) >= d
}

func (l *link) close(why code, reason string) {
	// Never fails: the error is the one that the connection has by then.
	_ = l.quic.CloseWithError(quic.ApplicationErrorCode(why), reason)
}

// windowBudget bounds the memory that all connections together may hold as received but
// unread bytes, beyond the first window of each.
type windowBudget struct {
	mu        sync.Mutex
	leftBytes uint64
	granted   map[*quic.Conn]uint64
}

func newWindowBudget(bytes uint64) *windowBudget {
	return &windowBudget{leftBytes: bytes, granted: make(map[*quic.Conn]uint64)}
}

// grow is quic.Config.AllowConnectionWindowIncrease. No step takes more than half of what is left, so
// that there is always some for a newcomer.
func (b *windowBudget) grow(q *quic.Conn, delta uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if delta > b.leftBytes/2 {
		return false
	}
	b.leftBytes -= delta
	b.granted[q] += delta
	return true
}

// release gives back what a connection that has ended was granted.
func (b *windowBudget) release(q *quic.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leftBytes += b.granted[q]
	delete(b.granted, q)
}
