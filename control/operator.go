package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/starlingdeploy/starling"
)

// RaftPeers implements httpapi.Operator.
func (s *Server) RaftPeers() ([]starling.RaftPeer, error) { return s.cfg.Raft.Peers() }

// RemovePeer implements httpapi.Operator.
func (s *Server) RemovePeer(ctx context.Context, actor, name string) error {
	s.cfg.Logger.Warn("removing a server from raft", "server", name, "actor", actor)
	if err := s.cfg.Raft.RemovePeer(ctx, name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// TransferLeadership implements httpapi.Operator.
func (s *Server) TransferLeadership(ctx context.Context, actor string) error {
	s.cfg.Logger.Warn("handing the lead over", "actor", actor)
	if err := s.cfg.Raft.TransferLeadership(ctx); err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	return nil
}

// JoinServers implements httpapi.Operator.
func (s *Server) JoinServers(_ context.Context, addrs []string) (int, error) {
	if len(addrs) == 0 || len(addrs) > maxServersPerRegion {
		return 0, starling.Invalidf("addrs", "want 1 to %d addresses", maxServersPerRegion)
	}
	n, err := s.cfg.Members.Join(addrs)
	if err != nil {
		return n, fmt.Errorf("join: %w", err)
	}
	return n, nil
}

// ForceLeave implements httpapi.Operator.
func (s *Server) ForceLeave(_ context.Context, name string) error {
	if err := starling.CheckName("name", name); err != nil {
		return err
	}
	if err := s.cfg.Members.ForceLeave(name); err != nil {
		return fmt.Errorf("force %s to leave: %w", name, err)
	}
	return nil
}

// LeaveServer implements httpapi.Operator: this server hands the lead over, leaves the
// gossip, waits until the others have taken it out of Raft, and stops.
func (s *Server) LeaveServer(ctx context.Context, actor string) error {
	if s.cfg.Stop == nil {
		return fmt.Errorf("leave: %w: this server cannot stop by itself", starling.ErrConflict)
	}
	if err := s.mayLeave(); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	s.cfg.Logger.Warn("this server leaves for good", "actor", actor)
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	if err := s.handOver(ctx); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	if err := s.cfg.Members.Leave(); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	for {
		if peers, err := s.cfg.Raft.Peers(); err == nil && !slices.ContainsFunc(peers, s.isSelf) {
			s.cfg.Stop()
			return nil
		}
		if sleep(ctx, leaveLookEvery) != nil {
			return fmt.Errorf("leave: %w: it left the gossip, but nobody has taken it out of raft within %s: see list-peers, then stop it, or start it again to return",
				starling.ErrUnavailable, leaveWithin)
		}
	}
}

// mayLeave refuses when the others would have no quorum by themselves.
func (s *Server) mayLeave() error {
	peers, err := s.cfg.Raft.Peers()
	if err != nil {
		return err
	}
	alive := map[string]bool{}
	for _, n := range s.cfg.Members.Members() {
		alive[n.Name] = n.Alive
	}
	others, live := 0, 0
	for _, p := range peers {
		if p.Voter && !s.isSelf(p) {
			others++
			if alive[p.Name] {
				live++
			}
		}
	}
	switch {
	case others == 0:
		return fmt.Errorf("%w: it is the only server with a vote: stop it instead, or add another one first", starling.ErrConflict)
	case live <= others/2:
		return fmt.Errorf("%w: of the %d other servers with a vote %d are alive, too few to go on without this one", starling.ErrConflict, others, live)
	}
	return nil
}

func (s *Server) isSelf(p starling.RaftPeer) bool { return p.Name == s.cfg.Name }

// handOver sees that somebody else leads.
func (s *Server) handOver(ctx context.Context) error {
	for {
		changed := s.cfg.Raft.Leadership()
		p, ok := s.cfg.Raft.Leader()
		if ok && p.Name != s.cfg.Name {
			return nil
		}
		if ok {
			if err := s.cfg.Raft.TransferLeadership(ctx); err != nil && !errors.Is(err, starling.ErrNotLeader) {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("nobody else leads: %w", starling.ErrUnavailable)
		}
	}
}

// Health implements httpapi.Operator.
func (s *Server) Health() (starling.RaftHealth, error) { return s.cfg.Raft.Health() }

// SaveSnapshot implements httpapi.Operator: what was committed before the call is in it.
func (s *Server) SaveSnapshot(ctx context.Context) (func(io.Writer) error, error) {
	if err := s.cfg.Raft.Barrier(ctx); err != nil {
		return nil, fmt.Errorf("save a snapshot: %w", err)
	}
	return s.cfg.FSM.View().WriteSnapshot, nil
}

// RestoreSnapshot implements httpapi.Operator. It reads the whole snapshot and checks it
// before anything changes.
func (s *Server) RestoreSnapshot(ctx context.Context, actor string, rd io.Reader) (*starling.SnapshotInfo, error) {
	if !s.cfg.Raft.IsLeader() {
		return nil, fmt.Errorf("restore: %w", starling.ErrNotLeader)
	}
	view, err := s.cfg.FSM.View().Restored(rd, s.cfg.Now(), actor)
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.Warn("restoring a snapshot in place of the region's state", "actor", actor, "index", view.Index())
	if err := s.cfg.Raft.Restore(ctx, view.Index(), view.WriteSnapshot); err != nil {
		return nil, err
	}
	info, err := view.Summary()
	return &info, err
}
