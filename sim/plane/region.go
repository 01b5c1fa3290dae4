package plane

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// region is a Raft group with its workers, caches and machines.
type region struct {
	w        *world
	num      int
	name     string
	servers  []*server
	workers  []*worker
	caches   []*cache
	machines []*machine
	ledger   *ledger
	version  uint64 // of the membership
	ids      int    // given to deployments

	wellSince time.Duration     // a quorum has stood unchanged; negative: none stands
	was       uint64            // its shape then
	seen      []starling.Mirror // batches from other regions, for Disorder
}

func (r *region) newNode(kind string, i int) node {
	return node{num: r.w.net.add(), region: r.num, name: fmt.Sprintf("%s/%s%d", r.name, kind, i+1), up: true}
}

// others lists where the other regions' servers are, as configuration has it.
func (r *region) others() map[string][]string {
	out := map[string][]string{}
	for _, o := range r.w.regions {
		if o == r {
			continue
		}
		for _, s := range o.servers {
			out[o.name] = append(out[o.name], addr(&s.node))
		}
	}
	return out
}

func addr(n *node) string { return n.name + ":7471" }

// members is what gossip knows.
func (r *region) members() []starling.Node {
	var out []starling.Node
	add := func(n *node, role starling.Role) {
		out = append(out, starling.Node{
			Name: plain(n), Region: r.name, Roles: []starling.Role{role}, Alive: n.up, Addr: addr(n),
			Tags: map[string]string{"role": "web"},
		})
	}
	for _, s := range r.servers {
		add(&s.node, starling.RoleServer)
	}
	for _, x := range r.workers {
		add(&x.node, starling.RoleWorker)
	}
	for _, x := range r.caches {
		add(&x.node, starling.RoleCache)
	}
	for _, x := range r.machines {
		if x.old {
			add(&x.node, starling.RoleMachine)
		}
	}
	slices.SortFunc(out, func(a, b starling.Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// plain is a node's name within its region.
func plain(n *node) string { return n.name[len(regionName(n.region))+1:] }

func regionName(i int) string { return []string{"us", "eu", "ap", "sa"}[i] }

// anyServer picks one of the region's servers, mostly one that is up.
func (r *region) anyServer() *server {
	s := r.servers[r.w.rng.IntN(len(r.servers))]
	if !s.up {
		s = r.servers[r.w.rng.IntN(len(r.servers))]
	}
	return s
}

// leader returns the server that leads for certain, nil if there is none.
func (r *region) leader() *server {
	var lead *server
	for _, s := range r.servers {
		if s.up && s.reign != nil && (lead == nil || s.term > lead.term) {
			lead = s
		}
	}
	return lead
}
