package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// MaxSkew is how far a signed timestamp may be from the server's clock.
const MaxSkew = 5 * time.Minute

const (
	maxIDBytes    = 256 // of what a sender calls a delivery
	maxSignatures = 9   // of one request that are looked at
)

// Verify checks who sent a request, in time that does not depend on how wrong a signature
// is. It returns what identifies the push, so that a request which comes twice deploys once:
// only what is signed counts for that, for anybody can send the rest of a request that he
// has seen again and call it something else. ErrForbidden: the signature is missing, wrong
// or old.
func Verify(kind starling.WebhookKind, secret string, h http.Header, body []byte, now time.Time) (id string, err error) {
	switch kind {
	case starling.WebhookGitHub:
		// The delivery's GUID is not signed. The body is, and says when it was pushed.
		sum, err := hex.DecodeString(strings.TrimPrefix(h.Get("X-Hub-Signature-256"), "sha256="))
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		if err != nil || !hmac.Equal(sum, mac.Sum(nil)) {
			return "", refused("X-Hub-Signature-256")
		}
		return idOf(body), nil
	case starling.WebhookGitLab:
		if h.Get(HeaderSignature) != "" || strings.HasPrefix(secret, SecretPrefix) {
			return verifySigned(secret, h, body, now)
		}
		// Who holds the token can say anything: these are told apart for GitLab's own repetitions.
		got, want := sha256.Sum256([]byte(h.Get("X-Gitlab-Token"))), sha256.Sum256([]byte(secret))
		if !hmac.Equal(got[:], want[:]) {
			return "", refused("X-Gitlab-Token")
		}
		if id := h.Get("X-Gitlab-Event-UUID"); id != "" {
			return idOf([]byte(id)), nil
		}
		return idOf(body), nil
	default:
		return verifySigned(secret, h, body, now)
	}
}

// verifySigned checks a Standard Webhook.
func verifySigned(secret string, h http.Header, body []byte, now time.Time) (string, error) {
	id, timestamp := h.Get(HeaderID), h.Get(HeaderTimestamp)
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || id == "" || len(id) > maxIDBytes {
		return "", fmt.Errorf("%w: %s or %s is missing or malformed", starling.ErrForbidden, HeaderID, HeaderTimestamp)
	}
	want, ok := signature(secret, id, timestamp, body), false
	given := strings.Fields(h.Get(HeaderSignature))
	for _, text := range given[:min(len(given), maxSignatures)] {
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "v1,"))
		ok = err == nil && hmac.Equal(sum, want) || ok
	}
	if !ok {
		return "", refused(HeaderSignature)
	}
	// A captured request is good for this long, and finds the deployment that it has made.
	if skew := now.Sub(time.Unix(seconds, 0)); skew > MaxSkew || skew < -MaxSkew {
		return "", fmt.Errorf("%w: %s is more than %s from this server's clock", starling.ErrForbidden, HeaderTimestamp, MaxSkew)
	}
	return idOf([]byte(id)), nil
}

func refused(header string) error {
	return fmt.Errorf("%w: %s is missing or wrong: the secret there must be the one that starling webhook create has shown", starling.ErrForbidden, header)
}

func idOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
