package day

import (
	"fmt"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// fate is one deployment, and what chance has in store for it.
type fate struct {
	id, app  string
	group    int // of machines
	priority int
	at       time.Duration
	build    time.Duration // that it takes
	bytes    float64       // that move
	broken   bool          // the build fails
	bad      bool          // machines do not become healthy

	phase, was starling.Phase
	over       bool
	dep        *starling.Deployment // as it ended
	parts      []*part
	revision   uint64 // of its goal, as the regions were told
	attempts   int
}

// submissions draws what people will submit, and when.
func (w *world) submissions() {
	n := int(float64(w.conf.Deployments) * w.conf.Load)
	bursts := w.bursts(n)
	times := make([]time.Duration, n)
	for i := range times {
		times[i] = w.when(bursts)
	}
	slices.Sort(times)
	for i, at := range times {
		app := w.anApp()
		f := &fate{
			id: fmt.Sprintf("d-%06d", i), app: appName(app), group: app % machineGroups, at: at,
			build:  time.Duration(w.logNormal(float64(buildMedian), buildSigma, float64(starling.DefaultBuildTimeout))),
			bytes:  w.logNormal(artifactMedian, artifactSigma, mostArtifact) * newShare,
			broken: w.rng.IntN(1000) < buildsFail, bad: w.rng.IntN(1000) < releasesBad,
		}
		if w.rng.IntN(1000) < hotfixes {
			f.priority = starling.MaxPriority
		}
		w.fates = append(w.fates, f)
		w.byID[f.id] = f
		w.at(at, func() { w.submit(f) })
	}
}

func (w *world) submit(f *fate) {
	s := raftfsm.Submit{ID: f.id, App: f.app, SHA: fmt.Sprintf("%x", starling.DigestOf([]byte(f.id)))[:40], Priority: f.priority}
	for _, r := range w.regions {
		s.Regions = append(s.Regions, r.name)
	}
	if r := w.commit(raftfsm.TypeSubmit, s); r.Err != nil {
		w.fail(fmt.Errorf("submit %s: %w", f.id, r.Err))
	}
	w.grant()
}
