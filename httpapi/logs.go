package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/starlingdeploy/starling"
)

const (
	maxLogEventBytes = 64 << 10 // of text in one event
	logRest          = 100 * time.Millisecond
)

type logRead struct {
	ID     string `path:"id"`
	Offset int64  `query:"offset" doc:"In bytes of the text"`
	Follow bool   `query:"follow" doc:"Go on until nothing will be added any more"`
	Accept string `header:"Accept" doc:"With text/event-stream the sections come as server-sent events: chunk {section, offset, text}, lost {section, reason}, and end"`
	// For event streams.
	LastEventID string `header:"Last-Event-ID" doc:"Of an event stream: go on after this piece, by its id"`
	After       string `query:"after" doc:"The same, for callers that cannot set headers"`
	Stale
}

// logEvent is what one event of a log says.
type logEvent struct {
	Section string `json:"section"`
	Offset  int64  `json:"offset"` // in bytes of the section
	Text    string `json:"text,omitempty"`
	Reason  string `json:"reason,omitempty"` // of a section that is lost in part
}

func (a *api) readLog(ctx context.Context, in *logRead) (*huma.StreamResponse, error) {
	if _, ok := a.Backend.Deployment(in.ID); !ok {
		return nil, noDeployment(in.ID)
	}
	if strings.Contains(in.Accept, "text/event-stream") {
		return a.logEvents(ctx, in)
	}
	return a.logText(ctx, in)
}

// logEvents streams the sections of a log, each from where the reader was. It ends with an
// event named "end" when nothing will follow; without that the reader goes on elsewhere.
func (a *api) logEvents(ctx context.Context, in *logRead) (*huma.StreamResponse, error) {
	field, text := "Last-Event-ID", in.LastEventID
	if text == "" {
		field, text = "after", in.After
	}
	at, err := starling.ParseLogPlace(field, text)
	if err != nil {
		return nil, err
	}
	news, err := a.logNews(ctx, in, at)
	if err != nil {
		return nil, err
	}
	return a.streamed("text/event-stream", func(s *stream) {
		if err := a.streamLog(ctx, in, s, at, news); err != nil && ctx.Err() == nil {
			a.Logger.Debug("a log stream ended", "deployment", in.ID, "error", err)
		}
	})
}

func (a *api) streamLog(ctx context.Context, in *logRead, s *stream, at starling.LogPlace, news starling.LogNews) error {
	if err := s.write([]byte("retry: 1000\n\n")); err != nil {
		return err
	}
	for ctx.Err() == nil {
		var b bytes.Buffer
		moved := false
		for _, c := range news.Chunks {
			wrote, err := encodeChunk(&b, at, c, news.Done)
			if err != nil {
				return err
			}
			moved = moved || wrote
		}
		over := !moved && (news.Done || !in.Follow)
		if over {
			if err := encodeLost(&b, at, news.Chunks); err != nil {
				return err
			}
		}
		switch {
		case over:
			fmt.Fprintf(&b, "event: end\ndata: {\"whole\":%t}\n\n", news.Done)
		case b.Len() == 0:
			b.WriteString(": still here\n\n")
		}
		if err := s.write(b.Bytes()); err != nil || over {
			return err
		}
		rest(ctx, logRest) // what comes meanwhile comes together
		var err error
		if news, err = a.logNews(ctx, in, at); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// encodeChunk writes a chunk as events and moves the place. A character that is not there
// in full yet is left for the next time, unless this is the end.
func encodeChunk(b *bytes.Buffer, at starling.LogPlace, c starling.LogChunk, last bool) (moved bool, err error) {
	data := c.Data
	for len(data) > 0 {
		n := min(len(data), maxLogEventBytes)
		if cut := wholeRunes(data[:n]); cut > 0 {
			n = cut
		}
		if i := bytes.LastIndexByte(data[:n], '\n'); n < len(data) && i > 0 {
			n = i + 1
		}
		if !last && wholeRunes(data[:n]) == 0 {
			break
		}
		text, err := json.Marshal(logEvent{Section: c.Section, Offset: at[c.Section], Text: string(data[:n])})
		if err != nil {
			return moved, fmt.Errorf("encode a log: %w", err)
		}
		at[c.Section] += int64(n)
		fmt.Fprintf(b, "event: chunk\nid: %s\ndata: %s\n\n", at, text)
		data, moved = data[n:], true
	}
	return moved, nil
}

// encodeLost says which sections are not here in full.
func encodeLost(b *bytes.Buffer, at starling.LogPlace, chunks []starling.LogChunk) error {
	for _, c := range chunks {
		if c.Lost == "" {
			continue
		}
		text, err := json.Marshal(logEvent{Section: c.Section, Offset: at[c.Section], Reason: c.Lost})
		if err != nil {
			return fmt.Errorf("encode a log: %w", err)
		}
		fmt.Fprintf(b, "event: lost\ndata: %s\n\n", text)
	}
	return nil
}

// wholeRunes returns how many bytes of b are without the beginning of a character at the end.
func wholeRunes(b []byte) int {
	for i := len(b) - 1; i >= 0 && i >= len(b)-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if utf8.FullRune(b[i:]) {
				return len(b)
			}
			return i
		}
	}
	return len(b)
}

// logNews reads what is new; without follow it does not wait for it.
func (a *api) logNews(ctx context.Context, in *logRead, at starling.LogPlace) (starling.LogNews, error) {
	if !in.Follow {
		peek, cancel := context.WithTimeout(ctx, logPeek)
		defer cancel()
		news, err := a.Backend.Log(peek, in.ID, at)
		if err != nil && peek.Err() != nil && ctx.Err() == nil {
			return starling.LogNews{}, nil
		}
		return news, err
	}
	wait, cancel := context.WithTimeout(ctx, keepAliveEvery)
	defer cancel()
	news, err := a.Backend.Log(wait, in.ID, at)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return starling.LogNews{}, nil
	}
	return news, err
}

// logText streams a log as text. An error after the first byte can only end the
// stream; the reader goes on from where it is.
func (a *api) logText(ctx context.Context, in *logRead) (*huma.StreamResponse, error) {
	if in.Offset < 0 {
		return nil, starling.Invalidf("offset", "%d is negative", in.Offset)
	}
	part, err := a.logPart(ctx, in)
	if err != nil {
		return nil, err
	}
	return a.streamed("text/plain; charset=utf-8", func(s *stream) {
		for {
			if err := s.write(part.Data); err != nil {
				return // the reader is gone
			}
			if part.Done || (len(part.Data) == 0 && !in.Follow) || ctx.Err() != nil {
				return
			}
			in.Offset = part.Next
			if part, err = a.logPart(ctx, in); err != nil {
				a.Logger.Warn("a build log ends early", "deployment", in.ID, "offset", in.Offset, "error", err)
				return
			}
		}
	})
}

// logPart reads the next part; without follow it does not wait for one.
func (a *api) logPart(ctx context.Context, in *logRead) (starling.LogPart, error) {
	if !in.Follow {
		peek, cancel := context.WithTimeout(ctx, logPeek)
		defer cancel()
		part, err := a.Backend.BuildLog(peek, in.ID, in.Offset)
		if err != nil && peek.Err() != nil && ctx.Err() == nil {
			return starling.LogPart{Next: in.Offset}, nil
		}
		return part, err
	}
	return a.Backend.BuildLog(ctx, in.ID, in.Offset)
}
