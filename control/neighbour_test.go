package control

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// threeAbroad is a server of us that knows three servers of eu over a wire, each of which
// says who it is. The first leads.
func threeAbroad(t *testing.T, leader *atomic.Value, change func(addr string) http.Handler) (*bench, *wire) {
	w := newWire()
	addrs := []string{"eu1:1", "eu2:1", "eu3:1"}
	leader.Store("eu1:1")
	for _, addr := range addrs {
		mux := http.NewServeMux()
		mux.HandleFunc(rpc.RouteStatus, func(rw http.ResponseWriter, _ *http.Request) {
			at := leader.Load().(string)
			_ = answer(rw, rpc.Status{Name: addr, Region: "eu", Leader: at, IsLeader: at == addr})
		})
		mux.Handle("/v1/", change(addr))
		w.serve(t, addr, mux)
	}
	b := newBench(t, "us", func(c *Config) {
		c.Now, c.DialControl = time.Now, w.dialer(identity(usServer))
		c.Regions = map[string][]string{"eu": addrs}
	})
	t.Cleanup(b.server.transport.CloseIdleConnections)
	return b, w
}

func echoName(addr string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, addr+string(b))
	})
}

// A call goes on from a silent server to the next, which it then stays with.
func TestSilentServersOfARegionAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var leader atomic.Value
		b, w := threeAbroad(t, &leader, echoName)
		client := &rpc.Client{HTTP: &http.Client{Transport: &regionTransport{s: b.server, region: "eu"}}}
		ask := func(want string, within time.Duration) {
			t.Helper()
			began := time.Now()
			st, err := client.Status(t.Context())
			if err != nil || st.Name != want || time.Since(began) != within {
				t.Fatalf("answer of %q after %s, %v; want %s after %s", st.Name, time.Since(began), err, want, within)
			}
		}
		ask("eu1:1", 0)
		w.hang("eu1:1")
		ask("eu2:1", silentWithin)
		ask("eu2:1", 0)
		time.Sleep(suspectFor + time.Second)
		ask("eu2:1", 0) // nothing speaks for going back
		w.hang("eu2:1")
		ask("eu3:1", silentWithin)
		ask("eu3:1", 0)
		w.hang("eu3:1")

		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), regionCallWithin)
		defer cancel()
		if _, err := client.Status(ctx); !errors.Is(err, starling.ErrUnavailable) || time.Since(began) > 3*silentWithin {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		cancel()
		b.server.suspects = suspects{}
		if _, err := client.Status(ctx); err == nil || b.server.suspects.until != nil {
			t.Errorf("%v; a caller that went away made suspects: %v", err, b.server.suspects.until)
		}
	})
}

// A server that says "unavailable" is alive: the next call goes to another one, and
// nobody is suspected.
func TestUnavailableIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var leader atomic.Value
		b, _ := threeAbroad(t, &leader, func(addr string) http.Handler {
			if addr == "eu3:1" {
				return echoName(addr)
			}
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				rpc.WriteProblem(w, starling.ErrUnavailable)
			})
		})
		client := &http.Client{Transport: &regionTransport{s: b.server, region: "eu"}}
		for _, want := range []int{503, 503, 200, 200} {
			res, err := client.Post("http://x/v1/", "text/plain", strings.NewReader(" got it"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != want || want == 200 && string(got) != "eu3:1 got it" {
				t.Errorf("answer %d %q, %v; want %d", res.StatusCode, got, err, want)
			}
		}
		if b.server.suspects.until != nil {
			t.Errorf("suspects %v", b.server.suspects.until)
		}
	})
}

// An answer that stops in the middle ends, and its server is suspected; a slow one that
// goes on does not.
func TestAnswersMustNotFallSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var leader atomic.Value
		var stop atomic.Bool
		b, _ := threeAbroad(t, &leader, func(string) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for range 5 {
					_, _ = io.WriteString(w, "x")
					_ = http.NewResponseController(w).Flush()
					if stop.Load() {
						<-r.Context().Done()
						return
					}
					time.Sleep(silentWithin - time.Second)
				}
			})
		})
		client := &http.Client{Transport: &regionTransport{s: b.server, region: "eu"}}
		read := func() (string, error) {
			res, err := client.Get("http://x/v1/")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			got, err := io.ReadAll(res.Body)
			return string(got), err
		}
		if got, err := read(); got != "xxxxx" || err != nil {
			t.Errorf("slow: %q, %v", got, err)
		}
		stop.Store(true)
		began := time.Now()
		if got, err := read(); got != "x" || err == nil || time.Since(began) != silentWithin {
			t.Errorf("silent: %q, %v after %s", got, err, time.Since(began))
		}
		if !b.server.suspects.has("eu1:1", time.Now()) {
			t.Error("eu1 is not suspected")
		}
	})
}

// Requests for another region whose leader falls silent reach the next one, where that
// can do no harm, and such a leader is asked again only if it says that it lives.
func TestRequestsSurviveASilentLeaderAbroad(t *testing.T) {
	tests := []struct {
		name, method, key string
		arrives           bool
	}{
		{"a read", http.MethodGet, "", true},
		{"a change with a key", http.MethodPost, "k", true},
		{"a change without a key", http.MethodPost, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var leader atomic.Value
				b, w := threeAbroad(t, &leader, echoName)
				if _, err := b.server.leaderOf(t.Context(), "eu"); err != nil {
					t.Fatal(err)
				}
				w.hang("eu1:1")
				time.AfterFunc(4*time.Second, func() { leader.Store("eu2:1") }) // the others notice
				send := func(ctx context.Context) (string, error) {
					req, err := http.NewRequestWithContext(ctx, tt.method, "http://x/v1/", strings.NewReader(" hi"))
					if err != nil {
						t.Fatal(err)
					}
					if tt.key != "" {
						req.Header.Set("Idempotency-Key", tt.key)
					}
					res, err := toLeader{b.server, "eu"}.RoundTrip(req)
					if err != nil {
						return "", err
					}
					defer res.Body.Close()
					got, err := io.ReadAll(res.Body)
					return string(got), err
				}
				began := time.Now()
				if !tt.arrives { // it is for the connection to give up
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					if got, err := send(ctx); err == nil || time.Since(began) != 10*time.Second {
						t.Errorf("%q, %v after %s", got, err, time.Since(began))
					}
					return
				}
				if got, err := send(t.Context()); err != nil || got != "eu2:1 hi" || time.Since(began) > 8*time.Second {
					t.Errorf("%q, %v after %s", got, err, time.Since(began))
				}
				t.Logf("answered after %s", time.Since(began))
				began = time.Now()
				if got, err := send(t.Context()); err != nil || got != "eu2:1 hi" || time.Since(began) != 0 {
					t.Errorf("the next: %q, %v after %s", got, err, time.Since(began))
				}
			})
		})
	}
}

// A leader that takes long for an answer, but lives, is waited for.
func TestSlowAnswersFromAbroadAreAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var leader atomic.Value
		b, _ := threeAbroad(t, &leader, func(addr string) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Minute)
				echoName(addr).ServeHTTP(w, r)
			})
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/v1/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := toLeader{b.server, "eu"}.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if got, err := io.ReadAll(res.Body); err != nil || string(got) != "eu1:1" {
			t.Errorf("%q, %v", got, err)
		}
	})
}
