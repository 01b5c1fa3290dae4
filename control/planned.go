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

// fillPlan adds to a plan what people want to know and nobody decides by.
func (s *Server) fillPlan(ctx context.Context, v raftfsm.View, d *starling.Deployment, p *starling.Plan) {
	p.Changes = starling.DiffSpecs(s.runningSpec(v, p), &d.Spec)
	p.Change = d.Artifact.IsZero() || d.Artifact != p.Previous.Artifact || len(p.Changes) > 0
	names := make([]string, len(p.Regions))
	for i := range p.Regions {
		names[i] = p.Regions[i].Name
	}
	q := &rpc.ReadinessRequest{App: d.App, Targets: d.Spec.Deploy.Targets}
	if !d.Artifact.IsZero() {
		q.Artifacts = []starling.Digest{d.Artifact}
	}
	said := s.readinessOf(ctx, names, q)
	for i := range p.Regions {
		r := &p.Regions[i]
		if a, ok := said[r.Name]; ok {
			r.Machines, r.Absent, r.Held = a.Machines, a.Absent, a.Held[d.Artifact.String()]
			r.Placed = r.Placed || slices.Contains(a.Placed, d.Artifact)
		}
	}
	before := pastOf(v, d.App)
	p.Stages, p.TotalMS = before.stages(d)
	p.Bytes = s.plannedBytes(ctx, v, d, p, &before)
	p.WaitsFor = s.waits(v, d, p)
}

// runningSpec returns the spec of the release that a plan's would follow, nil if there is
// none. A rollback runs with what it restored, without that one's waves.
func (s *Server) runningSpec(v raftfsm.View, p *starling.Plan) *starling.App {
	id := p.Previous.Deployment
	var running *starling.Deployment
	for range raftfsm.MaxReleasesPerApp {
		d, ok := s.deployment(v, id)
		if !ok {
			break
		}
		if running = d; d.RollbackOf == "" {
			break
		}
		id = d.RollbackOf
	}
	if running == nil {
		return nil
	}
	return &running.Spec
}

// plannedBytes compares the manifests, or judges by earlier deployments.
func (s *Server) plannedBytes(ctx context.Context, v raftfsm.View, d *starling.Deployment, p *starling.Plan, before *past) starling.PlanBytes {
	var b starling.PlanBytes
	if d.Artifact.IsZero() {
		var n int
		b.Estimated = true
		b.Artifact, n, b.Basis = before.median(func(o *starling.Deployment) (int64, bool) { return o.Bytes.Artifact, built(o) })
		b.New, _, _ = before.median(newPerMachine)
		switch b.Basis {
		case "none":
			b.Basis = "it is to be built, and no deployment has succeeded to judge by"
		case "app":
			b.Basis = fmt.Sprintf("it is to be built: the median of the app's last %d", n)
		default:
			b.Basis = fmt.Sprintf("it is to be built: the median of the last %d of all apps", n)
		}
		return b
	}
	b.Cached = true
	if a, ok := v.Artifact(d.Artifact); ok {
		b.Artifact, b.New = a.Bytes, a.Bytes
	}
	if p.Previous.Artifact.IsZero() {
		b.Basis = "there is no release that machines could take chunks from"
		return b
	}
	ctx, cancel := context.WithTimeout(ctx, manifestWithin)
	defer cancel()
	fresh, err := s.newBytes(ctx, p.Previous.Artifact, d.Artifact)
	if err != nil {
		b.Estimated, b.Basis = true, "all of it: the caches did not give both manifests"
		s.cfg.Logger.Debug("cannot compare manifests", "artifact", d.Artifact, "previous", p.Previous.Artifact, "err", err)
		return b
	}
	b.New, b.Basis = fresh, "counted in the manifests of both releases"
	return b
}

// newPerMachine is what a machine had to get for a deployment, on average.
func newPerMachine(d *starling.Deployment) (int64, bool) {
	n := int64(d.Machines.Target)
	return (d.Bytes.CacheOut + d.Bytes.Peer) / max(1, n), n > 0
}

// newBytes sums up the distinct chunks of an artifact that another does not have.
func (s *Server) newBytes(ctx context.Context, previous, artifact starling.Digest) (int64, error) {
	if previous == artifact {
		return 0, nil
	}
	held := map[starling.Digest]bool{}
	old, err := s.manifest(ctx, previous)
	if err != nil {
		return 0, err
	}
	for i := range old.Chunks {
		held[old.Chunks[i].Digest] = true
	}
	now, err := s.manifest(ctx, artifact)
	if err != nil {
		return 0, err
	}
	var sum int64
	for i := range now.Chunks {
		if c := &now.Chunks[i]; !held[c.Digest] {
			held[c.Digest] = true
			sum += int64(c.Size)
		}
	}
	return sum, nil
}

func (s *Server) manifest(ctx context.Context, d starling.Digest) (*starling.Manifest, error) {
	b, err := s.Manifest(ctx, d)
	if err != nil {
		return nil, err
	}
	return starling.DecodeManifest(b)
}

// waits lists what a deployment would wait for, or still will, in the order of its way.
func (s *Server) waits(v raftfsm.View, d *starling.Deployment, p *starling.Plan) []starling.PlanWait {
	out := []starling.PlanWait{}
	if d.Phase.Terminal() {
		return out
	}
	add := func(kind, format string, args ...any) {
		out = append(out, starling.PlanWait{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	if d.Paused {
		add(starling.WaitPaused, "it is paused")
	}
	if d.Phase == starling.PhaseQueued {
		if o, ok := v.UnderWay(d.App); ok {
			add(starling.WaitDeployment, "deployment %s of the same app is %s", o.ID, o.Phase)
		}
		if o, ok := v.NextForApp(d.App); ok && o.ID != d.ID && o.Priority >= d.Priority {
			add(starling.WaitDeployment, "deployment %s of the same app is queued before it", o.ID)
		}
		if d.Artifact.IsZero() {
			s.workerWaits(v, d, add)
		}
	}
	var silent, without []string
	for _, r := range p.Regions {
		if r.Machines < 0 {
			silent = append(silent, r.Name)
		}
		if !r.Placed {
			without = append(without, r.Name)
		}
	}
	if len(silent) > 0 {
		add(starling.WaitRegion, "%s: no answer within %s", strings.Join(silent, ", "), readinessWithin)
	}
	st := &d.Spec.Deploy.Strategy
	before := d.Phase == starling.PhaseQueued || d.Phase == starling.PhaseBuilding || d.Phase == starling.PhaseReplicating
	if before && len(without) > 0 {
		add(starling.WaitGate, "the gate %s: %s must come to hold the artifact (%s)", st.Gate, strings.Join(without, ", "), gateWords(st.Gate))
	}
	if st.Approval && (before || d.Phase == starling.PhaseStaging || d.Phase == starling.PhaseAwaitingApproval) {
		add(starling.WaitApproval, "somebody with the role approver must approve it")
	}
	if t, _ := s.leading(); t != nil {
		if why := t.look(v, d).frozen(); why != "" {
			add(starling.WaitFreeze, "%s", why)
		}
	}
	return out
}

// workerWaits tells of the queue for workers.
func (s *Server) workerWaits(v raftfsm.View, d *starling.Deployment, add func(kind, format string, args ...any)) {
	ahead := 0
	for _, o := range v.Buildable() {
		if o.ID == d.ID {
			break
		}
		if o.App != d.App && o.Priority >= d.Priority {
			ahead++
		}
	}
	t, _ := s.leading()
	if t == nil {
		return
	}
	switch workers := t.liveWorkers(); {
	case workers == 0:
		add(starling.WaitWorker, "no worker is there to build it")
	case ahead > 0:
		add(starling.WaitQueue, "%d builds of other apps go before it, to %d workers", ahead, workers)
	}
}

func gateWords(g starling.Gate) string {
	switch g {
	case starling.GateEach:
		return "each region begins as soon as it does"
	case starling.GateQuorum:
		return "more than half are enough"
	}
	return "all are needed"
}
