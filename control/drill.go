package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// machineNode finds a machine of this region: in the region's own gossip, or by its cell.
func (s *Server) machineNode(ctx context.Context, name string) (starling.Node, error) {
	members := s.cfg.Members.Members()
	i := slices.IndexFunc(members, func(n starling.Node) bool { return n.Name == name && n.Has(starling.RoleMachine) })
	if i >= 0 {
		return members[i], nil
	}
	m, err := s.cellMember(ctx, name)
	return m.Node, err
}

// cellMember asks a machine's cell for it and what it last reported.
func (s *Server) cellMember(ctx context.Context, name string) (rpc.CellMember, error) {
	m, ok := s.cfg.FSM.View().Machine(name)
	if !ok || m.Cell == "" {
		return rpc.CellMember{}, fmt.Errorf("region %s has no machine %.80q: %w", s.cfg.Region, name, starling.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, accountWithin)
	defer cancel()
	if t, _ := s.leading(); t != nil {
		return t.askCell(ctx, m)
	}
	client := rpc.Client{HTTP: &http.Client{Transport: toLeader{s, s.cfg.Region}}}
	return client.Member(ctx, name)
}

// askCell asks those who report for a cell, one after the other, those first who see the machine.
func (t *term) askCell(ctx context.Context, m *starling.Machine) (rpc.CellMember, error) {
	if t.s.toCells == nil {
		return rpc.CellMember{}, fmt.Errorf("server %s cannot ask machines: %w", t.s.cfg.Name, starling.ErrUnavailable)
	}
	relays := t.cells.relaysFor(m, t.now())
	if len(relays) == 0 {
		return rpc.CellMember{}, fmt.Errorf("cell %s of machine %s is silent: %w", m.Cell, m.Name, starling.ErrUnavailable)
	}
	var errs []error
	for _, relay := range relays {
		client := rpc.Client{HTTP: &http.Client{Transport: toServer{t.s.toCells, relay.Addr}}}
		one, cancel := context.WithTimeout(ctx, askWithin)
		member, err := client.CellMachine(one, m.Name)
		cancel()
		if err == nil {
			return member, nil
		}
		errs = append(errs, fmt.Errorf("machine %s, asked after %s: %w", relay.Name, m.Name, err))
	}
	return rpc.CellMember{}, errors.Join(errs...)
}

func (s *Server) serveMember(w http.ResponseWriter, r *http.Request, c *caller) error {
	name := r.URL.Query().Get("name")
	m, ok := s.cfg.FSM.View().Machine(name)
	if !ok || m.Cell == "" {
		return fmt.Errorf("region %s has no machine %.80q: %w", s.cfg.Region, name, starling.ErrNotFound)
	}
	member, err := c.term.askCell(r.Context(), m)
	if err != nil {
		return err
	}
	return answer(w, member)
}

// DeploymentCells implements httpapi.Explainer: how the cells of the regions that take part
// stand, or those of one region. What a region that cannot be asked has is left out, unless
// it is the one.
func (s *Server) DeploymentCells(ctx context.Context, id, region string) ([]starling.CellProgress, error) {
	d, ok := s.Deployment(id)
	if !ok {
		return nil, fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
	}
	if region != "" && !takesPart(d, region) {
		return nil, fmt.Errorf("region %.80q does not take part in deployment %s: %w", region, d.ID, starling.ErrNotFound)
	}
	parts := make([][]starling.CellProgress, len(d.Regions))
	errs := make([]error, len(d.Regions))
	var wg sync.WaitGroup
	for i, p := range d.Regions {
		if region == "" || region == p.Name {
			wg.Go(func() { parts[i], errs[i] = s.cellsIn(ctx, p.Name, d.ID) })
		}
	}
	wg.Wait()
	out := slices.Concat([]starling.CellProgress{}, slices.Concat(parts...))
	if err := errors.Join(errs...); region != "" || len(out) == 0 {
		return out, err
	}
	return out, nil
}

func (s *Server) cellsIn(ctx context.Context, region, id string) ([]starling.CellProgress, error) {
	if t, _ := s.leading(); t != nil && region == s.cfg.Region {
		return t.deploymentCells(s.cfg.FSM.View(), id, t.now())
	}
	ctx, cancel := context.WithTimeout(ctx, accountWithin)
	defer cancel()
	client := rpc.Client{HTTP: &http.Client{Transport: toLeader{s, region}}}
	return client.Cells(ctx, id)
}

func (s *Server) serveCells(w http.ResponseWriter, r *http.Request, c *caller) error {
	cells, err := c.term.deploymentCells(s.cfg.FSM.View(), r.URL.Query().Get("deployment"), c.term.now())
	if err != nil {
		return err
	}
	return answer(w, cells)
}

// deploymentCells is how the cells of this region stand with the goal of a deployment.
func (r *Reign) deploymentCells(v raftfsm.View, id string, now time.Time) ([]starling.CellProgress, error) {
	d, ok := v.Deployment(id)
	if !ok {
		return nil, fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
	}
	g := goalOf(v, d)
	if g == nil {
		return []starling.CellProgress{}, nil // not yet, or not any more
	}
	return r.cells.progress(g, now), nil
}
