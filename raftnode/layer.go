package raftnode

import (
	"errors"
	"net"
	"sync"

	"github.com/hashicorp/raft"
)

// layer closes the streams that it has accepted when it is closed: Raft's transport
// leaves them to the other side, which may be gone without a word.
type layer struct {
	raft.StreamLayer

	mu     sync.Mutex
	open   map[*accepted]struct{}
	closed bool
}

type accepted struct {
	net.Conn
	of *layer
}

func newLayer(l raft.StreamLayer) *layer {
	return &layer{StreamLayer: l, open: make(map[*accepted]struct{})}
}

// Accept implements net.Listener.
func (l *layer) Accept() (net.Conn, error) {
	conn, err := l.StreamLayer.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	a := &accepted{conn, l}
	l.open[a] = struct{}{}
	return a, nil
}

// Close implements net.Conn.
func (a *accepted) Close() error {
	a.of.mu.Lock()
	delete(a.of.open, a)
	a.of.mu.Unlock()
	return a.Conn.Close()
}

// Close implements net.Listener.
func (l *layer) Close() error {
	l.mu.Lock()
	l.closed = true
	open := l.open
	l.open = make(map[*accepted]struct{})
	l.mu.Unlock()
	err := l.StreamLayer.Close()
	for a := range open {
		_ = a.Conn.Close() // the other side may have closed it
	}
	return err
}
