package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// Headers of Standard Webhooks (https://www.standardwebhooks.com), which GitLab's signing
// tokens use too.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp" // seconds since 1970
	HeaderSignature = "Webhook-Signature" // "v1,BASE64", several separated by spaces
)

// SecretPrefix begins secrets whose rest is a key in base64; all others are keys as they are.
const SecretPrefix = "whsec_"

// Sign returns the signature of a message: HMAC-SHA256 over "ID.TIMESTAMP.BODY".
func Sign(secret, id string, at time.Time, body []byte) string {
	return "v1," + base64.StdEncoding.EncodeToString(signature(secret, id, strconv.FormatInt(at.Unix(), 10), body))
}

func signature(secret, id, timestamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, keyOf(secret))
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

func keyOf(secret string) []byte {
	if text, ok := strings.CutPrefix(secret, SecretPrefix); ok {
		if key, err := base64.StdEncoding.DecodeString(text); err == nil {
			return key
		}
	}
	return []byte(secret)
}
