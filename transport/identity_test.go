package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

// Nodes of two clusters, or of two CAs of one name, refuse each other.
func TestSecondCluster(t *testing.T) {
	ours := newWorld(t, "ours")
	for name, tc := range map[string]struct{ cluster, says string }{
		"another cluster":    {"theirs", "is of cluster theirs, this is cluster ours"},
		"same name, new key": {"ours", "signed by another CA"},
	} {
		t.Run(name, func(t *testing.T) {
			theirs := newWorld(t, tc.cluster)
			a, b := ours.listen(t, "r", "a", starling.RoleMachine), theirs.listen(t, "r", "b", starling.RoleMachine)
			_, err := a.Dial(testContext(t), b.Addr(), KindSwarm)
			if !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("the dialling side says %v", err)
			}
			if n := b.Stats().Connections; n != 0 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// A client that checks nothing itself is still refused, by each acceptor's own verdict.
func TestAcceptorVerifies(t *testing.T) {
	w := newWorld(t, "c")
	expired := expiredCredentials(t, w) // makes an older CA
	good := w.credentials(t, "r", "good", starling.RoleMachine)
	other := newWorld(t, "c").credentials(t, "r", "stranger", starling.RoleMachine)
	httpCert, httpKey, err := w.ca.IssueHTTP(pki.Request{Name: "web", Hosts: []string{"localhost"}}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	web, err := tls.X509KeyPair(httpCert, httpKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cert *tls.Certificate
		alpn string
		ok   bool
	}{
		"good":               {&good.Certificate, alpn, true},
		"another CA":         {&other.Certificate, alpn, false},
		"expired":            {&expired.Certificate, alpn, false},
		"for HTTP only":      {&web, alpn, false},
		"none":               {new(tls.Certificate), alpn, false},
		"other protocol":     {&good.Certificate, "h3", false},
		"without a protocol": {&good.Certificate, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			e := w.listen(t, "r", "b", starling.RoleMachine)
			conf := &tls.Config{
				InsecureSkipVerify:   true,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tc.cert, nil },
			}
			if tc.alpn != "" {
				conf.NextProtos = []string{tc.alpn}
			}
			udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			tr := &quic.Transport{Conn: udp}
			defer udp.Close()
			defer tr.Close()
			ctx := testContext(t)
			q, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(e.socket.bound()), conf, &quic.Config{})
			if err == nil { // in TLS 1.3 the client is through before the server judges it
				_, err = q.AcceptUniStream(ctx) // the welcome
			}
			if tc.ok != (err == nil) {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				return
			}
			var refusal *quic.TransportError
			if !errors.As(err, &refusal) || !refusal.Remote || refusal.ErrorCode < cryptoErrorFirst {
				t.Errorf("got %v", err)
			}
			if n := e.Stats().Connections; n != 0 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// expiredCredentials were good for an hour, an hour ago.
func expiredCredentials(t *testing.T, w *world) *pki.Credentials {
	t.Helper()
	old, err := pki.NewCA("c", w.now.Add(-24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	w.ca = old
	return w.credentialsFor(t, pki.Request{Name: "late", Region: "r", Roles: roles(starling.RoleMachine), TTL: time.Hour}, w.now.Add(-2*time.Hour))
}

func TestExpiredCertificate(t *testing.T) {
	w := newWorld(t, "c")
	late := expiredCredentials(t, w)
	if _, err := Listen(Config{Bind: "127.0.0.1:0", Credentials: late}); !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("Listen: %v", err)
	}
	fresh := w.credentialsFor(t, pki.Request{Name: "b", Region: "r", Roles: roles(starling.RoleMachine)}, w.now.Add(-3*time.Hour))
	slow := listenWith(t, Config{ // its clock is behind, so it does not know
		Credentials: late,
		now:         func() time.Time { return w.now.Add(-90 * time.Minute) },
	})
	b := listenWith(t, Config{Credentials: fresh, Logger: testLogger(t)})
	ctx := testContext(t)
	_, err := slow.Dial(ctx, b.Addr(), KindSwarm)
	if !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), "the far side refused this node's certificate") {
		t.Errorf("dialling with it: %v", err)
	}
	if n := b.Stats().Refused; n != 1 {
		t.Errorf("%d refusals counted", n)
	}
	_, err = b.Dial(ctx, slow.Addr(), KindSwarm)
	if !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), "that of r/late expired at") {
		t.Errorf("dialling to it: %v", err)
	}
}

// A certificate that expires while its connection is open ends it, and a renewed one makes a new one.
func TestExpiryAndRenewal(t *testing.T) {
	w := newWorld(t, "c")
	var skew atomic.Int64
	clock := func() time.Time { return w.now.Add(time.Duration(skew.Load())) }
	long := pki.Request{Name: "b", Region: "r", Roles: roles(starling.RoleMachine), TTL: 24 * time.Hour}
	a := listenWith(t, Config{Credentials: w.credentials(t, "r", "a", starling.RoleMachine), now: clock})
	b := listenWith(t, Config{Credentials: w.credentialsFor(t, long, w.now), now: clock})
	near, _ := pair(t, a, b, KindSwarm)
	old := near.link

	skew.Store(int64(2 * time.Hour))
	if _, err := a.Dial(testContext(t), b.Addr(), KindSwarm); !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), "this node's own certificate") {
		t.Fatalf("with an expired certificate of its own: %v", err)
	}
	stream, err := openStream(testContext(t), old, KindSwarm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Read(make([]byte, 1)); err == nil {
		t.Fatal("the acceptor serves an expired certificate")
	}
	eventually(t, "the old connection is closed", func() bool { return !old.alive() })

	renewed := long
	renewed.Name = "a"
	a.SetCredentials(w.credentialsFor(t, renewed, w.now))
	if again, _ := pair(t, a, b, KindSwarm); again.link == old {
		t.Error("the old connection is used on")
	}
}

func TestSetCredentials(t *testing.T) {
	w := newWorld(t, "c")
	a, b := w.listen(t, "r", "a", starling.RoleMachine), w.listen(t, "r", "b", starling.RoleServer)
	control, far := pair(t, a, b, KindControl)
	if _, err := a.Dial(testContext(t), b.Addr(), KindRaft); !errors.Is(err, starling.ErrForbidden) {
		t.Fatalf("raft without the role: %v", err)
	}
	a.SetCredentials(w.credentials(t, "r", "a", starling.RoleMachine, starling.RoleServer))
	_, raftFar := pair(t, a, b, KindRaft)
	if !raftFar.Peer().Has(starling.RoleServer) {
		t.Errorf("the far side still sees %s", raftFar.Peer())
	}
	again, _ := pair(t, a, b, KindControl)
	if again.link == control.link {
		t.Error("new streams on a connection with the old certificate")
	}
	if _, err := control.Write([]byte("x")); err != nil { // what was open goes on
		t.Error(err)
	}
	if _, err := far.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	b.SetCredentials(w.credentials(t, "r", "b", starling.RoleCache)) // accepting side, too
	c := w.listen(t, "r", "c", starling.RoleMachine)
	if _, err := c.Dial(testContext(t), b.Addr(), KindControl); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("a server that is none any more: %v", err)
	}
	// Without streams, the retired connection is closed by the sweep, some time after.
	closeAll(t, control, far)
	a.mu.Lock()
	retired := control.link.retired.Load()
	a.mu.Unlock()
	if found := a.unused(time.Now().Add(lingerTimeout)); !retired || len(found) != 1 || found[0] != control.link {
		t.Errorf("retired %t, to close: %v", retired, found)
	}
}

func TestConnectionBounds(t *testing.T) {
	w := newWorld(t, "c")
	b := listenWith(t, Config{Credentials: w.credentials(t, "r", "b", starling.RoleMachine), MaxConnections: 2})
	for _, name := range []string{"a1", "a2"} {
		pair(t, w.listen(t, "r", name, starling.RoleMachine), b, KindSwarm)
	}
	last := w.listen(t, "r", "a3", starling.RoleMachine)
	_, err := last.Dial(testContext(t), b.Addr(), KindSwarm)
	if !errors.Is(err, starling.ErrUnavailable) || !strings.Contains(err.Error(), tooManyConnections) {
		t.Errorf("got %v", err)
	}
	if _, err := b.Dial(testContext(t), last.Addr(), KindSwarm); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("its own dial: %v", err)
	}
	if s := b.Stats(); s.Connections != 2 || s.Busy != 2 {
		t.Errorf("%+v", s)
	}
}

func TestOneNodeCannotTakeAllConnections(t *testing.T) {
	w := newWorld(t, "c")
	b := w.listen(t, "r", "b", starling.RoleMachine)
	b.mu.Lock()
	b.peers[peerKey{"r", "greedy"}] = maxConnectionsPerPeer
	b.mu.Unlock()
	greedy, modest := w.listen(t, "r", "greedy", starling.RoleMachine), w.listen(t, "r", "modest", starling.RoleMachine)
	if _, err := greedy.Dial(testContext(t), b.Addr(), KindSwarm); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	pair(t, modest, b, KindSwarm)
}
