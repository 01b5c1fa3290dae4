package transport

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/starlingdeploy/starling/pki"
)

// Config says how an endpoint listens, and its bounds. Zero values mean the defaults.
type Config struct {
	Bind        string // host:port of the UDP socket; port 0 takes a free one
	Advertise   string // host or host:port that others dial; needed if Bind's host is a wildcard
	Credentials *pki.Credentials
	Logger      *slog.Logger

	BlobConnections         int   // per address, for KindBlob; several help on long paths
	MaxConnections          int   // dialled and accepted together
	MaxStreamsPerConnection int   // that a far side may have open at a time
	AcceptQueueStreams      int   // per kind, waiting for Accept
	ReceiveBudgetBytes      int64 // unread received bytes of all connections, beyond initialConnectionWindowBytes each

	// Enrolment lets machines without a certificate in; nil: nobody.
	Enrolment *Enrolment

	// DisableGRO reads packet by packet even where the kernel could merge them.
	DisableGRO bool
	// ReceiveCoalesce, if not 0, is the least time between two reads of the socket, unless the first
	// brought all that there was room for. Packets gather meanwhile, so that each wakes the process
	// less often, more go through each step at a time, and fewer acknowledgements are sent, as
	// network cards moderate their interrupts. It adds as much to round trips. 2 ms is a good value for
	// bulk data; 5 ms is the most.
	ReceiveCoalesce time.Duration
	// MaxStreamWindowBytes bounds what may be under way to this endpoint on one stream: 16 KiB to the
	// default of 16 MiB. A few streams with small windows fill a near link as well as large ones do, with
	// less waiting in its queues; a stream is no faster than its window per round trip.
	MaxStreamWindowBytes int

	idleTimeout time.Duration    // tests shorten it
	kindTimeout time.Duration    // tests shorten it
	now         func() time.Time // tests move it
}

// Defaults of Config.
const (
	DefaultBlobConnections         = 1
	DefaultMaxConnections          = 16384
	DefaultMaxStreamsPerConnection = 512
	DefaultAcceptQueueStreams      = 256
	DefaultReceiveBudgetBytes      = 128 << 20
)

// The bounds that nobody needs to change.
const (
	alpn            = "starling/1"
	protocolVersion = 1

	handshakeIdleTimeout = 5 * time.Second
	dialTimeout          = 10 * time.Second // of one attempt, all addresses of a host name
	welcomeTimeout       = 5 * time.Second
	defaultKindTimeout   = 5 * time.Second
	defaultIdleTimeout   = 6 * time.Second
	keepAlivePeriod      = 2 * time.Second
	unusedTimeout        = 2 * time.Minute  // a dialled connection without streams is closed
	lingerTimeout        = 10 * time.Second // a retired connection, from its last stream on: time to deliver
	sweepPeriod          = 5 * time.Second
	backoffFirst         = 50 * time.Millisecond
	backoffMost          = time.Second

	maxConnectionsPerPeer    = 128 // of one node, so that none can take all room
	maxPendingPerConnection  = 64  // streams whose kind is not yet read
	maxWelcomeBytes          = 64
	maxAddresses             = 4   // of one host name, tried one after the other
	maxUnverifiedPerSecond   = 500 // handshakes; above, a client must first prove its address
	maxBlobConnections       = 16
	maxReceiveCoalesce       = 5 * time.Millisecond
	connectionIDBytes        = 8
	socketBufferBytes        = 7 << 20
	minStreamWindowBytes     = 16 << 10
	initialStreamWindowBytes = 1 << 20
	// A stream window must never exceed a connection window, or one unread stream stops all others of its connection.
	maxStreamWindowBytes         = 16 << 20
	initialConnectionWindowBytes = 3 << 19
	maxConnectionWindowBytes     = 48 << 20
)

func (c *Config) setDefaults() error {
	if c.Credentials == nil {
		return errors.New("no credentials")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, f := range []struct {
		name         string
		value        *int
		def, highest int
	}{
		{"BlobConnections", &c.BlobConnections, DefaultBlobConnections, maxBlobConnections},
		{"MaxConnections", &c.MaxConnections, DefaultMaxConnections, 1 << 20},
		{"MaxStreamsPerConnection", &c.MaxStreamsPerConnection, DefaultMaxStreamsPerConnection, 1 << 16},
		{"AcceptQueueStreams", &c.AcceptQueueStreams, DefaultAcceptQueueStreams, 1 << 16},
	} {
		if *f.value == 0 {
			*f.value = f.def
		}
		if *f.value < 0 || *f.value > f.highest {
			return fmt.Errorf("%s is %d, want 1 to %d", f.name, *f.value, f.highest)
		}
	}
	if c.ReceiveBudgetBytes == 0 {
		c.ReceiveBudgetBytes = DefaultReceiveBudgetBytes
	}
	if c.ReceiveBudgetBytes < 0 {
		return fmt.Errorf("ReceiveBudgetBytes is %d", c.ReceiveBudgetBytes)
	}
	if c.ReceiveCoalesce < 0 || c.ReceiveCoalesce > maxReceiveCoalesce {
		return fmt.Errorf("ReceiveCoalesce is %s, want 0 to %s", c.ReceiveCoalesce, maxReceiveCoalesce)
	}
	if c.MaxStreamWindowBytes == 0 {
		c.MaxStreamWindowBytes = maxStreamWindowBytes
	}
	if c.MaxStreamWindowBytes < minStreamWindowBytes || c.MaxStreamWindowBytes > maxStreamWindowBytes {
		return fmt.Errorf("MaxStreamWindowBytes is %d, want %d to %d", c.MaxStreamWindowBytes, minStreamWindowBytes, maxStreamWindowBytes)
	}
	if err := c.Enrolment.check(); err != nil {
		return err
	}
	if c.idleTimeout == 0 {
		c.idleTimeout = defaultIdleTimeout
	}
	if c.kindTimeout == 0 {
		c.kindTimeout = defaultKindTimeout
	}
	if c.now == nil {
		c.now = time.Now
	}
	return nil
}

// accepting and dialling differ in who may open streams: the dialling side opens those
// of the application, the accepting side only the welcome.
func (c *Config) accepting(b *windowBudget) *quic.Config {
	q := c.common(b)
	q.MaxIncomingStreams = int64(c.MaxStreamsPerConnection)
	q.MaxIncomingUniStreams = -1
	return q
}

func (c *Config) dialling(b *windowBudget) *quic.Config {
	q := c.common(b)
	q.MaxIncomingStreams = -1
	q.MaxIncomingUniStreams = 1
	// One side's pings serve both: the other learns from them, and from their absence.
	q.KeepAlivePeriod = min(keepAlivePeriod, c.idleTimeout/3)
	return q
}

func (c *Config) common(b *windowBudget) *quic.Config {
	return &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           handshakeIdleTimeout,
		MaxIdleTimeout:                 c.idleTimeout,
		InitialStreamReceiveWindow:     uint64(min(initialStreamWindowBytes, c.MaxStreamWindowBytes)),
		MaxStreamReceiveWindow:         uint64(c.MaxStreamWindowBytes),
		InitialConnectionReceiveWindow: initialConnectionWindowBytes,
		MaxConnectionReceiveWindow:     maxConnectionWindowBytes,
		AllowConnectionWindowIncrease:  b.grow,
	}
}

// advertised works out the address that others dial.
func advertised(advertise string, bound netip.AddrPort) (string, error) {
	port := strconv.Itoa(int(bound.Port()))
	if advertise == "" {
		if bound.Addr().IsUnspecified() {
			return "", fmt.Errorf("bound to %s, which nobody can dial: set the address to advertise", bound)
		}
		return netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port()).String(), nil
	}
	host := advertise
	if ip, err := netip.ParseAddr(advertise); err == nil {
		host = ip.String()
	} else if h, p, err := net.SplitHostPort(advertise); err == nil {
		host = h
		if p != "" && p != "0" {
			if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
				return "", fmt.Errorf("advertised address %.100q: %q is no port", advertise, p)
			}
			port = p
		}
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return "", fmt.Errorf("advertised address %.100q: nobody can dial it", advertise)
	}
	return net.JoinHostPort(host, port), nil
}
