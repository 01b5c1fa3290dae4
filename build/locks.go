package build

import (
	"context"
	"sync"
)

// locks is a set of exclusive locks by name. Waiting for one ends with the context.
type locks struct {
	mu    sync.Mutex
	named map[string]*namedLock
}

type namedLock struct {
	free  chan struct{} // holds one token while nobody has the lock
	users int           // holder and waiters
}

func newLocks() *locks { return &locks{named: make(map[string]*namedLock)} }

// lock waits for the lock and returns the function that gives it back.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	n := l.named[name]
	if n == nil {
		n = &namedLock{free: make(chan struct{}, 1)}
		n.free <- struct{}{}
		l.named[name] = n
	}
	n.users++
	l.mu.Unlock()
	select {
	case <-n.free:
		return func() { n.free <- struct{}{}; l.leave(name, n) }, nil
	case <-ctx.Done():
		l.leave(name, n)
		return nil, context.Cause(ctx)
	}
}

// tryLock takes the lock if nobody has or wants it.
func (l *locks) tryLock(name string) (unlock func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.named[name] != nil {
		return nil, false
	}
	n := &namedLock{free: make(chan struct{}, 1), users: 1}
	l.named[name] = n
	return func() { n.free <- struct{}{}; l.leave(name, n) }, true
}

func (l *locks) leave(name string, n *namedLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.users--; n.users == 0 {
		delete(l.named, name)
	}
}
