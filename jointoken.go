package starling

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// joinTokenForm begins the text of a join token, and names its form.
const joinTokenForm = "sjt1"

// JoinTokenSecretBytes is how long the secret of a join token is.
const JoinTokenSecretBytes = 32

// JoinTokenText is what an operator hands to machines: sjt1.ID.SECRET.CA, with the secret
// in base64 for URLs and the CA in hexadecimal. It is a secret; print it with Text.
type JoinTokenText struct {
	ID     string
	Secret [JoinTokenSecretBytes]byte
	CA     Digest // SHA-256 of the cluster's CA certificate in DER: by it a machine knows the first server
}

// Text returns all of the token, its secret included.
func (k JoinTokenText) Text() string {
	return strings.Join([]string{joinTokenForm, k.ID, base64.RawURLEncoding.EncodeToString(k.Secret[:]), k.CA.Hex()}, ".")
}

// String returns the token without its secret, for logs.
func (k JoinTokenText) String() string { return joinTokenForm + "." + k.ID + ".…" }

// Hash is what the servers keep of the secret.
func (k JoinTokenText) Hash() Digest { return Digest(sha256.Sum256(k.Secret[:])) }

// ParseJoinToken reads a token as Text writes it, with white space around it or not. Its
// errors show nothing of the secret.
func ParseJoinToken(s string) (JoinTokenText, error) {
	var k JoinTokenText
	parts := strings.Split(strings.TrimSpace(s), ".")
	if parts[0] != joinTokenForm {
		return k, Invalidf("join_token", "does not begin with %s.: give the whole line that `starling node token create` has printed", joinTokenForm)
	}
	if len(parts) != 4 {
		return k, Invalidf("join_token", "has %d parts, not 4: it is cut off, or more than one line was copied", len(parts))
	}
	if err := CheckName("join_token", parts[1]); err != nil {
		return k, Invalidf("join_token", "its ID is damaged: copy it again")
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(secret) != JoinTokenSecretBytes {
		return k, Invalidf("join_token", "its secret is damaged: copy it again")
	}
	ca, err := hex.DecodeString(parts[3])
	if err != nil || len(ca) != len(k.CA) {
		return k, Invalidf("join_token", "what it says of the CA is damaged or cut off: copy it again")
	}
	k.ID, k.Secret, k.CA = parts[1], [JoinTokenSecretBytes]byte(secret), Digest(ca)
	return k, nil
}
