package transport

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"github.com/starlingdeploy/starling/pki"
)

// Endpoint is a process's one UDP port.
type Endpoint struct {
	cfg         Config
	addr        string // advertised
	credentials atomic.Pointer[pki.Credentials]
	tls         pki.TLS

	socket      *socket
	transport   *quic.Transport
	listener    *quic.Listener
	diallingCfg *quic.Config
	budget      *windowBudget
	enrolment   *admission              // nil: nobody enrols here
	queues      [maxKind + 1]chan *Conn // by kind
	counters    counters
	refusalLog  *rate.Limiter // bounds log lines that strangers can cause

	ctx  context.Context // ends with Close
	end  context.CancelFunc
	work sync.WaitGroup // every goroutine

	blobTurn atomic.Uint32 // spreads blob streams over their connections

	mu    sync.Mutex
	ended bool
	slots map[slotKey]*slot
	links map[*link]struct{} // every open connection
	peers map[peerKey]int    // open connections, by far side
}

// peerKey names a node of the cluster.
type peerKey struct{ region, name string }

// counters are the sums behind Stats.
type counters struct {
	streams                    atomic.Int64
	accepted                   atomic.Uint64
	bytesIn, bytesOut          atomic.Uint64
	refused, busy, failedDials atomic.Uint64
}

// Stats is what an endpoint does and has done since it began.
type Stats struct {
	Connections  int    // open, dialled and accepted
	Streams      int    // open
	Accepted     uint64 // streams accepted
	BytesIn      uint64 // read from streams
	BytesOut     uint64 // written to streams
	Refused      uint64 // connections and streams, for their certificate or against the table
	Busy         uint64 // connections and streams, because a bound was reached
	Enrolling    int    // open connections of machines that enrol
	EnrolSince   uint64 // such connections, since the endpoint began
	EnrolBusy    uint64 // such connections sent away until later
	FailedDials  uint64 // attempts to connect
	GRO          bool   // whether the kernel merges received packets
	SocketReads  uint64 // system calls that received something
	PacketsIn    uint64 // QUIC packets they brought
	BudgetBytes  uint64 // receive window still to grant
	ReceiveBytes int    // size of the socket's receive buffer
}

// Listen opens the port and begins to accept connections.
func Listen(cfg Config) (*Endpoint, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Bind, err)
	}
	if err := cfg.Credentials.Valid(cfg.now()); err != nil {
		return nil, fmt.Errorf("listen on %s: this node's own certificate: %w", cfg.Bind, err)
	}
	s, err := bind(&cfg)
	if err != nil {
		return nil, err
	}
	e, err := listen(cfg, s)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", cfg.Bind, err), s.Close())
	}
	return e, nil
}

func listen(cfg Config, s *socket) (*Endpoint, error) {
	addr, err := advertised(cfg.Advertise, s.bound())
	if err != nil {
		return nil, err
	}
	resetKey, err := statelessResetKey(cfg.Credentials, addr)
	if err != nil {
		return nil, err
	}
	e := &Endpoint{
		cfg:        cfg,
		addr:       addr,
		socket:     s,
		budget:     newWindowBudget(uint64(cfg.ReceiveBudgetBytes)),
		refusalLog: rate.NewLimiter(1, 10),
		slots:      make(map[slotKey]*slot),
		links:      make(map[*link]struct{}),
		peers:      make(map[peerKey]int),
	}
	e.ctx, e.end = context.WithCancel(context.Background())
	e.credentials.Store(cfg.Credentials)
	e.tls = pki.TLS{ALPN: alpn, Current: e.credentials.Load, Now: cfg.now, Refused: e.refusedHandshake}
	if cfg.Enrolment != nil {
		e.enrolment = newAdmission(*cfg.Enrolment)
		e.tls.Enrol = enrolALPN
		e.tls.Admit = func() bool { return e.enrolment.knock(time.Now()) }
	}
	e.diallingCfg = cfg.dialling(e.budget)
	for k := range e.queues {
		e.queues[k] = make(chan *Conn, cfg.AcceptQueueStreams)
	}
	unverified := rate.NewLimiter(maxUnverifiedPerSecond, maxUnverifiedPerSecond)
	e.transport = &quic.Transport{
		Conn:                s,
		ConnectionIDLength:  connectionIDBytes,
		StatelessResetKey:   resetKey,
		VerifySourceAddress: func(net.Addr) bool { return !unverified.Allow() },
	}
	if e.listener, err = e.transport.Listen(e.tls.Server(), cfg.accepting(e.budget)); err != nil {
		e.end()
		return nil, errors.Join(err, e.transport.Close())
	}
	e.work.Go(e.acceptConnections)
	e.work.Go(e.sweep)
	return e, nil
}

// statelessResetKey derives the key of RFC 9000, section 10.3, from the node's private key: a
// process that starts again on its port can so tell its peers at once that their
// connections are gone, instead of letting them find out by the idle time-out.
func statelessResetKey(c *pki.Credentials, addr string) (*quic.StatelessResetKey, error) {
	var key quic.StatelessResetKey
	b, err := hkdf.Key(sha256.New, c.Signer().Seed(), nil, "starling/1 stateless reset "+addr, len(key))
	if err != nil {
		return nil, fmt.Errorf("derive the stateless reset key: %w", err)
	}
	copy(key[:], b)
	return &key, nil
}

// Addr returns the advertised host:port.
func (e *Endpoint) Addr() string { return e.addr }

// SetCredentials replaces the credentials for connections made from now on. Dialled
// connections take no new streams and close when their streams have ended; accepted ones
// stay until the far side ends them or one of the two certificates expires.
func (e *Endpoint) SetCredentials(c *pki.Credentials) {
	e.credentials.Store(c)
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, s := range e.slots {
		if s.attempt == nil {
			delete(e.slots, key)
		} else {
			s.stale = true
		}
	}
	for l := range e.links {
		if l.dialled {
			l.retired.Store(true)
		}
	}
}

// ExpelRevoked closes the connections of peers whose certificates are void by now. New ones are
// refused as they come.
func (e *Endpoint) ExpelRevoked() {
	c := e.credentials.Load()
	var out []*link
	e.mu.Lock()
	for l := range e.links {
		if c.Revoked(l.peer) != nil {
			l.retired.Store(true)
			out = append(out, l)
		}
	}
	e.mu.Unlock()
	for _, l := range out {
		e.counters.refused.Add(1)
		l.close(codeRevoked, "this machine was revoked")
	}
}

// Stats returns the current numbers.
func (e *Endpoint) Stats() Stats {
	e.mu.Lock()
	connections := len(e.links)
	e.mu.Unlock()
	e.budget.mu.Lock()
	left := e.budget.leftBytes
	e.budget.mu.Unlock()
	st := Stats{
		Connections:  connections,
		Streams:      int(e.counters.streams.Load()),
		Accepted:     e.counters.accepted.Load(),
		BytesIn:      e.counters.bytesIn.Load(),
		BytesOut:     e.counters.bytesOut.Load(),
		Refused:      e.counters.refused.Load(),
		Busy:         e.counters.busy.Load(),
		FailedDials:  e.counters.failedDials.Load(),
		GRO:          e.socket.gro,
		SocketReads:  e.socket.reads.Load(),
		PacketsIn:    e.socket.packets.Load(),
		BudgetBytes:  left,
		ReceiveBytes: e.socket.receiveBytes,
	}
	if e.enrolment != nil {
		st.Enrolling, st.EnrolSince, st.EnrolBusy = e.enrolment.stats()
	}
	return st
}

// Close ends all connections and streams, then the socket. Bytes that the far side has
// not acknowledged are lost: agree on the end in the application first.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	if e.ended {
		e.mu.Unlock()
		return nil
	}
	e.ended = true
	open := make([]*link, 0, len(e.links))
	for l := range e.links {
		open = append(open, l)
	}
	e.mu.Unlock()

	e.end()
	for _, l := range open {
		l.close(codeShutdown, "the process is ending")
	}
	err := e.transport.Close() // ends the listener and dial attempts too
	e.work.Wait()
	for _, q := range e.queues {
		for len(q) > 0 {
			(<-q).refuse(codeShutdown)
		}
	}
	if err := errors.Join(err, e.socket.Close()); err != nil {
		return fmt.Errorf("close the endpoint at %s: %w", e.addr, err)
	}
	return nil
}

// join takes a new connection into the books, or says why not.
func (e *Endpoint) join(l *link) code {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return codeShutdown
	}
	peer := peerKey{l.peer.Region, l.peer.Name}
	if len(e.links) >= e.cfg.MaxConnections || e.peers[peer] >= maxConnectionsPerPeer {
		return codeBusy
	}
	e.links[l] = struct{}{}
	e.peers[peer]++
	e.work.Add(1)
	context.AfterFunc(l.quic.Context(), func() {
		defer e.work.Done()
		e.mu.Lock()
		delete(e.links, l)
		if e.peers[peer]--; e.peers[peer] == 0 {
			delete(e.peers, peer)
		}
		e.mu.Unlock()
		e.budget.release(l.quic)
	})
	return codeNone
}

// sweep closes dialled connections that nobody uses, and forgets addresses that failed long ago.
func (e *Endpoint) sweep() {
	tick := time.NewTicker(sweepPeriod)
	defer tick.Stop()
	for {
		select {
		case <-e.ctx.Done():
			return
		case now := <-tick.C:
			for _, l := range e.unused(now) {
				l.close(codeIdle, "unused")
			}
		}
	}
}

// unused returns the connections to close. None of them can be handed out any more.
func (e *Endpoint) unused(now time.Time) []*link {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []*link
	for l := range e.links {
		if l.dialled && (l.idle(now, unusedTimeout) || l.retired.Load() && l.idle(now, lingerTimeout)) {
			l.retired.Store(true)
			found = append(found, l)
		}
	}
	for key, s := range e.slots {
		gone := s.link == nil || s.link.retired.Load() || !s.link.alive()
		if gone && s.attempt == nil && now.Sub(s.retryAt) > unusedTimeout {
			delete(e.slots, key)
		}
	}
	return found
}

func (e *Endpoint) refusedHandshake(remote net.Addr, cause error) {
	e.counters.refused.Add(1)
	e.warn("refused a connection", slog.Any("remote", remote), slog.Any("error", cause))
}

func (e *Endpoint) warn(msg string, attrs ...slog.Attr) {
	if e.refusalLog.Allow() {
		e.cfg.Logger.LogAttrs(e.ctx, slog.LevelWarn, msg, attrs...)
	}
}
