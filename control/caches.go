package control

import (
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// cacheBoard holds the last report of each cache of the region. It lives in the
// leader's memory, for one term.
type cacheBoard struct {
	mu       sync.Mutex
	version  uint64   // grows with what is known of holdings
	live     []string // names of live caches, sorted
	known    map[string]bool
	holds    map[string]map[starling.Digest]rpc.CacheHold // by cache
	words    map[string]cacheWord                         // by cache
	ahead    map[string]map[string]int64                  // bytes fetched for a build, by cache and deployment
	aheadAt  map[string]time.Time                         // when the first of them were known, by deployment
	baseline map[string]*wanBaseline                      // by app
}

// wanBaseline is what each cache had pulled of an artifact before a goal asked for
// it, so that a deployment is charged only with what moved for it.
type wanBaseline struct {
	generation starling.Generation
	had        bool             // the region held the artifact when the goal came
	before     map[string]int64 // bytes, by cache
	ahead      int64            // bytes that had been fetched for the build that made it
	aheadAt    time.Time        // since when; zero: none had
}

// holding is what the region's caches together hold of an artifact.
type holding struct {
	done, total int  // chunks, replicas counted
	complete    bool // each live cache holds its share under the present membership
	empty       bool // each live cache has spoken, and together they hold nothing
}

func newCacheBoard() *cacheBoard {
	return &cacheBoard{
		holds:    map[string]map[starling.Digest]rpc.CacheHold{},
		words:    map[string]cacheWord{},
		ahead:    map[string]map[string]int64{},
		aheadAt:  map[string]time.Time{},
		baseline: map[string]*wanBaseline{},
	}
}

// setMembers takes the present membership and forgets caches that left it.
func (b *cacheBoard) setMembers(all []starling.Node) {
	known := map[string]bool{}
	var live []string
	for _, n := range all {
		if !n.Has(starling.RoleCache) {
			continue
		}
		known[n.Name] = true
		if n.Alive && n.Addr != "" {
			live = append(live, n.Name)
		}
	}
	slices.Sort(live)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live, b.known = live, known
	b.version++
	for name := range b.holds {
		if !known[name] {
			delete(b.holds, name)
			delete(b.words, name)
			delete(b.ahead, name)
		}
	}
}

// at returns a version that is another after every change of what holding returns.
func (b *cacheBoard) at() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.version
}

// count returns the number of live caches, at least 1.
func (b *cacheBoard) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(1, len(b.live))
}

// record takes a cache's report; it stands for all that the cache holds.
func (b *cacheBoard) record(r rpc.CacheReport, at time.Time) error {
	if len(r.Holds) > maxHoldsPerCache || len(r.Drafts) > rpc.MaxDrafts {
		return starling.Invalidf("holds", "%d and %d of drafts, more than %d and %d", len(r.Holds), len(r.Drafts), maxHoldsPerCache, rpc.MaxDrafts)
	}
	holds := make(map[starling.Digest]rpc.CacheHold, len(r.Holds))
	for _, h := range r.Holds {
		if len(h.Caches) > maxCachesPerRegion {
			return starling.Invalidf("holds.caches", "%d, more than %d", len(h.Caches), maxCachesPerRegion)
		}
		h.Problem = clip(h.Problem, starling.MaxReasonBytes)
		holds[h.Artifact] = h
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.known[r.Name] {
		return starling.ErrNotFound
	}
	b.holds[r.Name] = holds
	b.words[r.Name] = wordOf(&r, at)
	b.version++
	b.ahead[r.Name] = make(map[string]int64, len(r.Drafts))
	for _, d := range r.Drafts {
		b.ahead[r.Name][d.Deployment] = d.WANBytes
		if d.WANBytes > 0 && b.aheadAt[d.Deployment].IsZero() {
			b.aheadAt[d.Deployment] = at
		}
	}
	b.forgetAhead()
	return nil
}

// forgetAhead drops the beginnings of what no cache fetches ahead any more.
func (b *cacheBoard) forgetAhead() {
	for id := range b.aheadAt {
		known := false
		for _, builds := range b.ahead {
			_, ok := builds[id]
			known = known || ok
		}
		if !known {
			delete(b.aheadAt, id)
		}
	}
}

// fetchedAhead returns what the caches had fetched from other regions for a goal's
// artifact when the goal came, and when that began; zero: nothing.
func (b *cacheBoard) fetchedAhead(goal *starling.Goal) (bytes int64, since time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if base := b.baseline[goal.App]; base != nil && base.generation == goal.Generation {
		return base.ahead, base.aheadAt
	}
	return 0, time.Time{}
}

// holding merges what the live caches say of an artifact.
func (b *cacheBoard) holding(artifact starling.Digest) holding {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := holding{complete: len(b.live) > 0, empty: len(b.live) > 0}
	for _, name := range b.live {
		c, ok := b.holds[name][artifact]
		if !ok || !slices.Equal(c.Caches, b.live) {
			h.complete, h.empty = false, false
		}
		if !ok {
			continue
		}
		if !c.Complete {
			h.complete = false
		}
		if c.Complete || c.ChunksDone > 0 || c.ChunksTotal <= 0 {
			h.empty = false
		}
		h.done += max(c.ChunksDone, 0)
		h.total += max(c.ChunksTotal, 0)
	}
	return h
}

// keepGoals begins to count what is pulled for new goals and forgets those that are
// no longer in force. It must see a goal before its artifact can be placed.
func (b *cacheBoard) keepGoals(goals []*starling.Goal, placed func(starling.Digest) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	have := make(map[string]bool, len(goals))
	for _, g := range goals {
		have[g.App] = true
		if base := b.baseline[g.App]; base != nil && base.generation == g.Generation {
			continue
		}
		base := &wanBaseline{generation: g.Generation, had: placed(g.Artifact), before: map[string]int64{}}
		for name, holds := range b.holds {
			if h, ok := holds[g.Artifact]; ok && base.had {
				base.before[name] = h.WANBytes
			}
		}
		base.aheadAt = b.aheadAt[g.Deployment]
		for _, builds := range b.ahead {
			base.ahead += builds[g.Deployment]
		}
		b.baseline[g.App] = base
	}
	for app := range b.baseline {
		if !have[app] {
			delete(b.baseline, app)
		}
	}
}

// wanBytes returns what the region's caches pulled from other regions for a goal.
func (b *cacheBoard) wanBytes(goal *starling.Goal) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	base := b.baseline[goal.App]
	if base == nil || base.generation != goal.Generation {
		return 0
	}
	var sum int64
	for name, holds := range b.holds {
		h, ok := holds[goal.Artifact]
		if !ok {
			continue
		}
		before, seen := base.before[name]
		if !seen && base.had || h.WANBytes < before { // first word of this term, or the cache began anew
			before = h.WANBytes
			base.before[name] = before
		}
		sum += h.WANBytes - before
	}
	return sum
}

// placingOf describes a region's progress with an artifact in chunks of the artifact.
func placingOf(region string, placed bool, h holding, artifact *starling.Artifact) starling.Placing {
	p := starling.Placing{Name: region, Placed: placed, ChunksDone: h.done, ChunksTotal: h.total}
	if artifact == nil {
		return p
	}
	p.ChunksTotal = artifact.Chunks
	switch {
	case placed:
		p.ChunksDone = artifact.Chunks
	case h.total > 0:
		p.ChunksDone = int(int64(artifact.Chunks) * int64(min(h.done, h.total)) / int64(h.total))
	default:
		p.ChunksDone = 0
	}
	return p
}
