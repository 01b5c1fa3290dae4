package control

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"fmt"
	"io"

	"github.com/starlingdeploy/starling"
)

// Forms of what is sealed.
const (
	sealedPlain = 0 // the region has no secret of its own
	sealedAES   = 1 // AES-256-GCM (NIST SP 800-38D): the nonce, then the sealed JSON
)

// seal makes v unreadable but for the servers of this region: what a webhook and a sink must
// keep, for a hash cannot sign. The key comes of the region's gossip key, which is in the
// servers' files and nowhere in the state, so that logs, snapshots and backups do not tell it.
// name says what it is of, and binds it to that: it opens as nothing else.
func (s *Server) seal(name string, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	if s.cfg.SecretKey == nil {
		return append([]byte{sealedPlain}, text...), nil
	}
	aead, err := s.sealing()
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	out := make([]byte, 1+aead.NonceSize(), 1+aead.NonceSize()+len(text)+aead.Overhead())
	out[0] = sealedAES
	if _, err := io.ReadFull(s.cfg.Rand, out[1:]); err != nil {
		return nil, fmt.Errorf("seal %s: read randomness: %w", name, err)
	}
	return aead.Seal(out, out[1:], text, s.sealedAs(name)), nil
}

// open reads what seal has made into v.
func (s *Server) open(name string, sealed []byte, v any) error {
	if len(sealed) == 0 {
		return fmt.Errorf("%s: nothing is sealed: %w", name, starling.ErrCorrupt)
	}
	text := sealed[1:]
	if sealed[0] == sealedAES {
		var err error
		if text, err = s.unseal(name, text); err != nil {
			return fmt.Errorf("the secret of %s was sealed under another gossip key than this server's: delete it and create it again: %w", name, err)
		}
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w: %w", name, starling.ErrCorrupt, err)
	}
	return nil
}

func (s *Server) unseal(name string, b []byte) ([]byte, error) {
	if s.cfg.SecretKey == nil {
		return nil, fmt.Errorf("this server has none: %w", starling.ErrConflict)
	}
	aead, err := s.sealing()
	if err != nil {
		return nil, err
	}
	if len(b) < aead.NonceSize() {
		return nil, starling.ErrCorrupt
	}
	text, err := aead.Open(nil, b[:aead.NonceSize()], b[aead.NonceSize():], s.sealedAs(name))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", starling.ErrConflict, err)
	}
	return text, nil
}

func (s *Server) sealing() (cipher.AEAD, error) {
	block, err := aes.NewCipher(s.cfg.SecretKey)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (s *Server) sealedAs(name string) []byte { return []byte(s.cfg.Region + " " + name) }
