package control

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// claim is one reason to hold an artifact.
type claim struct {
	artifact starling.Digest
	origin   string // region that held it first; "": unknown
	priority int
	deadline time.Time       // of the deployment; zero: none
	base     starling.Digest // the release that it follows; zero: none
	build    string          // deployment that built it
}

// claims is why the region's caches hold what they hold: deployments under way or queued,
// goals in force, the releases before them, and those kept for rollback. What goals and
// releases claim is looked at again only for apps in which it has changed: a region may
// have thousands, and a look is taken at every change of the state.
type claims struct {
	edition raftfsm.Edition
	apps    map[string]*appClaims
	looks   uint64
	active  []claim
}

// appClaims is what one app's goal and releases claim.
type appClaims struct {
	artifact, previous starling.Digest
	origin             string
	keep               int
	newest             *starling.Release
	vague              bool // an origin was not known
	look               uint64
	all                []claim
}

// take brings the claims up to date and reports whether any has changed.
func (c *claims) take(v raftfsm.View) bool {
	changed := false
	if e := v.Edition(); e != c.edition || c.apps == nil {
		changed = c.takeGoals(v, c.apps != nil && e.SameReleases(c.edition))
		c.edition = e
	}
	active := activeClaims(v)
	if !slices.Equal(active, c.active) {
		c.active, changed = active, true
	}
	return changed
}

// takeGoals looks at all goals, and at the releases unless they are the same as before.
func (c *claims) takeGoals(v raftfsm.View, sameReleases bool) (changed bool) {
	if c.apps == nil {
		c.apps = map[string]*appClaims{}
	}
	c.looks++
	for _, g := range v.Goals() {
		old := c.apps[g.App]
		var newest *starling.Release
		if sameReleases && old != nil {
			newest = old.newest
		} else {
			newest, _ = v.Release(g.App)
		}
		if old != nil && !old.vague && old.artifact == g.Artifact && old.previous == g.Previous && old.origin == g.Origin &&
			old.keep == g.Deploy.Keep && old.newest == newest {
			old.look = c.looks
			continue
		}
		now := claimsOf(v, g, newest)
		now.look = c.looks
		changed = changed || old == nil || !slices.Equal(old.all, now.all)
		c.apps[g.App] = now
	}
	for app, a := range c.apps {
		if a.look != c.looks {
			delete(c.apps, app)
			changed = true
		}
	}
	return changed
}

// claimsOf lists what a goal and the releases of its app claim.
func claimsOf(v raftfsm.View, g *starling.Goal, newest *starling.Release) *appClaims {
	a := &appClaims{artifact: g.Artifact, previous: g.Previous, origin: g.Origin, keep: g.Deploy.Keep, newest: newest}
	add := func(x claim, origin string) {
		if x.artifact.IsZero() {
			return
		}
		if x.origin = cmp.Or(origin, originOf(v, x.artifact)); x.origin == "" {
			a.vague = true
		}
		a.all = append(a.all, x)
	}
	add(claim{artifact: g.Artifact, priority: wantGoal, base: g.Previous}, g.Origin)
	add(claim{artifact: g.Previous, priority: wantPrevious}, "")
	kept := map[starling.Digest]bool{}
	for _, r := range v.Releases(g.App) {
		if len(kept) >= max(maxKeptReleases, g.Deploy.Keep) {
			break
		}
		kept[r.Artifact] = true
		add(claim{artifact: r.Artifact, priority: wantKept}, r.Origin)
	}
	return a
}

// activeClaims lists what deployments of any region claim that have not ended.
func activeClaims(v raftfsm.View) []claim {
	var out []claim
	for _, d := range underWay(v) {
		if d.Artifact.IsZero() {
			continue
		}
		x := claim{artifact: d.Artifact, origin: originOf(v, d.Artifact), priority: wantUnderWay + d.Priority, deadline: d.Deadline}
		if g, ok := v.Goal(d.App); ok {
			x.base = g.Artifact
		}
		if d.Lease != 0 {
			x.build = d.ID
		}
		out = append(out, x)
	}
	return out
}

func originOf(v raftfsm.View, d starling.Digest) string {
	if a, ok := v.Artifact(d); ok {
		return a.Region
	}
	return ""
}

// wants merges the claims: of each artifact the highest priority with its nearest deadline,
// and what else the first of them knows; the most urgent first.
func (c *claims) wants(dirs *directories, self string) []rpc.Want {
	needs := make(map[starling.Digest]claim, len(c.active)+4*len(c.apps))
	add := func(x claim) {
		n, ok := needs[x.artifact]
		if !ok || x.priority > n.priority || x.priority == n.priority && sooner(x.deadline, n.deadline) {
			n.priority, n.deadline = x.priority, x.deadline
		}
		n.artifact = x.artifact
		n.origin, n.build = cmp.Or(n.origin, x.origin), cmp.Or(n.build, x.build)
		if n.base.IsZero() && x.base != x.artifact {
			n.base = x.base
		}
		needs[x.artifact] = n
	}
	for _, x := range c.active {
		add(x)
	}
	for _, app := range sortedKeys(c.apps) {
		for _, x := range c.apps[app].all {
			add(x)
		}
	}
	out := make([]rpc.Want, 0, len(needs))
	for d, n := range needs {
		out = append(out, rpc.Want{
			Artifact: d, Sources: dirs.sources(d, n.origin, self), Priority: n.priority, Deadline: n.deadline, Base: n.base, Build: n.build,
		})
	}
	slices.SortFunc(out, func(a, b rpc.Want) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), bytes.Compare(a.Artifact[:], b.Artifact[:]))
	})
	return out
}

// sooner reports whether deadline a comes before b; none is the latest.
func sooner(a, b time.Time) bool {
	return !a.IsZero() && (b.IsZero() || a.Before(b))
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
