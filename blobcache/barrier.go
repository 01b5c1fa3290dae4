package blobcache

import (
	"sync"
)

// barrier makes writes durable for many callers at once: all that come while one
// flush runs share the next.
type barrier struct {
	flush func() error

	mu      sync.Mutex
	ended   sync.Cond // a flush ended
	running bool
	next    *flushing // not begun; nil: nobody waits for one
}

type flushing struct {
	ended bool
	err   error
}

func newBarrier(flush func() error) *barrier {
	b := &barrier{flush: flush}
	b.ended.L = &b.mu
	return b
}

// wait returns the result of a flush that began after the call. One of those who
// share a flush runs it.
func (b *barrier) wait() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = &flushing{}
	}
	f := b.next
	for !f.ended {
		if b.running {
			b.ended.Wait()
			continue
		}
		b.running, b.next = true, nil // f is next: flushes run in order
		b.mu.Unlock()
		err := b.flush()
		b.mu.Lock()
		b.running, f.ended, f.err = false, true, err
		b.ended.Broadcast()
	}
	return f.err
}
