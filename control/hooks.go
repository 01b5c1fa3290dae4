package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

const (
	hookLookEvery  = 200 * time.Millisecond // while a worker waits
	hookRetryAfter = 2 * time.Second        // when a home could not be asked
	hookSlot       = "/hook"                // after the worker's name, as a slot of builds is
)

// serveHookLease hands a hook of this region to one of its workers, as soon as there is one
// whose artifact the region's caches hold.
func (s *Server) serveHookLease(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.HookLeaseRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	ctx, cancel := s.whileLeading(r.Context(), c.term)
	defer cancel()
	ctx, done := context.WithTimeout(ctx, time.Duration(max(0, min(req.WaitMS, rpc.MaxWait.Milliseconds())))*time.Millisecond)
	defer done()
	for {
		v := s.cfg.FSM.View()
		job, asked := s.takeHook(r.Context(), c, v)
		if job != nil {
			return answer(w, rpc.HookLeaseResponse{Job: job})
		}
		var again <-chan time.Time
		if asked {
			again = time.After(hookRetryAfter)
		}
		select {
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-again:
		case <-ctx.Done():
			return answer(w, rpc.HookLeaseResponse{})
		}
		if sleep(ctx, hookLookEvery) != nil {
			return answer(w, rpc.HookLeaseResponse{})
		}
	}
}

// takeHook tries to have a hook granted to a worker of this region. asked: there are some,
// and the home gave none.
func (s *Server) takeHook(ctx context.Context, c *caller, v raftfsm.View) (job *rpc.HookJob, asked bool) {
	for _, waiting := range v.HooksWaiting(s.cfg.Region, c.Name+hookSlot) {
		d, hook := waiting.Deployment, waiting.Run.Name()
		key := hookKey(d.ID, hook)
		if !v.Placed(d.Artifact) || !c.term.hooks.claim(key) {
			continue
		}
		asked = true
		job, err := s.askForHook(ctx, c, d, hook)
		c.term.hooks.release(key)
		if err == nil {
			return job, true
		}
		if !errors.Is(err, starling.ErrConflict) && ctx.Err() == nil {
			s.cfg.Logger.Warn("a hook cannot be leased", "deployment", d.ID, "hook", hook, "home", d.Home, "err", err)
		}
	}
	return nil, asked
}

func (s *Server) askForHook(ctx context.Context, c *caller, d *starling.Deployment, hook string) (*rpc.HookJob, error) {
	if d.Home == s.cfg.Region {
		return s.grantHook(ctx, c.term, d.ID, hook, s.cfg.Region, c.Name)
	}
	return askLeader(ctx, s, d.Home, func(ctx context.Context, home *rpc.Client) (*rpc.HookJob, error) {
		return home.HookGrant(ctx, d.ID, rpc.HookGrantRequest{Hook: hook, Worker: c.Name})
	})
}

// serveHookGrant leases a hook to a worker of the region that asks.
func (s *Server) serveHookGrant(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.HookGrantRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if err := starling.CheckName("worker", req.Worker); err != nil {
		return err
	}
	job, err := s.grantHook(r.Context(), c.term, r.PathValue("id"), req.Hook, c.Region, req.Worker)
	if err != nil {
		return err
	}
	return answer(w, rpc.HookLeaseResponse{Job: job})
}

// grantHook commits the lease of a hook of a deployment homed here.
func (s *Server) grantHook(ctx context.Context, t *term, id, hook, region, worker string) (*rpc.HookJob, error) {
	if err := t.Supported(s.cfg.FSM.View(), t.now()); err != nil {
		return nil, fmt.Errorf("hook: %w", err)
	}
	res, err := s.propose(ctx, "worker:"+worker, raftfsm.TypeHookLease, raftfsm.HookLease{ID: id, Hook: hook, Region: region, Worker: worker + hookSlot})
	if err == nil {
		err = t.Supported(s.cfg.FSM.View(), t.now()) // committing may have taken long
	}
	if err != nil {
		return nil, err
	}
	d := res.Deployment
	h := d.Hook(hook)
	if h == nil {
		return nil, fmt.Errorf("hook %s of deployment %s: %w", hook, id, starling.ErrNotFound)
	}
	t.hooks.beat(hookKey(id, hook), h.Lease, t.now())
	return &rpc.HookJob{Deployment: d.ID, App: d.Spec, SHA: d.SHA, Artifact: d.Artifact, RollbackOf: d.RollbackOf, Run: *h, Deadline: d.Deadline}, nil
}

// elsewhere says whether a call about a hook is to be passed on to another region, having
// checked that the caller may make it: a worker of this region, or a server of another
// one, which speaks for a worker of its own.
func (s *Server) elsewhere(c *caller, id string, call *rpc.HookCall) (home string, err error) {
	d, ok := s.cfg.FSM.View().Deployment(id)
	foreign := c.Region != s.cfg.Region
	switch {
	case !foreign && !c.Has(starling.RoleWorker), foreign && !c.Has(starling.RoleServer):
		return "", fmt.Errorf("%s may not run hooks here: %w", c, starling.ErrForbidden)
	case !ok:
		return "", fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
	case foreign && d.Home != s.cfg.Region:
		return "", fmt.Errorf("the home of deployment %s is %s: %w", id, d.Home, starling.ErrFenced)
	}
	if !foreign {
		call.Worker = c.Name
	}
	if d.Home != s.cfg.Region {
		return d.Home, nil
	}
	return "", nil
}

// leasedHook returns a hook that runs, for a deployment homed here, under the lease that
// its worker names, or ErrFenced if that is over.
func (s *Server) leasedHook(c *caller, id string, call rpc.HookCall) (*starling.HookRun, error) {
	d, ok := s.cfg.FSM.View().Deployment(id)
	if !ok {
		return nil, fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
	}
	switch h := d.Hook(call.Hook); {
	case h == nil:
		return nil, fmt.Errorf("hook %.80q of deployment %s: %w", call.Hook, id, starling.ErrFenced)
	case h.State != starling.HookRunning || call.Lease == 0 || h.Lease != call.Lease:
		return nil, fmt.Errorf("lease %d of hook %s of deployment %s is over: it is %s: %w", call.Lease, call.Hook, id, h.State, starling.ErrFenced)
	case h.Region != c.Region || strings.TrimSuffix(h.Worker, hookSlot) != call.Worker:
		return nil, fmt.Errorf("hook %s is leased to %s of region %s: %w", call.Hook, h.Worker, h.Region, starling.ErrForbidden)
	default:
		return h, nil
	}
}

func (s *Server) serveHookHeartbeat(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.HookCall
	if err := decode(r, &req); err != nil {
		return err
	}
	id := r.PathValue("id")
	home, err := s.elsewhere(c, id, &req)
	if err != nil {
		return err
	}
	if home != "" {
		_, err = askLeader(r.Context(), s, home, func(ctx context.Context, cl *rpc.Client) (struct{}, error) {
			return struct{}{}, cl.HookHeartbeat(ctx, id, req)
		})
	} else if _, err = s.leasedHook(c, id, req); err == nil {
		c.term.hooks.beat(hookKey(id, req.Hook), req.Lease, c.term.now())
	}
	if err != nil {
		return err
	}
	return answerNothing(w)
}

func (s *Server) serveHookLog(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.HookLogRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if len(req.Data) > rpc.MaxLogPostBytes {
		return starling.Invalidf("data", "%d bytes, more than %d", len(req.Data), rpc.MaxLogPostBytes)
	}
	id := r.PathValue("id")
	home, err := s.elsewhere(c, id, &req.HookCall)
	if err != nil {
		return err
	}
	var next int64
	if home != "" {
		next, err = askLeader(r.Context(), s, home, func(ctx context.Context, cl *rpc.Client) (int64, error) { return cl.HookLog(ctx, id, req) })
	} else if h, herr := s.leasedHook(c, id, req.HookCall); herr != nil {
		err = herr
	} else {
		now, key := c.term.now(), hookKey(id, req.Hook)
		c.term.hooks.beat(key, req.Lease, now)
		next = c.term.logs.append(id, starling.HookSection(req.Hook, h.Attempt), req.Lease, req.Offset, req.Data, now)
	}
	if err != nil {
		return err
	}
	return answer(w, rpc.LogResponse{Next: next})
}

func (s *Server) serveHookEnd(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.HookEndRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if len(req.Output) > 2*starling.MaxHookLogBytes {
		return starling.Invalidf("output", "%d bytes, more than %d", len(req.Output), 2*starling.MaxHookLogBytes)
	}
	id := r.PathValue("id")
	home, err := s.elsewhere(c, id, &req.HookCall)
	switch {
	case err != nil:
		return err
	case home != "":
		_, err = askLeader(r.Context(), s, home, func(ctx context.Context, cl *rpc.Client) (struct{}, error) {
			return struct{}{}, cl.HookEnd(ctx, id, req)
		})
	default:
		err = s.endHook(r.Context(), c, id, &req)
	}
	if err != nil {
		return err
	}
	return answerNothing(w)
}

// endHook keeps a hook's output in the caches and commits its end. What the state machine
// must judge, a retry or a lease that is over, is left to it.
func (s *Server) endHook(ctx context.Context, c *caller, id string, req *rpc.HookEndRequest) error {
	end := raftfsm.HookEnd{
		ID: id, Hook: req.Hook, Lease: req.Lease, Failed: req.Failed,
		Reason: clip(req.Reason, starling.MaxReasonBytes-200), Sandboxed: req.Sandboxed,
	}
	_, err := s.leasedHook(c, id, req.HookCall)
	if err != nil && !errors.Is(err, starling.ErrFenced) {
		return err
	}
	if err == nil {
		if text := req.Output; len(text) > 0 {
			digest := starling.DigestOf(text)
			if perr := s.cfg.Blobs.Put(ctx, digest, text); perr != nil {
				s.cfg.Logger.Warn("the output of a hook could not be stored", "deployment", id, "hook", req.Hook, "err", perr)
			} else {
				end.Log, end.LogBytes = digest, int64(len(text))
			}
		}
	}
	if _, err := s.propose(ctx, "worker:"+req.Worker, raftfsm.TypeHookEnd, end); err != nil {
		return err
	}
	c.term.poke()
	return nil
}
