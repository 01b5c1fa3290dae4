package control

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Nodes implements httpapi.Cluster: the members of the region's own pool and the machines
// of its roster, by name. What machines reported is known to the leader, or to their cells.
func (s *Server) Nodes(ctx context.Context, f starling.NodeFilter) []starling.NodeStatus {
	limit := cmp.Or(f.Limit, starling.MaxListedNodes)
	out := []starling.NodeStatus{}
	for n := range s.allNodes(f.After) {
		if f.Matches(&n) {
			if out = append(out, n); len(out) >= limit {
				break
			}
		}
	}
	if t := s.reigning(); t != nil {
		t.fill(ctx, out)
	}
	return out
}

// allNodes merges members and machines, those whose names come after one.
func (s *Server) allNodes(after string) iter.Seq[starling.NodeStatus] {
	return func(yield func(starling.NodeStatus) bool) {
		members := s.memberStatuses()
		v, t := s.cfg.FSM.View(), s.reigning()
		next, stop := iter.Pull(v.Machines(after))
		defer stop()
		m, ok := next()
		for i := 0; i < len(members) || ok; {
			switch {
			case i < len(members) && members[i].Name <= after && after != "":
				i++
				continue
			case !ok || i < len(members) && members[i].Name < m.Name:
				if !yield(members[i]) {
					return
				}
				i++
				continue
			}
			n := s.machineStatus(t, m)
			if i < len(members) && members[i].Name == m.Name {
				n = both(members[i], n)
				i++
			}
			if !yield(n) {
				return
			}
			m, ok = next()
		}
	}
}

// both is a member of the region's pool that is a machine of its roster too.
func both(member, machine starling.NodeStatus) starling.NodeStatus {
	member.Cell, member.Standing = machine.Cell, machine.Standing
	if !member.Has(starling.RoleMachine) {
		member.Roles = append(slices.Clone(member.Roles), starling.RoleMachine)
	}
	return member
}

func (s *Server) memberStatuses() []starling.NodeStatus {
	members := s.cfg.Members.Members()
	if t := s.reigning(); t != nil {
		return t.machines.statuses(members)
	}
	out := make([]starling.NodeStatus, len(members))
	for i := range members {
		out[i].Node = members[i]
	}
	return out
}

// reigning returns what this server knows as the leader, nil if it is not.
func (s *Server) reigning() *term {
	t, _ := s.leading()
	return t
}

// machineStatus is a machine as the roster and its cell's reports show it.
func (s *Server) machineStatus(t *term, m *starling.Machine) starling.NodeStatus {
	return starling.NodeStatus{
		Node: starling.Node{
			Name: m.Name, Region: s.cfg.Region, Zone: m.Zone, Rack: m.Rack, Tags: m.Tags,
			Roles: []starling.Role{starling.RoleMachine}, Alive: t != nil && t.cells.sees(m, t.now()),
		},
		Cell: m.Cell, Standing: m.Standing,
	}
}

// Node implements httpapi.Roster.
func (s *Server) Node(ctx context.Context, name string) (*starling.NodeDetail, error) {
	m, known := s.cfg.FSM.View().Machine(name)
	members, t := s.memberStatuses(), s.reigning()
	i, member := slices.BinarySearchFunc(members, name, func(n starling.NodeStatus, name string) int { return cmp.Compare(n.Name, name) })
	d := &starling.NodeDetail{Machine: m}
	switch {
	case known && member:
		d.NodeStatus = both(members[i], s.machineStatus(t, m))
	case known:
		d.NodeStatus = s.machineStatus(t, m)
	case member:
		d.NodeStatus = members[i]
	default:
		return nil, fmt.Errorf("node %.80q: %w in region %s", name, starling.ErrNotFound, s.cfg.Region)
	}
	if d.Cell == "" {
		return d, nil
	}
	told, err := s.cellMember(ctx, name)
	if err != nil {
		d.Unasked = err.Error()
		return d, nil
	}
	d.Reports = told.Reports
	tellOf(&d.NodeStatus, &told)
	return d, nil
}

// SetStanding implements httpapi.Roster.
func (s *Server) SetStanding(ctx context.Context, actor string, c starling.StandingChange) (*starling.Machine, error) {
	res, err := s.propose(ctx, actor, raftfsm.TypeMachineStanding, raftfsm.MachineStanding{Name: c.Name, Standing: c.To, From: c.From, Unknown: c.Unknown})
	return res.Machine, err
}

// RemoveMachine implements httpapi.Roster.
func (s *Server) RemoveMachine(ctx context.Context, actor, name string, force bool) error {
	_, err := s.propose(ctx, actor, raftfsm.TypeMachineRemove, raftfsm.MachineRemove{Name: name, Force: force})
	return err
}

// Cells implements httpapi.Cells.
func (s *Server) Cells() []starling.CellStatus {
	out := []starling.CellStatus{}
	t := s.reigning()
	for _, c := range s.cfg.FSM.View().Cells() {
		st := starling.CellStatus{Cell: *c, SilentMS: -1}
		if t != nil {
			t.cells.tell(&st, t.now())
		}
		out = append(out, st)
	}
	return out
}

// tell adds how a cell is heard.
func (b *cellBoard) tell(st *starling.CellStatus, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.cells[st.Name]; c != nil {
		heard := c.status(now)
		st.Alive, st.Speakers, st.SilentMS = heard.Alive, heard.Speakers, heard.SilentMS
	}
}

// RotateCells implements httpapi.Cells.
func (s *Server) RotateCells(ctx context.Context, actor, cell string, all bool) error {
	_, err := s.propose(ctx, actor, raftfsm.TypeCellRotate, raftfsm.CellRotate{Cell: cell, All: all})
	return err
}

// CreateJoinToken implements httpapi.Joining.
func (s *Server) CreateJoinToken(ctx context.Context, actor string, n starling.NewJoinToken) (*starling.IssuedJoinToken, error) {
	if s.cfg.Enrolment == nil || s.cfg.CA.IsZero() {
		return nil, fmt.Errorf("server %s has no enrolment authority, so that no machine could use a join token: make one with starling tls ca enrol and name it in tls { enrol_cert, enrol_key }: %w",
			s.cfg.Name, starling.ErrConflict)
	}
	if n.TTL < 0 || n.TTL.D() > raftfsm.MaxJoinTokenLife {
		return nil, starling.Invalidf("ttl", "%s is not within 0 and %d days", n.TTL, raftfsm.MaxJoinTokenLife/(24*time.Hour))
	}
	if n.Uses < 0 {
		return nil, starling.Invalidf("uses", "%d machines: use 1 to %d", n.Uses, starling.MaxMachinesPerRegion)
	}
	id, err := s.newID("jt-")
	if err != nil {
		return nil, err
	}
	text := starling.JoinTokenText{ID: id, CA: s.cfg.CA}
	if _, err := io.ReadFull(s.cfg.Rand, text.Secret[:]); err != nil {
		return nil, fmt.Errorf("make a secret: %w", err)
	}
	res, err := s.propose(ctx, actor, raftfsm.TypeJoinTokenCreate, raftfsm.JoinTokenCreate{Token: starling.JoinToken{
		ID: id, Name: n.Name, Hash: text.Hash(), Zone: n.Zone, Tags: n.Tags,
		MaxUses:   cmp.Or(n.Uses, starling.DefaultJoinTokenUses),
		ExpiresAt: s.cfg.Now().UTC().Add(cmp.Or(n.TTL.D(), starling.DefaultJoinTokenTTL)),
	}})
	if err != nil {
		return nil, err
	}
	return &starling.IssuedJoinToken{JoinToken: *res.JoinToken, Text: text.Text()}, nil
}

// JoinTokens implements httpapi.Joining.
func (s *Server) JoinTokens() []*starling.JoinToken { return s.cfg.FSM.View().JoinTokens() }

// RevokeJoinToken implements httpapi.Joining.
func (s *Server) RevokeJoinToken(ctx context.Context, actor, id string) error {
	_, err := s.propose(ctx, actor, raftfsm.TypeJoinTokenRevoke, raftfsm.JoinTokenRevoke{ID: id})
	return err
}
