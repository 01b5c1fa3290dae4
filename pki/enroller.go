package pki

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// DefaultMachineTTL is how long the certificate of an enrolled machine is valid, if its servers do
// not say otherwise. Machines renew at two thirds of it.
const DefaultMachineTTL = 7 * 24 * time.Hour

// MinMachineTTL leaves room for a try or two to renew.
const MinMachineTTL = 2 * time.Second

// maxCSRBytes bounds what a stranger may have us parse.
const maxCSRBytes = 4 << 10

// Enroller signs the certificates of machines that enrol in one region. Its own certificate is
// signed by the cluster's CA, whose key so stays offline. Whoever steals an Enroller can
// make machines of its region and nothing else: Credentials.Verify refuses other roles and
// regions below it, and it is not for servers, so no HTTPS client trusts what it signs.
type Enroller struct {
	cluster, region string
	cert            *x509.Certificate
	key             ed25519.PrivateKey
}

// IssueEnroller makes the certificate and key of a region's Enroller. ttl 0: DefaultTTL; it is
// cut at the end of the CA's own life. A CA whose path length is zero cannot.
func (ca *CA) IssueEnroller(region string, ttl time.Duration, now time.Time) (certPEM, keyPEM []byte, err error) {
	if err := starling.CheckName("region", region); err != nil {
		return nil, nil, err
	}
	if ca.cert.MaxPathLen == 0 {
		return nil, nil, fmt.Errorf("%w: this CA's certificate allows no authority below it: CAs made before machines could enrol are so; "+
			"make a new one in another folder with `starling tls ca create`, put both certificates into every process's ca.pem, and sign with the new one from now on",
			starling.ErrConflict)
	}
	from, until, err := lifetime(ttl, ca.cert, now)
	if err != nil {
		return nil, nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make an enrolment key: %w", err)
	}
	return ca.issue(&x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Starling"}, CommonName: "Starling enrolment of " + region},
		NotBefore:             from,
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		URIs:                  []*url.URL{enrolURI(ca.cluster, region)},
	}, public, private)
}

// LoadEnroller reads an Enroller. It must be of the cluster and region of c, and signed by one of
// c's CAs.
func LoadEnroller(c *Credentials, certPEM, keyPEM []byte) (*Enroller, error) {
	certs, err := parseCertificates("enrolment certificate", certPEM)
	if err != nil {
		return nil, err
	}
	cert := certs[0]
	cluster, region, ok := enrolRegionOf(cert)
	if !ok {
		return nil, fmt.Errorf("enrolment certificate: %.80q is not one: make it with `starling tls ca enrol`", cert.Subject.CommonName)
	}
	if cluster != c.Identity.Cluster || region != c.Identity.Region {
		return nil, fmt.Errorf("enrolment certificate: it is for region %s of cluster %s, this is region %s of cluster %s",
			region, cluster, c.Identity.Region, c.Identity.Cluster)
	}
	parsed, err := parseKey("enrolment key", keyPEM)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok || !key.Public().(ed25519.PublicKey).Equal(cert.PublicKey) {
		return nil, fmt.Errorf("enrolment key: it does not belong to the enrolment certificate")
	}
	if _, err := cert.Verify(x509.VerifyOptions{
		Roots: c.Roots, CurrentTime: cert.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return nil, fmt.Errorf("enrolment certificate: no CA of this process signed it: %w", err)
	}
	return &Enroller{cluster: cluster, region: region, cert: cert, key: key}, nil
}

// LoadEnrollerFiles is LoadEnroller from files.
func LoadEnrollerFiles(c *Credentials, cert, key string) (*Enroller, error) {
	certPEM, err := readFile(cert)
	if err != nil {
		return nil, fmt.Errorf("read the enrolment certificate: %w", err)
	}
	keyPEM, err := readFile(key)
	if err != nil {
		return nil, fmt.Errorf("read the enrolment key: %w", err)
	}
	e, err := LoadEnroller(c, certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", cert, key, err)
	}
	return e, nil
}

// Expires is when the Enroller's own certificate does, and with it all that it signed.
func (e *Enroller) Expires() time.Time { return e.cert.NotAfter }

// Sign makes a machine's certificate for the key of a request that ParseCSR has checked. The answer is
// a chain in PEM: the machine's own certificate, then the Enroller's. ttl as in Request.
func (e *Enroller) Sign(name string, key ed25519.PublicKey, ttl time.Duration, now time.Time) (chainPEM []byte, err error) {
	if err := starling.CheckName("name", name); err != nil {
		return nil, err
	}
	template, err := leaf(Request{Name: name, TTL: ttl}, e.cert, now)
	if err != nil {
		return nil, fmt.Errorf("enrolment: %w", err)
	}
	template.URIs = []*url.URL{roleURI(e.cluster, e.region, starling.RoleMachine, name)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	cert, err := sign(template, e.cert, key, e.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", name, err)
	}
	return append(encode(pemCertificate, cert.Raw), encode(pemCertificate, e.cert.Raw)...), nil
}

// NewKey makes a machine's key, in PEM.
func NewKey() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a machine's key: %w", err)
	}
	return encodeKey(private)
}

// NewCSR returns a certificate request (PKCS #10, RFC 2986) in DER, signed with the key. It asks for
// nothing but a certificate of that key: names are for the one who signs to decide.
func NewCSR(keyPEM []byte) ([]byte, error) {
	parsed, err := parseKey("key", keyPEM)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key: it is a %T, want Ed25519", parsed)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return der, nil
}

// ParseCSR returns the key of a certificate request whose sender has shown that it holds it.
func ParseCSR(der []byte) (ed25519.PublicKey, error) {
	if len(der) > maxCSRBytes {
		return nil, starling.Invalidf("csr", "longer than %d bytes", maxCSRBytes)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, starling.Invalidf("csr", "is no certificate request: %v", err)
	}
	key, ok := csr.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, starling.Invalidf("csr", "its key is a %T, want Ed25519", csr.PublicKey)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, starling.Invalidf("csr", "is not signed with its own key: %v", err)
	}
	return key, nil
}

// KeyDigest is the SHA-256 of a public key, by which a machine is recorded.
func KeyDigest(key ed25519.PublicKey) starling.Digest {
	return starling.DigestOf(key)
}

// checkIssuers refuses what an Enroller may not sign: any but machines of its own region. It looks
// at one chain that x509 has verified, the leaf first.
func checkIssuers(chain []*x509.Certificate, id starling.Identity) error {
	for i, issuer := range chain[1:] {
		cluster, region, ok := enrolRegionOf(issuer)
		if !ok {
			if i+2 < len(chain) {
				return refusedf("%s/%s: it was signed by %.80q, which is neither a CA of this cluster nor an enrolment authority",
					id.Region, id.Name, issuer.Subject.CommonName)
			}
			continue
		}
		if cluster != id.Cluster || region != id.Region {
			return refusedf("%s/%s was signed by the enrolment authority of region %s of cluster %s", id.Region, id.Name, region, cluster)
		}
		if len(id.Roles) != 1 || id.Roles[0] != starling.RoleMachine {
			return refusedf("%s/%s has roles %v, and an enrolment authority may sign machines only", id.Region, id.Name, id.Roles)
		}
	}
	return nil
}

// Fingerprint is the SHA-256 of a certificate in DER, by which a join token names its cluster's CA.
func Fingerprint(der []byte) starling.Digest { return sha256.Sum256(der) }

// Fingerprints returns those of the certificates in a PEM file of CAs.
func Fingerprints(caPEM []byte) ([]starling.Digest, error) {
	certs, err := parseCertificates("CA certificate", caPEM)
	if err != nil {
		return nil, err
	}
	out := make([]starling.Digest, len(certs))
	for i, cert := range certs {
		out[i] = Fingerprint(cert.Raw)
	}
	return out, nil
}

// VerifyServer judges the chain of a server of a cluster that the caller knows by the fingerprints
// of its CA, or CAs, only. One of them must be in the chain. What is wrong with the time also
// wraps starling.ErrClock.
func VerifyServer(chain [][]byte, cas []starling.Digest, at time.Time) (starling.Identity, error) {
	var none starling.Identity
	certs, err := parseChain(chain)
	if err != nil {
		return none, err
	}
	for _, root := range certs[1:] {
		if !slices.Contains(cas, Fingerprint(root.Raw)) {
			continue
		}
		cluster, ok := clusterOf(root)
		if !ok || !root.IsCA {
			return none, refusedf("the certificate %s is no cluster's CA", Fingerprint(root.Raw))
		}
		c := &Credentials{Roots: x509.NewCertPool(), Identity: starling.Identity{Cluster: cluster}}
		c.Roots.AddCert(root)
		// What is signed by the CA is so at any time, and then the time may be wrong.
		id, err := c.Verify(chain, certs[0].NotBefore)
		if err != nil {
			return none, err
		}
		if err := checkTime(certs[0], id, at); err != nil {
			return none, fmt.Errorf("%w: %w", starling.ErrClock, err)
		}
		if !id.Has(starling.RoleServer) {
			return none, refusedf("%s is not a server", id)
		}
		return id, nil
	}
	return none, refusedf("the server's CA is none of those that this machine was told of: it is a server of another cluster, or an impostor, or the join token is an old one")
}
