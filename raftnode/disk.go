package raftnode

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// keyNotFound is how a stable store says that it has no value; Raft knows the text.
const keyNotFound = "not found"

// files is a store of log entries and of Raft's own values; *raftboltdb.BoltStore is one.
type files interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// disk stands between Raft and its files, and believes the first failure: after an
// fsync that failed, the kernel may have dropped what it did not write, and the next
// one succeeds (Rebello et al., "Can Applications Recover from fsync Failures?",
// 2020). So nothing is written, read or tried again after a failure; the server stops,
// and starts from what is really on disk.
type disk struct {
	files  files
	server string
	room   func() error // an error that wraps errNoRoom: too little to write an entry

	running atomic.Bool   // Raft's own goroutines are at work
	failed  chan struct{} // closed at the first failure
	mu      sync.Mutex
	err     error // the first failure
	broken  bool  // bbolt panicked, and may hold its own locks
}

// errNoRoom says that an entry was not written since the disk is almost full. Nothing was
// touched: writing goes on when there is room.
var errNoRoom = errors.New("the disk is almost full")

func newDisk(f files, server string) *disk {
	return &disk{files: f, server: server, failed: make(chan struct{}), room: func() error { return nil }}
}

// fail notes a failure, and returns the first one.
func (d *disk) fail(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = fmt.Errorf("%w: the disk of server %s failed: %w", starling.ErrUnavailable, d.server, err)
		close(d.failed)
	}
	return d.err
}

// stop ends this server's part in Raft for another reason, as a failure would.
func (d *disk) stop(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = err
		close(d.failed)
	}
}

// failure returns the first failure, or nil.
func (d *disk) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// halt notes a failure that hashicorp/raft would panic about, and ends its goroutine
// instead, so that the process can end in order. Before Raft runs, it returns.
func (d *disk) halt(err error) error {
	err = d.fail(err)
	if d.running.Load() {
		runtime.Goexit()
	}
	return err
}

// writable returns why no entry can be written now, or nil.
func (d *disk) writable() error {
	if err := d.failure(); err != nil {
		return err
	}
	return d.room()
}

// do runs one operation on the files. bbolt panics, or faults in its memory map, where a
// page is not what it should be.
func (d *disk) do(what string, op func() error) (err error) {
	if err := d.failure(); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			d.mu.Lock()
			d.broken = true
			d.mu.Unlock()
			err = d.fail(fmt.Errorf("%w: %s: %v", starling.ErrCorrupt, what, p))
		}
	}()
	err = op()
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || err.Error() == keyNotFound {
		return err
	}
	return d.fail(fmt.Errorf("%s: %w", what, err))
}

func (d *disk) FirstIndex() (i uint64, err error) {
	err = d.do("find the first log entry", func() error { i, err = d.files.FirstIndex(); return err })
	return i, err
}

func (d *disk) LastIndex() (i uint64, err error) {
	err = d.do("find the last log entry", func() error { i, err = d.files.LastIndex(); return err })
	return i, err
}

func (d *disk) GetLog(index uint64, l *raft.Log) error {
	return d.do("read a log entry", func() error {
		err := d.files.GetLog(index, l)
		if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
			err = fmt.Errorf("%w: %w", starling.ErrCorrupt, err)
		}
		return err
	})
}

func (d *disk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d *disk) StoreLogs(in []*raft.Log) error {
	return d.do("write log entries", func() error { return d.files.StoreLogs(in) })
}

func (d *disk) DeleteRange(first, last uint64) error {
	return d.do("delete log entries", func() error { return d.files.DeleteRange(first, last) })
}

func (d *disk) Set(key, value []byte) error {
	return d.do("write "+string(key), func() error { return d.files.Set(key, value) })
}

func (d *disk) Get(key []byte) (value []byte, err error) {
	err = d.do("read "+string(key), func() error { value, err = d.files.Get(key); return err })
	return value, err
}

// Close closes the files, unless bbolt may be stuck in them: then the process's end does.
func (d *disk) Close() error {
	d.mu.Lock()
	broken := d.broken
	d.mu.Unlock()
	if broken {
		return nil
	}
	return d.files.Close()
}
