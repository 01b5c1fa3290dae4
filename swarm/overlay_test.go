package swarm

import (
	"fmt"
	"slices"
	"testing"
)

func cell(n, zones, racks int) []Member {
	out := make([]Member, n)
	for i := range out {
		h := mix(uint64(i))
		out[i] = Member{
			Name: fmt.Sprintf("m%04d", i),
			Zone: fmt.Sprint("z", h%uint64(zones)), Rack: fmt.Sprint("r", h>>32%uint64(racks)),
		}
	}
	return out
}

func nobody(string) bool { return false }

func TestOverlay(t *testing.T) {
	for _, c := range []struct{ n, zones, racks int }{
		{1, 1, 1}, {2, 1, 1}, {8, 2, 2}, {11, 3, 1}, {12, 1, 1}, {60, 3, 4}, {300, 3, 10}, {300, 1, 1}, {300, 300, 1}, {700, 3, 20},
	} {
		t.Run(fmt.Sprintf("%d machines, %d zones, %d racks", c.n, c.zones, c.racks), func(t *testing.T) {
			members := cell(c.n, c.zones, c.racks)
			byName := make(map[string]Member)
			for _, m := range members {
				byName[m.Name] = m
			}
			links := make(map[string][]string) // both directions
			mutual := 0
			chosen := 0
			for _, m := range members {
				out := neighbours(m, members, nobody)
				if slices.Contains(out, m.Name) || !slices.IsSorted(out) || len(slices.Compact(slices.Clone(out))) != len(out) {
					t.Fatalf("%s has the neighbours %v", m.Name, out)
				}
				if want := min(c.n-1, 8); len(out) < want || len(out) > 12 {
					t.Errorf("%s has %d neighbours, want %d to 12", m.Name, len(out), want)
				}
				remote := 0
				for _, o := range out {
					if byName[o].Zone != m.Zone {
						remote++
					}
					links[m.Name] = append(links[m.Name], o)
					links[o] = append(links[o], m.Name)
				}
				if c.zones > 1 && c.n > 11 && remote == 0 {
					t.Errorf("%s has no neighbour in another zone", m.Name)
				}
			}
			for name, all := range links {
				all = slices.Clone(all)
				slices.Sort(all)
				both := len(all)
				all = slices.Compact(all)
				mutual += both - len(all)
				chosen += len(all)
				if len(all) > MaxLinks {
					t.Errorf("%s would have %d links", name, len(all))
				}
			}
			if c.n > 1 && float64(mutual) < 0.6*float64(chosen) {
				t.Errorf("%d of %d links are chosen by both ends", mutual, chosen)
			}
			if n := reach(members[0].Name, links); n != c.n {
				t.Errorf("%d of %d machines are connected", n, c.n)
			}
		})
	}
}

func reach(from string, links map[string][]string) int {
	seen := map[string]bool{from: true}
	for todo := []string{from}; len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		for _, o := range links[next] {
			if !seen[o] {
				seen[o] = true
				todo = append(todo, o)
			}
		}
	}
	return len(seen)
}

func TestOverlayDoesNotDependOnOrder(t *testing.T) {
	members := cell(200, 3, 5)
	back := slices.Clone(members)
	slices.Reverse(back)
	for _, m := range members[:20] {
		if a, b := neighbours(m, members, nobody), neighbours(m, back, nobody); !slices.Equal(a, b) {
			t.Fatalf("%s: %v or %v", m.Name, a, b)
		}
	}
}

func TestOverlayIsStable(t *testing.T) {
	members := cell(400, 3, 8)
	gone := members[17].Name
	changed := 0
	for _, m := range members {
		if m.Name == gone {
			continue
		}
		before := neighbours(m, members, nobody)
		after := neighbours(m, members, func(name string) bool { return name == gone })
		for _, o := range after {
			if !slices.Contains(before, o) {
				changed++
			}
		}
	}
	// Two per ring, and more where the rings of others ran over it to another zone.
	if changed > 40 {
		t.Errorf("losing one machine made %d new links", changed)
	}
}
