package control

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"
)

// clockGivesUp is the share of elapsed time by which a clock that is ahead goes slower: a
// deadline of half an hour passes 9 s late meanwhile.
const clockGivesUp = 200

// steady returns the clock of a term: it starts at the later of now and floor, the state's
// clock, and does not follow later jumps of the wall clock, but adds elapsed monotonic
// time. So no leader measures the deadlines that another stamped with a clock behind that
// one's, whoever of them has the wrong wall clock; and the region comes back to the right
// time by and by.
func steady(now func() time.Time, floor time.Time) func() time.Time {
	base := now()
	ahead := max(0, floor.Sub(base))
	return func() time.Time {
		elapsed := now().Sub(base)
		return base.Add(elapsed + ahead - min(ahead, max(0, elapsed/clockGivesUp)))
	}
}

// backoff is the pause between tries that fail, with jitter.
type backoff struct {
	pause time.Duration
	most  time.Duration // 0: retryMax
}

// wait pauses, longer each time, until ctx ends.
func (b *backoff) wait(ctx context.Context) error {
	b.pause = min(max(2*b.pause, retryMin), cmp.Or(b.most, retryMax))
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
