package pki

import (
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// Bounds on what is read from files and from peers.
const (
	maxPEMBytes         = 1 << 20
	maxChainCerts       = 4
	maxCertificateBytes = 16 << 10
)

// Credentials are what one node holds: its identity, the key that proves it, and the
// authorities by which it judges others. They are read only and safe to share.
type Credentials struct {
	Roots       *x509.CertPool
	Certificate tls.Certificate
	Leaf        *x509.Certificate
	Identity    starling.Identity

	key     ed25519.PrivateKey
	root    *x509.Certificate // the CA below which Certificate is
	revoked *Revocations      // may be nil
}

// Load reads credentials. caPEM may hold several CAs, while one takes over from
// another. The key must belong to the certificate, and the certificate to one of the
// CAs; whether it is valid at a given time is for Valid to say.
func Load(caPEM, certPEM, keyPEM []byte) (*Credentials, error) {
	roots, err := parseCertificates("CA certificate", caPEM)
	if err != nil {
		return nil, err
	}
	c := &Credentials{Roots: x509.NewCertPool()}
	for _, root := range roots {
		if !root.IsCA {
			return nil, fmt.Errorf("CA certificate: %s is a node's certificate, not a CA's", root.Subject.CommonName)
		}
		c.Roots.AddCert(root)
	}
	chain, err := parseCertificates("certificate", certPEM)
	if err != nil {
		return nil, err
	}
	c.Leaf = chain[0]
	if c.Identity, err = IdentityOf(c.Leaf); err != nil {
		return nil, err
	}
	parsed, err := parseKey("key", keyPEM)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key: it is a %T, want Ed25519", parsed)
	}
	if !key.Public().(ed25519.PublicKey).Equal(c.Leaf.PublicKey) {
		return nil, fmt.Errorf("key: it does not belong to the certificate of %s/%s", c.Identity.Region, c.Identity.Name)
	}
	c.key = key
	c.Certificate = tls.Certificate{PrivateKey: key, Leaf: c.Leaf}
	for _, cert := range chain {
		c.Certificate.Certificate = append(c.Certificate.Certificate, cert.Raw)
	}
	// At the start of the certificate's own life: a question of trust, not of time.
	verified, _, err := c.verify(c.Certificate.Certificate, c.Leaf.NotBefore)
	if err != nil {
		return nil, fmt.Errorf("the certificate does not fit the CA: %w", err)
	}
	c.root = verified[len(verified)-1]
	return c, nil
}

// LoadFiles reads credentials from PEM files, and refuses them if they are not valid now.
func LoadFiles(ca, cert, key string) (*Credentials, error) {
	var pems [3][]byte
	for i, file := range []string{ca, cert, key} {
		b, err := readFile(file)
		if err != nil {
			return nil, fmt.Errorf("read credentials: %w", err)
		}
		pems[i] = b
	}
	c, err := Load(pems[0], pems[1], pems[2])
	if err == nil {
		err = c.Valid(time.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("credentials %s, %s, %s: %w", ca, cert, key, err)
	}
	return c, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPEMBytes+1))
	if err == nil && len(b) > maxPEMBytes {
		err = fmt.Errorf("%s: longer than %d bytes", name, maxPEMBytes)
	}
	return b, err
}

// Valid refuses credentials that have expired or are not valid yet.
func (c *Credentials) Valid(at time.Time) error { return checkTime(c.Leaf, c.Identity, at) }

// Chain returns the certificates in DER, the node's own first.
func (c *Credentials) Chain() [][]byte { return c.Certificate.Certificate }

// Signer returns the key of the certificate, for signatures that Verify's caller can
// check against the leaf's public key.
func (c *Credentials) Signer() ed25519.PrivateKey { return c.key }

// WithRevocations returns the same credentials, which refuse whoever is on the list.
func (c *Credentials) WithRevocations(r *Revocations) *Credentials {
	out := *c
	out.revoked = r
	return &out
}

// Revoked refuses an identity whose certificates are void by now, whatever they say.
func (c *Credentials) Revoked(id starling.Identity) error { return c.revoked.Check(id) }

// Root returns the CA's certificate in DER, for those who know its fingerprint only.
func (c *Credentials) Root() []byte { return c.root.Raw }

// Verify judges a chain of DER certificates, leaf first, as presented by a peer or kept with a
// signature. The leaf must be a node's Ed25519 certificate, valid at the given time,
// signed by one of c's CAs, or below one by an Enroller that may, name c's own cluster, and not be
// revoked.
func (c *Credentials) Verify(chain [][]byte, at time.Time) (starling.Identity, error) {
	_, id, err := c.verify(chain, at)
	if err == nil {
		err = c.revoked.Check(id)
	}
	if err != nil {
		return starling.Identity{}, err
	}
	return id, nil
}

// verify also returns the chain up to the CA.
func (c *Credentials) verify(chain [][]byte, at time.Time) (verified []*x509.Certificate, id starling.Identity, err error) {
	var none starling.Identity
	certs, err := parseChain(chain)
	if err != nil {
		return nil, none, err
	}
	leaf := certs[0]
	if id, err = IdentityOf(leaf); err != nil {
		return nil, none, err
	}
	if _, ok := leaf.PublicKey.(ed25519.PublicKey); !ok {
		return nil, none, refusedf("%s/%s: its key is a %T, want Ed25519", id.Region, id.Name, leaf.PublicKey)
	}
	if id.Cluster != c.Identity.Cluster {
		return nil, none, refusedf("%s/%s is of cluster %s, this is cluster %s", id.Region, id.Name, id.Cluster, c.Identity.Cluster)
	}
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return nil, none, refusedf("%s/%s: it is not for servers", id.Region, id.Name)
	}
	if err := checkTime(leaf, id, at); err != nil {
		return nil, none, err
	}
	opts := x509.VerifyOptions{
		Roots:         c.Roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, cert := range certs[1:] {
		opts.Intermediates.AddCert(cert)
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		var unknown x509.UnknownAuthorityError
		if errors.As(err, &unknown) {
			return nil, none, refusedf("%s/%s claims to be of cluster %s, but was signed by another CA: it is of another cluster of that name, or the CA was made anew",
				id.Region, id.Name, id.Cluster)
		}
		return nil, none, refusedf("%s/%s: %w", id.Region, id.Name, err)
	}
	for _, chain := range chains {
		if err = checkIssuers(chain, id); err == nil {
			return chain, id, nil
		}
	}
	return nil, none, err
}

// checkTime tells both times, because either clock may be the wrong one.
func checkTime(leaf *x509.Certificate, id starling.Identity, at time.Time) error {
	if at.After(leaf.NotAfter) {
		return refusedf("that of %s/%s expired at %s, and this clock says %s: issue a new one with `starling tls cert create`, or set the clock",
			id.Region, id.Name, stamp(leaf.NotAfter), stamp(at))
	}
	if at.Before(leaf.NotBefore) {
		return refusedf("that of %s/%s is valid from %s, and this clock says %s: one of the clocks is wrong",
			id.Region, id.Name, stamp(leaf.NotBefore), stamp(at))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, refusedf("none was presented")
	}
	if len(chain) > maxChainCerts {
		return nil, refusedf("a chain of %d, want %d at most", len(chain), maxChainCerts)
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		if len(der) > maxCertificateBytes {
			return nil, refusedf("%d bytes long, want %d at most", len(der), maxCertificateBytes)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refusedf("%w", err)
		}
		certs[i] = cert
	}
	return certs, nil
}

func parseCertificates(what string, b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			return nil, fmt.Errorf("%s: there is a PEM block %.40q in it, want only %s", what, block.Type, pemCertificate)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s: no PEM block %s in it", what, pemCertificate)
	}
	return certs, nil
}

func parseKey(what string, b []byte) (crypto.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemKey {
		return nil, fmt.Errorf("%s: no PEM block %s in it", what, pemKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return key, nil
}
