package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
)

func TestBusyPort(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleMachine)
	_, err := Listen(Config{Bind: a.Addr(), Credentials: w.credentials(t, "r", "b", starling.RoleMachine)})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), a.Addr()) || !strings.Contains(err.Error(), "choose another port") {
		t.Errorf("got %v", err)
	}
}

func TestListenErrors(t *testing.T) {
	w := newWorld(t, "c")
	creds := w.credentials(t, "r", "a", starling.RoleMachine)
	for name, tc := range map[string]struct {
		cfg  Config
		says string
	}{
		"no credentials":       {Config{Bind: "127.0.0.1:0"}, "no credentials"},
		"no port":              {Config{Bind: "127.0.0.1", Credentials: creds}, "missing port"},
		"foreign address":      {Config{Bind: "192.0.2.1:0", Credentials: creds}, "this machine has no such address"},
		"wildcard":             {Config{Bind: "0.0.0.0:0", Credentials: creds}, "set the address to advertise"},
		"advertised wildcard":  {Config{Bind: "0.0.0.0:0", Advertise: "[::]:1", Credentials: creds}, "nobody can dial"},
		"advertised bad port":  {Config{Bind: "127.0.0.1:0", Advertise: "h:http", Credentials: creds}, "is no port"},
		"too many connections": {Config{Bind: "127.0.0.1:0", BlobConnections: 17, Credentials: creds}, "BlobConnections is 17, want 1 to 16"},
		"no window":            {Config{Bind: "127.0.0.1:0", MaxStreamWindowBytes: 1 << 10, Credentials: creds}, "MaxStreamWindowBytes"},
		"slow coalescing":      {Config{Bind: "127.0.0.1:0", ReceiveCoalesce: time.Second, Credentials: creds}, "ReceiveCoalesce"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Listen(tc.cfg)
			if err == nil {
				e.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAdvertise(t *testing.T) {
	w := newWorld(t, "c")
	for advertise, want := range map[string]string{
		"":                  "127.0.0.1:PORT",
		"10.0.0.5":          "10.0.0.5:PORT",
		"10.0.0.5:0":        "10.0.0.5:PORT",
		"10.0.0.5:99":       "10.0.0.5:99",
		"node.example":      "node.example:PORT",
		"node.example:7471": "node.example:7471",
		"fd00::5":           "[fd00::5]:PORT",
		"[fd00::5]:7471":    "[fd00::5]:7471",
	} {
		e := listenWith(t, Config{Advertise: advertise, Credentials: w.credentials(t, "r", "a", starling.RoleServer)})
		_, port, err := net.SplitHostPort(e.socket.bound().String())
		if err != nil {
			t.Fatal(err)
		}
		want = strings.Replace(want, "PORT", port, 1)
		if e.Addr() != want || e.RaftLayer().Addr().String() != want || e.Listener(KindControl).Addr().String() != want {
			t.Errorf("advertise %q: %s, want %s", advertise, e.Addr(), want)
		}
	}
}

// A socket for all addresses of both families is reached by each.
func TestWildcard(t *testing.T) {
	w := newWorld(t, "c")
	b := listenWith(t, Config{Bind: ":0", Advertise: "127.0.0.1", Credentials: w.credentials(t, "r", "b", starling.RoleMachine)})
	pair(t, w.listen(t, "r", "a", starling.RoleMachine), b, KindSwarm)
	_, port, err := net.SplitHostPort(b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	a := listenWith(t, Config{Bind: ":0", Advertise: "127.0.0.1", Credentials: w.credentials(t, "r", "c", starling.RoleMachine)})
	pair(t, a, b, KindSwarm)
	for _, host := range []string{"localhost", "::1"} {
		if host == "::1" && !haveIPv6() {
			continue
		}
		c, err := a.Dial(testContext(t), net.JoinHostPort(host, port), KindSwarm)
		if err != nil {
			t.Errorf("by %s: %v", host, err)
			continue
		}
		closeAll(t, c)
	}
}

func haveIPv6() bool {
	c, err := net.ListenPacket("udp", "[::1]:0")
	return err == nil && c.Close() == nil
}

func TestDialErrors(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleMachine)
	for _, addr := range []string{"", "nohost", "127.0.0.1:0", "127.0.0.1:http", "127.0.0.1:70000", "[::1]:1", "no.such.host.invalid:1"} {
		if _, err := a.Dial(testContext(t), addr, KindSwarm); !errors.Is(err, starling.ErrUnavailable) {
			t.Errorf("%q: %v", addr, err)
		}
	}
	if n := a.Stats().FailedDials; n != 7 {
		t.Errorf("%d failures counted", n)
	}
}

// blackHole is a UDP port that swallows everything.
func blackHole(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

func TestDialHonoursItsContext(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleMachine)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := a.Dial(ctx, blackHole(t), KindSwarm)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 3*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

func TestCloseEndsDialAndAccept(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleMachine)
	hole := blackHole(t)
	results := make(chan error, 3)
	go func() { _, err := a.Dial(context.Background(), hole, KindSwarm); results <- err }()
	go func() { _, err := a.Accept(context.Background(), KindSwarm); results <- err }()
	go func() { _, err := a.Listener(KindSwarm).Accept(); results <- err }()
	eventually(t, "the dial has begun", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.slots) == 1
	})
	for range 2 { // the second is no error
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range cap(results) {
		if err := <-results; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := a.Dial(t.Context(), hole, KindSwarm); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial after Close: %v", err)
	}
}

func TestDiallersShareOneConnection(t *testing.T) {
	w := newWorld(t, "c")
	a, b := w.listen(t, "r", "a", starling.RoleMachine), w.listen(t, "r", "b", starling.RoleMachine)
	ctx := testContext(t)
	var work sync.WaitGroup
	for range 50 {
		work.Go(func() {
			c, err := a.Dial(ctx, b.Addr(), KindSwarm)
			if err != nil {
				t.Error(err)
				return
			}
			closeAll(t, c)
		})
	}
	work.Wait()
	if n := b.Stats().Connections; n != 1 {
		t.Errorf("%d connections", n)
	}
}

// One process may play both parts.
func TestDialSelf(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleServer, starling.RoleCache)
	near, far := pair(t, a, a, KindBlob)
	if _, err := near.Write([]byte("me")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2)
	if _, err := io.ReadFull(far, got); err != nil || string(got) != "me" || far.Peer().Name != "a" {
		t.Errorf("%q from %s, %v", got, far.Peer(), err)
	}
}

func TestWindowBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Uint64Range(0, 1<<30).Draw(t, "total")
		b := newWindowBudget(total)
		conns := []*quic.Conn{new(quic.Conn), new(quic.Conn), new(quic.Conn)}
		var granted [3]uint64
		for range rapid.IntRange(0, 50).Draw(t, "steps") {
			i := rapid.IntRange(0, 2).Draw(t, "connection")
			if rapid.Bool().Draw(t, "end") {
				b.release(conns[i])
				granted[i] = 0
			} else if delta := rapid.Uint64Range(0, 1<<26).Draw(t, "delta"); b.grow(conns[i], delta) {
				granted[i] += delta
			}
			if held := granted[0] + granted[1] + granted[2]; held > total || b.leftBytes != total-held {
				t.Fatalf("%d granted of %d, %d left", held, total, b.leftBytes)
			}
		}
	})
}

func TestBlobConnections(t *testing.T) {
	w := newWorld(t, "c")
	a := listenWith(t, Config{Credentials: w.credentials(t, "r", "a", starling.RoleMachine), BlobConnections: 3})
	b := w.listen(t, "r", "b", starling.RoleMachine)
	for range 6 {
		pair(t, a, b, KindBlob)
	}
	if n := b.Stats().Connections; n != 3 {
		t.Errorf("%d connections", n)
	}
}

// The far side ends in good order and comes back on the same port.
func TestRedialAfterRestart(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleMachine)
	creds := w.credentials(t, "r", "b", starling.RoleMachine)
	b := listenWith(t, Config{Credentials: creds})
	addr := b.Addr()
	near, far := pair(t, a, b, KindSwarm)
	closeAll(t, far)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("read from a far side that ended")
	}
	b = listenWith(t, Config{Bind: addr, Credentials: creds})
	redial(t, a, b)
}

// The far side is killed: it says nothing. The next process on its port, with the same key, tells
// its peers that their connections are gone, long before they would time out.
func TestRedialAfterKill(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleMachine)
	creds := w.credentials(t, "r", "b", starling.RoleMachine)
	b := listenWith(t, Config{Credentials: creds})
	addr := b.Addr()
	near, _ := pair(t, a, b, KindSwarm)
	kill(t, b)
	b = listenWith(t, Config{Bind: addr, Credentials: creds})
	start := time.Now()
	if _, err := near.Write([]byte("are you there?")); err != nil {
		t.Fatal(err)
	}
	_, err := near.Read(make([]byte, 1))
	if !errors.Is(err, starling.ErrUnavailable) || !strings.Contains(err.Error(), "started anew") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > defaultIdleTimeout/2 {
		t.Errorf("noticed only after %s", d)
	}
	redial(t, a, b)
}

// kill takes an endpoint off the network without a word.
func kill(t *testing.T, e *Endpoint) {
	t.Helper()
	if err := e.socket.UDPConn.Close(); err != nil {
		t.Fatal(err)
	}
}

func redial(t *testing.T, a, b *Endpoint) {
	t.Helper()
	ctx := testContext(t)
	var near *Conn
	eventually(t, "a dial reaches the new process", func() bool {
		c, err := a.Dial(ctx, b.Addr(), KindSwarm)
		near = c
		return err == nil
	})
	defer near.Close()
	far, err := b.Accept(ctx, KindSwarm)
	if err != nil {
		t.Fatal(err)
	}
	closeAll(t, far)
}

// A dead peer that nobody replaces is noticed by the idle time-out.
func TestDeadPeer(t *testing.T) {
	w := newWorld(t, "c")
	a := listenWith(t, Config{Credentials: w.credentials(t, "r", "a", starling.RoleMachine), idleTimeout: 300 * time.Millisecond})
	b := w.listen(t, "r", "b", starling.RoleMachine)
	near, _ := pair(t, a, b, KindSwarm)
	kill(t, b)
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, starling.ErrUnavailable) || !strings.Contains(err.Error(), "fell silent") {
		t.Errorf("got %v", err)
	}
	eventually(t, "the connection is forgotten", func() bool { return a.Stats().Connections == 0 })
	if got := a.Stats().BudgetBytes; got != DefaultReceiveBudgetBytes {
		t.Errorf("%d bytes of window are not given back", DefaultReceiveBudgetBytes-got)
	}
}

// An idle connection is kept alive.
func TestKeepAlive(t *testing.T) {
	w := newWorld(t, "c")
	a := listenWith(t, Config{Credentials: w.credentials(t, "r", "a", starling.RoleMachine), idleTimeout: 150 * time.Millisecond})
	near, far := pair(t, a, w.listen(t, "r", "b", starling.RoleMachine), KindSwarm)
	if err := near.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := near.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("got %v", err)
	}
	if err := near.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(near, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// After a failure, Dial fails at once until the back-off is over.
func TestBackoffAfterFailure(t *testing.T) {
	ours, theirs := newWorld(t, "ours"), newWorld(t, "theirs")
	a, b := ours.listen(t, "r", "a", starling.RoleMachine), theirs.listen(t, "r", "b", starling.RoleMachine)
	ctx := testContext(t)
	waited := false
	for range 200 {
		_, err := a.Dial(ctx, b.Addr(), KindSwarm)
		if !errors.Is(err, starling.ErrForbidden) { // the reason stays
			t.Fatal(err)
		}
		waited = waited || strings.Contains(err.Error(), "next attempt in")
	}
	if n := a.Stats().FailedDials; !waited || n > 100 {
		t.Errorf("%d attempts for 200 dials", n)
	}
}

func TestBackoffIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 1<<40).Draw(t, "failures")
		if d := backoff(n); d < backoffFirst/2 || d > backoffMost {
			t.Fatalf("%d failures: %s", n, d)
		}
	})
}

func TestUnusedConnectionsAreClosed(t *testing.T) {
	w := newWorld(t, "c")
	a, b := w.listen(t, "r", "a", starling.RoleMachine), w.listen(t, "r", "b", starling.RoleMachine)
	near, far := pair(t, a, b, KindSwarm)
	later := time.Now().Add(2 * unusedTimeout)
	if found := a.unused(later); len(found) != 0 {
		t.Fatal("a connection in use is closed")
	}
	closeAll(t, near, far)
	if found := b.unused(later); len(found) != 0 {
		t.Error("the accepting side closes what is the dialling side's")
	}
	found := a.unused(later)
	if len(found) != 1 {
		t.Fatalf("%d connections to close", len(found))
	}
	again, _ := pair(t, a, b, KindSwarm)
	if again.link == found[0] {
		t.Error("a connection about to be closed is handed out")
	}
	found[0].close(codeIdle, "unused")
	eventually(t, "the far side knows", func() bool { return b.Stats().Connections == 1 })
	closeAll(t, again)
}
