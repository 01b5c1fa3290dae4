package agent

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

// maxBooks bounds the artifacts whose accounts are in memory. Those of finished
// releases are also on disk, beside them.
const maxBooks = 16

// ledger holds the accounts of the last artifacts, for servers to ask for. The loop
// writes, the streams of servers read.
type ledger struct {
	mu    sync.Mutex
	books []*book // the one opened last is last
}

// open begins the account of an artifact, or goes on with the one there is.
func (l *ledger) open(node *starling.Node, m *meter, artifact starling.Digest) *book {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.find(artifact)
	if b == nil || b.finished() {
		b = newBook(node, m, artifact)
	}
	l.books = slices.DeleteFunc(l.books, func(x *book) bool { return x.artifact == artifact })
	if len(l.books) >= maxBooks {
		l.books = slices.Delete(l.books, 0, 1)
	}
	l.books = append(l.books, b)
	b.resume()
	return b
}

// find returns the account of an artifact, or nil. The caller holds mu.
func (l *ledger) find(artifact starling.Digest) *book {
	i := slices.IndexFunc(l.books, func(b *book) bool { return b.artifact == artifact })
	if i < 0 {
		return nil
	}
	return l.books[i]
}

// distrust notes in all accounts that a source is refused.
func (l *ledger) distrust(e swarm.Distrust) {
	l.mu.Lock()
	books := slices.Clone(l.books)
	l.mu.Unlock()
	for _, b := range books {
		b.distrust(e)
	}
}

// Account returns as JSON how an artifact came to this machine, starling.MaxAccountBytes
// at most; ErrNotFound if this machine does not know.
func (a *Agent) Account(artifact starling.Digest) ([]byte, error) {
	a.ledger.mu.Lock()
	b := a.ledger.find(artifact)
	a.ledger.mu.Unlock()
	if b != nil {
		return b.encode()
	}
	for _, r := range a.catalog.all() {
		if r.artifact == artifact {
			if kept, err := r.account(); err == nil {
				return kept, nil
			}
		}
	}
	return nil, fmt.Errorf("account of %s: %w", artifact.Short(), starling.ErrNotFound)
}

// closeBook ends the account of a download and keeps it beside the release.
func (d *download) closeBook() {
	d.book.done()
	account, err := d.book.encode()
	if err == nil {
		err = d.rel.keepAccount(account)
	}
	if err != nil { // it is for people only
		d.log.Warn("how the artifact came here is not kept", "error", err)
	}
}

// accountName is the account of a finished release, in its directory.
const accountName = "account.json"

// keepAccount writes the account of a finished release beside it. A power loss may
// take it.
func (r *release) keepAccount(account []byte) error {
	const temp = accountName + ".new"
	if err := r.root.WriteFile(temp, account, 0o640); err != nil {
		return fmt.Errorf("keep account: %w", err)
	}
	if err := r.root.Rename(temp, accountName); err != nil {
		return fmt.Errorf("keep account: %w", err)
	}
	return nil
}

// account returns what keepAccount has kept; ErrNotFound if there is none.
func (r *release) account() ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return nil, starling.ErrNotFound
	}
	f, err := r.root.Open(accountName)
	if errors.Is(err, os.ErrNotExist) {
		return nil, starling.ErrNotFound
	} else if err != nil {
		return nil, fmt.Errorf("read account: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, starling.MaxAccountBytes))
	if err != nil {
		return nil, fmt.Errorf("read account: %w", err)
	}
	return b, nil
}

// accused are the sources that this machine distrusts, for its reports. The loop owns it.
type accused map[starling.Distrust]bool

// add notes an effect of the brain, the first MaxDistrusted of them.
func (a accused) add(e swarm.Distrust) {
	for d := range a {
		if d.Node == e.Peer && d.Cache == e.Origin {
			return
		}
	}
	if len(a) < starling.MaxDistrusted {
		a[starling.Distrust{Node: e.Peer, Cache: e.Origin, Reason: e.Reason}] = true
	}
}

// list returns them sorted by name.
func (a accused) list() []starling.Distrust {
	var out []starling.Distrust
	for d := range a {
		out = append(out, d)
	}
	slices.SortFunc(out, func(x, y starling.Distrust) int {
		return cmp.Or(cmp.Compare(x.Node, y.Node), cmp.Compare(x.Reason, y.Reason))
	})
	return out
}
