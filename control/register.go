package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/rpc"
)

// serveRegister gives a machine with a certificate its place in a cell. One that is as it
// was recorded costs nothing.
func (s *Server) serveRegister(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.RegisterRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if req.Name != c.Name {
		return fmt.Errorf("%s cannot register machine %.80q: %w", c, req.Name, starling.ErrForbidden)
	}
	facts := raftfsm.MachineFacts{Name: req.Name, Zone: req.Zone, Rack: req.Rack, Tags: req.Tags, Gossip: req.Gossip}
	t, err := s.register(r.Context(), c.term, facts)
	if err != nil {
		return err
	}
	return answer(w, t)
}

func (s *Server) register(ctx context.Context, t *term, facts raftfsm.MachineFacts) (rpc.Ticket, error) {
	if s.cfg.SignFeed == nil {
		return rpc.Ticket{}, fmt.Errorf("the servers of %s have no cells: %w", s.cfg.Region, starling.ErrNotFound)
	}
	command := raftfsm.MachineRegister{MachineFacts: facts, Max: s.cfg.CellMax}
	v := s.cfg.FSM.View()
	if v.Level() < raftfsm.LevelOf(raftfsm.TypeMachineRegister) && len(v.Apps()) > 0 {
		return rpc.Ticket{}, fmt.Errorf("region %s is of the version before, and the way back is open: its machines form cells once an operator uses something new, `starling node token create` for instance: %w",
			s.cfg.Region, starling.ErrNotFound)
	}
	m, same := v.Registered(&command)
	if same && m.Cell != "" {
		return s.ticket(t, v, m)
	}
	if err := s.onlyOne(ctx, t, &facts); err != nil {
		return rpc.Ticket{}, err
	}
	res, err := s.propose(ctx, "machine:"+facts.Name, raftfsm.TypeMachineRegister, command)
	if errors.Is(err, raftnode.ErrServerTooOld) {
		return rpc.Ticket{}, fmt.Errorf("region %s has no cells yet: %w: %w", s.cfg.Region, starling.ErrNotFound, err)
	}
	if err != nil {
		return rpc.Ticket{}, err
	}
	return s.ticket(t, s.cfg.FSM.View(), res.Machine)
}

// onlyOne refuses a machine that calls from another address than the one by which its cell
// sees it alive: one of the two is a copy. It may only just have moved: then the cell soon
// ceases to see it there.
func (s *Server) onlyOne(ctx context.Context, t *term, facts *raftfsm.MachineFacts) error {
	m, ok := s.cfg.FSM.View().Machine(facts.Name)
	if !ok || m.Gossip == facts.Gossip || m.Gossip == "" || !t.cells.sees(m, t.now()) {
		return nil
	}
	select {
	case s.doubted <- struct{}{}:
		defer func() { <-s.doubted }()
	default:
		return fmt.Errorf("too many machines call from new addresses at once: %w", starling.ErrUnavailable)
	}
	for end := t.now().Add(moveWithin); t.now().Before(end); {
		if err := sleep(ctx, decideEvery); err != nil {
			return fmt.Errorf("machine %s calls from another address: %w: %w", m.Name, starling.ErrUnavailable, err)
		}
		if !t.cells.sees(m, t.now()) {
			return nil
		}
	}
	return fmt.Errorf("another machine answers as %s at %s: if this is a copy of its disk, delete data_dir and enrol it anew: %w",
		m.Name, m.Gossip, starling.ErrConflict)
}

// ticket tells a machine its place. t may be nil: then it is not known who in its cell is alive.
func (s *Server) ticket(t *term, v raftfsm.View, m *starling.Machine) (rpc.Ticket, error) {
	cell, ok := v.Cell(m.Cell)
	if !ok {
		return rpc.Ticket{}, fmt.Errorf("cell %.80q of machine %s: %w", m.Cell, m.Name, starling.ErrUnavailable)
	}
	key, err := s.cellKey(cell)
	if err != nil {
		return rpc.Ticket{}, err
	}
	out := rpc.Ticket{
		Region: s.cfg.Region, Cell: cell.Name, Slot: m.Slot, Version: cell.Version, Tags: m.Tags,
		Key: key, KeyEpoch: cell.KeyEpoch, Servers: []string{},
	}
	if t != nil {
		out.Seeds = t.cells.speakers(m)
	}
	for _, addr := range spread(v, m) {
		if !slices.Contains(out.Seeds, addr) && len(out.Seeds) < rpc.MaxTicketSeeds {
			out.Seeds = append(out.Seeds, addr)
		}
	}
	if d := v.Directory(); d != nil {
		out.Servers = append(out.Servers, d.Servers...)
	}
	return out, nil
}

// spread lists addresses of members of a machine's cell, others for each machine: none of
// them is asked by all.
func spread(v raftfsm.View, m *starling.Machine) []string {
	var all []string
	self := 0
	for o := range v.MachinesOf(m.Cell) {
		switch {
		case o.Name == m.Name:
			self = len(all)
		case o.Gossip != "":
			all = append(all, o.Gossip)
		}
	}
	var out []string
	n := min(len(all), rpc.MaxTicketSeeds)
	for i := range n {
		out = append(out, all[(self+i*len(all)/n)%len(all)])
	}
	return out
}
