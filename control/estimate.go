package control

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// What an estimate is made from.
const (
	estimateApp   = 10  // an app's last deployments that succeeded
	estimateLeast = 3   // with fewer of them, those of all apps are taken
	estimateAll   = 50  // of those
	estimateLook  = 200 // deployments that are looked through for them, the newest
)

// past is what estimates are made from, newest first.
type past struct {
	own, all []*starling.Deployment // that succeeded
}

// pastOf reads the past of an app from the records; what is in the archive is too old.
func pastOf(v raftfsm.View, app string) past {
	return past{
		own: succeeded(v.Deployments(starling.DeploymentFilter{App: app, Limit: estimateLook}), estimateApp),
		all: succeeded(v.Deployments(starling.DeploymentFilter{Limit: estimateLook}), estimateAll),
	}
}

func succeeded(ds []*starling.Deployment, most int) []*starling.Deployment {
	var out []*starling.Deployment
	for _, d := range ds {
		if d.Phase == starling.PhaseSucceeded && len(out) < most {
			out = append(out, d)
		}
	}
	return out
}

// median takes the median of what of returns for the app's past deployments, or for all if
// the app has too few; of returns false for those that say nothing about it.
func (p *past) median(of func(*starling.Deployment) (int64, bool)) (n int64, from int, basis string) {
	collect := func(ds []*starling.Deployment) []int64 {
		var out []int64
		for _, d := range ds {
			if n, ok := of(d); ok {
				out = append(out, n)
			}
		}
		slices.Sort(out)
		return out
	}
	basis, all := "app", collect(p.own)
	if len(all) < estimateLeast {
		if others := collect(p.all); len(others) > len(all) {
			basis, all = "all", others
		}
	}
	if len(all) == 0 {
		return 0, 0, "none"
	}
	return all[(len(all)-1)/2], len(all), basis
}

// stages estimates how long each stage of d takes.
func (p *past) stages(d *starling.Deployment) (out []starling.StageEstimate, total int64) {
	add := func(stage string, of func(*starling.Deployment) (int64, bool)) {
		ms, n, basis := p.median(of)
		out = append(out, starling.StageEstimate{Stage: stage, MS: ms, Of: n, Basis: basis})
	}
	add(starling.StageQueued, func(o *starling.Deployment) (int64, bool) {
		return o.Timings.QueuedMS, built(o) == d.Artifact.IsZero()
	})
	if d.Artifact.IsZero() {
		add(starling.StageBuild, func(o *starling.Deployment) (int64, bool) { return o.Timings.BuildMS, built(o) })
	}
	add(starling.StageReplicate, func(o *starling.Deployment) (int64, bool) { return o.Timings.ReplicateMS, true })
	add(starling.StageStage, func(o *starling.Deployment) (int64, bool) { return o.Timings.StageMS, true })
	add(starling.StageRollout, waveMS)
	if last := &out[len(out)-1]; last.Of > 0 {
		last.MS = last.MS*steps(d) + bakesMS(d)
	} else if n := bakesMS(d); n > 0 {
		last.MS, last.Basis = n, "spec" // the least that it takes
	}
	for _, e := range out {
		total += e.MS
	}
	return out, total
}

// stageOf is the stage of an estimate that a phase belongs to; empty: none, as while it
// waits for people.
func stageOf(p starling.Phase) string {
	switch p {
	case starling.PhaseQueued:
		return starling.StageQueued
	case starling.PhaseBuilding:
		return starling.StageBuild
	case starling.PhaseReplicating:
		return starling.StageReplicate
	case starling.PhaseStaging:
		return starling.StageStage
	case starling.PhaseRollingOut:
		return starling.StageRollout
	}
	return ""
}

// endsAt is the EndsAt of how a deployment stands, by the estimates of its stages. What a
// roll-out has done so far says little of what is left: waves grow, and bake.
func endsAt(p *starling.DeploymentProgress, stages []starling.StageEstimate) time.Time {
	now := slices.IndexFunc(stages, func(e starling.StageEstimate) bool { return e.Stage == stageOf(p.Phase) })
	if now < 0 || p.Paused {
		return time.Time{}
	}
	end := p.PhaseAt.Add(time.Duration(stages[now].MS) * time.Millisecond)
	switch {
	case p.LeftMS > 0 && p.Phase != starling.PhaseRollingOut:
		end = p.At.Add(time.Duration(p.LeftMS) * time.Millisecond)
	case stages[now].Basis == "none" || end.Before(p.At):
		return time.Time{}
	}
	for _, e := range stages[now+1:] {
		if e.Basis == "none" {
			return time.Time{}
		}
		end = end.Add(time.Duration(e.MS) * time.Millisecond)
	}
	return end
}

func built(d *starling.Deployment) bool { return d.Attempt > 0 }

// steps counts the steps of a roll-out, one at least.
func steps(d *starling.Deployment) int64 { return int64(max(1, len(d.Steps()))) }

// bakesMS is how long a deployment bakes in all.
func bakesMS(d *starling.Deployment) int64 {
	return (steps(d) - 1) * d.Spec.Deploy.Strategy.Bake.D().Milliseconds()
}

// waveMS is how long the machines of one step took to activate and become healthy.
func waveMS(d *starling.Deployment) (int64, bool) {
	return max(0, d.Timings.RolloutMS-bakesMS(d)) / steps(d), d.Timings.RolloutMS > 0
}
