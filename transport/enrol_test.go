package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

// enrolServer is an endpoint at which machines may enrol, and the CA's fingerprint.
func enrolServer(t testing.TB, w *world, bounds Enrolment) (*Endpoint, []starling.Digest) {
	t.Helper()
	cfg := Config{Credentials: w.credentials(t, "r", "s1", starling.RoleServer), Logger: testLogger(t), Enrolment: &bounds}
	return listenWith(t, cfg), []starling.Digest{pki.Fingerprint(cfg.Credentials.Root())}
}

func enrolDialer(t testing.TB) *EnrolDialer {
	t.Helper()
	d, err := NewEnrolDialer("127.0.0.1", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// echo answers each stream of machines that enrol with what it says, until the endpoint closes.
func echo(t testing.TB, e *Endpoint) {
	var work sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	work.Go(func() {
		for {
			c, err := e.Accept(ctx, KindEnrol)
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { cancel(); work.Wait() })
}

func ask(c *EnrolConn) (string, error) {
	if _, err := c.Write([]byte("hello")); err != nil {
		return "", err
	}
	if err := c.CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestEnrolmentConnection(t *testing.T) {
	w := newWorld(t, "c")
	s, pin := enrolServer(t, w, Enrolment{})
	echo(t, s)
	c, err := enrolDialer(t).Dial(testContext(t), s.Addr(), pin)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if id := c.Peer(); id.Name != "s1" || id.Region != "r" || !id.Has(starling.RoleServer) {
		t.Errorf("server %v", id)
	}
	if got, err := ask(c); err != nil || got != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if st := s.Stats(); st.Enrolling != 1 || st.Connections != 0 {
		t.Errorf("%+v", st)
	}
	closeAll(t, c)
	eventually(t, "its place is free", func() bool { return s.Stats().Enrolling == 0 })
}

func TestEnrolmentRefusals(t *testing.T) {
	w, other := newWorld(t, "c"), newWorld(t, "c")
	s, pin := enrolServer(t, w, Enrolment{})
	closed := w.listen(t, "r", "s2", starling.RoleServer)
	machine := listenWith(t, Config{Credentials: w.credentials(t, "r", "m1", starling.RoleMachine), Enrolment: new(Enrolment)})
	_, otherPin := enrolServer(t, other, Enrolment{})
	d := enrolDialer(t)
	late, err := NewEnrolDialer("", func() time.Time { return time.Now().AddDate(5, 0, 0) })
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	for name, tc := range map[string]struct {
		from *EnrolDialer
		addr string
		pin  []starling.Digest
		is   error
		says string
	}{
		"another CA":     {d, s.Addr(), otherPin, starling.ErrForbidden, "none of those that this machine was told of"},
		"no authority":   {d, closed.Addr(), pin, starling.ErrForbidden, "this server enrols nobody: it has no enrolment authority"},
		"not a server":   {d, machine.Addr(), pin, starling.ErrForbidden, "is not a server"},
		"clock far off":  {late, s.Addr(), pin, starling.ErrForbidden, "and this clock says"},
		"no such port":   {d, "127.0.0.1:0", pin, starling.ErrUnavailable, "is no port"},
		"no such family": {d, "[::1]:7471", pin, starling.ErrUnavailable, "has no address that can be reached"},
	} {
		if _, err := tc.from.Dial(testContext(t), tc.addr, tc.pin); !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whoever has a certificate opens no streams of those who have none, not even past Dial's checks.
func TestEnrolmentIsForStrangers(t *testing.T) {
	w := newWorld(t, "c")
	s, _ := enrolServer(t, w, Enrolment{})
	m := w.listen(t, "r", "m1", starling.RoleMachine)
	const says = "enrol streams are for machines without a certificate"
	if _, err := m.Dial(testContext(t), s.Addr(), KindEnrol); !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), says) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := dialPast(t, m, s.Addr(), KindEnrol).Read(make([]byte, 1)); !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), says) {
		t.Errorf("past Dial: %v", err)
	}
}

// A caller without a certificate that checks and obeys nothing gets no other stream than the one
// of its kind, and nothing else of the endpoint.
func TestEnrolmentCarriesNothingElse(t *testing.T) {
	w := newWorld(t, "c")
	s, _ := enrolServer(t, w, Enrolment{})
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: udp}
	defer udp.Close()
	defer tr.Close()
	dial := func(protocols ...string) (*quic.Conn, error) {
		q, err := tr.Dial(testContext(t), net.UDPAddrFromAddrPort(s.socket.bound()), &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}, &quic.Config{})
		if err == nil {
			_, err = q.AcceptUniStream(testContext(t))
		}
		return q, err
	}
	for _, protocols := range [][]string{{alpn}, {alpn, enrolALPN}, {enrolALPN, alpn}, {"h3"}} {
		if _, err := dial(protocols...); err == nil {
			t.Errorf("welcome with %v", protocols)
		}
	}
	for k := range Kind(9) {
		if k == KindEnrol {
			continue
		}
		q, err := dial(enrolALPN)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := q.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write([]byte{byte(k)}); err != nil {
			t.Fatal(err)
		}
		if n, err := stream.Read(make([]byte, 1)); err == nil {
			t.Errorf("kind %d: read %d bytes", k, n)
		}
		if k < Kind(len(s.queues)) && len(s.queues[k]) > 0 {
			t.Errorf("a %s stream waits to be accepted", k)
		}
	}
	q, err := dial(enrolALPN)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the first is taken, the others wait for nobody
		stream, err := q.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write([]byte{byte(KindEnrol), 'x'}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := s.Accept(testContext(t), KindEnrol)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if id := c.Peer(); id.Name != "" || len(id.Roles) != 0 {
		t.Errorf("a stranger is %v", id)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Accept(short, KindEnrol); err == nil {
		t.Error("a second stream of one connection")
	}
}

// One who says nothing keeps its place for a moment only.
func TestSilentEnrolment(t *testing.T) {
	w := newWorld(t, "c")
	cfg := Config{Credentials: w.credentials(t, "r", "s1", starling.RoleServer), Enrolment: &Enrolment{MaxConnections: 1}, kindTimeout: time.Second}
	s, pin := listenWith(t, cfg), []starling.Digest{pki.Fingerprint(cfg.Credentials.Root())}
	d := enrolDialer(t)
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tr := &quic.Transport{Conn: udp}
	defer udp.Close()
	defer tr.Close()
	conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{enrolALPN}}
	q, err := tr.Dial(testContext(t), net.UDPAddrFromAddrPort(s.socket.bound()), conf, &quic.Config{KeepAlivePeriod: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.AcceptUniStream(testContext(t)); err != nil {
		t.Fatal(err)
	}
	var busy *starling.BusyError
	if _, err := d.Dial(testContext(t), s.Addr(), pin); !errors.As(err, &busy) || busy.After <= 0 || busy.After > time.Second || !errors.Is(err, starling.ErrUnavailable) {
		t.Fatalf("beside it: %v", err)
	}
	if st := s.Stats(); st.EnrolBusy != 1 || st.EnrolSince != 1 {
		t.Errorf("%+v", st)
	}
	<-q.Context().Done()
	eventually(t, "its place is free", func() bool {
		c, err := d.Dial(testContext(t), s.Addr(), pin)
		if err != nil {
			return false
		}
		closeAll(t, c)
		return true
	})
}

// A crowd that is larger still is sent away before anything is computed for it.
func TestKnock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(Enrolment{PerSecond: 100})
		in := 0
		for range 1000 {
			if a.knock(time.Now()) {
				in++
			}
		}
		if _, _, busy := a.stats(); in != 200 || busy != 800 {
			t.Errorf("%d of 1000 handshakes at once, %d sent away", in, busy)
		}
	})
	w := newWorld(t, "c")
	s, pin := enrolServer(t, w, Enrolment{PerSecond: 1})
	for range 2 {
		s.enrolment.knock(time.Now())
	}
	var busy *starling.BusyError
	if _, err := enrolDialer(t).Dial(testContext(t), s.Addr(), pin); !errors.As(err, &busy) || busy.After != 0 {
		t.Errorf("%v", err)
	}
}

// Whoever finds no room hears so at once, and when to come back: one after the other.
func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(Enrolment{MaxConnections: 10, PerSecond: 100})
		for i := range 10 {
			if after, ok := a.enter(time.Now()); !ok {
				t.Fatalf("%d: away for %s", i, after)
			}
		}
		var last time.Duration
		for i := range 1000 {
			after, ok := a.enter(time.Now())
			if want := minEnrolRetryAfter + time.Duration(i+1)*10*time.Millisecond; ok || after != want {
				t.Fatalf("%d: %s, want %s", i, after, want)
			}
			last = after
		}
		for range 10_000 {
			last, _ = a.enter(time.Now())
		}
		if last > maxEnrolRetryAfter+time.Second {
			t.Errorf("away for %s", last)
		}
		for range 10 {
			a.leave(0)
		}
		time.Sleep(2 * maxEnrolRetryAfter)
		in := 0
		for range 100 {
			if _, ok := a.enter(time.Now()); ok {
				in++
				a.leave(0)
			}
		}
		if in != 100 {
			t.Errorf("%d of a second's 100 came in", in)
		}
		if after, ok := a.enter(time.Now()); ok || after > time.Second {
			t.Errorf("one more than a second's: %s, %t", after, ok)
		}
		if open, since, busy := a.stats(); open != 0 || since != 110 || busy != 11_001 {
			t.Errorf("open %d, since %d, busy %d", open, since, busy)
		}
	})
}

// A crowd at once: each is let in or told when to come back, and all are through in the end.
func TestEnrolmentCrowd(t *testing.T) {
	w := newWorld(t, "c")
	s, pin := enrolServer(t, w, Enrolment{MaxConnections: 8, PerSecond: 400})
	echo(t, s)
	d := enrolDialer(t)
	var crowd sync.WaitGroup
	var through, away atomic.Int64
	for range 150 {
		crowd.Go(func() {
			for t.Context().Err() == nil {
				c, err := d.Dial(testContext(t), s.Addr(), pin)
				var busy *starling.BusyError
				if errors.As(err, &busy) {
					away.Add(1)
					time.Sleep(busy.After + rand.N(50*time.Millisecond))
					continue
				}
				if err == nil {
					var got string
					got, err = ask(c)
					_ = c.Close()
					if err == nil && got != "hello" {
						t.Errorf("%q", got)
					}
				}
				if err == nil {
					through.Add(1)
					return
				}
				if !errors.Is(err, starling.ErrUnavailable) { // a busy computer may be too slow for one
					t.Error(err)
					return
				}
			}
		})
	}
	crowd.Wait()
	if through.Load() != 150 {
		t.Errorf("%d of 150", through.Load())
	}
	t.Logf("sent away %d times", away.Load())
}

// A machine that is revoked is put out, and does not come in again.
func TestExpelRevoked(t *testing.T) {
	w := newWorld(t, "c")
	list := pki.NewRevocations("r")
	s := listenWith(t, Config{Credentials: w.credentials(t, "r", "s1", starling.RoleServer).WithRevocations(list)})
	m1, m2 := w.listen(t, "r", "m1", starling.RoleMachine), w.listen(t, "r", "m2", starling.RoleMachine)
	near1, _ := pair(t, m1, s, KindControl)
	near2, far2 := pair(t, m2, s, KindControl)
	list.Set([]string{"m1"})
	s.ExpelRevoked()
	if _, err := near1.Read(make([]byte, 1)); !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("its open stream: %v", err)
	}
	if _, err := m1.Dial(testContext(t), s.Addr(), KindControl); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("it comes again: %v", err)
	}
	if _, err := near2.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := far2.Read(make([]byte, 1)); err != nil {
		t.Errorf("another machine: %v", err)
	}
	list.Set(nil)
	eventually(t, "m1 is taken back", func() bool {
		c, err := m1.Dial(testContext(t), s.Addr(), KindControl)
		if err != nil {
			return false
		}
		closeAll(t, c)
		return true
	})
}
