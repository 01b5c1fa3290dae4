package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// Lifetimes. Certificates are backdated by ClockSlack, so that a node whose clock is
// a little behind accepts a certificate made just now.
const (
	CALifetime = 10 * 365 * 24 * time.Hour
	DefaultTTL = 365 * 24 * time.Hour
	ClockSlack = 5 * time.Minute
)

// maxHosts bounds the DNS names and the IP addresses of one certificate.
const maxHosts = 100

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY" // PKCS #8
)

// CA issues the certificates of one cluster.
type CA struct {
	cluster string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// Request describes a certificate to issue.
type Request struct {
	Name   string          // of the node, a DNS label
	Region string          // a DNS label
	Roles  []starling.Role // at least one; IssueHTTP ignores them
	Hosts  []string        // DNS names, maxHosts at most
	IPs    []net.IP        // maxHosts at most
	TTL    time.Duration   // 0: DefaultTTL; cut at the end of the CA's own life
}

// NewCA makes the CA of a new cluster, whose name is a DNS label.
func NewCA(cluster string, now time.Time) (*CA, error) {
	if err := starling.CheckName("cluster", cluster); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the CA's key: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Starling"}, CommonName: "Starling CA of " + cluster},
		NotBefore:             now.Add(-ClockSlack),
		NotAfter:              now.Add(CALifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1, // for enrolment authorities
		URIs:                  []*url.URL{clusterURI(cluster)},
		// A CA speaks for its own cluster only, whatever its operator makes it sign.
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{cluster},
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the CA's certificate: %w", err)
	}
	return &CA{cluster: cluster, cert: cert, key: key}, nil
}

// LoadCA reads a CA from its certificate and key.
func LoadCA(certPEM, keyPEM []byte) (*CA, error) {
	certs, err := parseCertificates("CA certificate", certPEM)
	if err != nil {
		return nil, err
	}
	cert := certs[0]
	if !cert.IsCA {
		return nil, fmt.Errorf("CA certificate: %s is a node's certificate, not a CA's", cert.Subject.CommonName)
	}
	cluster, ok := clusterOf(cert)
	if !ok {
		return nil, errors.New("CA certificate: it names no cluster: make one with `starling tls ca create`")
	}
	parsed, err := parseKey("CA key", keyPEM)
	if err != nil {
		return nil, err
	}
	key, isECDSA := parsed.(*ecdsa.PrivateKey)
	if !isECDSA {
		return nil, fmt.Errorf("CA key: it is a %T, want ECDSA", parsed)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("CA key: it does not belong to the CA certificate")
	}
	return &CA{cluster: cluster, cert: cert, key: key}, nil
}

// Cluster returns the name of the cluster.
func (ca *CA) Cluster() string { return ca.cluster }

// CertPEM returns the CA's certificate, which every node of the cluster needs.
func (ca *CA) CertPEM() []byte { return encode(pemCertificate, ca.cert.Raw) }

// KeyPEM returns the CA's private key. It is needed only where certificates are issued.
func (ca *CA) KeyPEM() ([]byte, error) { return encodeKey(ca.key) }

// Issue makes a node's identity, with a fresh Ed25519 key, to present as client and as server.
func (ca *CA) Issue(r Request, now time.Time) (certPEM, keyPEM []byte, err error) {
	if err := checkNames(ca.cluster, r.Region, r.Name); err != nil {
		return nil, nil, err
	}
	if len(r.Roles) == 0 {
		return nil, nil, starling.Invalidf("roles", "none: give at least one of %v", starling.Roles)
	}
	template, err := leaf(r, ca.cert, now)
	if err != nil {
		return nil, nil, err
	}
	for _, role := range starling.Roles { // in this order, and each once
		if slices.Contains(r.Roles, role) {
			template.URIs = append(template.URIs, roleURI(ca.cluster, r.Region, role, r.Name))
		}
	}
	for _, role := range r.Roles {
		if !slices.Contains(starling.Roles, role) {
			return nil, nil, starling.Invalidf("roles", "%.40q is none of %v", role, starling.Roles)
		}
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a node's key: %w", err)
	}
	return ca.issue(template, public, private)
}

// IssueHTTP makes a certificate for the HTTPS endpoint, with a fresh ECDSA P-256
// key. It names hosts only: nobody can act as a node with it.
func (ca *CA) IssueHTTP(r Request, now time.Time) (certPEM, keyPEM []byte, err error) {
	if err := starling.CheckName("name", r.Name); err != nil {
		return nil, nil, err
	}
	if len(r.Hosts)+len(r.IPs) == 0 {
		return nil, nil, starling.Invalidf("hosts", "none: give the DNS names or IP addresses that the server is reached at")
	}
	template, err := leaf(r, ca.cert, now)
	if err != nil {
		return nil, nil, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make an HTTP key: %w", err)
	}
	return ca.issue(template, key.Public(), key)
}

// leaf fills in what both kinds of certificate have in common.
func leaf(r Request, issuer *x509.Certificate, now time.Time) (*x509.Certificate, error) {
	if len(r.Hosts) > maxHosts || len(r.IPs) > maxHosts {
		return nil, starling.Invalidf("hosts", "more than %d", maxHosts)
	}
	for _, h := range r.Hosts {
		if err := checkHost(h); err != nil {
			return nil, err
		}
	}
	for _, ip := range r.IPs {
		if len(ip) != net.IPv4len && len(ip) != net.IPv6len {
			return nil, starling.Invalidf("ips", "%d bytes are not an IP address", len(ip))
		}
	}
	from, until, err := lifetime(r.TTL, issuer, now)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Starling"}, CommonName: r.Name},
		NotBefore:             from,
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		DNSNames:              r.Hosts,
		IPAddresses:           r.IPs,
	}, nil
}

// lifetime is that of a certificate, within its issuer's own.
func lifetime(ttl time.Duration, issuer *x509.Certificate, now time.Time) (from, until time.Time, err error) {
	if ttl < 0 {
		return from, until, starling.Invalidf("ttl", "%s is negative", ttl)
	}
	if ttl == 0 {
		ttl = DefaultTTL
	}
	until = now.Add(ttl)
	if until.After(issuer.NotAfter) {
		until = issuer.NotAfter
	}
	from = now.Add(-ClockSlack)
	if from.Before(issuer.NotBefore) {
		from = issuer.NotBefore
	}
	if !until.After(now) {
		return from, until, fmt.Errorf("the CA's certificate expired at %s, and this clock says %s", stamp(issuer.NotAfter), stamp(now))
	}
	return from, until, nil
}

// checkHost accepts a DNS name, with "*" allowed as its first label.
func checkHost(h string) error {
	name := strings.TrimPrefix(h, "*.")
	if len(h) > 253 || name == "" {
		return starling.Invalidf("hosts", "%.80q is not a DNS name", h)
	}
	for label := range strings.SplitSeq(strings.ToLower(name), ".") {
		if starling.CheckName("hosts", label) != nil {
			return starling.Invalidf("hosts", "%.80q is not a DNS name", h)
		}
	}
	return nil
}

func (ca *CA) issue(template *x509.Certificate, public crypto.PublicKey, private crypto.Signer) (certPEM, keyPEM []byte, err error) {
	cert, err := sign(template, ca.cert, public, ca.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	if keyPEM, err = encodeKey(private); err != nil {
		return nil, nil, err
	}
	return encode(pemCertificate, cert.Raw), keyPEM, nil
}

// sign gives the certificate a random serial number (x509 draws it) and signs it.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return encode(pemKey, der), nil
}
