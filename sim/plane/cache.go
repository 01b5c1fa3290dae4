package plane

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

const sharesOf = 10 // chunks of each artifact, at each cache

// cache fills with what its region wants.
type cache struct {
	node
	w      *world
	region *region
	done   map[starling.Digest]int
}

// poll asks what is wanted, works at it and reports; a report may be held up and come
// after a later one.
func (c *cache) poll() {
	pause := c.w.between(time.Second, 3*time.Second)
	if !c.w.busy() {
		pause = 10 * time.Second
	}
	c.w.after(pause, c.poll)
	if !c.up {
		return
	}
	c.region.atLeader(&c.node, hopWithin, func(s *server, a reply) { a(s.reign.Wants(), nil) }, func(got any, err error) {
		wants, ok := got.(rpc.Wants)
		if err != nil || !ok || !c.up {
			return
		}
		r := rpc.CacheReport{Name: plain(&c.node)}
		live := c.live()
		for _, want := range wants.Wants {
			if c.w.chance(c.w.plan.cachesMove) {
				c.done[want.Artifact] = min(sharesOf, c.done[want.Artifact]+2+c.w.rng.IntN(sharesOf))
			}
			done := c.done[want.Artifact]
			r.Holds = append(r.Holds, rpc.CacheHold{
				Artifact: want.Artifact, ChunksDone: done, ChunksTotal: sharesOf, Complete: done == sharesOf, Caches: live,
			})
		}
		c.w.after(c.w.late(), func() {
			c.region.atLeader(&c.node, hopWithin, func(s *server, a reply) { s.cacheReport(r, a) }, func(any, error) {})
		})
	})
}

func (c *cache) live() []string {
	var out []string
	for _, o := range c.region.caches {
		if o.up {
			out = append(out, plain(&o.node))
		}
	}
	slices.Sort(out)
	return out
}
