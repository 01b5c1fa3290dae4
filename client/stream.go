package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// BuildLog copies the build log of a deployment to w from offset on, and with follow
// goes on until the build ends. It returns the offset after the last byte written,
// from which a broken call can go on.
func (c *Client) BuildLog(ctx context.Context, id string, offset int64, follow bool, w io.Writer) (int64, error) {
	q := url.Values{"offset": {strconv.FormatInt(offset, 10)}, "follow": {strconv.FormatBool(follow)}}
	res, err := c.request(ctx, http.MethodGet, "/v1/deployments/"+url.PathEscape(id)+"/logs?"+q.Encode(), nil, nil)
	if err != nil {
		return offset, err
	}
	defer res.Body.Close()
	n, err := io.Copy(w, res.Body)
	if err != nil {
		err = fmt.Errorf("build log: %w", errors.Join(starling.ErrUnavailable, err))
	}
	return offset + n, err
}

// ServerEvent is one event of GET /v1/events.
type ServerEvent struct {
	ID  string // what to resume after
	Gap bool   // events between the last one seen and the next are gone; Event is empty
	starling.Event
}

// Bounds of the event reader.
const (
	maxEventLineBytes = 1 << 20
	minEventBackoff   = 200 * time.Millisecond
	maxEventBackoff   = 5 * time.Second
)

// Events calls f with each event after lastID ("": from now on), in order, until ctx
// ends or f returns an error, which it returns. A broken connection is resumed
// after the last event with jittered back-off.
func (c *Client) Events(ctx context.Context, lastID string, f func(ServerEvent) error) error {
	backoff := minEventBackoff
	for {
		seen, ferr, err := c.readEvents(ctx, &lastID, f)
		switch {
		case ferr != nil:
			return ferr
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, starling.ErrUnavailable):
			return err
		case seen:
			backoff = minEventBackoff
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(backoff/2 + rand.N(backoff/2)):
		}
		backoff = min(2*backoff, maxEventBackoff)
	}
}

// readEvents reads one connection's events (the text/event-stream format of HTML's
// server-sent events). seen is true if any came; ferr is what f returned.
func (c *Client) readEvents(ctx context.Context, lastID *string, f func(ServerEvent) error) (seen bool, ferr, err error) {
	h := http.Header{"Accept": {"text/event-stream"}}
	if *lastID != "" {
		h.Set("Last-Event-ID", *lastID)
	}
	res, err := c.request(ctx, http.MethodGet, "/v1/events", h, nil)
	if err != nil {
		return false, nil, err
	}
	defer res.Body.Close()
	var ev ServerEvent
	var data strings.Builder
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxEventLineBytes)
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "" && data.Len() > 0:
			if err := json.Unmarshal([]byte(data.String()), &ev.Event); err != nil {
				return seen, nil, fmt.Errorf("event %s: %w", ev.ID, err)
			}
			if ev.ID != "" {
				*lastID = ev.ID
			}
			if err := f(ev); err != nil {
				return true, err, nil
			}
			seen = true
			ev = ServerEvent{}
			data.Reset()
		case field == "id":
			ev.ID = value
		case field == "event":
			ev.Gap = value == "gap"
		case field == "data":
			data.WriteString(value)
		}
	}
	if err := lines.Err(); err != nil {
		return seen, nil, fmt.Errorf("events: %w", errors.Join(starling.ErrUnavailable, err))
	}
	return seen, nil, nil
}
