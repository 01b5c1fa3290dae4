package agent

import (
	"time"

	"github.com/starlingdeploy/starling/swarm"
)

// defaultRestAfter is from when this machine has all of an artifact, or was last asked for a link, until
// it gives up its links to those with whom it shares that.
const defaultRestAfter = time.Minute

// rest lets links go that nobody needs: each costs two packets every few seconds on either
// side, for as long as a goal stands, which may be months. A machine that has all of an artifact
// dials nobody for its sake, and leaves its swarm some time later. Who needs the machine
// dials it, which brings it back: see rouse.
func (f *flock) rest(now time.Time) {
	for artifact, p := range f.parts {
		if p.resting {
			continue
		}
		held, total := f.brain.Progress(artifact)
		switch whole := held == total && f.downloads[artifact] == nil; {
		case !whole && !p.whole.IsZero(): // a chunk is lost
			p.whole, p.members = time.Time{}, nil
			f.tellMembers(artifact, p)
		case !whole:
		case p.whole.IsZero():
			p.whole = now
			f.step(swarm.Members{Artifact: artifact})
		case now.Sub(p.whole) >= f.restAfter:
			p.resting = true
			f.step(swarm.End{Artifact: artifact})
		}
	}
}

// rouse takes part again in the swarms that this machine has left: somebody may need it.
func (f *flock) rouse() {
	for artifact, p := range f.parts {
		if p.resting {
			u, _ := f.catalog.urgency(artifact)
			p.resting, p.whole = false, time.Now()
			f.step(swarm.Begin{Artifact: artifact, Chunks: p.rel.manifest.Chunks, Have: haveOf(p.rel), Priority: u.Priority, Seed: !p.rel.tree.Complete()})
		}
	}
}
