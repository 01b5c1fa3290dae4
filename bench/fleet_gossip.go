package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling/cell"
)

// How memberlist spreads a word, with the settings of a real cell (membership.ProfileCell).
const (
	gossipPeriod   = 100 * time.Millisecond // each member that has something to tell tells gossipFanout others
	gossipFanout   = 3
	gossipRetell   = 6                      // times the decimal places of the pool's size, that a member tells one thing
	gossipSaid     = 4 * gossipPeriod       // until most of a pool know what a member says of itself
	gossipRounds   = 64                     // after which nobody is told any more
	gossipHandling = 200 * time.Microsecond // a packet's way
)

// gossip returns when each of n members hears what the first of them begins to tell, as memberlist
// does it: each member has its own beat, picks whom it tells by chance, whether they know or not, and
// falls silent after a number of tellings. A negative time: it never hears, which happens to few.
func gossip(n int, rng *rand.Rand) []time.Duration {
	const never = -1
	heard := make([]time.Duration, n)
	left := make([]int, n)
	beat := make([]time.Duration, n)
	order := rng.Perm(n) // in which the members' beats come
	for place, i := range order {
		heard[i], left[i] = never, gossipRetell*int(math.Ceil(math.Log10(float64(n+1))))
		beat[i] = gossipPeriod * time.Duration(place) / time.Duration(n)
	}
	heard[0] = 0
	unheard := n - 1
	for round := range gossipRounds {
		if unheard == 0 {
			break
		}
		for _, i := range order {
			now := time.Duration(round)*gossipPeriod + beat[i]
			if heard[i] == never || heard[i] > now {
				continue
			}
			for range min(gossipFanout, left[i]) {
				left[i]--
				to := rng.IntN(max(1, n-1))
				if to >= i {
					to = min(to+1, n-1) // not itself
				}
				if heard[to] == never {
					heard[to] = now + gossipHandling
					unheard--
				}
			}
		}
	}
	return heard
}

// announce spreads an index in the pool, from a member that knows it.
func (c *fleetCell) announce(from *robot, index uint64) {
	if index <= c.heard {
		return
	}
	c.heard = index
	names := make([]string, 0, len(c.robots))
	for name := range c.robots {
		if name != from.node.Name {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, strings.Compare)
	for i, d := range gossip(len(names)+1, c.rng)[1:] {
		if d >= 0 {
			c.after(d, func() {
				if r := c.robots[names[i]]; r != nil {
					c.step(r, cell.Heard{Index: index})
				}
			})
		}
	}
}
