package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/starlingdeploy/starling"
)

// httpPair serves handler at b and returns a client at a that reaches it.
func httpPair(t *testing.T, handler http.Handler) (client *http.Client, dials *atomic.Int64, b *Endpoint) {
	t.Helper()
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleMachine)
	b = w.listen(t, "r", "b", starling.RoleServer)
	server := &http.Server{
		Handler: handler,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return starling.WithIdentity(ctx, c.(*Conn).Peer())
		},
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(b.Listener(KindControl)) }()
	dials = new(atomic.Int64)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			return a.Dial(ctx, b.Addr(), KindControl)
		},
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := server.Shutdown(testContext(t)); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return &http.Client{Transport: transport}, dials, b
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		id, ok := starling.IdentityFrom(r.Context())
		if !ok || id.Name != "a" {
			t.Errorf("the handler sees %v", id)
		}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, err = w.Write(body)
		}
		if err != nil {
			t.Error(err)
		}
	})
	client, dials, _ := httpPair(t, mux)
	for i := range 50 {
		want := strings.Repeat(fmt.Sprint(i), 1000*i)
		res, err := client.Post("http://starling/echo", "text/plain", strings.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || string(got) != want {
			t.Fatalf("request %d: %d of %d bytes, %v", i, len(got), len(want), err)
		}
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d streams for 50 requests: keep-alive does not work", n)
	}
}

// A response that goes on, as SSE and blocking queries do, arrives piece by piece, and the
// handler learns that its reader has gone.
func TestHTTPStreaming(t *testing.T) {
	next, gone := make(chan string), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		out := http.NewResponseController(w)
		for {
			select {
			case line := <-next:
				fmt.Fprintln(w, line)
				if err := out.Flush(); err != nil {
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	})
	client, _, b := httpPair(t, mux)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://starling/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { next <- "begin" }()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for _, want := range []string{"begin", "one", "two"} {
		if want != "begin" {
			next <- want
		}
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q, want %q: %v", lines.Text(), want, lines.Err())
		}
	}
	cancel()
	<-gone
	eventually(t, "the stream is gone", func() bool { return b.Stats().Streams == 0 })
}
