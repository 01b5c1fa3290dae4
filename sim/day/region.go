package day

import (
	"time"

	"github.com/starlingdeploy/starling"
)

// region is one region of machines, as its leader reports on it.
type region struct {
	w      *world
	name   string
	wan    *link
	egress *link   // of its caches
	groups []*link // of its machines, by group: all of a group fetch alike
}

func (w *world) newRegion(name string) *region {
	r := &region{w: w, name: name, wan: w.newLink(wanPerRegion), egress: w.newLink(egressOfCaches)}
	for range machineGroups {
		r.groups = append(r.groups, w.newLink(machineLink/swarmFactor))
	}
	return r
}

// machines is how many of a region an app runs on.
func (w *world) machines() int { return max(1, w.conf.Machines/machineGroups) }

// cells is how many copies of an artifact leave a region's caches for one app's machines,
// which lie spread over all cells of it.
func (w *world) cells() float64 {
	return float64((w.conf.Machines+cellMachines-1)/cellMachines) * copiesPerCell
}

// part is what one region does for one deployment.
type part struct {
	region *region
	f      *fate
	report starling.RegionReport
	moving map[*transfer]*link
	left   int // transfers until all is staged
	over   bool
}

// steer tells the regions of a goal that is new or has a new revision.
func (w *world) steer(f *fate, d *starling.Deployment) {
	g, ok := w.fsm.View().Goal(d.App)
	if !ok || g.Generation != d.Generation || g.Revision == f.revision {
		return
	}
	f.revision = g.Revision
	if f.parts == nil {
		for _, r := range w.regions {
			p := &part{region: r, f: f, moving: map[*transfer]*link{}, report: starling.RegionReport{
				Region: r.name, App: f.app, Generation: g.Generation, Revision: g.Revision,
				Placing: starling.Placing{Name: r.name, ChunksTotal: 1}, Counts: starling.Counts{Target: w.machines()},
			}}
			f.parts = append(f.parts, p)
			p.later(w.between(newsTravels/2, newsTravels*2), p.replicate)
		}
		return
	}
	goal := *g
	for _, p := range f.parts {
		p.later(w.between(newsTravels/2, newsTravels*2), func() { p.take(&goal) })
	}
}

// later does something unless the part has stopped meanwhile.
func (p *part) later(d time.Duration, do func()) {
	p.region.w.after(d, func() {
		if !p.over {
			do()
		}
	})
}

// stop gives up what is under way.
func (p *part) stop() {
	p.over = true
	for t, l := range p.moving {
		l.cancel(t)
	}
}

// send moves bytes over a link for the deployment.
func (p *part) send(l *link, bytes float64, done func()) {
	var t *transfer
	t = l.send(bytes, p.f.priority, p.f.at, func() {
		delete(p.moving, t)
		done()
	})
	p.moving[t] = l
}

// replicate brings the artifact to the region's caches.
func (p *part) replicate() {
	p.say()
	p.send(p.region.wan, p.f.bytes, func() {
		p.report.Placing.Placed, p.report.Placing.ChunksDone = true, 1
		p.say()
		p.later(fetchBegins, p.fetch)
	})
}

// fetch brings it to the machines.
func (p *part) fetch() {
	p.left = 2
	through := func() {
		if p.left--; p.left == 0 {
			n := &p.report.Counts
			n.Failed = p.odd(n.Target)
			n.Staged = n.Target - n.Failed
			p.say()
		}
	}
	p.send(p.region.egress, p.f.bytes*p.region.w.cells(), through)
	p.send(p.region.groups[p.f.group], p.f.bytes, through)
}

// odd draws how many of n machines fail for reasons of their own.
func (p *part) odd(n int) int {
	failed := 0
	for range n {
		if p.region.w.rng.IntN(10_000) < machinesFail {
			failed++
		}
	}
	return failed
}

// take has the machines that a wave newly allows activate.
func (p *part) take(g *starling.Goal) {
	p.report.Revision = g.Revision
	n := &p.report.Counts
	if g.Stage == starling.StageActivate {
		n.Due = int(int64(n.Target) * int64(g.Cutoff) / int64(starling.CutoffAll))
		n.Due = max(n.Due, n.Failed)
	}
	p.say()
	due := n.Due
	p.later(p.region.w.between(activateLeast, activateMost), func() {
		n := &p.report.Counts
		switch {
		case n.Due != due:
			return // a later wave is under way
		case p.f.bad:
			n.Failed = due
		default:
			n.Healthy = due - n.Failed
		}
		p.say()
	})
}

// say reports to the home.
func (p *part) say() {
	w := p.region.w
	if err := w.reign.RegionReports(w.fsm.View(), []starling.RegionReport{p.report}, w.wall()); err != nil {
		w.fail(err)
	}
	w.look(lookRest)
}
