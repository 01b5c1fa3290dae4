package pki

import (
	"crypto/ed25519"
	"encoding/binary"
	"time"

	"github.com/starlingdeploy/starling"
)

// SignText signs text with the certificate's key. The context, 255 bytes at most, says what
// the text is: a signature of one context is void in every other. Chain belongs to it.
func (c *Credentials) SignText(context string, text []byte) (signature []byte) {
	return ed25519.Sign(c.key, textBytes(context, text))
}

// VerifyText returns who signed text, if the chain is one that Verify accepts at that time.
// Whether that node may say so is for the caller to judge. Its errors wrap ErrForbidden.
func (c *Credentials) VerifyText(context string, text, signature []byte, chain [][]byte, at time.Time) (starling.Identity, error) {
	id, err := c.Verify(chain, at)
	if err != nil {
		return id, err
	}
	certs, err := parseChain(chain)
	if err != nil {
		return starling.Identity{}, err
	}
	key, ok := certs[0].PublicKey.(ed25519.PublicKey)
	if !ok || !ed25519.Verify(key, textBytes(context, text), signature) {
		return starling.Identity{}, refusedf("%s/%s has not signed this", id.Region, id.Name)
	}
	return id, nil
}

// textBytes sets the context apart from the text by its length.
func textBytes(context string, text []byte) []byte {
	out := make([]byte, 0, 2+len(context)+len(text))
	out = binary.BigEndian.AppendUint16(out, uint16(len(context)))
	out = append(out, context...)
	return append(out, text...)
}
