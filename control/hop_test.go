package control

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/rpc"
)

// A follower passes requests on while its leader is dead, is lost in the middle, and
// while there is none: what may be sent again reaches the next leader.
func TestRequestsSurviveTheLeader(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})
	tests := []struct {
		name    string
		method  string
		key     string
		dead    bool // the old leader cannot be dialled; otherwise it takes requests and says nothing
		arrives bool
	}{
		{"nothing was sent", http.MethodPost, "", true, true},
		{"a read", http.MethodGet, "", false, true},
		{"a change with a key", http.MethodPost, "k", false, true},
		{"a change without a key", http.MethodPost, "", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire()
			began := make(chan struct{}, 8)
			w.serve(t, "old:1", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				began <- struct{}{}
				<-r.Context().Done()
			}))
			w.serve(t, "new:1", echo)
			if tt.dead {
				w.cut("old:1")
			}
			self := node("us", "s2", starling.RoleServer)
			b := newBench(t, "us", func(c *Config) { c.Name, c.Now, c.DialControl = self.Name, time.Now, w.dialer(identity(self)) }, self)
			defer b.server.transport.CloseIdleConnections()
			b.raft.name = self.Name
			b.raft.follow(false, raftnode.Peer{Name: "old", Addr: "old:1"})
			rt, err := b.server.Route(t.Context(), "", "")
			if err != nil || rt == nil {
				t.Fatal(rt, err)
			}
			go func() {
				if !tt.dead {
					<-began
				}
				b.raft.follow(false, raftnode.Peer{})
				b.raft.follow(false, raftnode.Peer{Name: "new", Addr: "new:1"})
			}()
			req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://x/v1/deployments", io.NopCloser(strings.NewReader("hello")))
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = 5
			if tt.key != "" {
				req.Header.Set("Idempotency-Key", tt.key)
			}
			res, err := rt.RoundTrip(req)
			if !tt.arrives {
				if !errors.Is(err, starling.ErrUnavailable) || !errors.Is(err, errLeaderChanged) {
					t.Fatalf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != "hello" {
				t.Errorf("answer %q, %v", got, err)
			}
		})
	}
}

func TestRouteWithoutALeaderGivesUp(t *testing.T) {
	b := newBench(t, "us", func(c *Config) { c.Regions = map[string][]string{"eu": {"eu1:7471"}} })
	b.raft.lead(false)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.server.Route(ctx, "", ""); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("this region: %v", err)
	}
	if _, err := b.server.leaderOf(ctx, "eu"); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("another region: %v", err)
	}
	b.raft.lead(true)
	b.elect()
	if rt, err := b.server.Route(t.Context(), "", ""); rt != nil || err != nil {
		t.Errorf("at the leader: %v, %v", rt, err)
	}
}

// A follower leaves it to the leader to look for a name; the leader waits for mirrors.
func TestTheLeaderLooksForUnknownNames(t *testing.T) {
	for _, q := range [][2]string{{"web", ""}, {"", "d1"}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, "us", func(c *Config) { c.Now = time.Now })
			b.raft.follow(false, raftnode.Peer{Name: "s2", Addr: "s2:1"})
			began := time.Now()
			rt, err := b.server.Route(t.Context(), q[0], q[1])
			if err != nil || rt != (toLeader{b.server, "us"}) || time.Since(began) != 0 {
				t.Errorf("at a follower: %v, %v after %s", rt, err, time.Since(began))
			}

			// Without a leader it waits, and looks for itself once it leads.
			b.raft.follow(false, raftnode.Peer{})
			time.AfterFunc(time.Second, func() {
				b.raft.lead(true)
				b.elect()
			})
			rt, err = b.server.Route(t.Context(), q[0], q[1])
			if rt != nil || !errors.Is(err, starling.ErrNotFound) || time.Since(began) != time.Second+mirrorWait {
				t.Errorf("at the leader: %v, %v after %s", rt, err, time.Since(began))
			}

			// It arrives while the leader waits.
			time.AfterFunc(mirrorWait/2, func() {
				b.app("web", nil)
				b.submit("d1", "web", b.artifact("v1"))
			})
			began = time.Now()
			if rt, err := b.server.Route(t.Context(), q[0], q[1]); rt != nil || err != nil || time.Since(began) != mirrorWait/2 {
				t.Errorf("arriving: %v, %v after %s", rt, err, time.Since(began))
			}
		})
	}
}

func TestLeaderOfAnotherRegion(t *testing.T) {
	w := newWire()
	eu := newBench(t, "eu", nil)
	eu.elect()
	w.serve(t, eu.raft.addr, eu.server.RPC())
	us := newBench(t, "us", func(c *Config) {
		c.Regions = map[string][]string{"eu": {"dead:1", eu.raft.addr}, "mars": {eu.raft.addr}}
		c.DialControl = w.dialer(identity(usServer))
	})
	defer us.server.transport.CloseIdleConnections()
	for range 2 { // asked, then remembered
		if addr, err := us.server.leaderOf(t.Context(), "eu"); err != nil || addr != eu.raft.addr {
			t.Fatal(addr, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if addr, err := us.server.leaderOf(ctx, "mars"); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("a server of another region was believed: %s, %v", addr, err)
	}
	var st rpc.Status
	st, err := (&rpc.Client{HTTP: &http.Client{Transport: toLeader{us.server, "eu"}}}).Status(t.Context())
	if err != nil || st.Region != "eu" || !st.IsLeader {
		t.Errorf("status %+v, %v", st, err)
	}
}
