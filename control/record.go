package control

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// maxDiffed bounds the deployments between the two that are compared.
const maxDiffed = 500

// History implements httpapi.Historian.
func (s *Server) History(f starling.DeploymentFilter) ([]starling.HistoryEntry, error) {
	v := s.cfg.FSM.View()
	if _, ok := v.App(f.App); !ok {
		return nil, fmt.Errorf("app %.80q: %w", f.App, starling.ErrNotFound)
	}
	limit := f.Limit
	f.Limit = min(limit+1, raftfsm.MaxListed) // one more, to compare the last with
	ds, err := records(v.History(f))
	if err != nil {
		s.cfg.Logger.Error("cannot read all of the archive", "err", err)
	}
	out := []starling.HistoryEntry{}
	for i, d := range ds[:min(len(ds), limit)] {
		e := starling.HistoryEntry{
			ID: d.ID, Actor: d.Actor, From: d.From, CreatedAt: d.CreatedAt, EndedAt: d.EndedAt, Phase: d.Phase, Reason: d.Reason,
			SHA: d.SHA, Artifact: d.Artifact, Generation: d.Generation, RollbackOf: d.RollbackOf, Revision: d.Spec.Revision,
			Approval: d.Approval, Commits: d.Commits, Changes: []starling.FieldChange{},
		}
		if i+1 < len(ds) {
			e.Changes = starling.DiffSpecs(&ds[i+1].Spec, &d.Spec)
		}
		out = append(out, e)
	}
	return out, nil
}

// Diff implements httpapi.Historian.
func (s *Server) Diff(app, from, to string) (*starling.DeploymentDiff, error) {
	v := s.cfg.FSM.View()
	a, err := s.deploymentOf(v, app, from)
	if err != nil {
		return nil, err
	}
	b, err := s.deploymentOf(v, app, to)
	if err != nil {
		return nil, err
	}
	out := &starling.DeploymentDiff{
		App: app, From: from, To: to, SHAs: [2]string{a.SHA, b.SHA},
		Changes: starling.DiffSpecs(&a.Spec, &b.Spec), Commits: []starling.Commit{},
	}
	if b.CreatedAt.Before(a.CreatedAt) || from == to {
		return out, nil
	}
	between, err := records(v.History(starling.DeploymentFilter{App: app, Before: to, Limit: maxDiffed}))
	if err != nil {
		s.cfg.Logger.Error("cannot read all of the archive", "err", err)
	}
	seen := map[string]bool{}
	for _, d := range slices.Concat([]*starling.Deployment{b}, between) {
		if d.ID == from {
			return out, nil
		}
		addCommits(out, d, seen)
	}
	out.Gaps = append(out.Gaps, from)
	return out, nil
}

func (s *Server) deploymentOf(v raftfsm.View, app, id string) (*starling.Deployment, error) {
	d, ok := s.deployment(v, id)
	if !ok || d.App != app {
		return nil, fmt.Errorf("deployment %.80q of app %.80q: %w", id, app, starling.ErrNotFound)
	}
	return d, nil
}

// addCommits adds what a deployment's build brought, each commit once: one that failed does
// not move what the next is compared with.
func addCommits(out *starling.DeploymentDiff, d *starling.Deployment, seen map[string]bool) {
	l := d.Commits
	if l == nil {
		if d.SHA != "" && d.RollbackOf == "" && !d.Artifact.IsZero() {
			out.Gaps = append(out.Gaps, d.ID)
		}
		return
	}
	if l.Problem != "" || l.Omitted > 0 {
		out.Gaps = append(out.Gaps, d.ID)
	}
	for _, c := range l.Commits {
		if !seen[c.SHA] {
			seen[c.SHA] = true
			out.Commits = append(out.Commits, c)
		}
	}
}

// Provenance implements httpapi.Historian.
func (s *Server) Provenance(ctx context.Context, id string) (*starling.Provenance, error) {
	v := s.cfg.FSM.View()
	d, ok := s.deployment(v, id)
	if !ok {
		return nil, fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
	}
	p := &starling.Provenance{Deployment: d.ID, App: d.App, SHA: d.SHA}
	if d.Artifact.IsZero() {
		p.Problem = "it has no artifact"
		return p, nil
	}
	if a, ok := v.Artifact(d.Artifact); ok {
		p.Artifact = a
		if a.Built != nil && d.Spec.Build != nil {
			p.Command = d.Spec.Build.Command
		}
		p.Cached = a.Built == nil || a.Built.Deployment != d.ID
	}
	ctx, cancel := context.WithTimeout(ctx, manifestWithin)
	defer cancel()
	envelope, err := s.cfg.Blobs.Manifest(ctx, d.Artifact)
	if err == nil && s.cfg.SignedBy != nil {
		p.Signature, err = s.cfg.SignedBy(envelope, d.Artifact)
	}
	switch {
	case err != nil:
		p.Problem = clip(err.Error(), starling.MaxReasonBytes)
	case p.Signature == nil:
		p.Problem = "this server does not check signatures"
	}
	return p, nil
}

// Readiness implements httpapi.Historian.
func (s *Server) Readiness(ctx context.Context, app string) ([]starling.ReleaseStatus, error) {
	v := s.cfg.FSM.View()
	a, ok := v.App(app)
	if !ok {
		return nil, fmt.Errorf("app %.80q: %w", app, starling.ErrNotFound)
	}
	releases := v.Releases(app)
	q := &rpc.ReadinessRequest{App: app, Targets: a.Deploy.Targets}
	g, running := v.Goal(app)
	if running {
		q.Targets = g.Deploy.Targets
	}
	for _, r := range releases {
		if !slices.Contains(q.Artifacts, r.Artifact) && len(q.Artifacts) < rpc.MaxReadinessArtifacts {
			q.Artifacts = append(q.Artifacts, r.Artifact)
		}
	}
	names := s.partaking(v)
	said := s.readinessOf(ctx, names, q)
	before := pastOf(v, app)
	out := []starling.ReleaseStatus{}
	current := false
	for _, r := range releases {
		one := &starling.Readiness{}
		if running && !current && g.Artifact == r.Artifact { // the newest of several with the same
			one.Current, current = true, true
		}
		for _, name := range names {
			h := regionHolding(name, said, r.Artifact)
			one.Regions = append(one.Regions, h)
			one.Machines, one.Held = one.Machines+max(0, h.Machines), one.Held+h.Held
		}
		one.Share = share(one.Held, one.Machines)
		one.RollbackMS, one.Basis = before.rollback(one)
		out = append(out, starling.ReleaseStatus{Release: *r, Readiness: one})
	}
	return out, nil
}

func regionHolding(region string, said map[string]rpc.Readiness, artifact starling.Digest) starling.RegionHolding {
	h := starling.RegionHolding{Name: region, Machines: -1}
	if a, ok := said[region]; ok {
		h.Machines, h.Held, h.Placed = a.Machines, max(0, min(a.Held[artifact.String()], a.Machines)), slices.Contains(a.Placed, artifact)
		h.Share = share(h.Held, h.Machines)
	}
	return h
}

func share(part, all int) float64 {
	if all <= 0 {
		return 1
	}
	return float64(part) / float64(all)
}

// rollback estimates how long a rollback to a release takes: as long as earlier rollbacks
// of the app, or else as a wave of machines takes to activate and become healthy, after a
// replication; and, where machines lack it, as they take to fetch.
func (p *past) rollback(r *starling.Readiness) (ms int64, basis string) {
	var words []string
	ms, of := p.medianOwn(func(d *starling.Deployment) (int64, bool) { return d.Timings.TotalMS, d.RollbackOf != "" })
	if of > 0 {
		words = append(words, fmt.Sprintf("the median of the app's last %d rollbacks", of))
	} else {
		wave, of, basis := p.median(waveMS)
		if of == 0 {
			return 0, "no deployment has succeeded to judge by"
		}
		overhead, _, _ := p.median(func(d *starling.Deployment) (int64, bool) { return d.Timings.ReplicateMS, true })
		if r.Share == 1 {
			overhead = min(overhead, wave) // the caches hold what was placed before
		}
		ms = wave + overhead
		words = append(words, fmt.Sprintf("how long a wave took in the last %d deployments (%s)", of, basis))
	}
	if r.Share < 1 {
		fetch, _, _ := p.median(func(d *starling.Deployment) (int64, bool) { return d.Timings.StageMS, d.Timings.StageMS > 0 })
		ms += fetch
		words = append(words, fmt.Sprintf("and to fetch it to the %d machines that lack it", r.Machines-r.Held))
	}
	return max(1, ms), strings.Join(words, ", ")
}

// medianOwn is median of the app's own deployments, however few.
func (p *past) medianOwn(of func(*starling.Deployment) (int64, bool)) (int64, int) {
	own := past{own: p.own}
	ms, n, _ := own.median(of)
	return ms, n
}
