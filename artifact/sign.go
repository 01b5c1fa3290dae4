package artifact

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

// PayloadType says, under the signature, what the payload is.
const PayloadType = "application/vnd.starling.manifest.v1+json"

// Bounds of an envelope.
const (
	MaxEnvelopeBytes    = (starling.MaxManifestBytes+2)/3*4 + 256<<10
	maxSignatures       = 1
	maxChainCerts       = 4
	maxCertificateBytes = 16 << 10
)

// envelope is a DSSE envelope (github.com/secure-systems-lab/dsse, v1) whose signature
// also carries the certificates to judge it by.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string   `json:"keyid"` // SHA-256 of the public key, for people; never trusted
	Sig   []byte   `json:"sig"`
	Chain [][]byte `json:"chain"` // DER, the signer's own first
	// SignedAt is the signer's claim. It lets a signature outlive its certificate; who
	// holds a signer's key could claim any time within the certificate's life anyway.
	SignedAt time.Time `json:"signed_at"`
}

// Sign puts the exact bytes of an encoded manifest into an envelope, signed with the
// node's Ed25519 certificate key. It refuses bytes that are not a valid manifest,
// and credentials that are not valid now.
func Sign(manifest []byte, c *pki.Credentials) ([]byte, error) {
	if _, err := starling.DecodeManifest(manifest); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	if err := c.Valid(now); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	key := c.Signer()
	id := sha256.Sum256(key.Public().(ed25519.PublicKey))
	b, err := json.Marshal(envelope{
		PayloadType: PayloadType,
		Payload:     manifest,
		Signatures: []signature{{
			KeyID:    hex.EncodeToString(id[:]),
			Sig:      ed25519.Sign(key, dsse.PAE(PayloadType, manifest)),
			Chain:    c.Chain(),
			SignedAt: now,
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return b, nil
}

// Verify returns the manifest of artifact want, and its exact bytes, from an envelope
// of an untrusted source. The bytes must have that digest and be signed, as they are,
// by a worker or server of c's cluster whose certificate was valid when it signed.
// ErrCorrupt: the bytes are not those of want, or not those that were signed.
// ErrForbidden: the signer may not sign.
func Verify(env []byte, want starling.Digest, c *pki.Credentials) (*starling.Manifest, []byte, error) {
	m, payload, _, err := verify(env, want, c)
	return m, payload, err
}

// SignedBy verifies an envelope as Verify does and says whose signature it carries.
func SignedBy(env []byte, want starling.Digest, c *pki.Credentials) (*starling.Signature, error) {
	_, _, s, err := verify(env, want, c)
	return s, err
}

func verify(env []byte, want starling.Digest, c *pki.Credentials) (*starling.Manifest, []byte, *starling.Signature, error) {
	e, err := openEnvelope(env)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("verify manifest %s: %w", want.Short(), err)
	}
	if starling.DigestOf(e.Payload) != want {
		return nil, nil, nil, fmt.Errorf("verify manifest %s: %w: the envelope holds another one", want.Short(), starling.ErrCorrupt)
	}
	s, err := e.checkSignature(c)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("verify manifest %s: %w", want.Short(), err)
	}
	m, err := starling.DecodeManifest(e.Payload)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("verify manifest %s: %w", want.Short(), err)
	}
	return m, e.Payload, s, nil
}

// openEnvelope parses an envelope within its bounds. Nothing in it is proven yet.
func openEnvelope(b []byte) (*envelope, error) {
	if len(b) > MaxEnvelopeBytes {
		return nil, fmt.Errorf("%w: envelope of %d bytes, more than %d", starling.ErrCorrupt, len(b), MaxEnvelopeBytes)
	}
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("%w: not an envelope: %w", starling.ErrCorrupt, err)
	}
	switch {
	case e.PayloadType != PayloadType:
		return nil, fmt.Errorf("%w: the payload is a %.80q, want %s", starling.ErrCorrupt, e.PayloadType, PayloadType)
	case len(e.Payload) > starling.MaxManifestBytes:
		return nil, fmt.Errorf("%w: manifest of %d bytes, more than %d", starling.ErrCorrupt, len(e.Payload), starling.MaxManifestBytes)
	case len(e.Signatures) == 0 || len(e.Signatures) > maxSignatures:
		return nil, fmt.Errorf("%w: %d signatures, want %d", starling.ErrCorrupt, len(e.Signatures), maxSignatures)
	case len(e.Signatures[0].Chain) == 0 || len(e.Signatures[0].Chain) > maxChainCerts:
		return nil, fmt.Errorf("%w: %d certificates, want 1 to %d", starling.ErrCorrupt, len(e.Signatures[0].Chain), maxChainCerts)
	}
	for _, der := range e.Signatures[0].Chain {
		if len(der) > maxCertificateBytes {
			return nil, fmt.Errorf("%w: certificate of %d bytes, more than %d", starling.ErrCorrupt, len(der), maxCertificateBytes)
		}
	}
	return &e, nil
}

func (e *envelope) checkSignature(c *pki.Credentials) (*starling.Signature, error) {
	s := e.Signatures[0]
	signer, err := c.Verify(s.Chain, s.SignedAt)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	if !signer.Has(starling.RoleWorker) && !signer.Has(starling.RoleServer) {
		return nil, fmt.Errorf("%w: signed by %s, who is neither worker nor server", starling.ErrForbidden, signer)
	}
	leaf, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	key, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: signed with a %T, want Ed25519", starling.ErrForbidden, leaf.PublicKey)
	}
	if !ed25519.Verify(key, dsse.PAE(e.PayloadType, e.Payload), s.Sig) {
		return nil, fmt.Errorf("%w: the signature of %s does not fit", starling.ErrCorrupt, signer)
	}
	id := sha256.Sum256(key)
	return &starling.Signature{
		By: signer.Region + "/" + signer.Name, Key: hex.EncodeToString(id[:]), At: s.SignedAt, Roles: signer.Roles,
	}, nil
}
