package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newCA(t testing.TB, cluster string, at time.Time) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(cluster, at)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t testing.TB, ca *pki.CA, r pki.Request, at time.Time) (cert, key []byte) {
	t.Helper()
	cert, key, err := ca.Issue(r, at)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func load(t testing.TB, ca *pki.CA, r pki.Request, at time.Time) *pki.Credentials {
	t.Helper()
	cert, key := issue(t, ca, r, at)
	c, err := pki.Load(ca.CertPEM(), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func machine(name string) pki.Request {
	return pki.Request{Name: name, Region: "us-east", Roles: []starling.Role{starling.RoleMachine}}
}

func TestIssueAndLoad(t *testing.T) {
	ca := newCA(t, "prod", epoch)
	keyPEM, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := pki.LoadCA(ca.CertPEM(), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if again.Cluster() != "prod" {
		t.Errorf("cluster %q", again.Cluster())
	}
	c := load(t, again, pki.Request{
		Name: "n1", Region: "us-east",
		Roles: []starling.Role{starling.RoleMachine, starling.RoleServer, starling.RoleMachine},
		Hosts: []string{"n1.example", "*.web.example"}, IPs: []net.IP{net.IPv4(10, 0, 0, 5), net.IPv6loopback},
		TTL: time.Hour,
	}, epoch)
	want := starling.Identity{Cluster: "prod", Region: "us-east", Name: "n1", Roles: []starling.Role{starling.RoleServer, starling.RoleMachine}}
	if got := c.Identity; got.Cluster != want.Cluster || got.Region != want.Region || got.Name != want.Name || !slices.Equal(got.Roles, want.Roles) {
		t.Errorf("identity %v, want %v", got, want)
	}
	var uris []string
	for _, u := range c.Leaf.URIs {
		uris = append(uris, u.String())
	}
	if !slices.Equal(uris, []string{"spiffe://prod/region/us-east/role/server/n1", "spiffe://prod/region/us-east/role/machine/n1"}) {
		t.Errorf("URIs %q", uris)
	}
	if !slices.Equal(c.Leaf.DNSNames, []string{"n1.example", "*.web.example"}) || len(c.Leaf.IPAddresses) != 2 {
		t.Errorf("names %q %v", c.Leaf.DNSNames, c.Leaf.IPAddresses)
	}
	if d := c.Leaf.NotAfter.Sub(epoch); d != time.Hour {
		t.Errorf("valid for %s", d)
	}
	message := []byte("manifest")
	if !ed25519.Verify(c.Leaf.PublicKey.(ed25519.PublicKey), message, ed25519.Sign(c.Signer(), message)) {
		t.Error("the signer's key is not the leaf's")
	}
	if id, err := c.Verify(c.Chain(), epoch); err != nil || id.Name != "n1" {
		t.Errorf("its own chain: %v, %v", id, err)
	}
}

func TestIssueRefusesBadRequests(t *testing.T) {
	ca := newCA(t, "prod", epoch)
	server := []starling.Role{starling.RoleServer}
	many := make([]string, 101)
	for name, r := range map[string]pki.Request{
		"no name":      {Region: "r", Roles: server},
		"upper case":   {Name: "N1", Region: "r", Roles: server},
		"dotted":       {Name: "n1.example", Region: "r", Roles: server},
		"slash":        {Name: "n1", Region: "r/role/server", Roles: server},
		"no region":    {Name: "n1", Roles: server},
		"no roles":     {Name: "n1", Region: "r"},
		"unknown role": {Name: "n1", Region: "r", Roles: []starling.Role{"server", "root"}},
		"bad host":     {Name: "n1", Region: "r", Roles: server, Hosts: []string{"a b"}},
		"empty host":   {Name: "n1", Region: "r", Roles: server, Hosts: []string{""}},
		"bare star":    {Name: "n1", Region: "r", Roles: server, Hosts: []string{"*."}},
		"many hosts":   {Name: "n1", Region: "r", Roles: server, Hosts: many},
		"bad ip":       {Name: "n1", Region: "r", Roles: server, IPs: []net.IP{{1, 2}}},
		"negative TTL": {Name: "n1", Region: "r", Roles: server, TTL: -1},
	} {
		if _, _, err := ca.Issue(r, epoch); !starling.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := ca.Issue(machine("late"), epoch.Add(pki.CALifetime+time.Hour)); err == nil || !strings.Contains(err.Error(), "CA's certificate expired") {
		t.Errorf("after the CA's life: %v", err)
	}
	if _, err := pki.NewCA("Prod.", epoch); !starling.IsInvalid(err) {
		t.Errorf("bad cluster: %v", err)
	}
	if _, _, err := ca.IssueHTTP(pki.Request{Name: "web"}, epoch); !starling.IsInvalid(err) {
		t.Errorf("HTTP without a host: %v", err)
	}
}

func TestVerify(t *testing.T) {
	ca := newCA(t, "prod", epoch)
	ours := load(t, ca, machine("self"), epoch)
	peer := load(t, ca, pki.Request{Name: "peer", Region: "eu-west", Roles: []starling.Role{starling.RoleCache}, TTL: time.Hour}, epoch)
	namesake := load(t, newCA(t, "prod", epoch), machine("peer"), epoch)
	foreign := load(t, newCA(t, "test", epoch), machine("peer"), epoch)
	webCert, _, err := ca.IssueHTTP(pki.Request{Name: "web", Hosts: []string{"localhost"}}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	web, _ := pem.Decode(webCert)
	caCert, _ := pem.Decode(ca.CertPEM())
	tampered := bytes.Clone(peer.Chain()[0])
	tampered[len(tampered)-1] ^= 1

	for name, tc := range map[string]struct {
		chain [][]byte
		at    time.Time
		says  string // empty: accepted
	}{
		"good":                  {peer.Chain(), epoch, ""},
		"slow clock":            {peer.Chain(), epoch.Add(-pki.ClockSlack), ""},
		"with the CA":           {[][]byte{peer.Chain()[0], caCert.Bytes}, epoch, ""},
		"expired":               {peer.Chain(), epoch.Add(2 * time.Hour), "that of eu-west/peer expired at 2026-11-22T13:00:00Z, and this clock says 2026-11-22T14:00:00Z"},
		"not yet valid":         {peer.Chain(), epoch.Add(-time.Hour), "valid from 2026-11-22T11:55:00Z, and this clock says 2026-11-22T11:00:00Z"},
		"another cluster":       {foreign.Chain(), epoch, "is of cluster test, this is cluster prod"},
		"another CA, same name": {namesake.Chain(), epoch, "signed by another CA"},
		"for HTTP":              {[][]byte{web.Bytes}, epoch, "names no node"},
		"the CA itself":         {[][]byte{caCert.Bytes}, epoch, "a CA's certificate"},
		"tampered":              {[][]byte{tampered}, epoch, "eu-west/peer"},
		"none":                  {nil, epoch, "none was presented"},
		"garbage":               {[][]byte{[]byte("garbage")}, epoch, "certificate refused"},
		"long chain":            {slices.Repeat(peer.Chain(), 5), epoch, "chain of 5"},
		"huge":                  {[][]byte{make([]byte, 20<<10)}, epoch, "bytes long"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := ours.Verify(tc.chain, tc.at)
			if tc.says == "" {
				if err != nil || id.Name != "peer" || id.Region != "eu-west" || !id.Has(starling.RoleCache) {
					t.Errorf("%v, %v", id, err)
				}
				return
			}
			if !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), tc.says) || id.Name != "" {
				t.Errorf("%v, %v, want %q", id, err, tc.says)
			}
		})
	}
}

// forge signs any template with a CA's real key, as an operator's mistake or a stolen key would.
func forge(t *testing.T, ca *pki.CA, change func(*x509.Certificate), public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	keyPEM, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	keyBlock, _ := pem.Decode(keyPEM)
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	certBlock, _ := pem.Decode(ca.CertPEM())
	parent, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "forged"},
		NotBefore:    epoch, NotAfter: epoch.Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: ca.Cluster(), Path: "/region/r/role/machine/n"}},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestVerifyRefusesForgeries(t *testing.T) {
	ca := newCA(t, "prod", epoch)
	ours := load(t, ca, machine("self"), epoch)
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keep := func(*x509.Certificate) {}
	if _, err := ours.Verify([][]byte{forge(t, ca, keep, public).Raw}, epoch); err != nil {
		t.Fatalf("the unchanged template must pass: %v", err)
	}
	for name, tc := range map[string]struct {
		change func(*x509.Certificate)
		public crypto.PublicKey
	}{
		"ECDSA key":        {keep, p256.Public()},
		"not for clients":  {func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }, public},
		"not for servers":  {func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, public},
		"no usage":         {func(c *x509.Certificate) { c.ExtKeyUsage = nil }, public},
		"a CA below":       {func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, public},
		"outside the name": {func(c *x509.Certificate) { c.URIs[0].Host = "other" }, public},
	} {
		if id, err := ours.Verify([][]byte{forge(t, ca, tc.change, tc.public).Raw}, epoch); !errors.Is(err, starling.ErrForbidden) {
			t.Errorf("%s: %v, %v", name, id, err)
		}
	}
	// Even where all nodes believe another cluster's name, the CA's own name constraint holds.
	other := forge(t, ca, func(c *x509.Certificate) { c.URIs[0].Host = "other" }, public)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	if _, err := other.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: epoch, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the CA may sign for another cluster")
	}
}

func TestIdentityOf(t *testing.T) {
	const good = "spiffe://prod/region/r1/role/server/n1"
	for name, uris := range map[string][]string{
		"none":              {},
		"scheme":            {"https://prod/region/r1/role/server/n1"},
		"too short":         {"spiffe://prod/region/r1/role/server"},
		"too long":          {good + "/x"},
		"trailing slash":    {good + "/"},
		"no cluster":        {"spiffe:///region/r1/role/server/n1"},
		"port":              {"spiffe://prod:1/region/r1/role/server/n1"},
		"user":              {"spiffe://u@prod/region/r1/role/server/n1"},
		"query":             {good + "?x"},
		"fragment":          {good + "#x"},
		"escape":            {"spiffe://prod/region/r1/role/server/n%31"},
		"escaped slash":     {"spiffe://prod/region/r1%2frole/server/x/n1"},
		"upper case":        {"spiffe://prod/region/R1/role/server/n1"},
		"dotted name":       {"spiffe://prod/region/r1/role/server/n1.example"},
		"unknown role":      {"spiffe://prod/region/r1/role/root/n1"},
		"other words":       {"spiffe://prod/zone/r1/role/server/n1"},
		"two names":         {good, "spiffe://prod/region/r1/role/cache/n2"},
		"two regions":       {good, "spiffe://prod/region/r2/role/cache/n1"},
		"two clusters":      {good, "spiffe://test/region/r1/role/cache/n1"},
		"role twice":        {good, good},
		"one of two is bad": {good, "https://prod"},
		"too many":          slices.Repeat([]string{good}, 5),
	} {
		cert := new(x509.Certificate)
		for _, u := range uris {
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			cert.URIs = append(cert.URIs, parsed)
		}
		if id, err := pki.IdentityOf(cert); !errors.Is(err, starling.ErrForbidden) || id.Name != "" {
			t.Errorf("%s: %v, %v", name, id, err)
		}
	}
}

// Whatever is issued reads back as what was asked for.
func TestIdentityRoundTrip(t *testing.T) {
	ca := newCA(t, "prod", epoch)
	label := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		r := pki.Request{
			Name: label.Draw(t, "name"), Region: label.Draw(t, "region"),
			Roles: rapid.SliceOfN(rapid.SampledFrom(starling.Roles), 1, 6).Draw(t, "roles"),
		}
		certPEM, keyPEM, err := ca.Issue(r, epoch)
		if err != nil {
			t.Fatal(err)
		}
		c, err := pki.Load(ca.CertPEM(), certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		id := c.Identity
		if id.Cluster != "prod" || id.Name != r.Name || id.Region != r.Region {
			t.Fatalf("%v of %v", id, r)
		}
		for _, role := range starling.Roles {
			if id.Has(role) != slices.Contains(r.Roles, role) {
				t.Fatalf("role %s: %v of %v", role, id, r)
			}
		}
	})
}

func FuzzIdentityOf(f *testing.F) {
	f.Add("spiffe://prod/region/r1/role/server/n1", "spiffe://prod/region/r1/role/cache/n1")
	f.Add("spiffe://prod/region/r1/role/server/n%31", "")
	f.Add("spiffe://u:p@prod:1/region/../role/server/n1?q#f", "x")
	f.Fuzz(func(t *testing.T, first, second string) {
		cert := new(x509.Certificate)
		for _, s := range []string{first, second} {
			if u, err := url.Parse(s); err == nil && s != "" {
				cert.URIs = append(cert.URIs, u)
			}
		}
		id, err := pki.IdentityOf(cert)
		if err != nil {
			if !errors.Is(err, starling.ErrForbidden) {
				t.Fatal(err)
			}
			return
		}
		for _, name := range []string{id.Cluster, id.Region, id.Name} {
			if starling.CheckName("name", name) != nil {
				t.Fatalf("%v has a bad name", id)
			}
		}
		if len(id.Roles) != len(cert.URIs) {
			t.Fatalf("%v of %v", id, cert.URIs)
		}
		for _, u := range cert.URIs {
			if !strings.HasPrefix(u.String(), "spiffe://"+id.Cluster+"/region/"+id.Region+"/role/") {
				t.Fatalf("%v of %v", id, u)
			}
		}
	})
}

func FuzzVerify(f *testing.F) {
	ca := newCA(f, "prod", epoch)
	ours := load(f, ca, machine("self"), epoch)
	f.Add(ours.Chain()[0], []byte(nil))
	f.Add([]byte("0"), ours.Chain()[0])
	f.Fuzz(func(t *testing.T, leaf, next []byte) {
		id, err := ours.Verify([][]byte{leaf, next}, epoch)
		if err == nil && !bytes.Equal(leaf, ours.Chain()[0]) {
			t.Fatalf("accepted a certificate that was never issued: %v", id)
		}
		if err != nil && !errors.Is(err, starling.ErrForbidden) {
			t.Fatal(err)
		}
	})
}

func TestLoadErrors(t *testing.T) {
	ca, other := newCA(t, "prod", epoch), newCA(t, "prod", epoch)
	cert, key := issue(t, ca, machine("n1"), epoch)
	otherCert, otherKey := issue(t, other, machine("n1"), epoch)
	caKey, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		ca, cert, key []byte
		says          string
	}{
		"no CA":             {nil, cert, key, "CA certificate: no PEM block CERTIFICATE"},
		"no certificate":    {ca.CertPEM(), []byte("hello"), key, "certificate: no PEM block CERTIFICATE"},
		"no key":            {ca.CertPEM(), cert, nil, "key: no PEM block PRIVATE KEY"},
		"key of another":    {ca.CertPEM(), cert, otherKey, "key: it does not belong to the certificate of us-east/n1"},
		"swapped files":     {ca.CertPEM(), key, cert, `PEM block "PRIVATE KEY"`},
		"CA's key":          {ca.CertPEM(), cert, caKey, "want Ed25519"},
		"another CA":        {other.CertPEM(), cert, key, "does not fit the CA"},
		"CA as certificate": {ca.CertPEM(), ca.CertPEM(), caKey, "a CA's certificate"},
		"certificate as CA": {otherCert, cert, key, "a node's certificate, not a CA's"},
		"damaged":           {ca.CertPEM(), bytes.Replace(cert, []byte("M"), []byte("N"), 1), key, "certificate: "},
	} {
		if _, err := pki.Load(tc.ca, tc.cert, tc.key); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want %q", name, err, tc.says)
		}
	}
	if _, err := pki.Load(append(ca.CertPEM(), other.CertPEM()...), otherCert, otherKey); err != nil {
		t.Errorf("two CAs, one of them ours: %v", err)
	}
}

func TestLoadCAErrors(t *testing.T) {
	ca, other := newCA(t, "prod", epoch), newCA(t, "prod", epoch)
	key, err := other.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	cert, nodeKey := issue(t, ca, machine("n1"), epoch)
	for name, tc := range map[string]struct {
		cert, key []byte
		says      string
	}{
		"key of another": {ca.CertPEM(), key, "does not belong"},
		"a node's":       {cert, nodeKey, "not a CA's"},
		"a node's key":   {ca.CertPEM(), nodeKey, "want ECDSA"},
		"no key":         {ca.CertPEM(), nil, "no PEM block"},
	} {
		if _, err := pki.LoadCA(tc.cert, tc.key); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLoadFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	now := time.Now()
	ca := newCA(t, "prod", now.Add(-48*time.Hour))
	cert, key := issue(t, ca, machine("n1"), now)
	caFile, certFile, keyFile := write("ca.pem", ca.CertPEM()), write("node.pem", cert), write("node-key.pem", key)
	c, err := pki.LoadFiles(caFile, certFile, keyFile)
	if err != nil || c.Identity.Name != "n1" {
		t.Fatal(err)
	}
	if _, err := pki.LoadFiles(caFile, filepath.Join(dir, "missing.pem"), keyFile); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "missing.pem") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := pki.LoadFiles(caFile, write("big.pem", make([]byte, 2<<20)), keyFile); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("huge file: %v", err)
	}
	short := machine("n1")
	short.TTL = time.Hour
	cert, key = issue(t, ca, short, now.Add(-24*time.Hour))
	_, err = pki.LoadFiles(caFile, write("old.pem", cert), write("old-key.pem", key))
	if !errors.Is(err, starling.ErrForbidden) || !strings.Contains(err.Error(), "expired at") || !strings.Contains(err.Error(), "old.pem") {
		t.Errorf("expired: %v", err)
	}
}

// A standard HTTPS client that trusts the CA accepts the HTTP certificate.
func TestIssueHTTP(t *testing.T) {
	ca := newCA(t, "prod", time.Now())
	certPEM, keyPEM, err := ca.IssueHTTP(pki.Request{Name: "web", Hosts: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := pair.Leaf.PublicKey.(*ecdsa.PublicKey); !ok || pair.Leaf.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("%T signed by %s", pair.Leaf.PublicKey, pair.Leaf.SignatureAlgorithm)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Error(err)
	}
}
