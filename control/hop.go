package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/starlingdeploy/starling"
)

var (
	errLeaderChanged = errors.New("the leader has changed")
	errSilent        = errors.New("it does not answer")
)

// toServer is a transport that sends every request to one server.
type toServer struct {
	transport http.RoundTripper
	addr      string
}

// at returns a transport to the server at a QUIC address.
func (s *Server) at(addr string) http.RoundTripper { return toServer{s.transport, addr} }

// RoundTrip implements http.RoundTripper.
func (t toServer) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host = "http", t.addr
	res, err := t.transport.RoundTrip(out)
	if err != nil {
		if cause := context.Cause(req.Context()); errors.Is(cause, errLeaderChanged) || errors.Is(cause, errSilent) {
			err = cause
		}
		return nil, fmt.Errorf("server %s: %w: %w", t.addr, starling.ErrUnavailable, err)
	}
	return res, nil
}

// toLocalLeader is a transport to the leader of this region. A request that the
// leader has not begun to answer when it is deposed or lost fails at once, rather
// than when the connection to a dead server times out.
type toLocalLeader struct {
	s    *Server
	addr string
}

// RoundTrip implements http.RoundTripper.
func (t toLocalLeader) RoundTrip(req *http.Request) (*http.Response, error) {
	return watched(req, t.s.at(t.addr), func(ctx context.Context) error {
		for ctx.Err() == nil {
			elected := t.s.cfg.Raft.Leadership()
			if p, ok := t.s.cfg.Raft.Leader(); !ok || p.Addr != t.addr {
				return errLeaderChanged
			}
			select {
			case <-elected:
			case <-ctx.Done():
			}
		}
		return nil
	})
}

// toRemoteLeader is a transport to the leader of another region. While the answer has
// not begun, which may rightly take long, the leader must say now and then that it is
// alive; a request to a dead one would hang until its connection times out.
type toRemoteLeader struct {
	s    *Server
	addr string
}

// RoundTrip implements http.RoundTripper.
func (t toRemoteLeader) RoundTrip(req *http.Request) (*http.Response, error) {
	return watched(req, t.s.at(t.addr), func(ctx context.Context) error {
		for sleep(ctx, probeEvery) == nil {
			if _, err := t.s.statusOf(ctx, t.addr); err != nil && ctx.Err() == nil {
				return errSilent
			}
		}
		return nil
	})
}

// watched sends a request and ends it with the error that watch returns, if any, before
// the answer begins.
func watched(req *http.Request, via http.RoundTripper, watch func(context.Context) error) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	during, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := watch(during); err != nil {
			cancel(err)
		}
	}()
	res, err := via.RoundTrip(req.WithContext(ctx))
	stop()
	<-done
	if err != nil {
		cancel(nil)
		return nil, err
	}
	res.Body = &cancelled{res.Body, cancel}
	return res, nil
}

// cancelled ends a request's context when its answer is closed.
type cancelled struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (c *cancelled) Close() error {
	defer c.cancel(nil)
	return c.ReadCloser.Close()
}

// toLeader is a transport to whoever leads a region. It tries again, until
// leaderWait has passed, where that can do no harm: when nothing was sent yet, or
// when the request only reads or carries an idempotency key.
type toLeader struct {
	s      *Server
	region string
}

// RoundTrip implements http.RoundTripper.
func (t toLeader) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := replayable(req)
	if err != nil {
		return nil, err
	}
	harmless := req.Method == http.MethodGet || req.Method == http.MethodHead || req.Header.Get("Idempotency-Key") != ""
	var pause backoff
	for end := t.s.cfg.Now().Add(leaderWait); ; {
		var sent atomic.Bool
		ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			GotConn: func(httptrace.GotConnInfo) { sent.Store(true) },
		})
		res, err := t.try(req.Context(), req.WithContext(ctx), body, harmless)
		if err == nil || req.Context().Err() != nil || errors.Is(err, starling.ErrNotLeader) {
			return res, err
		}
		again := (harmless || !sent.Load()) && (body != nil || req.Body == nil || req.Body == http.NoBody)
		if !again || !t.s.cfg.Now().Before(end) {
			return nil, err
		}
		t.s.hints.put(t.region, "", time.Time{})
		if pause.wait(req.Context()) != nil {
			return nil, err
		}
	}
}

// try sends a request once, to the leader that is found under ctx. One that does harm
// if sent twice is given up only with its connection.
func (t toLeader) try(ctx context.Context, req *http.Request, body []byte, harmless bool) (*http.Response, error) {
	if body != nil {
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	if t.region != t.s.cfg.Region {
		addr, err := t.s.leaderOf(ctx, t.region)
		if err != nil {
			return nil, err
		}
		via := t.s.at(addr)
		if harmless {
			via = toRemoteLeader{t.s, addr}
		}
		res, err := via.RoundTrip(req)
		if err != nil {
			t.s.suspectUnlessCancelled(ctx, addr)
		}
		return res, err
	}
	own, addr, err := t.s.place(ctx, leaderWait)
	switch {
	case err != nil:
		return nil, err
	case own != nil: // won the lead while the request was on its way out
		return nil, fmt.Errorf("%w: %w", starling.ErrNotLeader, errLeaderChanged)
	}
	return toLocalLeader{t.s, addr}.RoundTrip(req)
}

// replayable reads a small body into memory so that it can be sent again; nil for
// none and for large ones.
func replayable(req *http.Request) ([]byte, error) {
	if req.Body == nil || req.Body == http.NoBody || req.ContentLength <= 0 || req.ContentLength > maxReplayBytes {
		return nil, nil
	}
	defer req.Body.Close()
	b := make([]byte, req.ContentLength)
	if _, err := io.ReadFull(req.Body, b); err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	return b, nil
}
