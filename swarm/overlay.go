package swarm

import "slices"

// The overlay is a union of rings (Law and Siu, 2003: such a union is an expander).
// On a ring the members of a stratum stand in the order of a hash of their names, and
// everyone is linked to the two beside it: so both ends agree on an edge without
// asking anybody, and one member's coming or going touches two others per ring.
const (
	rackRings  = 1
	zoneRings  = 1
	allRings   = 2
	farRings   = 1 // over the members of other zones; only the choosing end knows
	spareRings = 6 // over all, as far as the others yielded too few
)

// neighbours returns the names that self should be linked to, sorted. Members for
// which avoid is true are left out, as if they were gone.
func neighbours(self Member, members []Member, avoid func(name string) bool) []string {
	live := make([]hashed, 0, len(members))
	zone, rack := 0, 0 // others in the zone, and of those in the rack
	for i := range members {
		m := &members[i]
		if m.Name == self.Name || avoid(m.Name) {
			continue
		}
		h := hashed{m, hashName(m.Name)}
		live = append(live, h)
		if sameZone(self, h) {
			zone++
			if sameRack(self, h) {
				rack++
			}
		}
	}
	if len(live) <= targetLinks {
		out := make([]string, 0, len(live))
		for _, h := range live {
			out = append(out, h.Name)
		}
		slices.Sort(out)
		return out
	}
	o := overlay{self: self, hash: hashName(self.Name), live: live}
	if rack > 0 {
		o.rings(rackRings, 1, sameRack)
	}
	if zone > 0 {
		o.rings(zoneRings, 2, sameZone)
	}
	o.rings(allRings, 3, anybody)
	if zone < len(live) {
		o.rings(farRings, 5, otherZone)
	}
	for i := uint64(0); i < spareRings && len(o.out) < targetLinks; i++ {
		o.rings(1, 6+i, anybody)
	}
	slices.Sort(o.out)
	return o.out
}

type hashed struct {
	*Member
	hash uint64
}

type stratum func(self Member, m hashed) bool

func sameRack(self Member, m hashed) bool  { return m.Zone == self.Zone && m.Rack == self.Rack }
func sameZone(self Member, m hashed) bool  { return m.Zone == self.Zone }
func otherZone(self Member, m hashed) bool { return m.Zone != self.Zone }
func anybody(Member, hashed) bool          { return true }

type overlay struct {
	self Member
	hash uint64
	live []hashed
	out  []string
}

// rings adds self's neighbours on n rings over the members that in chooses.
func (o *overlay) rings(n int, salt uint64, in stratum) {
	for i := range uint64(n) {
		key := mix((salt + i) * 0x9e3779b97f4a7c15)
		at := mix(o.hash ^ key)
		var next, prev string
		up, down := ^uint64(0), ^uint64(0)
		for _, m := range o.live {
			if !in(o.self, m) {
				continue
			}
			d := mix(m.hash^key) - at // around the ring, modulo 2^64
			if d < up {
				up, next = d, m.Name
			}
			if -d < down {
				down, prev = -d, m.Name
			}
		}
		o.add(next)
		o.add(prev)
	}
}

func (o *overlay) add(name string) {
	if name != "" && !slices.Contains(o.out, name) {
		o.out = append(o.out, name)
	}
}
