package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// clientOf returns a client whose every request goes to h.
func clientOf(t *testing.T, h http.HandlerFunc) *rpc.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &rpc.Client{HTTP: &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u)}}}
}

// Each sentinel of the domain arrives as itself, with its words.
func TestErrorsCrossTheWire(t *testing.T) {
	for _, sentinel := range []error{
		starling.ErrNotFound, starling.ErrFenced, starling.ErrConflict,
		starling.ErrForbidden, starling.ErrNotLeader, starling.ErrUnavailable,
	} {
		c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
			rpc.WriteProblem(w, fmt.Errorf("lease 7 of d-1: %w", sentinel))
		})
		err := c.Heartbeat(t.Context(), "d-1", rpc.HeartbeatRequest{Lease: 7})
		if !errors.Is(err, sentinel) || !strings.Contains(err.Error(), "lease 7 of d-1") {
			t.Errorf("%v arrives as %v", sentinel, err)
		}
	}
	c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		rpc.WriteProblem(w, starling.Invalidf("slot", "is %d", -1))
	})
	var field *starling.FieldError
	if _, err := c.Lease(t.Context(), rpc.LeaseRequest{}); !errors.As(err, &field) || field.Field != "slot" || field.Problem != "is -1" {
		t.Errorf("an invalid field arrives as %v", err)
	}
	c = clientOf(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>proxy</html>", http.StatusTeapot) })
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "418") {
		t.Errorf("a stranger's answer gives %v", err)
	}
}

func TestRequestsAreAsTheRoutesSay(t *testing.T) {
	var got string
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Method + " " + strings.TrimPrefix(r.RequestURI, "http://starling")
		w.Write([]byte("{}"))
	})
	for want, call := range map[string]func() error{
		"POST /rpc/v1/jobs/lease":      func() error { _, err := c.Lease(t.Context(), rpc.LeaseRequest{}); return err },
		"POST /rpc/v1/jobs/d-1/log":    func() error { _, err := c.JobLog(t.Context(), "d-1", rpc.LogRequest{}); return err },
		"POST /rpc/v1/jobs/a%2Fb/fail": func() error { return c.Fail(t.Context(), "a/b", rpc.FailRequest{}) },
		"GET /rpc/v1/goals?index=7&reign=s1%2F4&wait=30s": func() error {
			_, err := c.Goals(t.Context(), 7, "s1/4", time.Hour) // bounded by MaxWait
			return err
		},
	} {
		if err := call(); err != nil || got != want {
			t.Errorf("want %s, got %s, %v", want, got, err)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	c := clientOf(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if err := c.Complete(t.Context(), "d-1", rpc.CompleteRequest{}); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("a cut connection gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Wants(ctx, 0, time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call gives %v", err)
	}
}
