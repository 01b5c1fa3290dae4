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

	mu    sync.Mutex
	first string // with which the next call begins: the one that answered last
}

// RoundTrip implements http.RoundTripper. It tries each server once at most. One that
// says "unavailable" is alive and may see no leader: the next call begins elsewhere.
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
		if err == nil {
			r.s.suspects.clear(addr)
			if res.StatusCode == http.StatusServiceUnavailable {
				addr = addrs[(i+1)%len(addrs)]
			}
			r.begin(addr)
			return res, nil
		}
		r.s.suspectUnlessCancelled(req.Context(), addr)
		errs = append(errs, err)
		if req.Context().Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// order lists the region's servers, those under suspicion last.
func (r *regionTransport) order() []string {
	addrs := r.s.serversOf(r.region, r.dirs)
	r.mu.Lock()
	first := r.first
	r.mu.Unlock()
	if i := slices.Index(addrs, first); i > 0 {
		addrs = slices.Concat(addrs[i:], addrs[:i])
	}
	return r.s.suspects.last(addrs, r.s.cfg.Now())
}

// begin sets with which server the next call begins, unless that is a suspect.
func (r *regionTransport) begin(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.first = addr
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
