package client

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/starlingdeploy/starling"
)

// A request whose server is gone goes on to the next, with its key and its body; one that may
// have been carried out and has no key does not.
func TestRequestsGoOnToTheNextServer(t *testing.T) {
	var keys []string
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if r.Method == http.MethodPost && !strings.Contains(string(b), `"sha":"abc"`) {
			t.Errorf("body %s", b)
		}
		_, _ = io.WriteString(w, `{"id":"d1"}`)
	}))
	defer good.Close()
	var broken atomic.Int32
	breaks := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		broken.Add(1)
		panic(http.ErrAbortHandler) // read, and never answered
	}))
	defer breaks.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	c, err := New(Config{Addr: gone.URL + ", " + breaks.URL + "," + good.URL})
	if err != nil {
		t.Fatal(err)
	}
	sub := starling.Submission{App: "a", SHA: "abc"}
	if _, err := c.Submit(t.Context(), sub); err == nil || broken.Load() != 1 || len(keys) != 0 {
		t.Errorf("without a key: %v, asked %d times, the next one %d", err, broken.Load(), len(keys))
	}
	c.servers.at.Store(0)
	sub.IdempotencyKey = "k"
	if d, err := c.Submit(t.Context(), sub); err != nil || d.ID != "d1" || !slices.Equal(keys, []string{"k"}) || broken.Load() != 2 {
		t.Errorf("%+v, %v, keys %q, broken %d", d, err, keys, broken.Load())
	}
	if _, err := c.Stale().Deployment(t.Context(), "d1"); err != nil || broken.Load() != 2 || len(keys) != 2 {
		t.Errorf("it does not stay with the one that answers: %v, %d, %d", err, broken.Load(), len(keys))
	}
	if err := c.LeaveServer(t.Context()); err == nil || len(keys) != 2 {
		t.Errorf("one of three servers leaves: %v", err)
	}
	if _, err := New(Config{Addr: strings.Repeat("h:1,", MaxAddrs) + "h:1"}); err == nil {
		t.Error("too many servers were taken")
	}
	if _, err := New(Config{Addr: "h:1,"}); err == nil {
		t.Error("an empty address was taken")
	}
}
