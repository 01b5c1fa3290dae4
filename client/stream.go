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
	// Progress says how a deployment under way stands; ID and Event are empty. Nil: this is
	// an event.
	Progress *starling.DeploymentProgress
}

// Watch says what to be told of. The zero value: all events, from now on.
type Watch struct {
	After      string // the ID of the last event seen
	App        string // only what is about this app
	Deployment string // only what is about this deployment
	Progress   bool   // also how deployments under way stand
}

func (w *Watch) query() string {
	q := url.Values{}
	for name, value := range map[string]string{"app": w.App, "deployment": w.Deployment} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if w.Progress {
		q.Set("progress", "true")
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
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
	return c.Watch(ctx, Watch{After: lastID}, f)
}

// Watch is Events for a part of them, or for more than events.
func (c *Client) Watch(ctx context.Context, w Watch, f func(ServerEvent) error) error {
	backoff := minEventBackoff
	for {
		seen, ferr, err := c.readEvents(ctx, &w, f)
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
		if err := pause(ctx, &backoff); err != nil {
			return err
		}
	}
}

// pause waits before another connection, jittered, and doubles the back-off.
func pause(ctx context.Context, backoff *time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(*backoff/2 + rand.N(*backoff/2)):
	}
	*backoff = min(2**backoff, maxEventBackoff)
	return nil
}

// readEvents reads one connection's events. seen is true if any came; ferr is what f returned.
func (c *Client) readEvents(ctx context.Context, w *Watch, f func(ServerEvent) error) (seen bool, ferr, err error) {
	h := http.Header{"Accept": {"text/event-stream"}}
	if w.After != "" {
		h.Set("Last-Event-ID", w.After)
	}
	res, err := c.request(ctx, http.MethodGet, "/v1/events"+w.query(), h, nil)
	if err != nil {
		return false, nil, err
	}
	defer res.Body.Close()
	stream := readMessages(res.Body)
	for m, ok := stream.next(); ok; m, ok = stream.next() {
		if m.id != "" { // of an event, or of a place from which to go on
			w.After = m.id
		}
		if m.data == "" {
			continue
		}
		ev := ServerEvent{ID: m.id}
		if err := ev.decode(m.kind, m.data); err != nil {
			return seen, nil, err
		}
		if err := f(ev); err != nil {
			return true, err, nil
		}
		seen = true
	}
	if err := stream.lines.Err(); err != nil {
		return seen, nil, fmt.Errorf("events: %w", errors.Join(starling.ErrUnavailable, err))
	}
	return seen, nil, nil
}

// message is one message of a stream; kind is what its field "event" says.
type message struct{ kind, id, data string }

// messages reads the text/event-stream format of HTML's server-sent events.
type messages struct{ lines *bufio.Scanner }

func readMessages(r io.Reader) messages {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEventLineBytes)
	return messages{lines}
}

// next returns the next whole message, which may say nothing. It reports false at the end: why
// it ended is the lines' error.
func (ms messages) next() (m message, ok bool) {
	var data strings.Builder
	for ms.lines.Scan() {
		field, value, _ := strings.Cut(ms.lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case ms.lines.Text() == "":
			m.data = data.String()
			return m, true
		case field == "id":
			m.id = value
		case field == "event":
			m.kind = value
		case field == "data":
			data.WriteString(value)
		}
	}
	return message{}, false
}

func (e *ServerEvent) decode(kind, data string) error {
	into := any(&e.Event)
	switch kind {
	case "gap":
		e.Gap = true
		return nil
	case "progress":
		e.Progress = &starling.DeploymentProgress{}
		into = e.Progress
	}
	if err := json.Unmarshal([]byte(data), into); err != nil {
		return fmt.Errorf("event %s: %w", e.ID, err)
	}
	return nil
}
