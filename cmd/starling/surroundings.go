package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/starlingdeploy/starling"
)

// pool is a view of members; *membership.Pool is one.
type pool interface {
	Members() []starling.Node
	Changed() <-chan struct{}
}

// surroundings are the members of its region that a machine knows: those of its cell, those
// of the region's pool if it takes part in that, and the servers and caches that it is told
// of. It is safe for concurrent use.
type surroundings struct {
	mu      sync.Mutex
	changed chan struct{}
	region  pool            // nil: not there
	cell    pool            // nil: none yet
	before  []starling.Node // machines of the cell it comes from, until there is company in the new one
	told    []starling.Node // servers and caches
}

func newSurroundings() *surroundings { return &surroundings{changed: make(chan struct{})} }

// edit changes s and wakes those that wait for a change.
func (s *surroundings) edit(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next change. Take it before reading Members.
func (s *surroundings) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// follow passes on the changes of a pool until ctx ends.
func (s *surroundings) follow(ctx context.Context, p pool) {
	for {
		select {
		case <-p.Changed():
			s.edit(func() {})
		case <-ctx.Done():
			return
		}
	}
}

// tell replaces what this process is told of servers and caches.
func (s *surroundings) tell(nodes []starling.Node) {
	s.mu.Lock()
	same := sameNodes(s.told, nodes)
	s.mu.Unlock()
	if !same {
		s.edit(func() { s.told = nodes })
	}
}

func sameNodes(a, b []starling.Node) bool {
	return slices.EqualFunc(a, b, func(a, b starling.Node) bool {
		return a.Name == b.Name && a.Addr == b.Addr && a.Alive == b.Alive && slices.Equal(a.Roles, b.Roles)
	})
}

// Members returns all members, each once, sorted by name. The caller owns the result.
func (s *surroundings) Members() []starling.Node {
	s.mu.Lock()
	region, cell, before := s.region, s.cell, s.before
	all := slices.Clone(s.told)
	s.mu.Unlock()
	if region != nil {
		all = append(all, region.Members()...)
	}
	if cell != nil {
		now := cell.Members()
		all = append(all, now...)
		before = slices.DeleteFunc(slices.Clone(before), func(n starling.Node) bool {
			return slices.ContainsFunc(now, func(m starling.Node) bool { return m.Name == n.Name })
		})
	}
	all = append(all, before...)
	slices.SortStableFunc(all, func(a, b starling.Node) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Addr, b.Addr))
	})
	out := all[:0]
	for _, m := range all {
		if n := len(out) - 1; n >= 0 && out[n].Name == m.Name && out[n].Addr == m.Addr {
			out[n] = joined(out[n], m)
			continue
		}
		out = append(out, m)
	}
	return out
}

// joined is what two sources say of one process: the roles of both and, for the rest, the
// second, which is nearer.
func joined(a, b starling.Node) starling.Node {
	b.Roles = slices.Clone(b.Roles)
	for _, r := range a.Roles {
		if !slices.Contains(b.Roles, r) {
			b.Roles = append(b.Roles, r)
		}
	}
	b.Alive = a.Alive || b.Alive
	b.Tags = maps.Clone(b.Tags)
	for k, v := range a.Tags {
		if b.Tags == nil {
			b.Tags = map[string]string{}
		}
		if _, ok := b.Tags[k]; !ok {
			b.Tags[k] = v
		}
	}
	b.HTTP = cmp.Or(b.HTTP, a.HTTP)
	return b
}
