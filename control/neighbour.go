package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// regionTransport sends the calls of the federation, all of which may be repeated, to
// one of a region's servers, and stays with it while it answers. One that is silent is
// left alone for a while, and the call goes on to the next.
type regionTransport struct {
	s      *Server
	region string
	dirs   *directories // nil: none

	mu   sync.Mutex
	good string // answered last
}

// RoundTrip implements http.RoundTripper. It tries each server once at most.
func (r *regionTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	addrs := r.order()
	if len(addrs) == 0 {
		return nil, fmt.Errorf("region %s: no server is known: %w", r.region, starling.ErrUnavailable)
	}
	var errs []error
	for i, addr := range addrs {
		try, err := repeat(req)
		if err != nil {
			return nil, err
		}
		res, err := r.try(try, addr)
		switch {
		case err == nil && res.StatusCode != http.StatusServiceUnavailable:
			r.stay(addr)
			return res, nil
		case err == nil && i == len(addrs)-1:
			return res, nil
		case err == nil: // alive, but it knows no leader: another may
			err = fmt.Errorf("server %s: status %d", addr, res.StatusCode)
			_ = res.Body.Close() // nothing was to be read from it
		default:
			r.s.suspectUnlessCancelled(req.Context(), addr)
		}
		errs = append(errs, err)
		if req.Context().Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// order lists the region's servers, the one that answered last first, suspects last.
func (r *regionTransport) order() []string {
	addrs := r.s.serversOf(r.region, r.dirs)
	r.mu.Lock()
	good := r.good
	r.mu.Unlock()
	if i := slices.Index(addrs, good); i > 0 {
		addrs = slices.Insert(slices.Delete(addrs, i, i+1), 0, good)
	}
	return r.s.suspects.last(addrs, r.s.cfg.Now())
}

func (r *regionTransport) stay(addr string) {
	r.s.suspects.clear(addr)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.good = addr
}

// repeat copies a request with its body from the beginning.
func repeat(req *http.Request) (*http.Request, error) {
	try := req.Clone(req.Context())
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, fmt.Errorf("request body: %w", err)
		}
		try.Body = body
	}
	return try, nil
}

// try sends a request to one server, which may be silent for silentWithin, before its
// answer and in the middle of it.
func (r *regionTransport) try(req *http.Request, addr string) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	silent := time.AfterFunc(silentWithin, func() {
		r.s.suspects.add(addr, r.s.cfg.Now())
		cancel(errSilent)
	})
	res, err := r.s.at(addr).RoundTrip(req.WithContext(ctx))
	if err != nil {
		silent.Stop()
		cancel(nil)
		return nil, err
	}
	res.Body = &heard{cancelled{res.Body, cancel}, silent}
	return res, nil
}

// heard is the body of an answer that must not fall silent.
type heard struct {
	cancelled
	silent *time.Timer
}

// Read implements io.Reader.
func (h *heard) Read(b []byte) (int, error) {
	n, err := h.cancelled.Read(b)
	if n > 0 && err == nil {
		h.silent.Reset(silentWithin)
	}
	return n, err
}

// Close implements io.Closer.
func (h *heard) Close() error {
	h.silent.Stop()
	return h.cancelled.Close()
}
