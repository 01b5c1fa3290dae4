package httpapi

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// watchPath reads /v1/events with a query.
func watchPath(t *testing.T, srv *httptest.Server, query, lastID string) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/v1/events?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		res.Body.Close()
	})
	return &watcher{t, res, bufio.NewScanner(res.Body)}
}

// raw returns the next event as it came: its name and its data.
func (w *watcher) raw() (id, name, data string) {
	w.t.Helper()
	for w.lines.Scan() {
		switch field, value, _ := strings.Cut(w.lines.Text(), ": "); field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			return id, name, value
		case "":
			if id != "" && value == "" {
				return id, name, ""
			}
		}
	}
	w.t.Fatalf("the stream ended: %v", w.lines.Err())
	return "", "", ""
}

// A watcher that has seen no event yet has a place from which it resumes all the same.
func TestAStreamBeginsWithItsPlace(t *testing.T) {
	b := newBackend("r1")
	applyApp(t, b, "before")
	srv := serve(t, Config{Backend: b})
	w := watch(t, srv, "")
	id, name, data := w.raw()
	if id != "1.2147483647@r1" || name != "" || data != "" {
		t.Fatalf("first: %q %q %q", id, name, data)
	}
	w.res.Body.Close()
	applyApp(t, b, "while-away")
	if _, _, ev := watch(t, srv, id).next(); ev.App != "while-away" {
		t.Errorf("resumed with %+v", ev)
	}
}

// An id of another region is a gap, even where an event here has the same number.
func TestAnIDOfAnotherRegionIsAGap(t *testing.T) {
	b := newBackend("r1")
	applyApp(t, b, "one")
	applyApp(t, b, "two")
	srv := serve(t, Config{Backend: b})
	w := watch(t, srv, "1.0@r2")
	if _, name, _ := w.next(); name != "gap" {
		t.Errorf("no gap but %q", name)
	}
	applyApp(t, b, "three")
	if _, _, ev := w.next(); ev.App != "three" {
		t.Errorf("after the gap: %+v", ev)
	}
}

func TestWatchersOfAPart(t *testing.T) {
	b := newBackend("r1")
	d := fixture(t, b)
	srv := serve(t, Config{Backend: b})
	one, app := watchPath(t, srv, "deployment="+d.ID, "0.0"), watchPath(t, srv, "app=other", "0.0")
	applyApp(t, b, "other")
	if _, err := b.Act(t.Context(), "test", d.ID, starling.ActionCancel, starling.ActionOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, ev := one.next(); ev.Type != "deployment.queued" || ev.Deployment != d.ID {
		t.Errorf("of the deployment: %+v", ev)
	}
	if _, _, ev := one.next(); ev.Phase != starling.PhaseCancelled {
		t.Errorf("of the deployment: %+v", ev)
	}
	if _, _, ev := app.next(); ev.App != "other" {
		t.Errorf("of the app: %+v", ev)
	}
}

// Progress comes only to those who ask for it, by region only to those who ask for one
// deployment, and has no id; who comes later hears how things stand, unless they have ended.
func TestWatchersHearOfProgress(t *testing.T) {
	b := newBackend("r1")
	srv := serve(t, Config{Backend: b})
	all, one, none := watchPath(t, srv, "progress=true", ""), watchPath(t, srv, "progress=true&deployment=d1", ""), watch(t, srv, "")
	for _, w := range []*watcher{all, one, none} {
		w.raw() // its place: it is being served
	}
	p := func(id string, phase starling.Phase) starling.DeploymentProgress {
		return starling.DeploymentProgress{Deployment: id, App: "web", Phase: phase, Regions: []starling.RegionProgress{{Placing: starling.Placing{Name: "r1"}}}}
	}
	b.progress <- []starling.DeploymentProgress{p("d1", starling.PhaseStaging), p("d2", starling.PhaseQueued)}
	for w, want := range map[*watcher]string{all: `"deployment":"d1"`, one: `"name":"r1"`} {
		if id, name, data := w.raw(); id != "" || name != "progress" || !strings.Contains(data, want) || w == all && strings.Contains(data, "regions") {
			t.Errorf("want %s: %q %q %s", want, id, name, data)
		}
	}
	late := watchPath(t, srv, "progress=true&deployment=d2", "")
	late.raw()
	if _, name, data := late.raw(); name != "progress" || !strings.Contains(data, `"phase":"queued"`) {
		t.Errorf("late: %q %s", name, data)
	}
	b.progress <- []starling.DeploymentProgress{p("d2", starling.PhaseFailed)}
	if _, _, data := late.raw(); !strings.Contains(data, `"phase":"failed"`) {
		t.Errorf("the end: %s", data)
	}
	after := watchPath(t, srv, "progress=true&deployment=d2", "")
	after.raw()
	applyApp(t, b, "one")
	for _, w := range []*watcher{none} {
		if _, name, ev := w.next(); name != "" || ev.App != "one" {
			t.Errorf("without progress: %q %+v", name, ev)
		}
	}
	b.progress <- []starling.DeploymentProgress{p("d2", starling.PhaseCancelled)}
	if _, _, data := after.raw(); !strings.Contains(data, `"phase":"cancelled"`) {
		t.Errorf("one that has ended is told of again: %s", data)
	}
}

// Watchers come and go at any moment, while events are committed in bursts: each sees
// every event once and in order, however it was cut off, and the readers end with the last.
func TestEveryWatcherSeesEveryEventOnce(t *testing.T) {
	const events, watchers = 400, 12
	b := newBackend("r1")
	a := &api{Config: Config{Backend: b, Logger: slog.New(slog.DiscardHandler)}, fanout: newFanout(b, slog.New(slog.DiscardHandler))}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	got := make([][]string, watchers)
	for i := range watchers {
		wg.Go(func() {
			at := position{0, 0, ""}
			for len(got[i]) < events && ctx.Err() == nil {
				cut := &cutOff{left: 500 * (i + 1)}
				leave := a.fanout.enter()
				w := &watching{api: a, in: &eventsRead{}, out: &stream{cut, http.NewResponseController(cut)}, at: at}
				during, stop := context.WithCancel(ctx)
				cut.stop = func() bool { return len(got[i])+len(cut.ids()) >= events }
				cut.end = stop
				_ = w.run(during) // it is cut off each time
				stop()
				leave()
				for _, id := range cut.ids() {
					got[i] = append(got[i], id)
					var err error
					if at, err = parsePosition("id", id); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	var want []string
	for i := range events {
		applyApp(t, b, fmt.Sprintf("a%d", i))
		want = append(want, fmt.Sprintf("%d.0@r1", i+1))
	}
	wg.Wait()
	for i := range got {
		if !slices.Equal(got[i], want) {
			t.Errorf("watcher %d saw %d events, want %d in order: %v", i, len(got[i]), events, got[i][:min(len(got[i]), 20)])
		}
	}
	<-a.fanout.ended
}

// cutOff takes some bytes and then fails, in the middle of whatever it is.
type cutOff struct {
	left int
	text strings.Builder
	stop func() bool
	end  func()
}

func (c *cutOff) Header() http.Header              { return http.Header{} }
func (c *cutOff) WriteHeader(int)                  {}
func (c *cutOff) Flush()                           {}
func (c *cutOff) SetWriteDeadline(time.Time) error { return nil }

func (c *cutOff) Write(b []byte) (int, error) {
	n := min(len(b), c.left)
	c.left -= n
	c.text.Write(b[:n])
	if c.stop() {
		c.end()
	}
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// ids lists the events that came whole.
func (c *cutOff) ids() []string {
	var out []string
	blocks := strings.Split(c.text.String(), "\n\n")
	for _, b := range blocks[:len(blocks)-1] {
		if id, data, ok := strings.Cut(b, "\ndata: "); ok && data != "{}" {
			out = append(out, strings.TrimPrefix(id, "id: "))
		}
	}
	return out
}

// A watcher that writes too slowly reads the ring again instead, and misses nothing.
func TestASlowWatcherCatchesUp(t *testing.T) {
	b := newBackend("r1")
	f := newFanout(b, slog.New(slog.DiscardHandler))
	seen, _, _ := f.join()
	for range maxFrames {
		f.tellProgress(t.Context(), nil)
	}
	if frames, _, _, behind := f.after(seen); behind || len(frames) != maxFrames {
		t.Errorf("%d frames, behind %v", len(frames), behind)
	}
	f.tellProgress(t.Context(), nil)
	if _, _, _, behind := f.after(seen); !behind {
		t.Error("a frame is gone and nobody says so")
	}
}
