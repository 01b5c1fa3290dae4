package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/starlingdeploy/starling"
)

// A connection that breaks in the middle of an event costs nothing and repeats nothing.
func TestLogGoesOnWhereItBroke(t *testing.T) {
	var calls atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		last := r.Header.Get("Last-Event-ID")
		chunk := func(id, text string) {
			fmt.Fprintf(w, "event: chunk\nid: %s\ndata: {\"section\":\"build.1\",\"text\":%q}\n\n", id, text)
		}
		switch calls.Add(1) {
		case 1:
			if last != "" {
				t.Errorf("begins after %q", last)
			}
			chunk("build.1=4", "one\n")
			io.WriteString(w, "event: chunk\nid: build.1=8\ndata: {\"section\":\"build.1\",\"text\":\"two\\n\"}\n")
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			if last != "build.1=4" {
				t.Errorf("resumes after %q", last)
			}
			chunk("build.1=8", "two\n")
			io.WriteString(w, ": still here\n\nevent: lost\ndata: {\"section\":\"build.2\",\"reason\":\"is gone\"}\n\nevent: end\ndata: {}\n\n")
		}
	})
	var got string
	at := starling.LogPlace{}
	err := c.Log(t.Context(), "d", at, true, func(k starling.LogChunk) error {
		got += k.Section + " " + string(k.Data) + k.Lost + ";"
		return nil
	})
	if err != nil || got != "build.1 one\n;build.1 two\n;build.2 is gone;" || at.String() != "build.1=8" {
		t.Errorf("%q at %s, %v", got, at, err)
	}
	text := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	})
	if err := text.Log(t.Context(), "d", at, true, nil); !errors.Is(err, ErrTextOnly) {
		t.Errorf("a server of before: %v", err)
	}
}
