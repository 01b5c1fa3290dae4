package agent

import (
	"strings"

	"github.com/starlingdeploy/starling"
)

// publish hands the reporter where this machine stands with the goal.
func (p *app) publish() {
	g := p.rec.Goal
	if g == nil {
		return
	}
	if !p.chosen {
		p.a.reports.drop(p.name)
		return
	}
	state, reason, ok := p.state()
	if !ok {
		return
	}
	m := starling.MachineReport{
		Node: p.a.conf.Node.Name, App: p.name, Generation: g.Generation, State: state, Reason: clip(reason),
		Bytes: p.bytes, Kept: p.rec.kept(), Distrusted: p.a.flock.accused.list(),
	}
	if p.rec.Running != nil {
		m.Running = p.rec.Running.Artifact
	}
	rel := p.releases[g.Artifact]
	if d := p.download; d != nil && d.artifact == g.Artifact {
		rel, m.Bytes = d.rel, d.bytes
	}
	if rel != nil {
		m.ChunksDone, m.ChunksTotal, m.Bytes.Artifact = rel.tree.Held(), len(rel.manifest.Chunks), rel.manifest.Bytes()
	}
	if p.book != nil {
		m.FetchMS, m.Bound = p.book.summary()
	}
	p.a.reports.put(m)
}

// state tells where the machine stands with the goal; false while there is nothing to tell.
func (p *app) state() (state starling.MachineState, reason string, ok bool) {
	g, running := p.rec.Goal, p.rec.Running
	switch {
	case p.failed():
		return starling.MachineFailed, p.rec.Failed.Reason, true
	case g.Artifact.IsZero() && running == nil, running != nil && running.Generation == g.Generation:
		if p.saved < p.version || !p.resumed {
			return starling.MachineActivating, p.problem, true
		}
		if p.now.svc != nil {
			switch now, why := p.now.svc.status(); now {
			case down:
				return starling.MachineActivating, why, true
			case ended:
				return starling.MachineFailed, why, true
			}
		}
		return starling.MachineHealthy, "", true
	case p.op != nil && p.op.goal != nil && p.op.goal.Generation == g.Generation:
		return starling.MachineActivating, p.problem, true
	case g.Artifact.IsZero(), p.rec.holds(g.Artifact):
		return starling.MachineStaged, p.problem, true
	case !g.Stage.AtLeast(starling.StageFetch):
		return "", "", false
	}
	if d := p.download; d != nil && d.problem != "" {
		return starling.MachineFetching, d.problem, true
	}
	return starling.MachineFetching, p.problem, true
}

// clip bounds a reason for a report.
func clip(s string) string {
	if len(s) <= starling.MaxReasonBytes {
		return s
	}
	return strings.ToValidUTF8(s[:starling.MaxReasonBytes-3], "") + "..."
}
