package blobcache

import (
	"context"
	"net"
	"sync"
	"time"
)

// streams keeps a client's idle streams by address and bounds those in use.
type streams struct {
	dial Dial

	mu     sync.Mutex
	closed bool
	addrs  map[string]*addrStreams
}

type addrStreams struct {
	slots chan struct{} // one token per request under way
	users int           // requests under way or waiting for a slot
	idle  []*idleStream // last used last
}

type idleStream struct {
	net.Conn
	expiry *time.Timer // closes it
}

func newStreams(dial Dial) *streams { return &streams{dial: dial, addrs: map[string]*addrStreams{}} }

// enter waits for a slot to addr; the caller calls release in the end.
func (s *streams) enter(ctx context.Context, addr string) (release func(), err error) {
	s.mu.Lock()
	a := s.addrs[addr]
	if a == nil {
		a = &addrStreams{slots: make(chan struct{}, maxStreamsPerAddr)}
		s.addrs[addr] = a
	}
	a.users++
	s.mu.Unlock()

	select {
	case a.slots <- struct{}{}:
		return func() {
			<-a.slots
			s.leave(addr, a)
		}, nil
	case <-ctx.Done():
		s.leave(addr, a)
		return nil, ctx.Err()
	}
}

func (s *streams) leave(addr string, a *addrStreams) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.users--
	s.prune(addr, a)
}

func (s *streams) prune(addr string, a *addrStreams) {
	if a.users == 0 && len(a.idle) == 0 {
		delete(s.addrs, addr)
	}
}

// idle takes the stream to addr that was used last, or nil.
func (s *streams) idle(addr string) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.addrs[addr]
	if a == nil || len(a.idle) == 0 {
		return nil
	}
	i := a.idle[len(a.idle)-1]
	a.idle = a.idle[:len(a.idle)-1]
	i.expiry.Stop() // if it has fired, expire will not find the stream any more
	return i.Conn
}

// keep has conn for a later request, for clientIdle at most.
func (s *streams) keep(addr string, conn net.Conn) {
	s.mu.Lock()
	a := s.addrs[addr]
	full := s.closed || a == nil || len(a.idle) >= maxIdlePerAddr
	if !full {
		i := &idleStream{Conn: conn}
		i.expiry = time.AfterFunc(clientIdle, func() { s.expire(addr, i) })
		a.idle = append(a.idle, i)
	}
	s.mu.Unlock()
	if full {
		_ = conn.Close() // all it was for is done
	}
}

func (s *streams) expire(addr string, i *idleStream) {
	s.mu.Lock()
	found := false
	if a := s.addrs[addr]; a != nil {
		for n, other := range a.idle {
			if other == i {
				a.idle = append(a.idle[:n], a.idle[n+1:]...)
				found = true
				break
			}
		}
		s.prune(addr, a)
	}
	s.mu.Unlock()
	if found {
		_ = i.Close() // all it was for is done
	}
}

func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for addr, a := range s.addrs {
		for _, i := range a.idle {
			i.expiry.Stop()
			_ = i.Close() // all it was for is done
		}
		a.idle = nil
		s.prune(addr, a)
	}
}
