package artifact

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

const manifestJSON = `{"version":1,  "chunker":"fastcdc-v1.0.0","files":[{"path":"a","kind":"file","mode":420,"size":1}],
	"chunks":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1}], "later":"ignored"}`

func newCA(t testing.TB, cluster string) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(cluster, time.Now().Add(-72*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// credentials issues a certificate that is valid from at for ttl.
func credentials(t testing.TB, ca *pki.CA, at time.Time, ttl time.Duration, roles ...starling.Role) *pki.Credentials {
	t.Helper()
	cert, key, err := ca.Issue(pki.Request{Name: "node-1", Region: "eu", Roles: roles, TTL: ttl}, at)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.Load(ca.CertPEM(), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSignVerify(t *testing.T) {
	ca := newCA(t, "prod")
	want := starling.DigestOf([]byte(manifestJSON))
	judge := credentials(t, ca, time.Now(), time.Hour, starling.RoleMachine)
	for _, role := range []starling.Role{starling.RoleWorker, starling.RoleServer} {
		env, err := Sign([]byte(manifestJSON), credentials(t, ca, time.Now(), time.Hour, role))
		if err != nil {
			t.Fatal(err)
		}
		m, payload, err := Verify(env, want, judge)
		if err != nil {
			t.Fatal(err)
		}
		if string(payload) != manifestJSON {
			t.Error("the payload is not the signed bytes")
		}
		if len(m.Files) != 1 || m.Files[0].Path != "a" {
			t.Errorf("manifest %+v", m)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	ca, foreign := newCA(t, "prod"), newCA(t, "prod")
	now := time.Now()
	want := starling.DigestOf([]byte(manifestJSON))
	judge := credentials(t, ca, now, time.Hour, starling.RoleMachine)
	sign := func(c *pki.Credentials) []byte {
		t.Helper()
		env, err := Sign([]byte(manifestJSON), c)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	good := sign(credentials(t, ca, now, time.Hour, starling.RoleWorker))
	edit := func(change func(e *envelope)) []byte {
		t.Helper()
		var e envelope
		if err := json.Unmarshal(good, &e); err != nil {
			t.Fatal(err)
		}
		change(&e)
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := []struct {
		name string
		env  []byte
		want starling.Digest
		is   error
		text string
	}{
		{"another artifact", good, starling.DigestOf([]byte("x")), starling.ErrCorrupt, "holds another"},
		{"no digest asked", good, starling.Digest{}, starling.ErrCorrupt, "holds another"},
		{"foreign cluster", sign(credentials(t, foreign, now, time.Hour, starling.RoleWorker)), want, nil, "another CA"},
		{"signed by a machine", sign(credentials(t, ca, now, time.Hour, starling.RoleMachine)), want, starling.ErrForbidden, "neither worker nor server"},
		{"signed by a cache", sign(credentials(t, ca, now, time.Hour, starling.RoleCache)), want, starling.ErrForbidden, "neither worker nor server"},
		{"payload type", edit(func(e *envelope) { e.PayloadType = "text/plain" }), want, starling.ErrCorrupt, "text/plain"},
		{"signature", edit(func(e *envelope) { e.Signatures[0].Sig[3] ^= 1 }), want, starling.ErrCorrupt, "does not fit"},
		{"signature of no bytes", edit(func(e *envelope) { e.Signatures[0].Sig = nil }), want, starling.ErrCorrupt, "does not fit"},
		{"no signature", edit(func(e *envelope) { e.Signatures = nil }), want, starling.ErrCorrupt, "0 signatures"},
		{"two signatures", edit(func(e *envelope) { e.Signatures = append(e.Signatures, e.Signatures[0]) }), want, starling.ErrCorrupt, "2 signatures"},
		{"no certificate", edit(func(e *envelope) { e.Signatures[0].Chain = nil }), want, starling.ErrCorrupt, "0 certificates"},
		{"long chain", edit(func(e *envelope) { e.Signatures[0].Chain = make([][]byte, 5) }), want, starling.ErrCorrupt, "5 certificates"},
		{"huge certificate", edit(func(e *envelope) { e.Signatures[0].Chain[0] = make([]byte, maxCertificateBytes+1) }), want, starling.ErrCorrupt, "bytes"},
		{"claimed time after expiry", edit(func(e *envelope) { e.Signatures[0].SignedAt = now.Add(2 * time.Hour) }), want, nil, "expired"},
		{"claimed time before issue", edit(func(e *envelope) { e.Signatures[0].SignedAt = now.Add(-48 * time.Hour) }), want, nil, "valid from"},
		{"not JSON", []byte("x"), want, starling.ErrCorrupt, "not an envelope"},
		{"nothing", nil, want, starling.ErrCorrupt, "not an envelope"},
		{"payload with one bit changed", edit(func(e *envelope) { e.Payload[20] ^= 1 }), want, starling.ErrCorrupt, "holds another"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, _, err := Verify(tt.env, tt.want, judge)
			if err == nil || m != nil || (tt.is != nil && !errors.Is(err, tt.is)) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.is, tt.text)
			}
		})
	}
	t.Run("payload changed with its digest", func(t *testing.T) {
		other := bytes.Replace([]byte(manifestJSON), []byte(`"a"`), []byte(`"b"`), 1)
		env := edit(func(e *envelope) { e.Payload = other })
		if _, _, err := Verify(env, starling.DigestOf(other), judge); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSignatureOutlivesItsCertificate(t *testing.T) {
	ca := newCA(t, "prod")
	env, err := Sign([]byte(manifestJSON), credentials(t, ca, time.Now(), time.Hour, starling.RoleWorker))
	if err != nil {
		t.Fatal(err)
	}
	// Whether the certificate was valid is asked of the time of signing, whenever Verify runs.
	var e envelope
	if err := json.Unmarshal(env, &e); err != nil {
		t.Fatal(err)
	}
	judge := credentials(t, ca, time.Now(), time.Hour, starling.RoleMachine)
	if _, err := judge.Verify(e.Signatures[0].Chain, time.Now().Add(2*time.Hour)); err == nil {
		t.Fatal("the certificate does not expire")
	}
	if _, err := e.checkSignature(judge); err != nil {
		t.Error(err)
	}
}

func TestSignRefuses(t *testing.T) {
	ca := newCA(t, "prod")
	if _, err := Sign([]byte(`{"version":7}`), credentials(t, ca, time.Now(), time.Hour, starling.RoleWorker)); !starling.IsInvalid(err) {
		t.Errorf("signed what is no manifest: %v", err)
	}
	expired := credentials(t, ca, time.Now().Add(-48*time.Hour), time.Hour, starling.RoleWorker)
	if _, err := Sign([]byte(manifestJSON), expired); err == nil {
		t.Error("signed with an expired certificate")
	}
}

func FuzzVerify(f *testing.F) {
	ca := newCA(f, "prod")
	judge := credentials(f, ca, time.Now(), time.Hour, starling.RoleWorker)
	good, err := Sign([]byte(manifestJSON), judge)
	if err != nil {
		f.Fatal(err)
	}
	want := starling.DigestOf([]byte(manifestJSON))
	f.Add(good)
	f.Add([]byte(`{"payloadType":"` + PayloadType + `","payload":"e30=","signatures":[{"chain":["AA=="]}]}`))
	f.Fuzz(func(t *testing.T, env []byte) {
		_, payload, err := Verify(env, want, judge)
		if err == nil && string(payload) != manifestJSON {
			t.Error("accepted other bytes")
		}
	})
}
