package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/starlingdeploy/starling"
)

// moved says where a request goes on whose server lost the lead while it served it.
type moved struct {
	req *http.Request
	to  http.RoundTripper // nil: nowhere
}

// repeatable reports whether a change that failed with err may be tried again by the
// server itself: nothing was done, or doing it twice does no harm.
func (r route) repeatable(err error) bool {
	if r.method == http.MethodGet {
		return false // confirm has looked after those that care
	}
	return errors.Is(err, starling.ErrNotLeader) || r.keyed && errors.Is(err, starling.ErrOutcomeUnknown)
}

// persist finds the place of a change anew and tries it again there, so that a change of
// leader costs the caller a wait and no error. If the place is another server it says so in
// call.moved and returns neither an answer nor an error.
func persist[O any](ctx context.Context, a *api, r route, err error, try func() (*O, error)) (*O, error) {
	c := callOf(ctx)
	for end := time.Now().Add(a.Patience); time.Now().Before(end); {
		select {
		case <-time.After(lookAgain): // the old term may take a moment to end
		case <-ctx.Done():
			return nil, err
		}
		to, rerr := a.route(r, c.moved.req, c.body)
		switch {
		case rerr != nil:
			return nil, rerr
		case to != nil:
			c.moved.to = to
			return nil, nil
		}
		var out *O
		if out, err = try(); err == nil || !r.repeatable(err) {
			return out, err
		}
	}
	return nil, err
}
