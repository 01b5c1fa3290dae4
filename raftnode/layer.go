package raftnode

import (
	"errors"
	"net"
	"sync"

	"github.com/hashicorp/raft"
)

// layer closes the streams that it has accepted when it is closed: Raft's transport
// leaves them to the other side, which may be gone without a word. It takes none before
// it is opened.
type layer struct {
	raft.StreamLayer

	mu      sync.Mutex
	streams map[*accepted]struct{}
	opened  bool
	closed  bool
}

type accepted struct {
	net.Conn
	of *layer
}

func newLayer(l raft.StreamLayer) *layer {
	return &layer{StreamLayer: l, streams: make(map[*accepted]struct{})}
}

// open has streams accepted from now on, and tells whether they were not before.
func (l *layer) open() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.opened
	l.opened = true
	return !was
}

// Accept implements net.Listener.
func (l *layer) Accept() (net.Conn, error) {
	for {
		conn, err := l.StreamLayer.Accept()
		if err != nil {
			return nil, err
		}
		if a, err := l.take(conn); a != nil || err != nil {
			return a, err
		}
	}
}

// take returns nil for a stream that is turned away.
func (l *layer) take(conn net.Conn) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	if !l.opened {
		_ = conn.Close() // the caller tries again
		return nil, nil
	}
	a := &accepted{conn, l}
	l.streams[a] = struct{}{}
	return a, nil
}

// Close implements net.Conn.
func (a *accepted) Close() error {
	a.of.mu.Lock()
	delete(a.of.streams, a)
	a.of.mu.Unlock()
	return a.Conn.Close()
}

// Close implements net.Listener.
func (l *layer) Close() error {
	l.mu.Lock()
	l.closed = true
	open := l.streams
	l.streams = make(map[*accepted]struct{})
	l.mu.Unlock()
	err := l.StreamLayer.Close()
	for a := range open {
		_ = a.Conn.Close() // the other side may have closed it
	}
	return err
}
