package raftfsm

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// MaxWaits bounds the different indexes that Changed keeps apart.
const MaxWaits = 4096

// FSM holds one server's copy of a region's state. hashicorp/raft drives it; any
// goroutine may take views and wait.
type FSM struct {
	region string
	limits limits
	db     atomic.Pointer[database]

	mu      sync.Mutex
	applied uint64
	waits   map[uint64]chan struct{} // by the index that must be passed
}

var _ raft.FSM = (*FSM)(nil)

// New returns the empty state of a region.
func New(region string) *FSM {
	f := &FSM{region: region, limits: defaultLimits(), waits: map[uint64]chan struct{}{}}
	f.db.Store(newDB())
	return f
}

// Apply implements raft.FSM. Its result is a []Result, one for each command of the
// entry; an entry that cannot be read gives at least one. It panics at what a newer
// program has written: servers that can read it have applied it, so to refuse it and go
// on would lead to another state. Nothing has changed then, and an upgraded program
// goes on from here.
func (f *FSM) Apply(l *raft.Log) any {
	results := f.apply(l.Index, l.Data)
	f.wake(l.Index)
	return results
}

func (f *FSM) apply(index uint64, data []byte) []Result {
	e, err := DecodeEntry(data)
	if errors.Is(err, ErrTooNew) {
		panic(fmt.Sprintf("raft log entry %d was %v", index, err))
	}
	t := begin(f.db.Load(), f.region, f.limits, index)
	var results []Result
	if err != nil {
		results = make([]Result, min(max(len(e.Commands), 1), MaxEntryCommands))
		for i := range results {
			results[i] = Result{Index: index, Err: err}
		}
	} else {
		results = make([]Result, len(e.Commands))
		for i := range e.Commands {
			results[i] = t.apply(&e.Commands[i])
		}
	}
	if err := t.commit(); err != nil {
		for i := range results {
			results[i] = Result{Index: index, Err: fmt.Errorf("commit: %w", err)}
		}
	}
	return results
}

// View returns the state as of the last applied entry.
func (f *FSM) View() View {
	v := View{reader: reader{txn: f.db.Load().read(), region: f.region}}
	if m := get[meta](v.reader, tableMeta, byID, strKey(tableMeta)); m != nil {
		v.meta = *m.rec
	}
	return v
}

// Changed returns a channel that is closed once the applied index is above index. It
// is closed early when the state is restored, and at the next entry if more than
// MaxWaits indexes are waited for: look again and wait again.
func (f *FSM) Changed(index uint64) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applied > index {
		done := make(chan struct{})
		close(done)
		return done
	}
	if len(f.waits) >= MaxWaits && f.waits[index] == nil {
		index = f.applied
	}
	if f.waits[index] == nil {
		f.waits[index] = make(chan struct{})
	}
	return f.waits[index]
}

// wake closes the channels of those who wait for an index below applied.
func (f *FSM) wake(applied uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = applied
	for index, ch := range f.waits {
		if index < applied {
			close(ch)
			delete(f.waits, index)
		}
	}
}

// Snapshot implements raft.FSM. It costs nothing; Persist does the work.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	return snapshot{view: f.View()}, nil
}

// Restore implements raft.FSM. It replaces the whole state, or fails and changes
// nothing: ErrCorrupt if a byte is not as it was written.
func (f *FSM) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	db, m, _, err := readSnapshot(rc, f.region)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	f.db.Store(db)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = m.Index
	for index, ch := range f.waits {
		close(ch)
		delete(f.waits, index)
	}
	return nil
}
