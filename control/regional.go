package control

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// regional decides on what is this region's own, wherever the apps are homed: which
// artifacts its caches hold, and where the regions' servers are.
func (t *term) regional(v raftfsm.View) []Decision {
	var out []Decision
	wanted, ok := t.wants.digests()
	if !ok || !t.s.settled() {
		return nil
	}
	for d := range wanted {
		h := t.caches.holding(d)
		switch placed := v.Placed(d); {
		case !placed && h.complete:
			out = append(out, Decision{raftfsm.TypeArtifactPlaced, raftfsm.ArtifactPlaced{Artifact: d}})
		case placed && h.empty:
			out = append(out, Decision{raftfsm.TypeArtifactPlaced, raftfsm.ArtifactPlaced{Artifact: d, Lost: true}})
		}
	}
	// What is no longer wanted may be evicted at any time: it must not be promised.
	for _, d := range v.PlacedAll() {
		if !wanted[d] {
			out = append(out, Decision{raftfsm.TypeArtifactPlaced, raftfsm.ArtifactPlaced{Artifact: d, Lost: true}})
		}
	}
	slices.SortFunc(out, func(a, b Decision) int {
		x, y := a.Payload.(raftfsm.ArtifactPlaced), b.Payload.(raftfsm.ArtifactPlaced)
		return slices.Compare(x.Artifact[:], y.Artifact[:])
	})
	return append(out, t.regionUpserts(v)...)
}

// regionUpserts commits where each region's servers are, so that every server of
// this region finds the others after a restart or an election.
func (t *term) regionUpserts(v raftfsm.View) []Decision {
	known := map[string][]string{}
	for _, r := range v.Regions() {
		known[r.Name] = r.Servers
	}
	var out []Decision
	upsert := func(name string, servers []string) {
		slices.Sort(servers)
		servers = slices.Compact(servers)
		servers = servers[:min(len(servers), maxServersPerRegion)]
		have, ok := known[name]
		if ok && (len(servers) == 0 || slices.Equal(have, servers)) {
			return
		}
		out = append(out, Decision{raftfsm.TypeRegionUpsert, raftfsm.RegionUpsert{Region: raftfsm.Region{Name: name, Servers: servers}}})
	}
	var own []string
	for _, n := range t.s.cfg.Members.Members() {
		if n.Has(starling.RoleServer) {
			own = append(own, n.Addr)
		}
	}
	upsert(t.s.cfg.Region, own)
	for _, name := range t.s.otherRegions(v) {
		servers := t.dirs.servers(name)
		if _, ok := known[name]; !ok && len(servers) == 0 {
			servers = slices.Clone(t.s.cfg.Regions[name])
		}
		upsert(name, servers)
	}
	return out
}

// otherRegions lists the regions known by configuration or by the committed state, without this one.
func (s *Server) otherRegions(v raftfsm.View) []string {
	var out []string
	for name := range s.cfg.Regions {
		out = append(out, name)
	}
	for _, r := range v.Regions() {
		out = append(out, r.Name)
	}
	slices.Sort(out)
	out = slices.DeleteFunc(slices.Compact(out), func(n string) bool { return n == s.cfg.Region })
	return out[:min(len(out), maxRegions)]
}

// reportOn is this region's word on the goal of an app; false while there is no goal
// or nothing that can be trusted to say.
func (t *term) reportOn(v raftfsm.View, app string, now time.Time) (starling.RegionReport, bool) {
	g, ok := v.Goal(app)
	if !ok || g.Artifact.IsZero() || !t.s.settled() {
		return starling.RegionReport{}, false
	}
	placed := v.Placed(g.Artifact)
	artifact, _ := v.Artifact(g.Artifact)
	counts, moved := t.machines.count(g, now)
	moved.WAN = t.caches.wanBytes(g)
	r := starling.RegionReport{
		Region: t.s.cfg.Region, App: app, Generation: g.Generation, Revision: g.Revision,
		Placing: placingOf(t.s.cfg.Region, placed, t.caches.holding(g.Artifact), artifact),
		Counts:  counts, Bytes: moved,
	}
	ahead, since := t.caches.fetchedAhead(g)
	r.Marks = t.marks.note(&r, ahead, since, now)
	return r, true
}
