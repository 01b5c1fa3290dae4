package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// place returns this server's term if it leads, or else the leader's address. It
// waits up to wait for a leader to be there.
func (s *Server) place(ctx context.Context, wait time.Duration) (*term, string, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		elected := s.cfg.Raft.Leadership()
		t, changed := s.leading()
		if t != nil {
			return t, "", nil
		}
		// A leader that is this server is about to begin its term.
		if p, ok := s.cfg.Raft.Leader(); ok && p.Name != s.cfg.Name && p.Addr != "" {
			return nil, p.Addr, nil
		}
		if wait <= 0 {
			return nil, "", fmt.Errorf("region %s: %w", s.cfg.Region, starling.ErrNotLeader)
		}
		select {
		case <-elected:
		case <-changed:
		case <-ctx.Done():
			return nil, "", fmt.Errorf("region %s has no leader: %w", s.cfg.Region, starling.ErrUnavailable)
		}
	}
}

// passOn sends a request on to the leader in the name of its caller.
func (s *Server) passOn(w http.ResponseWriter, r *http.Request, id starling.Identity, leader string) error {
	peer, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("pass on: %w", err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: leader})
			pr.Out.Header.Set(rpc.HeaderPeer, string(peer))
		},
		Transport: toLocalLeader{s, leader},
		ErrorLog:  slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			var long *http.MaxBytesError
			if errors.As(err, &long) {
				err = starling.Invalidf("body", "longer than %d bytes", long.Limit)
			}
			rpc.WriteProblem(w, fmt.Errorf("pass on: %w", err))
		},
	}
	proxy.ServeHTTP(w, r)
	return nil
}

// Route implements httpapi.Router.
func (s *Server) Route(ctx context.Context, app, deployment string) (http.RoundTripper, error) {
	region, err := s.homeOf(ctx, app, deployment)
	if err != nil {
		return nil, err
	}
	if region == s.cfg.Region {
		if t, _, err := s.place(ctx, leaderWait); err != nil || t != nil {
			return nil, err
		}
	} else if _, err := s.leaderOf(ctx, region); err != nil {
		return nil, err
	}
	return toLeader{s, region}, nil
}

// homeOf returns the region that a request concerns. Names that are not known yet
// may be on their way in a mirror batch or in this server's own log.
func (s *Server) homeOf(ctx context.Context, app, deployment string) (string, error) {
	if app == "" && deployment == "" {
		return s.cfg.Region, nil
	}
	var home string
	s.waitView(ctx, mirrorWait, func(v raftfsm.View) bool {
		if deployment != "" {
			if d, ok := v.Deployment(deployment); ok {
				home = d.Home
			}
		} else if a, ok := v.App(app); ok {
			home = a.Home
		}
		return home != ""
	})
	switch {
	case home != "":
		return home, nil
	case deployment != "":
		return "", fmt.Errorf("deployment %.80q: %w", deployment, starling.ErrNotFound)
	default:
		return "", fmt.Errorf("app %.80q: %w", app, starling.ErrNotFound)
	}
}

// leaderHints remembers for a moment who leads the other regions.
type leaderHints struct {
	mu    sync.Mutex
	hints map[string]leaderHint
}

type leaderHint struct {
	addr  string
	until time.Time
}

func (h *leaderHints) get(region string, now time.Time) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, ok := h.hints[region]
	return l.addr, ok && now.Before(l.until)
}

func (h *leaderHints) put(region, addr string, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hints == nil {
		h.hints = map[string]leaderHint{}
	}
	h.hints[region] = leaderHint{addr, until}
}

// leaderOf asks the servers of another region, in turn, who leads it, until one
// knows or leaderWait has passed.
func (s *Server) leaderOf(ctx context.Context, region string) (string, error) {
	if addr, ok := s.hints.get(region, s.cfg.Now()); ok {
		return addr, nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	var (
		pause backoff
		last  error
	)
	for {
		var dirs *directories
		if t, _ := s.leading(); t != nil {
			dirs = t.dirs
		}
		for _, addr := range s.serversOf(region, dirs) {
			st, err := s.statusOf(ctx, addr)
			switch {
			case err != nil:
				last = err
			case st.Region != region:
				last = fmt.Errorf("server %s is of region %.80q", addr, st.Region)
			case st.Leader == "":
				last = fmt.Errorf("server %s knows of no leader", addr)
			default:
				s.hints.put(region, st.Leader, s.cfg.Now().Add(leaderHintFor))
				return st.Leader, nil
			}
		}
		if err := pause.wait(ctx); err != nil {
			if last == nil {
				last = errors.New("no server of it is known")
			}
			return "", fmt.Errorf("region %s: %w: %w", region, starling.ErrUnavailable, last)
		}
	}
}

func (s *Server) statusOf(ctx context.Context, addr string) (rpc.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	client := rpc.Client{HTTP: &http.Client{Transport: s.at(addr)}}
	return client.Status(ctx)
}
