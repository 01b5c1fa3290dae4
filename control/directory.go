package control

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// directories holds what the other regions say of themselves in their mirror
// batches. It lives in the leader's memory, for one term.
type directories struct {
	mu      sync.Mutex
	regions map[string]*neighbour
	version uint64 // grows when a directory, a placed list or a draft changes
}

// neighbour is another region as it last described itself.
type neighbour struct {
	directory rpc.Directory
	placed    map[starling.Digest]bool
	drafts    map[string]heardDraft // by deployment
	leader    string
	seen      time.Time
	rtt       time.Duration
}

func newDirectories() *directories {
	return &directories{regions: map[string]*neighbour{}}
}

// learn takes a region's directory, placed list and drafts.
func (d *directories) learn(b rpc.MirrorBatch, at time.Time) {
	dir := b.Directory
	dir.Servers = dir.Servers[:min(len(dir.Servers), maxServersPerRegion)]
	dir.Caches = dir.Caches[:min(len(dir.Caches), maxCachesPerRegion)]
	placed := make(map[starling.Digest]bool, len(b.Placed))
	for _, p := range b.Placed {
		placed[p] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.regions[dir.Region]
	if n == nil {
		n = &neighbour{}
		d.regions[dir.Region] = n
	}
	n.seen = at
	n.directory.Workers, n.directory.Machines = max(0, dir.Workers), max(0, dir.Machines)
	if !sameNodes(n.directory.Servers, dir.Servers) || !sameNodes(n.directory.Caches, dir.Caches) || !sameSet(n.placed, placed) {
		n.directory, n.placed = dir, placed
		d.version++
	}
	if n.learnDrafts(b.Drafts, at) {
		d.version++
	}
}

// measured notes how far a region is and who leads it.
func (d *directories) measured(region, leader string, rtt time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.regions[region]
	if n == nil {
		n = &neighbour{directory: rpc.Directory{Region: region}}
		d.regions[region] = n
	}
	n.leader, n.rtt = leader, rtt
}

func (d *directories) at() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.version
}

// servers returns the QUIC addresses of a region's servers, live ones first.
func (d *directories) servers(region string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.regions[region]
	if n == nil {
		return nil
	}
	var live, dead []string
	for _, s := range n.directory.Servers {
		if s.Alive {
			live = append(live, s.Addr)
		} else {
			dead = append(dead, s.Addr)
		}
	}
	return append(live, dead...)
}

// sources returns the regions from which an artifact can be had, without self:
// those that hold all of it nearest first, and its origin, which may be the only one that
// holds any of it yet.
func (d *directories) sources(artifact starling.Digest, origin, self string) []rpc.Source {
	d.mu.Lock()
	defer d.mu.Unlock()
	type candidate struct {
		rpc.Source
		whole bool
		rtt   time.Duration
	}
	var all []candidate
	for name, n := range d.regions {
		if name == self || (name != origin && !n.placed[artifact]) {
			continue
		}
		if live := liveCaches(n); len(live) > 0 {
			all = append(all, candidate{rpc.Source{Region: name, Caches: live}, n.placed[artifact], n.rtt})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if a.whole != b.whole {
			if a.whole {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.rtt, b.rtt), cmp.Compare(a.Region, b.Region))
	})
	out := make([]rpc.Source, len(all))
	for i := range all {
		out[i] = all[i].Source
	}
	return out
}

// status describes a neighbour; the second result is false if it has never answered.
func (d *directories) status(region string, now time.Time) (starling.RegionStatus, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := starling.RegionStatus{Name: region, Machines: -1}
	n := d.regions[region]
	if n == nil {
		return s, false
	}
	for _, v := range n.directory.Servers {
		s.Servers = append(s.Servers, v.Addr)
		if v.Alive {
			s.ServersAlive++
		}
		if v.Addr == n.leader {
			s.Leader = v.Name
		}
	}
	for _, c := range n.directory.Caches {
		if c.Alive {
			s.Caches++
		}
	}
	s.Workers = n.directory.Workers
	if n.directory.Machines > 0 {
		s.Machines = n.directory.Machines
	}
	s.Seen = !n.seen.IsZero() && now.Sub(n.seen) < regionSeenWithin
	return s, true
}

func sameNodes(a, b []starling.Node) bool {
	return slices.EqualFunc(a, b, func(x, y starling.Node) bool {
		return x.Name == y.Name && x.Addr == y.Addr && x.HTTP == y.HTTP && x.Alive == y.Alive &&
			x.Zone == y.Zone && x.Rack == y.Rack && slices.Equal(x.Roles, y.Roles)
	})
}

func sameSet(a, b map[starling.Digest]bool) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if !b[k] {
			return false
		}
	}
	return true
}
