package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// BuildLog implements httpapi.Deployments. While the job runs the log is in the
// leader's memory; afterwards it is read from the caches, unless it is still here.
func (s *Server) BuildLog(ctx context.Context, id string, offset int64) (starling.LogPart, error) {
	if offset < 0 {
		return starling.LogPart{}, starling.Invalidf("offset", "%d is negative", offset)
	}
	ctx, cancel := context.WithTimeout(ctx, logWait)
	defer cancel()
	for {
		v := s.cfg.FSM.View()
		d, ok := s.deployment(v, id)
		if !ok {
			return starling.LogPart{}, fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
		}
		built := d.Phase != starling.PhaseQueued && d.Phase != starling.PhaseBuilding
		part, more, done, err := s.logPart(ctx, d, offset, built)
		if err != nil || done || len(part.Data) > 0 {
			return part, err
		}
		if built { // the end is known: nothing will come
			part.Done = true
			return part, nil
		}
		select {
		case <-more: // nil: never
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-ctx.Done():
			return part, nil
		}
	}
}

// logPart returns what there is from offset on, from memory or, once built, from the caches.
func (s *Server) logPart(ctx context.Context, d *starling.Deployment, offset int64, built bool) (starling.LogPart, <-chan struct{}, bool, error) {
	part := starling.LogPart{Next: offset}
	var more <-chan struct{}
	whole := false
	if t, _ := s.leading(); t != nil && d.Home == s.cfg.Region {
		part, more, whole = t.jobs.readLog(d.ID, offset)
	}
	if !built || whole || d.BuildLog.IsZero() {
		part.Done = built && len(part.Data) < maxLogPartBytes
		return part, more, part.Done, nil
	}
	data, err := s.cfg.Blobs.Get(ctx, d.BuildLog)
	switch {
	case errors.Is(err, starling.ErrNotFound) && len(part.Data) > 0:
		return part, nil, false, nil // better the part that is here than none
	case err != nil:
		return part, nil, false, fmt.Errorf("read the log of %s: %w", d.ID, err)
	}
	from := min(offset, int64(len(data)))
	to := min(from+maxLogPartBytes, int64(len(data)))
	return starling.LogPart{Data: data[from:to], Next: to, Done: to == int64(len(data))}, nil, to == int64(len(data)), nil
}

// WaitIndex implements httpapi.Cluster.
func (s *Server) WaitIndex(ctx context.Context, index uint64) uint64 {
	for {
		v := s.cfg.FSM.View()
		if v.Index() > index {
			return v.Index()
		}
		select {
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-ctx.Done():
			return s.cfg.FSM.View().Index()
		}
	}
}

// EventsAfter implements httpapi.Events.
func (s *Server) EventsAfter(index uint64, n, limit int) ([]starling.Event, bool) {
	return s.cfg.FSM.View().EventsAfter(index, n, min(max(limit, 1), raftfsm.MaxListed))
}
