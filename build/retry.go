package build

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff spaces retries: full jitter over a ceiling that doubles.
type backoff struct {
	min, max time.Duration
	tries    int
}

// wait sleeps before the next try; the error is that of ctx.
func (b *backoff) wait(ctx context.Context) error {
	ceiling := b.max
	if b.tries < 20 {
		ceiling = min(b.max, b.min<<b.tries)
	}
	b.tries++
	return sleep(ctx, b.min/2+rand.N(ceiling))
}

// sleep waits for d or the end of ctx, whose cause it then returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// retry calls f until it succeeds or span has passed since the first try; then it
// returns f's last error. If ctx ends it returns the cause.
func retry(ctx context.Context, span time.Duration, f func(context.Context) error) error {
	end := time.Now().Add(span)
	b := backoff{min: 100 * time.Millisecond, max: 5 * time.Second}
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Now().After(end) {
			return err
		}
		if werr := b.wait(ctx); werr != nil {
			return werr
		}
	}
}
