package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/transport"
)

// TestOverQUIC runs the protocol between real endpoints with real certificates.
func TestOverQUIC(t *testing.T) {
	now := time.Now()
	ca, err := pki.NewCA("test", now)
	if err != nil {
		t.Fatal(err)
	}
	listen := func(name string, role starling.Role) *transport.Endpoint {
		t.Helper()
		cert, key, err := ca.Issue(pki.Request{Name: name, Region: "eu", Roles: []starling.Role{role},
			IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, TTL: time.Hour}, now)
		if err != nil {
			t.Fatal(err)
		}
		credentials, err := pki.Load(ca.CertPEM(), cert, key)
		if err != nil {
			t.Fatal(err)
		}
		e, err := transport.Listen(transport.Config{Bind: "127.0.0.1:0", Credentials: credentials, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	cache, worker, machine := listen("cache-1", starling.RoleCache), listen("worker-1", starling.RoleWorker), listen("machine-1", starling.RoleMachine)
	store, err := blobcache.OpenStore(t.TempDir(), 64<<20, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	var wg sync.WaitGroup
	var clients []*blobcache.Client
	t.Cleanup(func() {
		for _, c := range clients {
			c.Close()
		}
		cancel()
		wg.Wait()
		for _, closer := range []interface{ Close() error }{machine, worker, cache, store} {
			if err := closer.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	server := blobcache.NewServer(blobcache.ServerConfig{Region: "eu", Source: store, Store: store, Logger: slog.New(slog.DiscardHandler)})
	wg.Go(func() {
		err := server.Serve(ctx, func(ctx context.Context) (net.Conn, starling.Identity, error) {
			c, err := cache.Accept(ctx, transport.KindBlob)
			if err != nil {
				return nil, starling.Identity{}, err
			}
			return c, c.Peer(), nil
		})
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	client := func(e *transport.Endpoint) *blobcache.Client {
		c := blobcache.NewClient(func(ctx context.Context, addr string) (net.Conn, error) {
			return e.Dial(ctx, addr, transport.KindBlob)
		})
		clients = append(clients, c)
		return c
	}
	up, down := client(worker), client(machine)

	random := rand.NewChaCha8([32]byte{1})
	for range 5 {
		data := make([]byte, starling.MaxChunkBytes)
		random.Read(data)
		d := starling.DigestOf(data)
		if err := down.Put(ctx, cache.Addr(), d, data); !errors.Is(err, starling.ErrForbidden) {
			t.Errorf("a machine puts: %v", err)
		}
		if err := up.Put(ctx, cache.Addr(), d, data); err != nil {
			t.Fatal(err)
		}
		got, err := down.Get(ctx, cache.Addr(), d, nil)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("get: %d bytes, %v", len(got), err)
		}
	}
	if _, err := down.Get(ctx, cache.Addr(), starling.Digest{1}, nil); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("get nothing: %v", err)
	}
	if _, err := down.Get(ctx, worker.Addr(), starling.Digest{1}, nil); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("get from a worker: %v", err)
	}
	for server.OutBytes(starling.Digest{}) != 5*starling.MaxChunkBytes { // counted after the last byte has gone
		if ctx.Err() != nil {
			t.Fatalf("%d bytes counted", server.OutBytes(starling.Digest{}))
		}
		time.Sleep(time.Millisecond)
	}
}
