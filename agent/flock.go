package agent

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/swarm"
)

// flock is the shell around the swarm's brain: it feeds events to Step and carries
// out the effects. The loop owns it; its workers talk to it through post.
type flock struct {
	node    *starling.Node
	log     *slog.Logger
	run     *runner
	dial    SwarmDial
	blobs   blobs
	buffers *buffers
	patcher *blobcache.Patcher

	brain *swarm.Peer
	trace func(swarm.Record) // nil: none
	begun time.Time          // zero of the brain's clock
	wake  *time.Timer
	todo  []swarm.Event // to be stepped next
	busy  bool          // step is under way

	machines   map[string]starling.Node  // live machines of the region, by name
	caches     map[string]starling.Node  // live caches
	parts      map[starling.Digest]*part // artifacts whose swarm the brain takes part in
	links      map[string]*link
	dials      map[string]*dialing
	fetches    map[swarm.Request]*chunkFetch
	downloads  map[starling.Digest]*download
	distrusted map[string]bool
	accused    accused
	catalog    *catalog
	ledger     *ledger
	meter      *meter
	restAfter  time.Duration
}

// step hands ev to the brain and carries out what it wants, until nothing is left
// to do. Called while it is under way, it leaves ev to the call that is.
func (f *flock) step(ev swarm.Event) {
	f.todo = append(f.todo, ev)
	if f.busy {
		return
	}
	f.busy = true
	for len(f.todo) > 0 {
		ev := f.todo[0]
		f.todo = f.todo[1:]
		now := time.Since(f.begun)
		effects := f.brain.Step(now, ev)
		if f.trace != nil {
			f.trace(swarm.Record{At: now, Event: ev, Effects: slices.Clone(effects)})
		}
		for _, e := range effects {
			f.carryOut(e)
		}
	}
	f.todo, f.busy = nil, false
}

func (f *flock) carryOut(e swarm.Effect) {
	switch e := e.(type) {
	case swarm.Connect:
		f.connect(e.Peer)
	case swarm.Disconnect:
		f.disconnect(e.Peer)
	case swarm.Announce:
		f.announce(e)
	case swarm.Fetch:
		f.fetch(e)
	case swarm.CancelFetch:
		f.cancelFetch(e.Request)
	case swarm.Done:
		if d := f.downloads[e.Artifact]; d != nil {
			d.log.Info("artifact fetched")
			d.seal()
		}
	case swarm.Distrust:
		f.distrust(e)
	case swarm.WakeAt:
		f.wake.Reset(max(0, e.At-time.Since(f.begun)))
	}
}

func (f *flock) distrust(e swarm.Distrust) {
	f.log.Warn("a source is distrusted", "source", e.Peer, "cache", e.Origin, "reason", e.Reason)
	f.accused.add(e)
	f.ledger.distrust(e)
	if e.Origin {
		return
	}
	f.distrusted[e.Peer] = true
	f.disconnect(e.Peer)
}

// setMembers takes in the region's members.
func (f *flock) setMembers(nodes []starling.Node) {
	clear(f.machines)
	clear(f.caches)
	for _, n := range nodes {
		if !n.Alive || n.Region != f.node.Region {
			continue
		}
		if n.Has(starling.RoleMachine) {
			f.machines[n.Name] = n
		}
		if n.Has(starling.RoleCache) {
			f.caches[n.Name] = n
		}
	}
	f.step(swarm.Origins{Names: sortedKeys(f.caches)})
	for artifact, p := range f.parts {
		f.tellMembers(artifact, p)
	}
}

// part is this machine's in one artifact's swarm, and what the brain was told of that.
type part struct {
	rel     *release
	sel     starling.Selector
	members []swarm.Member
	whole   time.Time // since when all is had, and nobody is dialled for it; zero: it is not
	resting bool      // the brain does not take part just now
}

// tellMembers tells the brain who takes part, if that is news.
func (f *flock) tellMembers(artifact starling.Digest, p *part) {
	if !p.whole.IsZero() {
		return
	}
	if now := f.targets(p.sel); p.members == nil || !slices.Equal(now, p.members) {
		p.members = now
		f.step(swarm.Members{Artifact: artifact, Members: now})
	}
}

// begin has the brain take part in an artifact's swarm. The machines that sel
// chooses are the others.
func (f *flock) begin(r *release, sel starling.Selector) {
	u, _ := f.catalog.urgency(r.artifact)
	f.step(swarm.Begin{Artifact: r.artifact, Chunks: r.manifest.Chunks, Have: haveOf(r), Priority: u.Priority})
	p := &part{rel: r, sel: sel}
	f.parts[r.artifact] = p
	f.tellMembers(r.artifact, p)
}

// taking reports whether the brain takes part in an artifact's swarm.
func (f *flock) taking(artifact starling.Digest) bool { return f.parts[artifact] != nil }

// end has the brain forget an artifact.
func (f *flock) end(artifact starling.Digest) {
	if f.taking(artifact) {
		delete(f.parts, artifact)
		f.step(swarm.End{Artifact: artifact})
	}
}

// targets lists the live machines that sel chooses, sorted by name.
func (f *flock) targets(sel starling.Selector) []swarm.Member {
	out := make([]swarm.Member, 0, len(f.machines))
	for _, n := range f.machines {
		if sel.Matches(&n) {
			out = append(out, swarm.Member{Name: n.Name, Zone: n.Zone, Rack: n.Rack})
		}
	}
	slices.SortFunc(out, func(a, b swarm.Member) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func haveOf(r *release) swarm.Bitmap {
	have := swarm.NewBitmap(len(r.manifest.Chunks))
	for i := range r.manifest.Chunks {
		if r.tree.Has(i) {
			have.Set(i)
		}
	}
	return have
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func newFlock(a *Agent, from blobs) *flock {
	f := &flock{
		node: &a.conf.Node, log: a.log, run: a.run, dial: a.conf.DialSwarm, blobs: from, catalog: a.catalog, buffers: &buffers{}, patcher: blobcache.NewPatcher(),
		trace: a.conf.Trace, brain: swarm.New(swarm.Config{Self: a.conf.Node.Name, MaxInFlightBytes: a.conf.maxInFlightBytes()}), begun: time.Now(), wake: time.NewTimer(time.Hour),
		machines: map[string]starling.Node{}, caches: map[string]starling.Node{}, parts: map[starling.Digest]*part{},
		links: map[string]*link{}, dials: map[string]*dialing{}, fetches: map[swarm.Request]*chunkFetch{},
		downloads: map[starling.Digest]*download{}, distrusted: map[string]bool{},
		accused: accused{}, ledger: &a.ledger, meter: a.meter, restAfter: cmp.Or(a.conf.restAfter, defaultRestAfter),
	}
	f.wake.Stop()
	return f
}
