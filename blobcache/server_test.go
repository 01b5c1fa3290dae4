package blobcache

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

var (
	worker  = identity("eu", "worker-1", starling.RoleWorker)
	machine = identity("eu", "machine-1", starling.RoleMachine)
)

// startServer serves a new memory store in region eu at "cache".
func startServer(n *network, edit func(*ServerConfig)) (*MemStore, *Server) {
	store := NewMemStore(64 << 20)
	cfg := ServerConfig{Region: "eu", Source: store, Store: store, Logger: quiet(),
		VerifyManifest: func(envelope []byte, _ starling.Digest) error {
			if !bytes.HasPrefix(envelope, []byte("signed")) {
				return errors.New("not signed")
			}
			return nil
		}}
	if edit != nil {
		edit(&cfg)
	}
	s := NewServer(cfg)
	n.serve("cache", s)
	return store, s
}

func TestProtocol(t *testing.T) {
	for name, tcp := range map[string]bool{"in memory": false, "over TCP": true} {
		t.Run(name, func(t *testing.T) { testProtocol(t, newNetwork(t, tcp)) })
	}
}

func testProtocol(t *testing.T, n *network) {
	ctx := within(t, 30*time.Second)
	startServer(n, nil)
	c := n.client(worker)
	d, data := chunkOf(t, 1, 900_000)
	if _, err := c.Get(ctx, "cache", d, nil); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("get what is not there: %v", err)
	}
	if err := c.Put(ctx, "cache", d, data); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, 1<<20)
	got, err := c.Get(ctx, "cache", d, buf)
	if err != nil || !bytes.Equal(got, data) || &got[0] != &buf[:1][0] {
		t.Errorf("get: %d bytes, %v", len(got), err)
	}
	ask := make([]starling.Digest, maxHasDigests+10) // two batches
	ask[3], ask[maxHasDigests+9] = d, d
	has, err := c.Has(ctx, "cache", ask)
	if err != nil || len(has) != len(ask) {
		t.Fatalf("has: %d answers, %v", len(has), err)
	}
	for i, h := range has {
		if h != (i == 3 || i == maxHasDigests+9) {
			t.Errorf("has %d: %v", i, h)
		}
	}
	a := starling.Digest{5}
	if _, err := c.GetManifest(ctx, "cache", a); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("manifest: %v", err)
	}
	if err := c.PutManifest(ctx, "cache", a, []byte("signed envelope")); err != nil {
		t.Fatal(err)
	}
	if env, err := c.GetManifest(ctx, "cache", a); err != nil || string(env) != "signed envelope" {
		t.Errorf("manifest %q, %v", env, err)
	}
	if err := c.PutManifest(ctx, "cache", a, []byte("forged envelope")); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("forged manifest: %v", err)
	}
	if _, err := c.Get(ctx, "nowhere", d, nil); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("get from nowhere: %v", err)
	}
	var wg sync.WaitGroup
	for range maxStreamsPerAddr * 2 {
		wg.Go(func() {
			if _, err := c.Get(ctx, "cache", d, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestGetWaitsForArrival(t *testing.T) {
	n := newNetwork(t, false)
	store, _ := startServer(n, nil)
	c := n.client(worker)
	d, data := chunkOf(t, 1, 1000)
	begun := time.Now()
	if _, err := c.Fetch(within(t, 20*time.Second), "cache", Fetch{Digest: d, Wait: 50 * time.Millisecond}, nil); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if time.Since(begun) < 50*time.Millisecond {
		t.Error("did not wait")
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		got, err := c.Fetch(within(t, 25*time.Second), "cache", Fetch{Digest: d, Wait: 20 * time.Second}, nil)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	eventually(t, "the server waits", func() bool {
		store.index.mu.Lock()
		defer store.index.mu.Unlock()
		return store.index.waiting[d] != nil
	})
	if err := store.Put(context.Background(), d, data); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

func TestCancelledGetLeavesNothingBehind(t *testing.T) {
	n := newNetwork(t, false)
	store, _ := startServer(n, nil)
	c := n.client(worker)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	d, data := chunkOf(t, 1, 1000)
	wg.Go(func() {
		if _, err := c.Fetch(ctx, "cache", Fetch{Digest: d, Wait: 20 * time.Second}, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	eventually(t, "the server waits", func() bool {
		store.index.mu.Lock()
		defer store.index.mu.Unlock()
		return store.index.waiting[d] != nil
	})
	cancel()
	wg.Wait()
	if err := store.Put(context.Background(), d, data); err != nil { // lets the server's side go
		t.Fatal(err)
	}
	if _, err := c.Get(within(t, 20*time.Second), "cache", d, nil); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

func TestAuthorization(t *testing.T) {
	n := newNetwork(t, false)
	store, _ := startServer(n, nil)
	d, data := chunkOf(t, 1, 1000)
	other, otherData := chunkOf(t, 2, 1000)
	if err := store.Put(context.Background(), d, data); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		peer     starling.Identity
		as       starling.Role
		get, put bool
	}{
		{identity("eu", "w", starling.RoleWorker), "", true, true},
		{identity("eu", "s", starling.RoleServer), "", true, true},
		{identity("eu", "c", starling.RoleCache), starling.RoleCache, true, true},
		{identity("us", "c", starling.RoleCache), "", true, true},
		{identity("eu", "m", starling.RoleMachine), "", true, false},
		{identity("eu", "m", starling.RoleMachine), starling.RoleCache, false, false},
		{identity("us", "m", starling.RoleMachine), "", false, false},
		{identity("eu", "all", starling.Roles...), starling.RoleMachine, true, true},
		{identity("eu", "none"), "", false, false},
	}
	for _, tt := range tests {
		ctx := within(t, 20*time.Second)
		c := n.client(tt.peer)
		c.Role = tt.as
		check := func(what string, err error, allowed bool) {
			t.Helper()
			if errors.Is(err, starling.ErrForbidden) == allowed || (allowed && err != nil) {
				t.Errorf("%s as %q %s: %v", tt.peer, tt.as, what, err)
			}
		}
		_, err := c.Get(ctx, "cache", d, nil)
		check("gets", err, tt.get)
		_, err = c.Has(ctx, "cache", []starling.Digest{d})
		check("asks", err, tt.get)
		check("puts", c.Put(ctx, "cache", other, otherData), tt.put)
		check("puts a manifest", c.PutManifest(ctx, "cache", other, []byte("signed")), tt.put)
		_, err = c.GetManifest(ctx, "cache", other)
		check("gets a manifest", err, tt.get)
	}
}

func TestReadOnlyServer(t *testing.T) {
	n := newNetwork(t, false)
	store, _ := startServer(n, func(cfg *ServerConfig) { cfg.Store = nil })
	c := n.client(worker)
	d, data := chunkOf(t, 1, 1000)
	if err := c.Put(within(t, 20*time.Second), "cache", d, data); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("got %v", err)
	}
	if store.Usage().Blobs != 0 {
		t.Error("it kept the chunk")
	}
}

// TestHostileUploads speaks the protocol by hand.
func TestHostileUploads(t *testing.T) {
	d, data := chunkOf(t, 1, 300_000)
	tests := []struct {
		name   string
		send   func(t *testing.T, conn net.Conn)
		answer status // 0: none
	}{
		{"wrong digest", func(t *testing.T, conn net.Conn) {
			q := request{op: opPut, arg: uint32(len(data)), digest: starling.Digest{1}}.encode()
			conn.Write(q[:])
			conn.Write(data)
		}, statusCorrupt},
		{"cut off", func(t *testing.T, conn net.Conn) {
			q := request{op: opPut, arg: uint32(len(data)), digest: d}.encode()
			conn.Write(q[:])
			conn.Write(data[:1000])
			conn.Close()
		}, 0},
		{"cut off in the request", func(t *testing.T, conn net.Conn) {
			q := request{op: opPut, arg: uint32(len(data)), digest: d}.encode()
			conn.Write(q[:40])
			conn.Close()
		}, 0},
		{"too large", func(t *testing.T, conn net.Conn) {
			q := request{op: opPut, arg: starling.MaxChunkBytes + 1, digest: d}.encode()
			conn.Write(q[:])
		}, 0},
		{"not the protocol", func(t *testing.T, conn net.Conn) {
			conn.Write(bytes.Repeat([]byte("GET / "), requestBytes/6))
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t, true)
			store, _ := startServer(n, nil)
			conn, err := n.dialer(worker)(within(t, 20*time.Second), "cache")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			tt.send(t, conn)
			p, err := readResponse(conn, request{op: opPut, arg: 1})
			if tt.answer != 0 && (err != nil || p.status != tt.answer) {
				t.Errorf("status %d, %v", p.status, err)
			}
			if tt.answer == 0 && err == nil {
				t.Errorf("answered with status %d", p.status)
			}
			if u := store.Usage(); u.Blobs != 0 || u.UsedBytes != 0 {
				t.Errorf("left behind: %+v", u)
			}
		})
	}
}

// liar is a source that serves other bytes than it should.
type liar struct{ Store }

func (l liar) Chunk(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error) {
	data, err := l.Store.Chunk(ctx, d, buf)
	if err == nil {
		data[0] ^= 1
	}
	return data, err
}

func TestClientChecksWhatItGets(t *testing.T) {
	n := newNetwork(t, false)
	store, _ := startServer(n, func(cfg *ServerConfig) { cfg.Source = liar{cfg.Store} })
	d, data := chunkOf(t, 1, 1000)
	if err := store.Put(context.Background(), d, data); err != nil {
		t.Fatal(err)
	}
	if _, err := n.client(machine).Get(within(t, 20*time.Second), "cache", d, nil); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

func TestServerBounds(t *testing.T) {
	n := newNetwork(t, false)
	store, server := startServer(n, func(cfg *ServerConfig) { cfg.MaxStreams, cfg.MaxBufferBytes = 2, 1 })
	server.buffers.patient = 10 * time.Millisecond
	d, data := chunkOf(t, 1, 1000)
	if err := store.Put(context.Background(), d, data); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 20*time.Second)
	if err := server.buffers.reserve(ctx, starling.MaxChunkBytes); err != nil {
		t.Fatal(err)
	}
	c := n.client(machine)
	if _, err := c.Get(ctx, "cache", d, nil); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("with the buffers in use: %v", err)
	}
	server.buffers.unreserve(starling.MaxChunkBytes)
	if _, err := c.Get(ctx, "cache", d, nil); err != nil {
		t.Error(err)
	}
	var open []net.Conn
	for range 2 { // one of these is one too many: c keeps one
		conn, err := n.dialer(machine)(ctx, "cache")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	if _, err := n.client(machine).Get(ctx, "cache", d, nil); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("with too many streams: %v", err)
	}
	for _, conn := range open {
		conn.Close()
	}
	eventually(t, "streams are free again", func() bool {
		_, err := n.client(machine).Get(ctx, "cache", d, nil)
		return err == nil
	})
}

func TestStaleStreamIsReplaced(t *testing.T) {
	n := newNetwork(t, true)
	store := NewMemStore(64 << 20)
	cfg := ServerConfig{Region: "eu", Source: store, Store: store, Logger: quiet()}
	d, data := chunkOf(t, 1, 1000)
	if err := store.Put(context.Background(), d, data); err != nil {
		t.Fatal(err)
	}
	c := n.client(machine)
	ctx := within(t, 20*time.Second)
	for range 3 { // each time another server at the same address
		stop := n.serve("cache", NewServer(cfg))
		if _, err := c.Get(ctx, "cache", d, nil); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	if _, err := c.Get(ctx, "cache", d, nil); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	c.streams.mu.Lock()
	defer c.streams.mu.Unlock()
	if len(c.streams.addrs) != 0 {
		t.Errorf("%d addresses kept for nothing", len(c.streams.addrs))
	}
}

func TestTrafficIsCounted(t *testing.T) {
	n := newNetwork(t, false)
	store, server := startServer(n, nil)
	d, data := chunkOf(t, 1, 1000)
	if err := store.Put(context.Background(), d, data); err != nil {
		t.Fatal(err)
	}
	app := starling.Digest{7}
	get := func(peer starling.Identity, as starling.Role) {
		t.Helper()
		c := n.client(peer)
		c.Role = as
		if _, err := c.Fetch(within(t, 20*time.Second), "cache", Fetch{Digest: d, Artifact: app}, nil); err != nil {
			t.Fatal(err)
		}
	}
	get(machine, "")
	get(identity("eu", "all", starling.Roles...), starling.RoleMachine)
	get(identity("eu", "all", starling.Roles...), starling.RoleCache)
	get(identity("us", "c", starling.RoleCache), "")
	want := []Traffic{
		{"eu", starling.RoleCache, 1, 1000},
		{"eu", starling.RoleMachine, 2, 2000},
		{"us", starling.RoleCache, 1, 1000},
	}
	eventually(t, "all is counted", func() bool { // after the last byte has gone
		got := server.Traffic()
		if len(got) != len(want) {
			return false
		}
		for i := range got {
			if got[i] != want[i] {
				return false
			}
		}
		return server.OutBytes(app) == 2000
	})
}

// Only servers are told how an artifact came to a machine, and nobody is told more than
// an account may hold.
func TestAccountsAreForServers(t *testing.T) {
	n := newNetwork(t, false)
	art, huge := starling.Digest{1}, starling.Digest{2}
	startServer(n, func(c *ServerConfig) {
		c.Account = func(d starling.Digest) ([]byte, error) {
			switch d {
			case art:
				return []byte(`{"node":"machine-1"}`), nil
			case huge:
				return make([]byte, starling.MaxAccountBytes+1), nil
			}
			return nil, starling.ErrNotFound
		}
	})
	ctx := within(t, 10*time.Second)
	server := n.client(identity("us", "server-1", starling.RoleServer))
	if got, err := server.GetAccount(ctx, "cache", art); err != nil || string(got) != `{"node":"machine-1"}` {
		t.Errorf("account %q, %v", got, err)
	}
	if _, err := server.GetAccount(ctx, "cache", starling.Digest{3}); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("an account of nothing: %v", err)
	}
	if _, err := server.GetAccount(ctx, "cache", huge); !errors.Is(err, errProtocol) {
		t.Errorf("an account without end: %v", err)
	}
	for _, who := range []starling.Identity{worker, machine, identity("eu", "cache-1", starling.RoleCache)} {
		if _, err := n.client(who).GetAccount(ctx, "cache", art); !errors.Is(err, starling.ErrForbidden) {
			t.Errorf("%s got %v", who, err)
		}
	}
}

func TestFetchTellsWhenTheChunkCame(t *testing.T) {
	n := newNetwork(t, false)
	store, _ := startServer(n, nil)
	d, data := chunkOf(t, 1, 900_000)
	if err := store.Put(t.Context(), d, data); err != nil {
		t.Fatal(err)
	}
	var answered time.Time
	begun := time.Now()
	if _, err := n.client(machine).Fetch(within(t, 10*time.Second), "cache", Fetch{Digest: d, Answered: &answered}, nil); err != nil {
		t.Fatal(err)
	}
	if answered.Before(begun) || answered.After(time.Now()) {
		t.Errorf("answered at %s, asked at %s", answered, begun)
	}
}
