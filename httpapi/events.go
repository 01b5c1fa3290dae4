package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/starlingdeploy/starling"
)

type eventsRead struct {
	LastEventID string `header:"Last-Event-ID" doc:"Go on after this event, INDEX.N; without it: from now on"`
	After       string `query:"after" doc:"The same, for callers that cannot set headers"`
}

// position is a place in a region's order of events.
type position struct {
	index uint64
	n     int
}

func (p position) String() string { return fmt.Sprintf("%d.%d", p.index, p.n) }

func parsePosition(field, s string) (position, error) {
	index, n, _ := strings.Cut(s, ".")
	i, err := strconv.ParseUint(index, 10, 64)
	k := uint64(0)
	if err == nil && n != "" {
		k, err = strconv.ParseUint(n, 10, 31)
	}
	if err != nil {
		return position{}, starling.Invalidf(field, "%.40q: want INDEX.N, the id of an event", s)
	}
	return position{i, int(k)}, nil
}

// events streams the region's events as server-sent events (HTML Living Standard, 9.2).
// An event named "gap" says that some before the next are gone from this server: the
// watcher must read the present state anew. It writes them itself since huma's sse
// package knows whole numbers as ids only.
func (a *api) events(ctx context.Context, in *eventsRead) (*huma.StreamResponse, error) {
	field, text := "Last-Event-ID", in.LastEventID
	if text == "" {
		field, text = "after", in.After
	}
	at := position{a.Backend.Leader().Index, math.MaxInt32}
	if text != "" {
		var err error
		if at, err = parsePosition(field, text); err != nil {
			return nil, err
		}
	}
	done, err := a.enterStream()
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hctx huma.Context) {
		defer done()
		_, w := humago.Unwrap(hctx)
		s := beginStream(w, "text/event-stream")
		defer s.end()
		// An error is the watcher's end, or an event that cannot be told.
		if err := a.streamEvents(ctx, s, at); err != nil && ctx.Err() == nil {
			a.Logger.Debug("an event stream ended", "error", err)
		}
	}}, nil
}

func (a *api) streamEvents(ctx context.Context, s *stream, at position) error {
	if err := s.write([]byte("retry: 1000\n\n")); err != nil {
		return err
	}
	gap := false
	// A watcher that comes from another server may be a little ahead of this one. One that
	// stays ahead has seen the events of another region, or of a lost cluster.
	if at.index > 0 && a.waitAbove(ctx, at.index-1, catchUpWithin) < at.index {
		gap, at = true, position{a.Backend.Leader().Index, math.MaxInt32}
	}
	for ctx.Err() == nil {
		seen := a.Backend.Leader().Index
		events, lost := a.Backend.EventsAfter(at.index, at.n, maxEventsBatch)
		b, err := encodeEvents(events, gap || lost)
		if err != nil {
			return err
		}
		if len(b) > 0 {
			if err := s.write(b); err != nil {
				return err
			}
		}
		if len(events) > 0 {
			last := events[len(events)-1]
			at = position{last.Index, last.N}
		} else if lost {
			at = position{seen, math.MaxInt32}
		}
		gap = false
		if len(events) == maxEventsBatch {
			continue
		}
		if a.waitAbove(ctx, seen, keepAliveEvery) <= seen {
			if err := s.write([]byte(": still here\n\n")); err != nil {
				return err
			}
		}
	}
	return nil
}

func encodeEvents(events []starling.Event, gap bool) ([]byte, error) {
	var b bytes.Buffer
	if gap {
		b.WriteString("event: gap\ndata: {}\n\n")
	}
	for i := range events {
		data, err := json.Marshal(&events[i]) // one line: JSON escapes line ends
		if err != nil {
			return nil, fmt.Errorf("encode an event: %w", err)
		}
		fmt.Fprintf(&b, "id: %s\ndata: %s\n\n", position{events[i].Index, events[i].N}, data)
	}
	return b.Bytes(), nil
}
