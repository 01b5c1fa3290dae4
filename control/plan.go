package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Plan implements httpapi.Planner: what a submission would do. A spec that comes with it
// is read as if it had been applied before.
func (s *Server) Plan(ctx context.Context, req starling.PlanRequest) (*starling.Plan, error) {
	v := s.cfg.FSM.View()
	app, known := v.App(req.App)
	switch {
	case req.Spec != nil:
		spec := *req.Spec
		if spec.Home == "" && known {
			spec.Home = app.Home
		}
		if known {
			spec.Revision, spec.Epoch, spec.Line = app.Revision, app.Epoch, app.Line
		}
		app = &spec
	case !known:
		return nil, fmt.Errorf("app %.80q: %w", req.App, starling.ErrNotFound)
	}
	if err := checkPlanned(v, app, &req); err != nil {
		return nil, err
	}
	d := &starling.Deployment{
		App: app.Name, Home: app.Home, SHA: req.SHA, Artifact: req.Artifact, Priority: req.Priority, Spec: *app,
		Phase: starling.PhaseQueued,
	}
	if d.Home == "" {
		d.Home = s.cfg.Region
	}
	switch rel, ok := v.Release(app.Name); {
	case req.SHA != "":
		if a, ok := v.ArtifactByBuildKey(app.BuildKey(req.SHA)); ok {
			d.Artifact = a.Digest
		}
	case req.Artifact.IsZero() && ok: // the release that runs, with the present spec
		d.SHA, d.Artifact = rel.SHA, rel.Artifact
	}
	for _, name := range s.partaking(v) {
		d.Regions = append(d.Regions, starling.Placing{Name: name})
	}
	p := decidedOf(v, d)
	s.fillPlan(ctx, v, d, p)
	return p, nil
}

func checkPlanned(v raftfsm.View, app *starling.App, req *starling.PlanRequest) error {
	switch {
	case req.SHA != "" && app.Build == nil:
		return starling.Invalidf("sha", "app %s has no build block: plan with an artifact, or add one", app.Name)
	case req.SHA != "" || req.Artifact.IsZero():
		return nil
	}
	if _, ok := v.Artifact(req.Artifact); !ok {
		return fmt.Errorf("artifact %s: push it first: %w", req.Artifact, starling.ErrNotFound)
	}
	return nil
}

// DeploymentPlan implements httpapi.Planner: what a deployment does, or what it did.
func (s *Server) DeploymentPlan(ctx context.Context, id string) (*starling.Plan, error) {
	d, ok := s.Deployment(id)
	if !ok {
		return nil, fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
	}
	v := s.cfg.FSM.View()
	p := decidedOf(v, d)
	s.fillPlan(ctx, v, d, p)
	return p, nil
}

// Approve implements httpapi.Planner. Without a plan's hash it counts only as long as the
// spec is that of the submission, so that nobody lets through what they cannot have seen.
func (s *Server) Approve(ctx context.Context, actor, id string, plan starling.Digest) (*starling.Deployment, error) {
	v := s.cfg.FSM.View()
	approve := raftfsm.Approve{ID: id, Plan: plan}
	if d, ok := v.Deployment(id); ok && d.Phase == starling.PhaseAwaitingApproval && d.Home == s.cfg.Region {
		now := decidedOf(v, d)
		if err := mayApprove(d, now, plan); err != nil {
			return nil, err
		}
		if !plan.IsZero() {
			approve.Revision, approve.Previous = now.Revision, now.Previous.Generation
		}
		if err := s.unfrozen(id); err != nil {
			return nil, err
		}
	}
	res, err := s.propose(ctx, actor, raftfsm.TypeApprove, approve)
	if err != nil {
		return nil, err
	}
	return res.Deployment, nil
}

func mayApprove(d *starling.Deployment, now *starling.Plan, plan starling.Digest) error {
	stale := &starling.StaleError{Field: "plan", Hint: fmt.Sprintf("read it (GET /v1/deployments/%s/plan, starling approve %s) and approve its hash, %s", d.ID, d.ID, now.ID)}
	switch {
	case plan == now.ID:
		return nil
	case !plan.IsZero():
		stale.Detail = fmt.Sprintf("the plan of deployment %s is another than the one that was shown, %s: %s", d.ID, plan, whatChanged(d, now))
	case d.Spec.Deploy.Strategy.ApprovalPlan:
		stale.Detail = fmt.Sprintf("an approval of app %s must name the hash of the plan that was shown", d.App)
	case !now.ChangedTo.IsZero():
		stale.Detail = fmt.Sprintf("the plan of deployment %s has changed since it was submitted: %s", d.ID, whatChanged(d, now))
	default:
		return nil
	}
	return stale
}

func whatChanged(d *starling.Deployment, now *starling.Plan) string {
	if !now.ChangedTo.IsZero() {
		return fmt.Sprintf("the spec of app %s was changed; this deployment goes on with that of revision %d, the app is at %d", d.App, d.Spec.Revision, now.Revision)
	}
	return fmt.Sprintf("it brings artifact %s with the spec of revision %d after release %s", d.Artifact.Short(), d.Spec.Revision, now.Previous.Generation)
}

// inOrder lists the regions that take part as the strategy rolls them out.
func inOrder(d *starling.Deployment) []starling.Placing {
	s := &d.Spec.Deploy.Strategy
	out := slices.Clone(d.Regions)
	slices.SortStableFunc(out, func(a, b starling.Placing) int { return cmp.Compare(s.GroupOf(a.Name), s.GroupOf(b.Name)) })
	return out
}

// decidedOf is the part of a deployment's plan that its hash covers.
func decidedOf(v raftfsm.View, d *starling.Deployment) *starling.Plan {
	p := &starling.Plan{
		App: d.App, SHA: d.SHA, Artifact: d.Artifact, Spec: d.Spec.SpecDigest(),
		Deployment: d.ID, Home: d.Home, Strategy: d.Spec.Deploy.Strategy, Revision: d.Spec.Revision,
	}
	if app, ok := v.App(d.App); ok && d.ID != "" {
		p.Revision = app.Revision
		if app.Revision != d.Spec.Revision {
			if now := app.SpecDigest(); now != p.Spec || d.RollbackOf != "" {
				p.ChangedTo = now
			}
		}
	}
	for _, rel := range v.Releases(d.App) {
		if d.Phase.Terminal() && rel.Generation.Compare(d.Generation) >= 0 {
			continue // its own, and what came after it
		}
		p.Previous = starling.PlanRelease{Artifact: rel.Artifact, Generation: rel.Generation, SHA: rel.SHA, Deployment: rel.Deployment}
		break
	}
	for _, r := range inOrder(d) {
		p.Regions = append(p.Regions, starling.PlanRegion{Name: r.Name, Machines: -1, Placed: r.Placed})
	}
	p.ID = p.Hash()
	return p
}
