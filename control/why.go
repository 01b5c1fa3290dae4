package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// Why implements httpapi.Explainer. What a deployment under way waits for is known to
// the leader of its home; others say how it last stood, and who leads there. machine, if not empty, is asked how the artifact came to
// it; region says where it is, empty: to be found.
func (s *Server) Why(ctx context.Context, id, machine, region string) (*starling.Why, error) {
	d, ok := s.Deployment(id)
	if _, led := s.cfg.Raft.Leader(); !ok && !led {
		return nil, fmt.Errorf("deployment %.80q is not known here, and region %s has no leader to ask: %w", id, s.cfg.Region, starling.ErrUnavailable)
	}
	if !ok {
		return nil, fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
	}
	w := &starling.Why{
		Deployment: d.ID, App: d.App, Artifact: d.Artifact, Phase: d.Phase, Reason: d.Reason,
		Timings: d.Timings, Bytes: d.Bytes, Machines: d.Machines, Fence: d.Fence, WaitsFor: []string{}, Regions: []starling.RegionWhy{},
	}
	if !d.Phase.Terminal() {
		w.PhaseMS = max(0, s.cfg.Now().Sub(d.PhaseAt).Milliseconds())
	}
	for _, p := range d.Regions {
		w.Regions = append(w.Regions, starling.RegionWhy{Placing: p})
	}
	switch t, _ := s.leading(); {
	case d.Phase.Terminal():
	case t != nil && d.Home == s.cfg.Region:
		t.explain(s.cfg.FSM.View(), d, w)
	default:
		w.Answer = s.lastKnown(d)
	}
	if machine == "" {
		return w, nil
	}
	if d.Artifact.IsZero() {
		return nil, fmt.Errorf("deployment %s has no artifact yet: %w", d.ID, starling.ErrConflict)
	}
	var err error
	w.Account, err = s.findAccount(ctx, d, machine, region)
	return w, err
}

// explain adds what the leader of the home knows of a deployment under way.
func (t *term) explain(v raftfsm.View, d *starling.Deployment, w *starling.Why) {
	c := t.look(v, d)
	w.WaitsFor = append(w.WaitsFor, c.waits()...)
	w.Answer = c.answer(&surroundings{nodes: t.nodes(), heard: t.jobs.of(d.ID, d.Lease), regions: func(name string) (starling.RegionStatus, bool) {
		return t.dirs.status(name, c.obs.Now)
	}})
	for i := range w.Regions {
		if r, ok := c.report(w.Regions[i].Name); ok {
			x, n := &w.Regions[i], r.Counts
			x.Heard, x.SilentMS, x.Bytes = true, max(0, c.obs.Now.Sub(r.At).Milliseconds()), r.Bytes
			x.Target, x.Staged, x.Healthy, x.Failed = n.Target, n.Staged, n.Healthy, n.Failed
		}
	}
}

// look is a look at one deployment homed here, to tell of it and not to decide.
func (t *term) look(v raftfsm.View, d *starling.Deployment) *deciding {
	return &deciding{view: v, dep: d, goal: goalOf(v, d), obs: &Observations{
		Now: t.now(), Reports: map[string]map[string]Report{d.App: t.home.of(d.App)}, Workers: t.liveWorkers(), Zone: t.zones.find,
	}}
}

// waits lists what a deployment under way waits for.
func (c *deciding) waits() []string {
	out := slices.DeleteFunc(c.missing(), func(s string) bool { return s == "" })
	if c.dep.Paused {
		out = append(out, "it is paused")
	}
	return out
}

// findAccount asks the regions that take part, or the given one, for a machine's account.
func (s *Server) findAccount(ctx context.Context, d *starling.Deployment, machine, region string) (*starling.Account, error) {
	var regions []string
	for _, p := range d.Regions {
		if region == "" || region == p.Name {
			regions = append(regions, p.Name)
		}
	}
	if len(regions) == 0 {
		return nil, fmt.Errorf("region %.80q does not take part in deployment %s: %w", region, d.ID, starling.ErrNotFound)
	}
	found := make([]*starling.Account, len(regions))
	problems := make([]error, len(regions))
	var wg sync.WaitGroup
	for i, r := range regions {
		wg.Go(func() { found[i], problems[i] = s.accountIn(ctx, r, machine, d.Artifact) })
	}
	wg.Wait()
	var only *starling.Account
	var where, texts []string
	kind := starling.ErrNotFound
	for i, r := range regions {
		switch err := problems[i]; {
		case err == nil:
			only = found[i]
			where = append(where, r)
		case len(regions) == 1:
			return nil, err
		default:
			if !errors.Is(err, starling.ErrNotFound) {
				kind = starling.ErrUnavailable
			}
			texts = append(texts, r+": "+err.Error())
		}
	}
	switch len(where) {
	case 0:
		return nil, fmt.Errorf("machine %.80q: %w: %s", machine, kind, strings.Join(texts, "; "))
	case 1:
		return only, nil
	}
	return nil, starling.Invalidf("region", "there is a machine %s in %s: name the region", machine, strings.Join(where, " and in "))
}

// accountIn asks a region for the account of one of its machines.
func (s *Server) accountIn(ctx context.Context, region, machine string, artifact starling.Digest) (*starling.Account, error) {
	if region == s.cfg.Region {
		return s.account(ctx, machine, artifact)
	}
	addr, err := s.leaderOf(ctx, region) // any server could; the leader is known to be alive
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, accountWithin+statusWithin)
	defer cancel()
	client := rpc.Client{HTTP: &http.Client{Transport: s.at(addr)}}
	return client.Account(ctx, machine, artifact)
}

// account asks a machine of this region.
func (s *Server) account(ctx context.Context, machine string, artifact starling.Digest) (*starling.Account, error) {
	if s.cfg.Account == nil {
		return nil, fmt.Errorf("server %s cannot ask machines: %w", s.cfg.Name, starling.ErrUnavailable)
	}
	node, err := s.machineNode(ctx, machine)
	if err != nil {
		return nil, err
	}
	if !node.Alive {
		return nil, fmt.Errorf("machine %s does not answer: %w", machine, starling.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, accountWithin)
	defer cancel()
	b, err := s.cfg.Account(ctx, node.Addr, artifact)
	switch {
	case errors.Is(err, starling.ErrNotFound):
		return nil, fmt.Errorf("machine %s does not know how artifact %s came to it: %w", machine, artifact.Short(), starling.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("ask machine %s: %w: %w", machine, starling.ErrUnavailable, err)
	}
	a, err := starling.DecodeAccount(b, machine, artifact)
	if err != nil {
		s.cfg.Logger.Warn("a machine gives no sound account", "machine", machine, "err", err)
		return nil, fmt.Errorf("machine %s gives no sound account: %w", machine, starling.ErrUnavailable)
	}
	a.Region = s.cfg.Region
	return a, nil
}

func (s *Server) serveAccount(w http.ResponseWriter, r *http.Request, _ *caller) error {
	q := r.URL.Query()
	machine := q.Get("machine")
	if err := starling.CheckName("machine", machine); err != nil {
		return err
	}
	artifact, err := starling.ParseDigest(q.Get("artifact"))
	if err != nil {
		return starling.Invalidf("artifact", "%v", err)
	}
	a, err := s.account(r.Context(), machine, artifact)
	if err != nil {
		return err
	}
	return answer(w, a)
}
