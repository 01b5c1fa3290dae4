package raftfsm

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/starlingdeploy/starling"
)

func (t *tx) regionUpsert(p *RegionUpsert) (Result, error) {
	g := p.Region
	if err := starling.CheckName("region", g.Name); err != nil {
		return Result{}, err
	}
	if len(g.Servers) > MaxServersPerRegion {
		return Result{}, starling.Invalidf("region.servers", "%d servers, more than %d", len(g.Servers), MaxServersPerRegion)
	}
	for _, s := range g.Servers {
		if err := checkText("region.servers", s, MaxServerAddrBytes); err != nil {
			return Result{}, err
		}
	}
	if len(g.Nodes) > MaxRegionNodes {
		return Result{}, starling.Invalidf("region.nodes", "%d nodes, more than %d", len(g.Nodes), MaxRegionNodes)
	}
	for _, n := range g.Nodes {
		for _, text := range []string{n.Name, n.Zone, n.Rack, n.Addr, n.HTTP} {
			if err := checkText("region.nodes", text, MaxServerAddrBytes); err != nil {
				return Result{}, err
			}
		}
	}
	old := get[Region](t.reader, tableRegions, byID, strKey(g.Name))
	switch {
	case old == nil && len(t.regions()) >= MaxRegions:
		return Result{}, fmt.Errorf("%w: there are %d regions already", starling.ErrConflict, MaxRegions)
	case old != nil && slices.Equal(old.rec.Servers, g.Servers) && reflect.DeepEqual(old.rec.Nodes, g.Nodes):
		return Result{}, nil
	}
	put(t, tableRegions, old, &row[Region]{rec: &g})
	if old == nil {
		t.emit(starling.Event{Type: EventRegionJoined, Detail: g.Name})
	}
	return Result{Created: old == nil}, nil
}

func (r reader) regions() []Region {
	var out []Region
	for g := range scan[Region](r, tableRegions, byID, nil) {
		out = append(out, *g.rec)
	}
	return out
}
