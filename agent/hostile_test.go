package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
)

// hostile is a peer that announces every chunk of an artifact, and serves them badly.
type hostile struct {
	source blobcache.Source
	wrap   func(*endpoint, net.Conn) net.Conn // of accepted blob streams; nil: as they are
	asked  atomic.Int64                       // chunks
}

// Stat implements blobcache.Source.
func (h *hostile) Stat(d starling.Digest) (int, bool) {
	h.asked.Add(1)
	return h.source.Stat(d)
}

// Chunk implements blobcache.Source.
func (h *hostile) Chunk(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error) {
	return h.source.Chunk(ctx, d, buf)
}

// Wait implements blobcache.Source.
func (h *hostile) Wait(context.Context, starling.Digest) error { return starling.ErrNotFound }

// Manifest implements blobcache.Source.
func (h *hostile) Manifest(context.Context, starling.Digest) ([]byte, error) {
	return nil, starling.ErrNotFound
}

// start makes it a member until the test ends.
func (h *hostile) start(t *testing.T, r *region, name string, artifact starling.Digest) {
	t.Helper()
	n := machineNode(name)
	e := newEndpoint(t, identityOf(n))
	n.Addr = e.addr()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); e.close(); wg.Wait() })
	server := blobcache.NewServer(blobcache.ServerConfig{Region: "here", Source: h, Logger: newLog()})
	accept := e.accept(testBlob)
	chunks := chunksOf(t, r, artifact)
	wg.Go(func() {
		_ = server.Serve(ctx, func(ctx context.Context) (net.Conn, starling.Identity, error) {
			conn, id, err := accept(ctx)
			if err == nil && h.wrap != nil {
				conn = h.wrap(e, conn)
			}
			return conn, id, err
		})
	})
	wg.Go(func() { lie(ctx, e, artifact, chunks) })
	r.roster.set(n)
}

// denier says that it lacks what it announces.
type denier struct{ blobcache.Source }

func (denier) Stat(starling.Digest) (int, bool) { return 0, false }

// staller never answers, though it takes the request.
type staller struct{ blobcache.Source }

func (staller) Chunk(ctx context.Context, _ starling.Digest, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// deaf takes what is written and sends none of it.
type deaf struct {
	net.Conn
	mu   sync.Mutex
	left int // bytes that still get through
}

func (c *deaf) Write(b []byte) (int, error) {
	c.mu.Lock()
	pass := min(c.left, len(b))
	c.left -= pass
	c.mu.Unlock()
	if pass > 0 {
		if n, err := c.Conn.Write(b[:pass]); err != nil {
			return n, err
		}
	}
	return len(b), nil
}

// crawling sends so many bytes a second.
type crawling struct {
	net.Conn
	limit *rate.Limiter
}

func (c *crawling) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		part := b[done:min(len(b), done+c.limit.Burst())]
		if err := c.limit.WaitN(context.Background(), len(part)); err != nil {
			return done, err
		}
		n, err := c.Conn.Write(part)
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// vanishing breaks off its whole node in the middle of a chunk.
type vanishing struct {
	net.Conn
	e *endpoint
}

func (c *vanishing) Write(b []byte) (int, error) {
	if len(b) < 16<<10 { // no chunk
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(b[:len(b)/2])
	c.e.close()
	return n, errors.Join(err, net.ErrClosed)
}

// TestHostilePeers puts one peer of each kind among honest machines. The transfer
// completes, liars and nobody else are named in the reports, and no bad byte is stored
// or served on.
func TestHostilePeers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		named bool
		bad   func(r *region) *hostile
	}{
		{"corrupted bytes", true, func(r *region) *hostile { return &hostile{source: liar{r.store}} }},
		{"announces, then denies", true, func(r *region) *hostile { return &hostile{source: denier{r.store}} }},
		{"stalls", false, func(r *region) *hostile { return &hostile{source: staller{r.store}} }},
		{"behind a one-way partition", false, func(r *region) *hostile {
			return &hostile{source: r.store, wrap: func(_ *endpoint, c net.Conn) net.Conn { return &deaf{Conn: c} }}
		}},
		{"stops in mid-chunk", false, func(r *region) *hostile {
			return &hostile{source: r.store, wrap: func(_ *endpoint, c net.Conn) net.Conn { return &deaf{Conn: c, left: 1500 << 10} }}
		}},
		{"vanishes in mid-chunk", false, func(r *region) *hostile {
			return &hostile{source: r.store, wrap: func(e *endpoint, c net.Conn) net.Conn { return &vanishing{c, e} }}
		}},
		{"slow", false, func(r *region) *hostile {
			limit := rate.NewLimiter(100<<10, 8<<10)
			return &hostile{source: r.store, wrap: func(_ *endpoint, c net.Conn) net.Conn { return &crawling{c, limit} }}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRegion(t)
			r.startCache()
			files := map[string][]byte{"version": []byte("v1"), "big": noise(9, 16<<20)}
			v1 := r.push(files)
			bad := c.bad(r)
			bad.start(t, r, "z-bad", v1) // a name that the others dial at once
			capped := func(conf *Config) { conf.DownloadBytesPerSecond = 12 << 20 }
			machines := []*machine{r.machine("m1", capped), r.machine("m2", capped), r.machine("m3", capped)}
			r.leader.setGoal(goal(1, v1))
			for _, m := range machines {
				m.await(1, starling.MachineHealthy)
				checkTree(t, m, files)
				checkServed(t, r, m, v1)
			}
			if bad.asked.Load() == 0 {
				t.Error("nobody asked it for anything: the test shows nothing")
			}
			names := func() (out []string) {
				for _, m := range machines {
					for _, d := range m.report().Distrusted {
						out = append(out, d.Node)
					}
				}
				return out
			}
			if c.named {
				eventually(t, 30*time.Second, "it is named in a report", func() bool { return slices.Contains(names(), "z-bad") })
			}
			for _, name := range names() {
				if name != "z-bad" || !c.named {
					t.Errorf("%s is called a liar", name)
				}
			}
		})
	}
}

// checkServed gets every chunk of an artifact from a machine; the client checks each
// against its digest.
func checkServed(t *testing.T, r *region, m *machine, d starling.Digest) {
	t.Helper()
	client := blobcache.NewClient(newEndpoint(t, identityOf(machineNode("m9"))).dialBlob)
	defer client.Close()
	envelope, err := client.GetManifest(t.Context(), m.node.Addr, d)
	if err != nil {
		t.Fatal(err)
	}
	manifest, _, err := r.verify(envelope, d)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range manifest.Chunks {
		if _, err := client.Get(t.Context(), m.node.Addr, c.Digest, nil); err != nil {
			t.Errorf("%s, chunk %d: %v", m.node.Name, i, err)
		}
	}
}

// TestMachineThatIsNotHeard loses all that one honest machine announces: it gets all
// chunks, and the others get those that only it was to ask the cache for.
func TestMachineThatIsNotHeard(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	files := map[string][]byte{"big": noise(10, 16<<20)}
	v1 := r.push(files)
	var machines []*machine
	for i := range 3 {
		machines = append(machines, r.machine(fmt.Sprint("m", i+1), func(c *Config) { c.DownloadBytesPerSecond = 12 << 20 }))
	}
	m := &machine{r: r, node: machineNode("m4"), dir: t.TempDir(), endpoint: newEndpoint(t, identityOf(machineNode("m4")))}
	m.node.Addr = m.endpoint.addr()
	hello := len(appendHello(nil))
	accept := m.endpoint.accept(testSwarm)
	m.run(Config{
		Node: m.node, DataDir: m.dir, Leader: r.leader, Members: r.roster, Verify: r.verify, Logger: newLog(),
		DownloadBytesPerSecond: 12 << 20,
		DialBlob:               m.endpoint.dialBlob, AcceptBlob: m.endpoint.accept(testBlob),
		DialSwarm: func(ctx context.Context, addr string) (net.Conn, starling.Identity, error) {
			conn, id, err := m.endpoint.dialSwarm(ctx, addr)
			if err != nil {
				return nil, id, err
			}
			return &deaf{Conn: conn, left: hello}, id, nil
		},
		AcceptSwarm: func(ctx context.Context) (net.Conn, starling.Identity, error) {
			conn, id, err := accept(ctx)
			if err != nil {
				return nil, id, err
			}
			return &deaf{Conn: conn, left: hello}, id, nil
		},
	})
	t.Cleanup(m.stop)
	machines = append(machines, m)
	r.leader.setGoal(goal(1, v1))
	for _, m := range machines {
		rep := m.await(1, starling.MachineHealthy)
		checkTree(t, m, files)
		if len(rep.Distrusted) > 0 {
			t.Errorf("%s calls %v liars", m.node.Name, rep.Distrusted)
		}
	}
	if rep := m.report(); rep.Bytes.Peer == 0 {
		t.Errorf("it hears the others, yet got %+v", rep.Bytes)
	}
}
