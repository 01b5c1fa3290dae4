package pki_test

import (
	"errors"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

func TestSignedText(t *testing.T) {
	now := time.Now()
	ca := newCA(t, "prod", now)
	a, b := load(t, ca, machine("a"), now), load(t, ca, machine("b"), now)
	stranger := load(t, newCA(t, "prod", now), machine("a"), now)
	text := []byte("goals")
	sig := a.SignText("starling/1 feed", text)
	id, err := b.VerifyText("starling/1 feed", text, sig, a.Chain(), now)
	if err != nil || id.Name != "a" {
		t.Fatalf("%s, %v", id, err)
	}
	for name, tc := range map[string]struct {
		context, text string
		sig           []byte
		chain         [][]byte
		at            time.Time
	}{
		"another text":         {"starling/1 feed", "goalz", sig, a.Chain(), now},
		"another context":      {"starling/1 fee", "dgoals", sig, a.Chain(), now},
		"another's key":        {"starling/1 feed", "goals", sig, b.Chain(), now},
		"another CA":           {"starling/1 feed", "goals", stranger.SignText("starling/1 feed", text), stranger.Chain(), now},
		"no signature":         {"starling/1 feed", "goals", nil, a.Chain(), now},
		"no chain":             {"starling/1 feed", "goals", sig, nil, now},
		"an expired signature": {"starling/1 feed", "goals", sig, a.Chain(), now.Add(2 * pki.DefaultTTL)},
	} {
		if id, err := b.VerifyText(tc.context, []byte(tc.text), tc.sig, tc.chain, tc.at); !errors.Is(err, starling.ErrForbidden) || id.Name != "" {
			t.Errorf("%s: %s, %v", name, id, err)
		}
	}
}
