package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"

	"github.com/starlingdeploy/starling"
)

// ErrTextOnly says that a server gives logs as one text only: see BuildLog.
var ErrTextOnly = errors.New("the server gives logs as text only")

// Log calls f with the pieces of a deployment's log, of its builds and hooks, after a
// place, which it moves on; with follow until nothing will be added any more. A broken
// connection is resumed exactly there, at whatever server answers, with jittered back-off.
// Each piece is of one section; those that run at the same time come interleaved. An error
// of f ends it and is returned.
func (c *Client) Log(ctx context.Context, id string, at starling.LogPlace, follow bool, f func(starling.LogChunk) error) error {
	backoff := minEventBackoff
	for {
		before := at.String()
		ended, ferr, err := c.readLog(ctx, id, at, follow, f)
		switch {
		case ferr != nil:
			return ferr
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, starling.ErrUnavailable):
			return err
		case ended:
			return nil
		case !follow && err != nil:
			return err
		case at.String() != before:
			backoff = minEventBackoff
		}
		if err := pause(ctx, &backoff); err != nil {
			return err
		}
	}
}

// readLog reads one connection's pieces. ended: the server says that nothing follows.
func (c *Client) readLog(ctx context.Context, id string, at starling.LogPlace, follow bool, f func(starling.LogChunk) error) (ended bool, ferr, err error) {
	h := http.Header{"Accept": {"text/event-stream"}}
	if len(at) > 0 {
		h.Set("Last-Event-ID", at.String())
	}
	q := url.Values{"follow": {fmt.Sprint(follow)}}
	res, err := c.request(ctx, http.MethodGet, "/v1/deployments/"+url.PathEscape(id)+"/logs?"+q.Encode(), h, nil)
	if err != nil {
		return false, nil, err
	}
	defer res.Body.Close()
	if kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || kind != "text/event-stream" {
		return false, nil, ErrTextOnly
	}
	stream := readMessages(res.Body)
	for m, ok := stream.next(); ok; m, ok = stream.next() {
		if m.kind == "end" {
			return true, nil, nil
		}
		if ferr, err := tellPiece(m, at, f); ferr != nil || err != nil {
			return false, ferr, err
		}
	}
	return false, nil, errors.Join(starling.ErrUnavailable, stream.lines.Err(), io.ErrUnexpectedEOF)
}

// tellPiece calls f with a piece, and then moves the place on to after it. The id counts, not
// the text, where bytes that are no characters were replaced.
func tellPiece(m message, at starling.LogPlace, f func(starling.LogChunk) error) (ferr, err error) {
	if m.kind != "chunk" && m.kind != "lost" {
		return nil, nil
	}
	next, err := starling.ParseLogPlace("id", m.id)
	if err != nil {
		return nil, err
	}
	var said struct {
		Section, Text, Reason string
		Offset                int64
	}
	if err := json.Unmarshal([]byte(m.data), &said); err != nil {
		return nil, fmt.Errorf("log at %s: %w", m.id, err)
	}
	if err := f(starling.LogChunk{Section: said.Section, Offset: said.Offset, Data: []byte(said.Text), Lost: said.Reason}); err != nil {
		return err, nil
	}
	maps.Copy(at, next)
	return nil, nil
}
