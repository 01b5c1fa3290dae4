package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

// world is a cluster's CA and how to make nodes of it.
type world struct {
	ca  *pki.CA
	now time.Time
}

func newWorld(t testing.TB, cluster string) *world {
	t.Helper()
	now := time.Now()
	ca, err := pki.NewCA(cluster, now)
	if err != nil {
		t.Fatal(err)
	}
	return &world{ca: ca, now: now}
}

func (w *world) credentials(t testing.TB, region, name string, roles ...starling.Role) *pki.Credentials {
	t.Helper()
	return w.credentialsFor(t, pki.Request{Name: name, Region: region, Roles: roles, TTL: time.Hour}, w.now)
}

func (w *world) credentialsFor(t testing.TB, r pki.Request, at time.Time) *pki.Credentials {
	t.Helper()
	cert, key, err := w.ca.Issue(r, at)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.Load(w.ca.CertPEM(), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) listen(t testing.TB, region, name string, roles ...starling.Role) *Endpoint {
	t.Helper()
	return listenWith(t, Config{Credentials: w.credentials(t, region, name, roles...)})
}

func listenWith(t testing.TB, cfg Config) *Endpoint {
	t.Helper()
	if cfg.Bind == "" {
		cfg.Bind = "127.0.0.1:0"
	}
	e, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil && !errors.Is(err, net.ErrClosed) { // a killed one has lost its socket
			t.Errorf("Close: %v", err)
		}
	})
	return e
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// pair opens a stream from a to b and returns both of its ends.
func pair(t testing.TB, a, b *Endpoint, k Kind) (near, far *Conn) {
	t.Helper()
	ctx := testContext(t)
	near, err := a.Dial(ctx, b.Addr(), k)
	if err != nil {
		t.Fatal(err)
	}
	if far, err = b.Accept(ctx, k); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, near, far) })
	return near, far
}

func closeAll(t testing.TB, conns ...net.Conn) {
	t.Helper()
	for _, c := range conns {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// eventually polls until ok or the time is up.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		fmt.Fprint(t.Output(), string(p))
		return len(p), nil
	}), nil))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
