package agent

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// keeper keeps a release running: as a child of the agent (service), or by a unit of the
// machine's systemd (unitService). It begins on trial, or is kept from the start.
type keeper interface {
	awaitTrial(ctx context.Context) error // nil: it does well
	keep() error                          // ends the trial well; an error: it has ended ill meanwhile
	awaitUp(ctx context.Context) error    // of one that is kept
	status() (condition, string)          // and if it is not up, why
	stop()                                // the release is to end
	leave()                               // the agent ends, and with it a child
}

// condition is how a release that is kept does.
type condition int

// The conditions.
const (
	down  condition = iota // for now
	up                     // well
	ended                  // it was given up
)

// board holds a release's condition for those who ask and those who wait.
type board struct {
	changed func() // called at each change, by whom sets it

	mu     sync.Mutex
	now    condition
	reason string
	news   chan struct{} // room for one
}

func newBoard(changed func()) *board { return &board{changed: changed, news: make(chan struct{}, 1)} }

// status tells how a kept release does and, if not well, why.
func (b *board) status() (condition, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now, b.reason
}

func (b *board) set(c condition, reason string) {
	b.mu.Lock()
	same := b.now == c && b.reason == reason
	b.now, b.reason = c, reason
	b.mu.Unlock()
	if same {
		return
	}
	select {
	case b.news <- struct{}{}:
	default:
	}
	b.changed()
}

// await waits until a release that is kept does well, at most for a limit.
func (b *board) await(ctx context.Context, limit time.Duration) error {
	t := time.NewTimer(limit)
	defer t.Stop()
	for {
		now, reason := b.status()
		switch now {
		case up:
			return nil
		case ended:
			return fmt.Errorf("%w: %s", errEnded, reason)
		}
		select {
		case <-b.news:
		case <-t.C:
			return fmt.Errorf("not well within %s: %s", limit, reason)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// awaitLimit is how long a kept release may take to do well.
func awaitLimit(check *checker) time.Duration {
	if check == nil {
		return 2 * settleTime
	}
	return 2*settleTime + check.spec.Deadline.D()
}

// untilWell waits until a release's check passes or, without one, for settleTime.
func untilWell(ctx context.Context, check *checker) error {
	if check != nil {
		return check.await(ctx)
	}
	return wait(ctx, settleTime)
}

// wait waits for d or the end of ctx, whose error it then returns.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
