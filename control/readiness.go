package control

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// readinessWithin is how long another region may take to say what its machines hold.
const readinessWithin = 2 * time.Second

// readiness tells what this region's machines hold of an app, as far as they have reported.
func (r *Reign) readiness(v raftfsm.View, q *rpc.ReadinessRequest, now time.Time) (rpc.Readiness, error) {
	out := rpc.Readiness{Region: r.conf.Region, Held: map[string]int{}}
	sel, err := starling.ParseSelector(q.Targets)
	if err != nil {
		return out, err
	}
	if now.Before(r.conf.Settled) || !r.cells.known(now) {
		return out, fmt.Errorf("the leader of region %s has not heard of all its machines yet: %w", r.conf.Region, starling.ErrUnavailable)
	}
	for _, a := range q.Artifacts {
		if v.Placed(a) {
			out.Placed = append(out.Placed, a)
		}
	}
	g, ok := v.Goal(q.App)
	if ok {
		fleet := cell.AddApps(r.cells.count(g, now), r.machines.count(g, now))
		for _, a := range q.Artifacts {
			if a == g.Artifact {
				out.Held[a.String()] = fleet.Counts.Staged
			} else if n := fleet.Held[a.String()]; n > 0 {
				out.Held[a.String()] = n
			}
		}
		if out.Machines, out.Absent = fleet.Counts.Target, fleet.Counts.Absent; g.Deploy.Targets == q.Targets {
			return out, nil
		}
	}
	live, absent := r.cells.chosen(sel, now)
	inPool, absentFromPool := r.machines.chosen(sel)
	out.Machines, out.Absent = live+inPool, absent+absentFromPool
	for d, n := range out.Held {
		out.Held[d] = min(n, out.Machines) // of machines that may be others
	}
	return out, nil
}

// chosen counts the machines in cells that a selector chooses.
func (b *cellBoard) chosen(sel starling.Selector, now time.Time) (live, absent int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.cells {
		for slot, m := range c.machines {
			switch {
			case m == nil || !c.targets(m, sel):
			case c.alive.Has(slot) || now.Before(c.awaitedUntil(slot)):
				live++
			default:
				absent++
			}
		}
	}
	return live, absent
}

// chosen counts the machines in the region's own pool that a selector chooses.
func (b *machineBoard) chosen(sel starling.Selector) (live, absent int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tally.Chosen(sel)
}

// readinessIn asks one region.
func (s *Server) readinessIn(ctx context.Context, region string, q *rpc.ReadinessRequest) (rpc.Readiness, error) {
	if t, _ := s.leading(); t != nil && region == s.cfg.Region {
		return t.readiness(s.cfg.FSM.View(), q, t.now())
	}
	ctx, cancel := context.WithTimeout(ctx, readinessWithin)
	defer cancel()
	return askLeader(ctx, s, region, func(ctx context.Context, leader *rpc.Client) (rpc.Readiness, error) {
		return leader.Readiness(ctx, *q)
	})
}

// readinessOf asks regions side by side. A region that does not answer in time is missing.
func (s *Server) readinessOf(ctx context.Context, regions []string, q *rpc.ReadinessRequest) map[string]rpc.Readiness {
	answers := make([]rpc.Readiness, len(regions))
	errs := make([]error, len(regions))
	var wg sync.WaitGroup
	for i, name := range regions {
		wg.Go(func() { answers[i], errs[i] = s.readinessIn(ctx, name, q) })
	}
	wg.Wait()
	out := map[string]rpc.Readiness{}
	for i, name := range regions {
		if errs[i] != nil {
			s.cfg.Logger.Debug("a region does not say what its machines hold", "other", name, "err", errs[i])
			continue
		}
		if a := answers[i]; a.Machines >= 0 && a.Absent >= 0 {
			out[name] = a
		}
	}
	return out
}

func (s *Server) serveReadiness(w http.ResponseWriter, r *http.Request, c *caller) error {
	var q rpc.ReadinessRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if len(q.Artifacts) > rpc.MaxReadinessArtifacts {
		return starling.Invalidf("artifacts", "%d, more than %d", len(q.Artifacts), rpc.MaxReadinessArtifacts)
	}
	out, err := c.term.readiness(s.cfg.FSM.View(), &q, c.term.now())
	if err != nil {
		return err
	}
	return answer(w, out)
}
