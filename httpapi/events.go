package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/starlingdeploy/starling"
)

type eventsRead struct {
	LastEventID string `header:"Last-Event-ID" doc:"Go on after this event, by its id; without it: from now on"`
	After       string `query:"after" doc:"The same, for callers that cannot set headers"`
	App         string `query:"app" doc:"Only what is about this app"`
	Deployment  string `query:"deployment" doc:"Only what is about this deployment"`
	Progress    bool   `query:"progress" doc:"Also how deployments under way stand: events named progress, at most two a second for each; with deployment also by region"`
}

// position is a place in a region's order of events. The region is empty in what watchers
// of the version before have kept: then it is believed to be this one.
type position struct {
	index  uint64
	n      int
	region string
}

func (p position) String() string {
	if p.region == "" {
		return fmt.Sprintf("%d.%d", p.index, p.n)
	}
	return fmt.Sprintf("%d.%d@%s", p.index, p.n, p.region)
}

// before reports whether p is before o, both of one region.
func (p position) before(o position) bool {
	return p.index < o.index || p.index == o.index && p.n < o.n
}

func parsePosition(field, s string) (position, error) {
	place, region, named := strings.Cut(s, "@")
	index, n, _ := strings.Cut(place, ".")
	i, err := strconv.ParseUint(index, 10, 64)
	k := uint64(0)
	if err == nil && n != "" {
		k, err = strconv.ParseUint(n, 10, 31)
	}
	if err != nil || named && starling.CheckName(field, region) != nil {
		return position{}, starling.Invalidf(field, "%.40q: want INDEX.N@REGION, the id of an event", s)
	}
	return position{i, int(k), region}, nil
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
	at := position{a.Backend.Leader().Index, math.MaxInt32, a.fanout.region}
	if text != "" {
		var err error
		if at, err = parsePosition(field, text); err != nil {
			return nil, err
		}
	}
	return a.streamed("text/event-stream", func(s *stream) {
		leave := a.fanout.enter()
		defer leave()
		// An error is the watcher's end.
		if err := (&watching{api: a, in: in, out: s, at: at}).run(ctx); err != nil && ctx.Err() == nil {
			a.Logger.Debug("an event stream ended", "error", err)
		}
	})
}

// watching is one watcher's stream.
type watching struct {
	*api
	in  *eventsRead
	out *stream
	at  position // told up to here
	buf bytes.Buffer
}

func (w *watching) run(ctx context.Context) error {
	w.buf.WriteString("retry: 1000\n\n")
	w.begin(ctx)
	for ctx.Err() == nil {
		seen, err := w.catchUp(ctx)
		if err == nil {
			err = w.follow(ctx, seen)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// begin finds out whether the watcher can go on where it was. One that comes from another
// server may be a little ahead of this one; one that stays ahead, or was in another
// region, has seen what is unknown here.
func (w *watching) begin(ctx context.Context) {
	region := w.fanout.region
	foreign := w.at.region != "" && w.at.region != region
	w.at.region = region
	if foreign || w.at.index > 0 && w.waitAbove(ctx, w.at.index-1, catchUpWithin) < w.at.index {
		w.buf.WriteString(eventGap)
		w.at = position{w.Backend.Leader().Index, math.MaxInt32, region}
	}
	w.mark()
}

// mark moves the place from which the watcher resumes, without an event: an id alone.
func (w *watching) mark() { fmt.Fprintf(&w.buf, "id: %s\n\n", w.at) }

// catchUp tells what is behind the frames to come, and how deployments stand. It returns the
// number of the newest frame that need not be read.
func (w *watching) catchUp(ctx context.Context) (seen uint64, err error) {
	seen, upTo, standing := w.fanout.join()
	for w.at.before(upTo) && ctx.Err() == nil {
		fr, _ := readFrame(w.Backend, w.fanout.region, w.at, upTo.index, w.Logger)
		if w.take(fr); fr.gap {
			w.mark()
		}
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	for i := range standing {
		w.takeNote(&standing[i])
	}
	return seen, w.flush()
}

// follow tells of one frame after the other until ctx ends, with an error, or the
// watcher is too slow and must catch up.
func (w *watching) follow(ctx context.Context, seen uint64) error {
	quiet := time.NewTicker(keepAliveEvery)
	defer quiet.Stop()
	for ctx.Err() == nil {
		frames, newest, changed, behind := w.fanout.after(seen)
		if behind {
			return nil
		}
		seen = newest
		for i := range frames {
			w.take(frames[i])
		}
		if w.buf.Len() > 0 {
			if err := w.flush(); err != nil {
				return err
			}
		}
		if len(frames) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-quiet.C:
			w.buf.WriteString(": still here\n")
			w.mark()
			if err := w.flush(); err != nil {
				return err
			}
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// take writes down what of a frame is for this watcher and not yet told.
func (w *watching) take(fr frame) {
	if fr.gap && w.at.before(fr.upTo) {
		w.buf.WriteString(eventGap)
	}
	for i := range fr.notes {
		w.takeNote(&fr.notes[i])
	}
	if w.at.before(fr.upTo) {
		w.at = fr.upTo
	}
}

func (w *watching) takeNote(n *note) {
	committed := n.at != position{}
	switch {
	case committed && !w.at.before(n.at), !committed && !w.in.Progress:
		return
	case w.in.App != "" && n.app != w.in.App, w.in.Deployment != "" && n.deployment != w.in.Deployment:
		return
	case !committed && w.in.Deployment != "":
		w.buf.Write(n.full)
	default:
		w.buf.Write(n.data)
	}
}

func (w *watching) flush() error {
	defer w.buf.Reset()
	if w.buf.Len() == 0 {
		return nil
	}
	return w.out.write(w.buf.Bytes())
}
