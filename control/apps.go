package control

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// App implements httpapi.Apps.
func (s *Server) App(name string) (*starling.App, bool) { return s.cfg.FSM.View().App(name) }

// Apps implements httpapi.Apps.
func (s *Server) Apps() []*starling.App { return s.cfg.FSM.View().Apps() }

// Goal implements httpapi.Outcomes.
func (s *Server) Goal(app string) (*starling.Goal, bool) { return s.cfg.FSM.View().Goal(app) }

// Releases implements httpapi.Outcomes.
func (s *Server) Releases(app string) []*starling.Release { return s.cfg.FSM.View().Releases(app) }

// ApplyApp implements httpapi.Apps. An app without a home keeps the one it has, and a
// new one gets this region.
func (s *Server) ApplyApp(ctx context.Context, actor string, app starling.App, ifRevision *uint64) (*starling.App, error) {
	if app.Home == "" {
		app.Home = s.cfg.Region
		if old, ok := s.App(app.Name); ok {
			app.Home = old.Home
		}
	}
	if err := checkZones(app.Deploy.Strategy.Freeze); err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, actor, raftfsm.TypeAppApply, raftfsm.AppApply{App: app, IfRevision: ifRevision})
	if err != nil {
		return nil, err
	}
	return res.App, nil
}

// Submit implements httpapi.Deployments.
func (s *Server) Submit(ctx context.Context, actor string, sub starling.Submission) (*starling.Deployment, bool, error) {
	if err := checkSubmission(&sub); err != nil {
		return nil, false, err
	}
	if !sub.Artifact.IsZero() {
		// Pushed in another region a moment ago, its record may still be on its way.
		s.waitView(ctx, artifactWait, func(v raftfsm.View) bool {
			_, ok := v.Artifact(sub.Artifact)
			return ok
		})
	}
	return s.submit(ctx, actor, raftfsm.Submit{
		App: sub.App, SHA: sub.SHA, Artifact: sub.Artifact,
		Priority: sub.Priority, IdempotencyKey: sub.IdempotencyKey, IgnoreFreeze: sub.IgnoreFreeze, From: sub.From,
	})
}

func checkSubmission(sub *starling.Submission) error {
	if err := starling.CheckName("app", sub.App); err != nil {
		return err
	}
	switch {
	case sub.SHA == "" && sub.Artifact.IsZero():
		return starling.Invalidf("sha", "give the commit SHA to build, or an artifact")
	case sub.SHA != "" && !sub.Artifact.IsZero():
		return starling.Invalidf("artifact", "give either a commit SHA or an artifact, not both")
	case sub.Priority < 0 || sub.Priority > starling.MaxPriority:
		return starling.Invalidf("priority", "%d is not within 0 and %d", sub.Priority, starling.MaxPriority)
	case len(sub.IdempotencyKey) > maxIdempotencyBytes:
		return starling.Invalidf("idempotency_key", "%d bytes, more than %d", len(sub.IdempotencyKey), maxIdempotencyBytes)
	case sub.SHA != "":
		return starling.CheckSHA(sub.SHA)
	}
	return nil
}

// Rollback implements httpapi.Deployments.
func (s *Server) Rollback(ctx context.Context, actor, app string, to uint64, key string, from starling.Origin) (*starling.Deployment, bool, error) {
	if err := starling.CheckName("app", app); err != nil {
		return nil, false, err
	}
	if len(key) > maxIdempotencyBytes {
		return nil, false, starling.Invalidf("idempotency_key", "%d bytes, more than %d", len(key), maxIdempotencyBytes)
	}
	return s.submit(ctx, actor, raftfsm.Submit{App: app, Rollback: true, RollbackTo: to, IdempotencyKey: key, From: from})
}

// submit queues a deployment in which every known region takes part.
func (s *Server) submit(ctx context.Context, actor string, sub raftfsm.Submit) (*starling.Deployment, bool, error) {
	id, err := s.newID("d-")
	if err != nil {
		return nil, false, err
	}
	v := s.cfg.FSM.View()
	sub.ID, sub.Supersede = id, supersedes(v, sub.App)
	if v.Level() < raftfsm.LevelOrigins {
		sub.From = starling.Origin{}
	}
	sub.Regions = append(s.otherRegions(v), s.cfg.Region)
	slices.Sort(sub.Regions)
	res, err := s.propose(ctx, actor, raftfsm.TypeSubmit, sub)
	if err != nil {
		return nil, false, err
	}
	if res.Archived != nil {
		d, err := submittedLongAgo(*res.Archived, sub.IdempotencyKey)
		return d, false, err
	}
	if res.Deployment == nil {
		return nil, false, errors.New("submit: the state machine gave no deployment")
	}
	return res.Deployment, res.Created, nil
}

// supersedes reports whether a submission ends the app's queued ones, which programs of
// level 1 cannot.
func supersedes(v raftfsm.View, app string) bool {
	a, ok := v.App(app)
	return ok && a.Deploy.Strategy.Queue == starling.QueueLatest && v.Level() >= raftfsm.LevelSupersedes
}

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newID returns prefix and twelve random characters: 60 bits.
func (s *Server) newID(prefix string) (string, error) {
	text, err := s.random(8)
	return prefix + text[:min(12, len(text))], err
}

// random returns n random bytes in lower-case base 32.
func (s *Server) random(n int) (string, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(s.cfg.Rand, b); err != nil {
		return "", fmt.Errorf("read randomness: %w", err)
	}
	return base32Lower.EncodeToString(b), nil
}

// Deployment implements httpapi.Deployments. At the leader of the home, machines,
// regions and bytes are those of the moment.
func (s *Server) Deployment(id string) (*starling.Deployment, bool) {
	v := s.cfg.FSM.View()
	d, ok := s.deployment(v, id)
	if !ok || d.Phase.Terminal() || d.Home != s.cfg.Region {
		return d, ok
	}
	t, _ := s.leading()
	if t == nil {
		return d, true
	}
	return t.live(v, d), true
}

// live returns a copy of d with what the regions last reported.
func (t *term) live(v raftfsm.View, d *starling.Deployment) *starling.Deployment {
	c := t.look(v, d)
	out := *d
	sum := c.tally()
	if sum.known {
		out.Machines, out.Bytes = sum.counts, sum.bytes
	}
	out.WaitsFor = c.waits()
	out.Times = c.times()
	if d.Phase == starling.PhaseBuilding {
		out.Times = withUpload(out.Times, d, t.drafts.uploadAt(d))
	}
	out.Regions = slices.Clone(d.Regions)
	for i := range out.Regions {
		r, ok := c.report(out.Regions[i].Name)
		if ok && !out.Regions[i].Placed {
			out.Regions[i].ChunksDone, out.Regions[i].ChunksTotal = r.Placing.ChunksDone, r.Placing.ChunksTotal
		}
		if len(r.Progress) > 0 {
			out.Fleet = append(out.Fleet, starling.FleetProgress{Region: r.Region, Progress: r.Progress, FetchMS: r.Fetch.Quantiles()})
		}
	}
	return &out
}
