package control

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// suspects are servers of other regions that did not answer a moment ago. They are
// asked after the others: gossip over there and QUIC take many seconds to notice a death.
type suspects struct {
	mu    sync.Mutex
	until map[string]time.Time // by address; maxSuspects at most
}

// maxSuspects bounds the list; beyond it nobody new is suspected.
const maxSuspects = maxRegions * maxServersPerRegion

func (l *suspects) add(addr string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = map[string]time.Time{}
	}
	for a, until := range l.until {
		if !now.Before(until) {
			delete(l.until, a)
		}
	}
	if _, ok := l.until[addr]; ok || len(l.until) < maxSuspects {
		l.until[addr] = now.Add(suspectFor)
	}
}

func (l *suspects) clear(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.until, addr)
}

func (l *suspects) has(addr string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.until[addr])
}

// last sorts addrs: suspects go to the end, the one that was silent longest ago first
// among them.
func (l *suspects) last(addrs []string, now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := func(a string) time.Time {
		if until := l.until[a]; now.Before(until) {
			return until
		}
		return time.Time{}
	}
	slices.SortStableFunc(addrs, func(a, b string) int { return key(a).Compare(key(b)) })
	return addrs
}

// suspectUnlessCancelled notes that a request under ctx failed at a server of another
// region. That its caller went away says nothing of the server.
func (s *Server) suspectUnlessCancelled(ctx context.Context, addr string) {
	if !errors.Is(ctx.Err(), context.Canceled) {
		s.suspects.add(addr, s.cfg.Now())
	}
}
