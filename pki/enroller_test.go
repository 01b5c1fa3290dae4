package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

func server(name string) pki.Request {
	return pki.Request{Name: name, Region: "us-east", Roles: []starling.Role{starling.RoleServer}}
}

// enroller makes the enrolment authority of us-east, and its key, to forge with.
func enroller(t testing.TB, ca *pki.CA) (*pki.Enroller, *x509.Certificate, ed25519.PrivateKey) {
	t.Helper()
	certPEM, keyPEM, err := ca.IssueEnroller("us-east", 0, epoch)
	if err != nil {
		t.Fatal(err)
	}
	e, err := pki.LoadEnroller(load(t, ca, server("s1"), epoch), certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(keyPEM)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return e, cert, key.(ed25519.PrivateKey)
}

// enrolled is a machine that has enrolled.
func enrolled(t testing.TB, ca *pki.CA, e *pki.Enroller, name string, ttl time.Duration) *pki.Credentials {
	t.Helper()
	keyPEM, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewCSR(keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := e.Sign(name, key, ttl, epoch)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.Load(ca.CertPEM(), chain, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if got := pki.KeyDigest(c.Leaf.PublicKey.(ed25519.PublicKey)); got != pki.KeyDigest(key) {
		t.Fatalf("key %s", got)
	}
	return c
}

func TestEnrolledMachine(t *testing.T) {
	ca := newCA(t, "prod", epoch)
	e, cert, _ := enroller(t, ca)
	m := enrolled(t, ca, e, "m1", time.Hour)
	if id := m.Identity; id.Cluster != "prod" || id.Region != "us-east" || id.Name != "m1" || len(id.Roles) != 1 || !id.Has(starling.RoleMachine) {
		t.Errorf("identity %v", id)
	}
	if got := m.Leaf.NotAfter.Sub(epoch); got != time.Hour {
		t.Errorf("valid for %s", got)
	}
	peer := load(t, ca, server("s1"), epoch)
	if id, err := peer.Verify(m.Chain(), epoch); err != nil || id.Name != "m1" {
		t.Errorf("%v, %v", id, err)
	}
	if _, err := peer.Verify(m.Chain()[:1], epoch); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("without who signed it: %v", err)
	}
	if _, err := peer.Verify(m.Chain(), epoch.Add(2*time.Hour)); err == nil || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("expired: %v", err)
	}
	if long := enrolled(t, ca, e, "m2", 10*pki.DefaultTTL); long.Leaf.NotAfter.After(cert.NotAfter) {
		t.Errorf("valid until %s, beyond its authority's %s", long.Leaf.NotAfter, cert.NotAfter)
	}
	if _, err := e.Sign("m3", m.Leaf.PublicKey.(ed25519.PublicKey), 0, e.Expires().Add(time.Hour)); err == nil || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("an expired authority signs: %v", err)
	}
	if _, err := e.Sign("M 3", m.Leaf.PublicKey.(ed25519.PublicKey), 0, epoch); !starling.IsInvalid(err) {
		t.Errorf("bad name: %v", err)
	}
	// A process that trusts the authority as if it were a CA holds it to the same rule.
	roots := append(ca.CertPEM(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	own, ownKey := issue(t, ca, server("s2"), epoch)
	trusting, err := pki.Load(roots, own, ownKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trusting.Verify(m.Chain(), epoch); err != nil {
		t.Error(err)
	}
}

// Whoever has stolen an enrolment authority can make machines of its region, and nothing else.
func TestStolenEnroller(t *testing.T) {
	ca := newCA(t, "prod", epoch)
	_, authority, stolen := enroller(t, ca)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	verify := load(t, ca, server("s1"), epoch)
	pair := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	template := func(uris ...string) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: epoch, NotAfter: epoch.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: pair}
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
		return c
	}
	create := func(c, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key, by)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	const us, eu = "spiffe://prod/region/us-east/role/", "spiffe://prod/region/eu-west/role/"
	caCert, _ := pem.Decode(ca.CertPEM())
	for name, tc := range map[string]struct {
		uris []string
		ok   bool
	}{
		"a machine":            {[]string{us + "machine/m1"}, true},
		"a server":             {[]string{us + "server/s1"}, false},
		"a cache":              {[]string{us + "cache/c1"}, false},
		"a machine and server": {[]string{us + "machine/m1", us + "server/m1"}, false},
		"of another region":    {[]string{eu + "machine/m1"}, false},
		"of another cluster":   {[]string{"spiffe://test/region/us-east/role/machine/m1"}, false},
	} {
		forged := create(template(tc.uris...), authority, public, stolen)
		for _, chain := range [][][]byte{{forged.Raw, authority.Raw}, {forged.Raw, authority.Raw, caCert.Bytes}} {
			if id, err := verify.Verify(chain, epoch); tc.ok != (err == nil) || !tc.ok && !errors.Is(err, starling.ErrForbidden) {
				t.Errorf("%s: %v, %v", name, id, err)
			}
		}
	}
	below := func(uri string) *x509.Certificate {
		sub := template(uri)
		sub.IsCA, sub.BasicConstraintsValid, sub.KeyUsage = true, true, x509.KeyUsageCertSign
		return create(sub, authority, public, stolen)
	}
	for _, uri := range []string{"spiffe://prod/region/us-east/enrol", "spiffe://prod/region/eu-west/enrol", "spiffe://prod"} {
		sub := below(uri)
		leaf := create(template(us+"machine/m1"), sub, public, private)
		if id, err := verify.Verify([][]byte{leaf.Raw, sub.Raw, authority.Raw}, epoch); !errors.Is(err, starling.ErrForbidden) {
			t.Errorf("an authority below it, %s: %v, %v", uri, id, err)
		}
	}
	web := template()
	web.DNSNames, web.ExtKeyUsage = []string{"api.example"}, pair[1:]
	inter, roots := x509.NewCertPool(), x509.NewCertPool()
	inter.AddCert(authority)
	roots.AppendCertsFromPEM(ca.CertPEM())
	if _, err := create(web, authority, public, stolen).Verify(x509.VerifyOptions{
		DNSName: "api.example", Roots: roots, Intermediates: inter, CurrentTime: epoch,
	}); err == nil {
		t.Error("an HTTPS client that trusts the CA believes it")
	}
	if _, err := pki.VerifyServer([][]byte{create(template(us+"server/s1"), authority, public, stolen).Raw, authority.Raw, caCert.Bytes}, []starling.Digest{pki.Fingerprint(caCert.Bytes)}, epoch); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("a machine that enrols believes it: %v", err)
	}
}

func TestLoadEnrollerErrors(t *testing.T) {
	ca, other := newCA(t, "prod", epoch), newCA(t, "prod", epoch)
	self := load(t, ca, server("s1"), epoch)
	made := func(ca *pki.CA, region string) (cert, key []byte) {
		cert, key, err := ca.IssueEnroller(region, 0, epoch)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	cert, key := made(ca, "us-east")
	_, anotherKey := made(ca, "us-east")
	euCert, euKey := made(ca, "eu-west")
	otherCert, otherKey := made(other, "us-east")
	node, nodeKey := issue(t, ca, machine("m1"), epoch)
	for name, tc := range map[string]struct {
		cert, key []byte
		says      string
	}{
		"no certificate":    {nil, key, "no PEM block"},
		"no key":            {cert, nil, "no PEM block"},
		"a node's":          {node, nodeKey, "starling tls ca enrol"},
		"the CA's":          {ca.CertPEM(), key, "starling tls ca enrol"},
		"of another region": {euCert, euKey, "it is for region eu-west of cluster prod, this is region us-east"},
		"another key":       {cert, anotherKey, "does not belong"},
		"another CA":        {otherCert, otherKey, "no CA of this process signed it"},
	} {
		if _, err := pki.LoadEnroller(self, tc.cert, tc.key); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pki.LoadEnroller(self, cert, key); err != nil {
		t.Error(err)
	}
	if _, _, err := ca.IssueEnroller("US East", 0, epoch); !starling.IsInvalid(err) {
		t.Errorf("bad region: %v", err)
	}
}

// CAs made before machines could enrol have a path length of zero.
func TestEnrollerOfAnOldCA(t *testing.T) {
	ca := newCA(t, "prod", epoch)
	keyPEM, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(keyPEM)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(ca.CertPEM())
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	cert.MaxPathLen, cert.MaxPathLenZero = 0, true
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, cert.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	old, err := pki.LoadCA(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := old.IssueEnroller("us-east", 0, epoch); !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), "make a new one in another folder with `starling tls ca create`") {
		t.Errorf("%v", err)
	}
}

func TestParseCSRErrors(t *testing.T) {
	keyPEM, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	good, err := pki.NewCSR(keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p256)
	if err != nil {
		t.Fatal(err)
	}
	tampered := bytes.Clone(good)
	tampered[len(tampered)-1] ^= 1
	for name, tc := range map[string]struct {
		der  []byte
		says string
	}{
		"none":        {nil, "is no certificate request"},
		"garbage":     {[]byte("garbage"), "is no certificate request"},
		"huge":        {make([]byte, 5<<10), "longer than 4096 bytes"},
		"ECDSA":       {other, "want Ed25519"},
		"another key": {tampered, "is not signed with its own key"},
	} {
		if _, err := pki.ParseCSR(tc.der); !starling.IsInvalid(err) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyServer(t *testing.T) {
	ca, other := newCA(t, "prod", epoch), newCA(t, "prod", epoch)
	s, m := load(t, ca, server("s1"), epoch), load(t, ca, machine("m1"), epoch)
	impostor := load(t, other, server("s1"), epoch)
	pins, err := pki.Fingerprints(append(newCA(t, "prod", epoch).CertPEM(), ca.CertPEM()...))
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.VerifyServer(append(s.Chain(), s.Root()), pins, epoch)
	if err != nil || id.Name != "s1" || id.Region != "us-east" {
		t.Errorf("%v, %v", id, err)
	}
	for name, tc := range map[string]struct {
		chain [][]byte
		at    time.Time
		says  string
	}{
		"another CA":              {append(impostor.Chain(), impostor.Root()), epoch, "none of those that this machine was told of"},
		"with ours as decoration": {append(impostor.Chain(), s.Root()), epoch, "signed by another CA"},
		"no CA":                   {s.Chain(), epoch, "none of those that this machine was told of"},
		"a machine":               {append(m.Chain(), m.Root()), epoch, "is not a server"},
		"only the CA":             {[][]byte{s.Root()}, epoch, "none of those"},
		"none":                    {nil, epoch, "none was presented"},
		"clock two years ahead":   {append(s.Chain(), s.Root()), epoch.AddDate(2, 0, 0), "this clock says 2028-11-22"},
		"clock a year behind":     {append(s.Chain(), s.Root()), epoch.AddDate(-1, 0, 0), "this clock says 2025-11-22"},
	} {
		if _, err := pki.VerifyServer(tc.chain, pins, tc.at); !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), tc.says) ||
			errors.Is(err, starling.ErrClock) != strings.HasPrefix(name, "clock") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRevocations(t *testing.T) {
	ca := newCA(t, "prod", epoch)
	e, _, _ := enroller(t, ca)
	m1, m2 := enrolled(t, ca, e, "m1", 0), enrolled(t, ca, e, "m2", 0)
	elsewhere := load(t, ca, pki.Request{Name: "m1", Region: "eu-west", Roles: []starling.Role{starling.RoleMachine}}, epoch)
	namesake := load(t, ca, server("m1"), epoch)
	list := pki.NewRevocations("us-east")
	c := load(t, ca, server("s1"), epoch).WithRevocations(list)
	refused := func() (names []string) {
		for _, who := range []*pki.Credentials{m1, m2, elsewhere, namesake} {
			if _, err := c.Verify(who.Chain(), epoch); err != nil {
				if !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), "was revoked") {
					t.Error(err)
				}
				names = append(names, who.Identity.String())
			}
		}
		return names
	}
	if got := refused(); got != nil {
		t.Errorf("before: %v", got)
	}
	list.Set([]string{"m1"})
	if got := refused(); len(got) != 1 || got[0] != m1.Identity.String() {
		t.Errorf("revoked m1, refused %v", got)
	}
	list.Set(nil)
	if got := refused(); got != nil {
		t.Errorf("after: %v", got)
	}
}
