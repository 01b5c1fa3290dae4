package control

import (
	"cmp"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// regional decides on what is this region's own, wherever the apps are homed: which
// artifacts its caches hold, and where the regions' servers are.
func (r *Reign) regional(v raftfsm.View, now time.Time) []Decision {
	wanted, index, ok := r.wants.digests()
	if !ok || now.Before(r.conf.Settled) {
		return nil
	}
	seen := placingSeen{true, index, r.caches.at(), v.PlacedEdition()}
	if r.placing == seen {
		return r.regionUpserts(v)
	}
	out := r.placings(v, wanted)
	if r.placing = seen; len(out) > 0 { // they may not be committed: look again
		r.placing = placingSeen{}
	}
	return append(out, r.regionUpserts(v)...)
}

// placingSeen says on what a look at placings was based that found nothing to do.
type placingSeen struct {
	looked        bool
	wants, caches uint64 // versions
	placed        raftfsm.Edition
}

// placings decides which artifacts the region's caches hold, and which no longer.
func (r *Reign) placings(v raftfsm.View, wanted map[starling.Digest]bool) []Decision {
	all := v.PlacedAll()
	placedOnes := make(map[starling.Digest]bool, len(all))
	for _, d := range all {
		placedOnes[d] = true
	}
	var out []Decision
	for d := range wanted {
		h := r.caches.holding(d)
		switch placed := placedOnes[d]; {
		case !placed && h.complete:
			out = append(out, Decision{raftfsm.TypeArtifactPlaced, raftfsm.ArtifactPlaced{Artifact: d}})
		case placed && h.empty:
			out = append(out, Decision{raftfsm.TypeArtifactPlaced, raftfsm.ArtifactPlaced{Artifact: d, Lost: true}})
		}
	}
	// What is no longer wanted may be evicted at any time: it must not be promised.
	for _, d := range all {
		if !wanted[d] {
			out = append(out, Decision{raftfsm.TypeArtifactPlaced, raftfsm.ArtifactPlaced{Artifact: d, Lost: true}})
		}
	}
	slices.SortFunc(out, func(a, b Decision) int {
		x, y := a.Payload.(raftfsm.ArtifactPlaced), b.Payload.(raftfsm.ArtifactPlaced)
		return slices.Compare(x.Artifact[:], y.Artifact[:])
	})
	return out
}

// regionUpserts commits where each region's servers are, so that every server of
// this region finds the others after a restart or an election.
func (r *Reign) regionUpserts(v raftfsm.View) []Decision {
	known := map[string]raftfsm.Region{}
	for _, r := range v.Regions() {
		known[r.Name] = r
	}
	var out []Decision
	upsert := func(name string, servers []string, nodes []starling.Node) {
		servers = boundServers(servers)
		have, ok := known[name]
		if ok && (len(servers) == 0 || slices.Equal(have.Servers, servers)) && sameNodes(have.Nodes, nodes) {
			return
		}
		out = append(out, Decision{raftfsm.TypeRegionUpsert, raftfsm.RegionUpsert{Region: raftfsm.Region{Name: name, Servers: servers, Nodes: nodes}}})
	}
	own, nodes := r.ownRecord()
	upsert(r.conf.Region, own, nodes)
	for _, name := range r.otherRegions(v) {
		servers := r.dirs.servers(name)
		if _, ok := known[name]; !ok && len(servers) == 0 {
			servers = slices.Clone(r.conf.Regions[name])
		}
		upsert(name, servers, nil)
	}
	return out
}

// beginning is the first record of a region that is new. It puts this program's level in
// use, so that its machines form cells from the start. In a region of before, what servers do by themselves
// leaves the way back open: there it is an operator who first uses something new.
type beginning struct{ raftfsm.RegionUpsert }

// begin records a new region before anything else is. While a server of the version before is
// there, or has not yet told its level, it is refused, and tried again until there is an app.
func (r *Reign) begin(v raftfsm.View, now time.Time) (Decision, bool) {
	if v.Level() >= raftfsm.Level || now.Before(r.beginNext) || len(v.Apps()) > 0 {
		return Decision{}, false
	}
	servers, nodes := r.ownRecord()
	return Decision{raftfsm.TypeRegionUpsert, beginning{raftfsm.RegionUpsert{Region: raftfsm.Region{Name: r.conf.Region, Servers: servers, Nodes: nodes}}}}, true
}

// ownRecord is where this region's servers and caches are by what gossip shows now.
func (r *Reign) ownRecord() (servers []string, nodes []starling.Node) {
	d := r.directory()
	for _, n := range d.Servers {
		servers = append(servers, n.Addr)
	}
	return boundServers(servers), toldNodes(d)
}

func boundServers(addrs []string) []string {
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	return addrs[:min(len(addrs), maxServersPerRegion)]
}

// toldNodes lists a region's servers and caches for its machines, each once, by name,
// without what they do not need: a change of that would be a commit.
func toldNodes(d rpc.Directory) []starling.Node {
	var out []starling.Node
	for _, n := range slices.Concat(d.Servers, d.Caches) {
		n.Tags, n.HTTP = nil, ""
		out = append(out, n)
	}
	slices.SortStableFunc(out, func(a, b starling.Node) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(out, func(a, b starling.Node) bool { return a.Name == b.Name })
}

func (s *Server) otherRegions(v raftfsm.View) []string {
	return OtherRegions(v, s.cfg.Region, s.cfg.Regions)
}

// partaking lists the regions that would take part in a deployment now, this one among
// them, by name.
func (s *Server) partaking(v raftfsm.View) []string {
	out := slices.DeleteFunc(append(s.otherRegions(v), s.cfg.Region), v.Lost)
	slices.Sort(out)
	return out
}

func (r *Reign) otherRegions(v raftfsm.View) []string {
	return OtherRegions(v, r.conf.Region, r.conf.Regions)
}

// OtherRegions lists the regions known by configuration or by the committed state,
// without self, by name: maxRegions at most.
func OtherRegions(v raftfsm.View, self string, configured map[string][]string) []string {
	var out []string
	for name := range configured {
		out = append(out, name)
	}
	for _, r := range v.Regions() {
		out = append(out, r.Name)
	}
	slices.Sort(out)
	out = slices.DeleteFunc(slices.Compact(out), func(n string) bool { return n == self })
	return out[:min(len(out), maxRegions)]
}

// reportOn is this region's word on the goal of an app; false while there is no goal
// or nothing that can be trusted to say.
func (r *Reign) reportOn(v raftfsm.View, app string, now time.Time) (starling.RegionReport, bool) {
	g, ok := v.Goal(app)
	if !ok || g.Artifact.IsZero() || now.Before(r.conf.Settled) || !r.cells.known(now) {
		return starling.RegionReport{}, false
	}
	g = g.In(r.conf.Region)
	placed := v.Placed(g.Artifact)
	artifact, _ := v.Artifact(g.Artifact)
	fleet := cell.AddApps(r.cells.count(g, now), r.machines.count(g, now))
	fleet.Bytes.WAN = r.caches.wanBytes(g)
	report := starling.RegionReport{
		Region: r.conf.Region, App: app, Generation: g.Generation, Revision: g.Revision,
		Placing: placingOf(r.conf.Region, placed, r.caches.holding(g.Artifact), artifact),
		Counts:  fleet.Counts, Bytes: fleet.Bytes, Progress: fleet.Progress, Fetch: fleet.Fetch,
	}
	ahead, since := r.caches.fetchedAhead(g)
	report.Marks = r.marks.note(&report, ahead, since, now)
	return report, true
}
