package enrol

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
)

// Files of an enrolled machine in its data_dir, readable by their owner only.
const (
	CAFile     = "ca.pem"
	CertFile   = "machine.pem"
	KeyFile    = "machine-key.pem"
	TicketFile = "ticket.json"
)

const maxFileBytes = 1 << 20

// Kept is what a machine keeps of its enrolment.
type Kept struct {
	CA, Cert, Key []byte // PEM; Cert is empty until it is enrolled
}

// Read returns what is kept in a folder; nil if there is not even a key.
func Read(dir string) (*Kept, error) {
	var k Kept
	for _, f := range []struct {
		name string
		into *[]byte
	}{{KeyFile, &k.Key}, {CAFile, &k.CA}, {CertFile, &k.Cert}} {
		b, err := readFile(filepath.Join(dir, f.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read what is kept of the enrolment: %w", err)
		}
		*f.into = b
	}
	if k.Key == nil {
		return nil, nil
	}
	return &k, nil
}

// Credentials are those of an enrolled machine, be they valid by now or not; nil if it is not
// enrolled.
func (k *Kept) Credentials(dir string) (*pki.Credentials, error) {
	if k == nil || k.Cert == nil || k.CA == nil {
		return nil, nil
	}
	c, err := pki.Load(k.CA, k.Cert, k.Key)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w: delete them, and enrol this machine with a join token", filepath.Join(dir, CertFile), KeyFile, err)
	}
	return c, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(b) > maxFileBytes {
		err = fmt.Errorf("%s: longer than %d bytes", name, maxFileBytes)
	}
	return b, err
}

func write(dir, name string, content []byte) error {
	if err := renameio.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		return fmt.Errorf("keep the enrolment: %w", err)
	}
	return nil
}

// keep writes an answer. The certificate comes last: with it the enrolment is complete.
func keep(dir string, res *rpc.EnrolResponse) error {
	ticket, err := json.Marshal(res.Ticket)
	if err != nil {
		return fmt.Errorf("keep the enrolment: %w", err)
	}
	return errors.Join(write(dir, CAFile, res.CA), write(dir, TicketFile, append(ticket, '\n')), write(dir, CertFile, res.Cert))
}
