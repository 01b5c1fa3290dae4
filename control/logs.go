package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// logSection is one part of a deployment's log: its build's, or that of a hook.
type logSection struct {
	key    string // among the logs in the leader's memory
	stored starling.Digest
	ended  bool
}

// logSections lists the parts of a log in the order in which they are read, and whether
// more may come. A part follows the one before it once that has ended, so that an offset
// means the same to every reader, whenever it reads.
func logSections(d *starling.Deployment) (all []logSection, more bool) {
	built := d.Phase != starling.PhaseQueued && d.Phase != starling.PhaseBuilding
	all = []logSection{{d.ID, d.BuildLog, built}}
	begun := slices.DeleteFunc(slices.Clone(d.Hooks), func(h starling.HookRun) bool { return h.First == 0 })
	slices.SortStableFunc(begun, func(a, b starling.HookRun) int { return cmp.Compare(a.First, b.First) })
	for i := range begun {
		h := &begun[i]
		all = append(all, logSection{hookKey(d.ID, h.Name()), h.Log, h.Ended()})
	}
	return all, !built || d.Spec.Deploy.Hooks.Once() && !d.Phase.Terminal()
}

// BuildLog implements httpapi.Deployments. While a build or a hook runs its log is in the
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
		part, grown, err := s.logPart(ctx, d, offset)
		if err != nil || part.Done || len(part.Data) > 0 {
			return part, err
		}
		select {
		case <-grown: // nil: never
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-ctx.Done():
			return part, nil
		}
	}
}

// logPart returns what there is from offset on, Done at the end, and a channel that is
// closed when the part of the log under way has grown.
func (s *Server) logPart(ctx context.Context, d *starling.Deployment, offset int64) (starling.LogPart, <-chan struct{}, error) {
	part := starling.LogPart{Next: offset}
	all, more := logSections(d)
	at := offset // in the section
	for _, sec := range all {
		text, grown, err := s.sectionText(ctx, d, sec)
		switch {
		case err != nil:
			return part, nil, fmt.Errorf("read the log of %s: %w", d.ID, err)
		case at < int64(len(text)):
			n := min(int64(len(text))-at, maxLogPartBytes)
			part.Data, part.Next = text[at:at+n:at+n], offset+n
			part.Done = !more && sec == all[len(all)-1] && at+n == int64(len(text))
			return part, nil, nil
		case !sec.ended:
			return part, grown, nil
		}
		at -= int64(len(text))
	}
	part.Done = !more
	return part, nil, nil
}

// sectionText returns all that there is of a section, from memory or, once it has ended,
// from the caches. It is not to be changed.
func (s *Server) sectionText(ctx context.Context, d *starling.Deployment, sec logSection) ([]byte, <-chan struct{}, error) {
	var here []byte
	var grown <-chan struct{}
	whole := false
	if t, _ := s.leading(); t != nil && d.Home == s.cfg.Region {
		here, grown, whole = t.jobs.readLog(sec.key)
	}
	if !sec.ended || whole || sec.stored.IsZero() {
		return here, grown, nil
	}
	stored, err := s.cfg.Blobs.Get(ctx, sec.stored)
	if errors.Is(err, starling.ErrNotFound) && len(here) > 0 {
		return here, grown, nil // better the part that is here than none
	}
	return stored, nil, err
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
