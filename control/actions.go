package control

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Act implements httpapi.Deployments.
func (s *Server) Act(ctx context.Context, actor, id string, a starling.Action, o starling.ActionOptions) (*starling.Deployment, error) {
	if len(o.Reason) > starling.MaxReasonBytes {
		return nil, starling.Invalidf("reason", "%d bytes, more than %d", len(o.Reason), starling.MaxReasonBytes)
	}
	if o.IgnoreFreeze {
		if _, err := s.propose(ctx, actor, raftfsm.TypeIgnoreFreeze, raftfsm.IgnoreFreeze{ID: id}); err != nil {
			return nil, err
		}
	}
	var (
		t       raftfsm.Type
		payload any
		err     error
	)
	switch a {
	case starling.ActionCancel, starling.ActionAbort:
		t, payload = raftfsm.TypeFinish, s.ending(actor, id, a, o.Reason)
	case starling.ActionApprove:
		return s.Approve(ctx, actor, id, starling.Digest{})
	case starling.ActionPause, starling.ActionResume:
		t, payload = raftfsm.TypePause, raftfsm.Pause{ID: id, Paused: a == starling.ActionPause}
	case starling.ActionPromote:
		t = raftfsm.TypePromote
		payload, err = s.promotion(id, o)
	default:
		err = starling.Invalidf("action", "%.40q: use cancel, approve, pause, resume, promote or abort", a)
	}
	if err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, actor, t, payload)
	if errors.Is(err, starling.ErrConflict) {
		if d, ok := s.deployment(s.cfg.FSM.View(), id); ok && endedBy(d, a, actor) {
			return d, nil // a retry whose first try was done: its proof is in the record
		}
	}
	if err != nil {
		return nil, err
	}
	return res.Deployment, nil
}

// endedBy reports whether a deployment has ended as an action wants it to.
func endedBy(d *starling.Deployment, a starling.Action, actor string) bool {
	switch a {
	case starling.ActionCancel:
		return d.Phase == starling.PhaseCancelled
	case starling.ActionAbort:
		return d.Phase == starling.PhaseFailed && strings.HasPrefix(d.Reason, endText(a, actor))
	}
	return false
}

func endText(a starling.Action, actor string) string {
	word := "cancelled"
	if a == starling.ActionAbort {
		word = "aborted"
	}
	return strings.TrimSpace(word + " by " + actor)
}

// ending keeps the counts of the moment in the record. What is cancelled goes back in any
// case, what is aborted as the strategy says.
func (s *Server) ending(actor, id string, a starling.Action, reason string) raftfsm.Finish {
	f := raftfsm.Finish{ID: id, Phase: starling.PhaseCancelled, Reason: endText(a, actor)}
	if a == starling.ActionAbort {
		f.Phase = starling.PhaseFailed
	}
	if reason != "" {
		f.Reason += ": " + reason
	}
	f.Reason = clip(f.Reason, starling.MaxReasonBytes)
	if d, ok := s.Deployment(id); ok {
		f.Counts, f.Bytes, f.Times = d.Machines, d.Bytes, d.Times
	}
	return f
}

// promotion names the step that is to end: the one under way, unless the caller does.
func (s *Server) promotion(id string, o starling.ActionOptions) (raftfsm.Promote, error) {
	p := raftfsm.Promote{ID: id, All: o.All}
	if o.Wave != nil {
		p.From = *o.Wave
	} else if d, ok := s.deployment(s.cfg.FSM.View(), id); ok {
		p.From = d.Wave
	}
	return p, s.unfrozen(id)
}

// unfrozen refuses what would begin a step while a freeze holds.
func (s *Server) unfrozen(id string) error {
	t, _ := s.leading()
	if t == nil {
		return nil // the proposal fails
	}
	v := s.cfg.FSM.View()
	d, ok := s.deployment(v, id)
	if !ok {
		return nil // the state machine says so
	}
	if why := t.look(v, d).frozen(); why != "" {
		return fmt.Errorf("%w: deployment %s is %s: wait, or let it go on in spite of that (starling resume %s --ignore-freeze), which its record will show", starling.ErrConflict, id, why, id)
	}
	return nil
}
