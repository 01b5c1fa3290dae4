package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Bounds of a call.
const (
	wireCallWithin  = 30 * time.Second
	maxAnswerBytes  = 1 << 20
	wireBufferBytes = 4 << 10
)

// wire is one client's own connection that speaks HTTP/1.1, one request after the other,
// without the goroutines of net/http's client: as pgbench does, the load should cost
// little beside what is measured.
type wire struct {
	dial func(context.Context) (net.Conn, error)
	conn net.Conn // nil: to be dialled
	r    *bufio.Reader
	buf  []byte
	stop func() bool
}

// post sends a JSON body and decodes the answer's into out, if that is not nil. Errors
// wrap starling.ErrUnavailable where another try may help.
func (w *wire) post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	status, answer, err := w.roundTrip(ctx, path, body)
	switch {
	case err != nil:
		w.close()
		return fmt.Errorf("POST %s: %w", path, errors.Join(starling.ErrUnavailable, err))
	case status >= 300:
		var p rpc.Problem
		if json.Unmarshal(answer, &p) == nil && (p.Kind == "unavailable" || p.Kind == "not_leader") {
			return fmt.Errorf("POST %s: %w: %s", path, starling.ErrUnavailable, p.Detail)
		}
		return fmt.Errorf("POST %s: status %d: %.300s", path, status, answer)
	case out == nil:
		return nil
	}
	return json.Unmarshal(answer, out)
}

func (w *wire) roundTrip(ctx context.Context, path string, body []byte) (status int, answer []byte, err error) {
	if w.conn == nil {
		if w.conn, err = w.dial(ctx); err != nil {
			return 0, nil, err
		}
		conn := w.conn
		w.r = bufio.NewReaderSize(conn, wireBufferBytes)
		w.stop = context.AfterFunc(ctx, func() { conn.Close() })
	}
	if err := w.conn.SetDeadline(time.Now().Add(wireCallWithin)); err != nil {
		return 0, nil, err
	}
	w.buf = fmt.Appendf(w.buf[:0], "POST %s HTTP/1.1\r\nHost: starling\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, len(body))
	w.buf = append(w.buf, body...)
	if _, err := w.conn.Write(w.buf); err != nil {
		return 0, nil, err
	}
	res, err := http.ReadResponse(w.r, nil)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if err == nil && res.Close {
		w.close()
	}
	return res.StatusCode, answer, err
}

// close drops the connection; the next call dials another.
func (w *wire) close() {
	if w.conn != nil {
		w.stop()
		w.conn.Close()
		w.conn = nil
	}
}
