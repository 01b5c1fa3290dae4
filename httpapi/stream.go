package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/starlingdeploy/starling"
)

// stream writes an answer piece by piece. A reader that takes nothing for writeWithin
// is given up.
type stream struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func beginStream(w http.ResponseWriter, contentType string) *stream {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // reverse proxies in between must not wait for more
	w.WriteHeader(http.StatusOK)
	return &stream{w, http.NewResponseController(w)}
}

func (s *stream) write(b []byte) error {
	if err := s.rc.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.rc.Flush()
}

// Write implements io.Writer.
func (s *stream) Write(b []byte) (int, error) {
	if err := s.write(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// end lifts the deadline, for the next request on the connection.
func (s *stream) end() {
	_ = s.rc.SetWriteDeadline(time.Time{}) // a connection that is gone needs none
}

// streamed answers with what write writes, in a place among the open streams.
func (a *api) streamed(contentType string, write func(*stream)) (*huma.StreamResponse, error) {
	leave, err := a.enterStream()
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer leave()
		_, w := humago.Unwrap(hctx)
		s := beginStream(w, contentType)
		defer s.end()
		write(s)
	}}, nil
}

// enterStream takes a place among the open streams; the caller gives it back.
func (a *api) enterStream() (leave func(), err error) {
	select {
	case a.streams <- struct{}{}:
		return func() { <-a.streams }, nil
	default:
		return nil, fmt.Errorf("%d streams are open: %w", maxStreams, starling.ErrUnavailable)
	}
}
