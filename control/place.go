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

// Route implements httpapi.Router. A name that this server does not know is for the
// leader of the region to look for: followers learn what was committed only later.
func (s *Server) Route(ctx context.Context, app, deployment string) (http.RoundTripper, error) {
	region := s.cfg.Region
	if app != "" || deployment != "" {
		region = homeIn(s.cfg.FSM.View(), app, deployment)
	}
	if region == "" || region == s.cfg.Region {
		t, _, err := s.place(ctx, leaderWait)
		if err != nil {
			return nil, err
		}
		if t == nil {
			return toLeader{s, s.cfg.Region}, nil
		}
		if region == "" {
			if region, err = s.awaitHome(ctx, app, deployment); err != nil {
				return nil, err
			}
		}
		if region == s.cfg.Region {
			return nil, nil
		}
	}
	if _, err := s.leaderOf(ctx, region); err != nil {
		return nil, err
	}
	return toLeader{s, region}, nil
}

// homeIn returns the home of a deployment, or else of an app, "" if it is not known. What
// has ended is at home where its app is now: the region that it ended in may be lost.
func homeIn(v raftfsm.View, app, deployment string) string {
	home := ""
	if deployment != "" {
		d, ok := v.Deployment(deployment)
		if ok && !d.Phase.Terminal() {
			return d.Home
		}
		if ok {
			app, home = d.App, d.Home
		} else if l, ok := v.Archived(deployment); ok {
			app, home = l.Head.App, l.Segment.Home
		} else {
			return ""
		}
	}
	if a, ok := v.App(app); ok {
		return a.Home
	}
	return home
}

// awaitHome waits, at the leader, for a name that may be on its way in a mirror batch.
func (s *Server) awaitHome(ctx context.Context, app, deployment string) (string, error) {
	var home string
	s.waitView(ctx, mirrorWait, func(v raftfsm.View) bool {
		home = homeIn(v, app, deployment)
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
// knows or leaderWait has passed. A leader that was silent a moment ago is believed
// only if it says so itself: the others notice its death later.
func (s *Server) leaderOf(ctx context.Context, region string) (string, error) {
	if addr, ok := s.hints.get(region, s.cfg.Now()); ok && !s.suspects.has(addr, s.cfg.Now()) {
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
		for _, addr := range s.suspects.last(s.serversOf(region, dirs), s.cfg.Now()) {
			st, err := s.statusOf(ctx, addr)
			if err != nil {
				s.suspectUnlessCancelled(ctx, addr)
				last = err
				continue
			}
			s.suspects.clear(addr)
			switch {
			case st.Region != region:
				last = fmt.Errorf("server %s is of region %.80q", addr, st.Region)
			case st.Leader == "":
				last = fmt.Errorf("server %s knows of no leader", addr)
			case s.suspects.has(st.Leader, s.cfg.Now()):
				last = fmt.Errorf("server %s leads and does not answer", st.Leader)
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

// askLeader calls the leader of another region. One that cannot answer is looked for anew the
// next time.
func askLeader[T any](ctx context.Context, s *Server, region string, f func(context.Context, *rpc.Client) (T, error)) (out T, err error) {
	addr, err := s.leaderOf(ctx, region)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	out, err = f(ctx, &rpc.Client{HTTP: &http.Client{Transport: s.at(addr)}})
	if errors.Is(err, starling.ErrUnavailable) || errors.Is(err, starling.ErrNotLeader) {
		s.hints.put(region, "", time.Time{})
	}
	return out, err
}
