package httpapi

import (
	"context"
	"time"

	"github.com/starlingdeploy/starling"
)

// Blocking are the parameters of a read that waits for a change.
type Blocking struct {
	Index uint64 `query:"index" doc:"Answer only once the index is above this one, that of an earlier answer's X-Starling-Index"`
	Wait  string `query:"wait" doc:"But no later than after this time, 30s unless given, 60s at most"`
}

// Stale is the parameter of a read that any region may answer.
type Stale struct {
	Stale string `query:"stale" doc:"When present, this region's copy will do"`
}

// Consistent is the parameter of a read that must show every change that was answered
// before it began.
type Consistent struct {
	Consistent string `query:"consistent" doc:"When present, the answer shows every change that was acknowledged before; it costs a log entry, shared by the reads of a moment"`
}

// block waits until the applied index is above that of b, or b's time is over. It
// returns the index as it was before anything is read, so that no change is missed.
func (a *api) block(ctx context.Context, b Blocking) (uint64, error) {
	wait := defWait
	if b.Wait != "" {
		var d starling.Duration
		if err := d.UnmarshalText([]byte(b.Wait)); err != nil {
			return 0, starling.Invalidf("wait", "%v", err)
		}
		if d < 0 {
			return 0, starling.Invalidf("wait", "%s is negative", d)
		}
		wait = min(d.D(), maxWait)
	}
	if b.Index == 0 {
		return a.Backend.Leader().Index, nil
	}
	return a.waitAbove(ctx, b.Index, wait), nil
}

func (a *api) waitAbove(ctx context.Context, index uint64, wait time.Duration) uint64 {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return a.Backend.WaitIndex(ctx, index)
}
