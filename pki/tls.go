package pki

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// TLS builds the configurations of mutually authenticated connections between nodes.
//
// Both sides are known by the identity in their certificates. crypto/tls itself would
// check a host name on one side and nothing but the chain on the other, so
// its own check is off, and VerifyConnection, which runs on every connection in both
// directions, does all of it. Sessions are never resumed: a resumed one would keep
// the roles of an earlier certificate.
type TLS struct {
	ALPN    string
	Current func() *Credentials                // those to use from now on
	Now     func() time.Time                   // nil: time.Now
	Refused func(remote net.Addr, cause error) // told of every refused client; may be nil

	// Enrol is the protocol of callers without a certificate, who get to know this side's. Empty:
	// there are none. Admit, if not nil, is asked before anything is computed for one of them; false
	// ends the handshake with the alert internal_error.
	Enrol string
	Admit func() bool
}

var errCrowded = errors.New("too many callers without a certificate")

// Server returns the configuration of the accepting side. It takes the credentials
// anew for each connection.
func (t TLS) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{t.ALPN},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if t.Enrol != "" && slices.Equal(hello.SupportedProtos, []string{t.Enrol}) {
				if t.Admit != nil && !t.Admit() {
					return nil, errCrowded
				}
				return t.enrolment(), nil
			}
			return t.config(func(err error) {
				if t.Refused != nil && hello.Conn != nil {
					t.Refused(hello.Conn.RemoteAddr(), err)
				}
			}), nil
		},
	}
}

// Client returns the configuration for one connection of the dialling side.
func (t TLS) Client() *tls.Config { return t.config(func(error) {}) }

func (t TLS) config(refused func(error)) *tls.Config {
	c := t.Current()
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{t.ALPN},
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &c.Certificate, nil },
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.Certificate, nil },
		ClientAuth:             tls.RequireAnyClientCert, // judged in VerifyConnection
		InsecureSkipVerify:     true,                     // judged in VerifyConnection
		VerifyConnection: func(state tls.ConnectionState) error {
			err := t.verify(c, state)
			if err != nil {
				refused(err)
			}
			return err
		},
	}
}

// enrolment is the accepting side's configuration for a caller without a certificate. The chain
// includes the CA's certificate, of which the caller knows the fingerprint only.
func (t TLS) enrolment() *tls.Config {
	c := t.Current()
	own := tls.Certificate{
		PrivateKey: c.Certificate.PrivateKey, Leaf: c.Leaf,
		Certificate: append(slices.Clone(c.Certificate.Certificate), c.Root()),
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{t.Enrol},
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &own, nil },
	}
}

// EnrolTLS is the configuration of one connection of a caller without a certificate, who knows
// the cluster's CAs by their fingerprints. It gets to know the server.
func EnrolTLS(alpn string, cas []starling.Digest, now func() time.Time, verified func(starling.Identity)) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // judged in VerifyConnection
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := VerifyServer(rawChain(state), cas, now())
			if err != nil {
				return err
			}
			verified(id)
			return nil
		},
	}
}

func rawChain(state tls.ConnectionState) [][]byte {
	chain := make([][]byte, len(state.PeerCertificates))
	for i, cert := range state.PeerCertificates {
		chain[i] = cert.Raw
	}
	return chain
}

func (t TLS) verify(c *Credentials, state tls.ConnectionState) error {
	if state.NegotiatedProtocol != t.ALPN {
		return refusedf("the far side speaks %.40q, want %q", state.NegotiatedProtocol, t.ALPN)
	}
	now := time.Now
	if t.Now != nil {
		now = t.Now
	}
	_, err := c.Verify(rawChain(state), now())
	return err
}
