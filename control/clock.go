package control

import (
	"context"
	"math/rand/v2"
	"time"
)

// steady returns a clock that starts at now and does not follow later jumps of the
// wall clock: it adds elapsed monotonic time to its first reading. Deadlines and
// leases of a term are measured with one such clock.
func steady(now func() time.Time) func() time.Time {
	base := now()
	return func() time.Time { return base.Add(now().Sub(base)) }
}

// backoff is the pause between tries that fail, with jitter.
type backoff struct{ pause time.Duration }

// wait pauses, longer each time, until ctx ends.
func (b *backoff) wait(ctx context.Context) error {
	b.pause = min(max(2*b.pause, retryMin), retryMax)
	return sleep(ctx, b.pause/2+rand.N(b.pause/2))
}

func (b *backoff) reset() { b.pause = 0 }

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
