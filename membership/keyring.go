package membership

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/starlingdeploy/starling"
)

const (
	maxKeyringFileBytes = 64 << 10
	rotateTries         = 3 // of each step of a rotation
	rotatePause         = time.Second
)

// openKeyring returns the keys to gossip with: those of the keyring file, or the
// configured one, which then begins the file. Nil: plain text.
func openKeyring(c *Config) (*memberlist.Keyring, error) {
	if c.Plaintext {
		return nil, nil
	}
	if c.KeyringFile == "" {
		return memberlist.NewKeyring(nil, c.Key)
	}
	keys, err := readKeyring(c.KeyringFile)
	if errors.Is(err, fs.ErrNotExist) {
		if len(c.Key) == 0 {
			return nil, starling.Invalidf("gossip_key", "is missing, and there is no keyring at %s", c.KeyringFile)
		}
		keys = [][]byte{c.Key}
		err = writeKeyring(c.KeyringFile, keys)
	}
	if err != nil {
		return nil, fmt.Errorf("gossip keyring: %w", err)
	}
	ring, err := memberlist.NewKeyring(keys, keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keyring %s: %w", c.KeyringFile, err)
	}
	return ring, nil
}

// readKeyring reads a JSON list of base64 keys, the primary one first.
func readKeyring(path string) ([][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, maxKeyringFileBytes))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var keys [][]byte
	if err := json.Unmarshal(b, &keys); err != nil {
		return nil, fmt.Errorf("%s is not a JSON list of base64 keys (delete it to begin again with the configured key): %w", path, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no key (delete it to begin again with the configured key)", path)
	}
	return keys, nil
}

func writeKeyring(path string, keys [][]byte) error {
	b, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return fmt.Errorf("encode keys: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(path, b, 0o600)
}

// KeyReport is the pool's answer to a keyring operation. Keys are in base64: they are
// secrets, fit for an operator's eyes and no log.
type KeyReport struct {
	Members  int               // that were asked
	Answered int               //
	Keys     map[string]int    // members that hold each key; Keys only
	Primary  map[string]int    // members that encrypt with each key; Keys only
	Problems map[string]string // by member
}

// Keys lists the keys that members hold. An error names how many failed or were
// silent; the report then holds what is known.
func (p *Pool) Keys() (KeyReport, error) {
	return p.keyring("list", "", func(k *serf.KeyManager, _ string) (*serf.KeyResponse, error) { return k.ListKeys() })
}

// InstallKey gives every member a further key to decrypt with. The steps of a rotation
// are InstallKey, UseKey, RemoveKey; each must succeed at all members before the next.
func (p *Pool) InstallKey(key []byte) (KeyReport, error) {
	if err := memberlist.ValidateKey(key); err != nil {
		return KeyReport{}, starling.Invalidf("key", "has %d bytes: use 16, 24 or 32", len(key))
	}
	return p.keyring("install", encodeKey(key), (*serf.KeyManager).InstallKey)
}

// UseKey makes an installed key the one that every member encrypts with.
func (p *Pool) UseKey(key []byte) (KeyReport, error) {
	return p.keyring("use", encodeKey(key), (*serf.KeyManager).UseKey)
}

// RemoveKey takes a key from every member. The one in use cannot be removed.
func (p *Pool) RemoveKey(key []byte) (KeyReport, error) {
	return p.keyring("remove", encodeKey(key), (*serf.KeyManager).RemoveKey)
}

func encodeKey(key []byte) string { return base64.StdEncoding.EncodeToString(key) }

func (p *Pool) keyring(verb, key string, do func(*serf.KeyManager, string) (*serf.KeyResponse, error)) (KeyReport, error) {
	if !p.serf.EncryptionEnabled() {
		return KeyReport{}, fmt.Errorf("gossip keyring %s: gossip is plain text: %w", verb, starling.ErrConflict)
	}
	res, err := do(p.serf.KeyManager(), key)
	var report KeyReport
	if res != nil {
		report = KeyReport{Members: res.NumNodes, Answered: res.NumResp, Problems: res.Messages}
		if verb == "list" {
			report.Keys, report.Primary = res.Keys, res.PrimaryKeys
		}
	}
	if err != nil {
		return report, fmt.Errorf("gossip keyring %s: %w", verb, err)
	}
	return report, nil
}

// SetKey makes a key this member's only one, without telling others: it was away when they
// rotated.
func (p *Pool) SetKey(key []byte) error {
	if p.ring == nil {
		return fmt.Errorf("gossip keyring: gossip is plain text: %w", starling.ErrConflict)
	}
	if err := p.ring.AddKey(key); err != nil {
		return starling.Invalidf("key", "has %d bytes: use 16, 24 or 32", len(key))
	}
	if err := p.ring.UseKey(key); err != nil {
		return fmt.Errorf("gossip keyring: %w", err)
	}
	for _, old := range p.ring.GetKeys() {
		if bytes.Equal(old, key) {
			continue
		}
		if err := p.ring.RemoveKey(old); err != nil {
			return fmt.Errorf("gossip keyring: %w", err)
		}
	}
	if p.conf.KeyringFile == "" {
		return nil
	}
	if err := writeKeyring(p.conf.KeyringFile, [][]byte{key}); err != nil {
		return fmt.Errorf("gossip keyring: %w", err)
	}
	return nil
}

// Rotate gives all members a new key and takes every other from them: InstallKey, UseKey,
// RemoveKey, each tried a few times. A member that does not answer is left behind: it finds
// itself alone and has to be given the key otherwise, see SetKey. Rotating to the key
// that is in use changes nothing.
func (p *Pool) Rotate(ctx context.Context, key []byte) error {
	if err := p.rotateStep(ctx, "install", p.InstallKey, key); err != nil {
		return err
	}
	if err := p.rotateStep(ctx, "use", p.UseKey, key); err != nil {
		return err
	}
	for _, old := range p.ring.GetKeys() {
		if bytes.Equal(old, key) {
			continue
		}
		if err := p.rotateStep(ctx, "remove", p.RemoveKey, old); err != nil {
			return err
		}
	}
	return nil
}

// rotateStep fails only if no member has taken the step.
func (p *Pool) rotateStep(ctx context.Context, verb string, do func([]byte) (KeyReport, error), key []byte) error {
	for try := 1; ; try++ {
		r, err := do(key)
		if err == nil || r.Answered == 0 {
			return err
		}
		p.logger.Warn("not all members took a step of the gossip key's rotation",
			"step", verb, "try", try, "members", r.Members, "answered", r.Answered, "error", err)
		if try == rotateTries {
			return nil
		}
		select {
		case <-time.After(rotatePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
