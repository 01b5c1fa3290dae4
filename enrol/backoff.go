package enrol

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/starlingdeploy/starling"
)

// Pauses between attempts.
const (
	pauseMin = 200 * time.Millisecond
	pauseMax = time.Minute
)

// backoff is decorrelated jitter (Brooker: Exponential Backoff And Jitter, AWS Architecture Blog,
// 2015): each pause is drawn between the least and three times the one before, so that a crowd which
// came together does not come back together. A server's hint goes before it.
type backoff struct{ last time.Duration }

// after returns the pause after an error.
func (b *backoff) after(err error) time.Duration {
	var busy *starling.BusyError
	if errors.As(err, &busy) && busy.After > 0 {
		b.last = 0
		return busy.After + rand.N(busy.After/8+10*time.Millisecond)
	}
	b.last = min(pauseMax, pauseMin+rand.N(max(1, 3*max(b.last, pauseMin)-pauseMin)))
	return b.last
}

// verdict reports whether an error says that the same request will be refused again.
func verdict(err error) bool {
	return errors.Is(err, starling.ErrForbidden) || errors.Is(err, starling.ErrConflict) || errors.Is(err, starling.ErrClock) || starling.IsInvalid(err)
}
