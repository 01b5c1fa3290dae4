package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// serveLease hands the next job to a worker as soon as there is one.
func (s *Server) serveLease(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.LeaseRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if req.Slot < 0 || req.Slot > 1023 || len(req.Holding) > raftfsm.MaxHolding {
		return starling.Invalidf("slot", "slot %d with %d jobs is out of bounds", req.Slot, len(req.Holding))
	}
	wait := time.Duration(max(0, min(req.WaitMS, rpc.MaxWait.Milliseconds()))) * time.Millisecond
	ctx, cancel := s.whileLeading(r.Context(), c.term)
	defer cancel()
	if wait > 0 {
		var done context.CancelFunc
		ctx, done = context.WithTimeout(ctx, wait)
		defer done()
	}
	worker := fmt.Sprintf("%s/%d", c.Name, req.Slot)
	d, err := c.term.lease(ctx, worker, req.Holding, wait == 0)
	if err != nil {
		return err
	}
	var res rpc.LeaseResponse
	if d != nil {
		res.Job = jobOf(s.cfg.FSM.View(), d)
	}
	return answer(w, res)
}

func jobOf(v raftfsm.View, d *starling.Deployment) *rpc.Job {
	since := ""
	if rel, ok := v.Release(d.App); ok {
		since = rel.SHA
	}
	return &rpc.Job{
		Since:      since,
		Deployment: d.ID, App: d.Spec, SHA: d.SHA, BuildKey: d.Spec.BuildKey(d.SHA),
		Attempt: d.Attempt, Lease: d.Lease, Deadline: d.Deadline,
	}
}

func (s *Server) serveHeartbeat(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.HeartbeatRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if err := c.term.Heartbeat(s.cfg.FSM.View(), c.Name, r.PathValue("id"), req, c.term.now()); err != nil {
		return err
	}
	return answerNothing(w)
}

func (s *Server) serveJobLog(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.LogRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if len(req.Data) > rpc.MaxLogPostBytes {
		return starling.Invalidf("data", "%d bytes, more than %d", len(req.Data), rpc.MaxLogPostBytes)
	}
	d, err := c.term.leased(s.cfg.FSM.View(), c.Name, r.PathValue("id"), req.Lease)
	if err != nil {
		return err
	}
	now := c.term.now()
	c.term.jobs.beat(d.ID, d.Lease, now)
	return answer(w, rpc.LogResponse{Next: c.term.logs.append(d.ID, starling.BuildSection(d.Attempt), d.Lease, req.Offset, req.Data, now)})
}

func (s *Server) serveComplete(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.CompleteRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	done, inForce, err := c.term.Complete(s.cfg.FSM.View(), c.Name, r.PathValue("id"), req)
	if err != nil {
		return err
	}
	if inForce {
		if err := s.checkBuilt(r.Context(), req.Artifact.Digest); err != nil {
			return err
		}
	}
	_, err = s.propose(r.Context(), "worker:"+c.Name, raftfsm.TypeJobComplete, done)
	if err != nil {
		return err
	}
	return answerNothing(w)
}

// checkBuilt refuses a result whose manifest the caches lack: without it the artifact
// would be replicated until the deadline. While they cannot be asked the worker is to
// try again.
func (s *Server) checkBuilt(ctx context.Context, artifact starling.Digest) error {
	ctx, cancel := context.WithTimeout(ctx, manifestWithin)
	defer cancel()
	_, err := s.Manifest(ctx, artifact)
	switch {
	case errors.Is(err, starling.ErrNotFound):
		return starling.Invalidf("artifact.digest", "the region's caches lack the manifest of %s", artifact)
	case errors.Is(err, starling.ErrCorrupt):
		return starling.Invalidf("artifact.digest", "%v", err)
	case err != nil:
		return fmt.Errorf("check the result: %w", errors.Join(starling.ErrUnavailable, err))
	}
	return nil
}

func (s *Server) serveFail(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.FailRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	d, err := c.term.leased(s.cfg.FSM.View(), c.Name, r.PathValue("id"), req.Lease)
	if err != nil {
		return err
	}
	_, err = s.propose(r.Context(), "worker:"+c.Name, raftfsm.TypeJobFail, raftfsm.JobFail{
		ID: d.ID, Lease: req.Lease, Reason: clip(req.Reason, starling.MaxReasonBytes), Log: req.Log, Sandboxed: req.Sandboxed,
	})
	if err != nil {
		return err
	}
	return answerNothing(w)
}
