package pki_test

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

func fixed(c *pki.Credentials) func() *pki.Credentials { return func() *pki.Credentials { return c } }

// handshake runs both sides over a pipe and returns their errors.
func handshake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if err := errors.Join(a.SetDeadline(time.Now().Add(10*time.Second)), b.SetDeadline(time.Now().Add(10*time.Second))); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		s := tls.Server(b, server)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("welcome"))
		}
		done <- err
	}()
	c := tls.Client(a, client)
	clientErr = c.Handshake()
	if clientErr == nil { // in TLS 1.3 the server's verdict comes after the client's handshake
		_, clientErr = c.Read(make([]byte, 1))
	}
	if clientErr != nil {
		a.Close()
	}
	return clientErr, <-done
}

func TestTLS(t *testing.T) {
	now := time.Now()
	ca := newCA(t, "prod", now)
	a, b := load(t, ca, machine("a"), now), load(t, ca, machine("b"), now)
	stranger := load(t, newCA(t, "prod", now), machine("s"), now)
	foreign := load(t, newCA(t, "test", now), machine("f"), now)

	t.Run("both of one cluster", func(t *testing.T) {
		clientErr, serverErr := handshake(t, pki.TLS{ALPN: "x/1", Current: fixed(a)}.Client(), pki.TLS{ALPN: "x/1", Current: fixed(b)}.Server())
		if clientErr != nil || serverErr != nil {
			t.Errorf("client %v, server %v", clientErr, serverErr)
		}
	})
	for name, other := range map[string]*pki.Credentials{"another CA": stranger, "another cluster": foreign} {
		t.Run("client of "+name, func(t *testing.T) {
			var refused error
			server := pki.TLS{ALPN: "x/1", Current: fixed(b), Refused: func(_ net.Addr, err error) { refused = err }}.Server()
			blind := pki.TLS{ALPN: "x/1", Current: fixed(other)}.Client()
			blind.VerifyConnection = nil // a client that checks nothing
			clientErr, serverErr := handshake(t, blind, server)
			if clientErr == nil || !errors.Is(serverErr, starling.ErrForbidden) || !errors.Is(refused, starling.ErrForbidden) {
				t.Errorf("client %v, server %v, told %v", clientErr, serverErr, refused)
			}
		})
		t.Run("server of "+name, func(t *testing.T) {
			blind := pki.TLS{ALPN: "x/1", Current: fixed(other)}.Server()
			inner := blind.GetConfigForClient
			blind.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				c, err := inner(h)
				c.VerifyConnection = nil // a server that checks nothing
				return c, err
			}
			clientErr, _ := handshake(t, pki.TLS{ALPN: "x/1", Current: fixed(a)}.Client(), blind)
			if !errors.Is(clientErr, starling.ErrForbidden) {
				t.Errorf("client %v", clientErr)
			}
		})
	}
	t.Run("client without a certificate", func(t *testing.T) {
		bare := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"x/1"}}
		if _, serverErr := handshake(t, bare, pki.TLS{ALPN: "x/1", Current: fixed(b)}.Server()); serverErr == nil {
			t.Error("accepted")
		}
	})
	t.Run("client without the protocol", func(t *testing.T) {
		client := pki.TLS{ALPN: "x/1", Current: fixed(a)}.Client()
		client.NextProtos, client.VerifyConnection = nil, nil
		if _, serverErr := handshake(t, client, pki.TLS{ALPN: "x/1", Current: fixed(b)}.Server()); !errors.Is(serverErr, starling.ErrForbidden) {
			t.Errorf("server %v", serverErr)
		}
	})
	t.Run("clock off", func(t *testing.T) {
		late := pki.TLS{ALPN: "x/1", Current: fixed(a), Now: func() time.Time { return now.Add(2 * pki.DefaultTTL) }}
		clientErr, _ := handshake(t, late.Client(), pki.TLS{ALPN: "x/1", Current: fixed(b)}.Server())
		if !errors.Is(clientErr, starling.ErrForbidden) || !strings.Contains(clientErr.Error(), "and this clock says") {
			t.Errorf("client %v", clientErr)
		}
	})
}

// A server takes new credentials with the next connection, and resumes none of the old.
func TestTLSHotSwap(t *testing.T) {
	now := time.Now()
	ca := newCA(t, "prod", now)
	a := load(t, ca, machine("a"), now)
	current := load(t, ca, machine("b1"), now)
	server := pki.TLS{ALPN: "x/1", Current: func() *pki.Credentials { return current }}.Server()
	client := pki.TLS{ALPN: "x/1", Current: fixed(a)}.Client()
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	var seen []string
	verify := client.VerifyConnection
	client.VerifyConnection = func(s tls.ConnectionState) error {
		id, err := pki.IdentityOf(s.PeerCertificates[0])
		if err != nil || s.DidResume {
			t.Errorf("resumed %t, %v", s.DidResume, err)
		}
		seen = append(seen, id.Name)
		return verify(s)
	}
	for _, name := range []string{"b1", "b2"} {
		current = load(t, ca, machine(name), now)
		if clientErr, serverErr := handshake(t, client, server); clientErr != nil || serverErr != nil {
			t.Fatal(clientErr, serverErr)
		}
	}
	if len(seen) != 2 || seen[0] != "b1" || seen[1] != "b2" {
		t.Errorf("seen %q", seen)
	}
}
