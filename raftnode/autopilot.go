package raftnode

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/starlingdeploy/starling"
)

// Autopilot says when servers get their vote and lose it. Zero fields take the defaults.
type Autopilot struct {
	KeepDeadServers bool          // never remove a server that merely failed
	DeadAfter       time.Duration // gossip has not seen a server for so long: it is dead; 1 h
	MinQuorum       int           // voters that remain when a dead one is removed; 3
	Stabilization   time.Duration // a new server is healthy for so long before it votes; 10 s
	LastContact     time.Duration // a server without the leader's contact for so long is not healthy; 2 s
	MaxTrailing     uint64        // entries that a healthy server may lag behind; 1000
	Look            time.Duration // between two looks at the servers' health; 2 s
}

func (a Autopilot) withDefaults() Autopilot {
	set := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	set(&a.DeadAfter, time.Hour)
	set(&a.Stabilization, 10*time.Second)
	set(&a.LastContact, 2*time.Second)
	set(&a.Look, 2*time.Second)
	if a.MinQuorum == 0 {
		a.MinQuorum = 3
	}
	if a.MaxTrailing == 0 {
		a.MaxTrailing = 1000
	}
	return a
}

// pilot is what hashicorp/raft-autopilot asks of this server while it leads, and the
// rules by which it promotes and removes.
type pilot struct {
	autopilot.StablePromoter // the parts of a Promoter that need no rule of ours

	n     *Node
	conf  Autopilot
	stats func(context.Context, Peer) (PeerStats, error)
	state atomic.Pointer[autopilot.State]

	mu   sync.Mutex
	gone map[raft.ServerID]time.Time // servers that gossip does not see alive, since when
}

var (
	_ autopilot.ApplicationIntegration = (*pilot)(nil)
	_ autopilot.Promoter               = (*pilot)(nil)
)

func newPilot(n *Node, log *hlog) (*pilot, *autopilot.Autopilot) {
	p := &pilot{n: n, conf: n.conf.Autopilot, stats: n.conf.Stats, gone: make(map[raft.ServerID]time.Time)}
	return p, autopilot.New(n.raft, p,
		autopilot.WithLogger(log), autopilot.WithPromoter(p),
		autopilot.WithUpdateInterval(p.conf.Look), autopilot.WithReconcileInterval(p.conf.Look))
}

// AutopilotConfig implements autopilot.ApplicationIntegration.
func (p *pilot) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{
		CleanupDeadServers:      !p.conf.KeepDeadServers,
		LastContactThreshold:    p.conf.LastContact,
		MaxTrailingLogs:         p.conf.MaxTrailing,
		MinQuorum:               uint(max(p.conf.MinQuorum, 0)),
		ServerStabilizationTime: p.conf.Stabilization,
	}
}

// NotifyState implements autopilot.ApplicationIntegration.
func (p *pilot) NotifyState(s *autopilot.State) { p.state.Store(s) }

// KnownServers implements autopilot.ApplicationIntegration: the servers of gossip, and
// those of the configuration that gossip has forgotten, which are as good as failed.
func (p *pilot) KnownServers() map[raft.ServerID]*autopilot.Server {
	self := raft.ServerID(p.n.conf.Name)
	out := make(map[raft.ServerID]*autopilot.Server)
	add := func(id raft.ServerID, addr raft.ServerAddress, status autopilot.NodeStatus) {
		out[id] = &autopilot.Server{
			ID: id, Name: string(id), Address: addr, NodeStatus: status,
			RaftVersion: int(raft.ProtocolVersionMax), IsLeader: id == self, NodeType: autopilot.NodeVoter,
		}
	}
	for _, s := range p.n.servers() {
		add(s.ID, s.Address, autopilot.NodeFailed)
	}
	for _, peer := range p.n.conf.Peers() {
		status := map[PeerState]autopilot.NodeStatus{
			PeerAlive: autopilot.NodeAlive, PeerFailed: autopilot.NodeFailed, PeerLeft: autopilot.NodeLeft,
		}[peer.State]
		add(raft.ServerID(peer.Name), raft.ServerAddress(peer.Addr), status)
	}
	if me := out[self]; me != nil {
		me.NodeStatus = autopilot.NodeAlive
	}
	p.note(out)
	return out
}

// note keeps since when each server is gone.
func (p *pilot) note(known map[raft.ServerID]*autopilot.Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.gone {
		if s := known[id]; s == nil || s.NodeStatus == autopilot.NodeAlive {
			delete(p.gone, id)
		}
	}
	for id, s := range known {
		if _, ok := p.gone[id]; !ok && s.NodeStatus != autopilot.NodeAlive {
			p.gone[id] = time.Now()
		}
	}
}

// forget begins a term: what an earlier one saw is old.
func (p *pilot) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.gone)
	p.state.Store(nil)
}

// FetchServerStats implements autopilot.ApplicationIntegration. Servers that do not
// answer in time are left out: their last answer stands, and ages.
func (p *pilot) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	var mu sync.Mutex
	var asking sync.WaitGroup
	out := make(map[raft.ServerID]*autopilot.ServerStats)
	own := p.n.PeerStats()
	// Autopilot's own time-out is an error to it, and half of Look: one silent server
	// must not keep it from seeing the others.
	ctx, cancel := context.WithTimeout(ctx, p.conf.Look/4)
	defer cancel()
	for id, s := range servers {
		asking.Go(func() {
			st, err := p.ask(ctx, id, s, own)
			if err != nil {
				p.n.logger.Debug("a server does not tell of its raft", "server", string(id), "error", err)
				st = PeerStats{LastContact: never}
			}
			mu.Lock()
			defer mu.Unlock()
			out[id] = &autopilot.ServerStats{LastContact: st.LastContact, LastTerm: st.LastTerm, LastIndex: st.LastIndex}
		})
	}
	asking.Wait()
	return out
}

// never is the last contact of a server that has had none; autopilot takes it for unhealthy.
const never = -1

func (p *pilot) ask(ctx context.Context, id raft.ServerID, s *autopilot.Server, own PeerStats) (PeerStats, error) {
	if id == raft.ServerID(p.n.conf.Name) || p.stats == nil {
		return own, nil
	}
	st, err := p.stats(ctx, Peer{Name: string(id), Addr: string(s.Address)})
	if st.LastTerm == 0 { // an older program does not tell
		st.LastTerm = own.LastTerm
	}
	return st, err
}

// CalculatePromotionsAndDemotions implements autopilot.Promoter: servers that have been
// healthy for long enough get a vote, the first by name first, one at a time, so that
// each counts before the next.
func (p *pilot) CalculatePromotionsAndDemotions(c *autopilot.Config, s *autopilot.State) autopilot.RaftChanges {
	var ready []raft.ServerID
	for id, server := range s.Servers {
		if server.State == autopilot.RaftNonVoter && server.Health.IsStable(time.Now(), c.ServerStabilizationTime) {
			ready = append(ready, id)
		}
	}
	slices.Sort(ready)
	return autopilot.RaftChanges{Promotions: ready[:min(len(ready), 1)]}
}

// FilterFailedServerRemovals implements autopilot.Promoter: of the servers that have been
// gone for long enough, those without a vote, and one voter at a time while MinQuorum
// voters remain and most of those are healthy.
func (p *pilot) FilterFailedServerRemovals(c *autopilot.Config, s *autopilot.State, failed *autopilot.FailedServers) *autopilot.FailedServers {
	dead := func(server *autopilot.Server) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		since, gone := p.gone[server.ID]
		return gone && time.Since(since) >= p.conf.DeadAfter
	}
	out := &autopilot.FailedServers{}
	for _, server := range failed.FailedNonVoters {
		if dead(server) {
			out.FailedNonVoters = append(out.FailedNonVoters, server)
		}
	}
	healthy := 0
	for _, id := range s.Voters {
		if s.Servers[id].Health.Healthy {
			healthy++
		}
	}
	left := len(s.Voters) - 1
	for _, server := range failed.FailedVoters {
		if dead(server) && left >= int(c.MinQuorum) && healthy > left/2 {
			out.FailedVoters = []*autopilot.Server{server}
			break
		}
	}
	return out
}

// RemoveFailedServer implements autopilot.ApplicationIntegration.
func (p *pilot) RemoveFailedServer(s *autopilot.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), maxChangeWait)
	defer cancel()
	if err := p.n.remove(ctx, s.ID, fmt.Sprintf("nobody has seen it for %s", p.conf.DeadAfter)); err != nil {
		p.n.logger.Warn("cannot remove a dead server yet", "server", string(s.ID), "error", err)
	}
}

// Health tells how the servers of the configuration are, as the leader sees them.
// ErrNotLeader: this server does not lead. ErrUnavailable: it has only begun to.
func (n *Node) Health() (starling.RaftHealth, error) {
	if !n.IsLeader() {
		return starling.RaftHealth{}, fmt.Errorf("health of the servers: %w", starling.ErrNotLeader)
	}
	s := n.pilot.state.Load()
	if s == nil || s.Leader == "" {
		return starling.RaftHealth{}, fmt.Errorf("health of the servers: the leader has not looked yet: %w", starling.ErrUnavailable)
	}
	h := starling.RaftHealth{Healthy: s.Healthy, FailureTolerance: s.FailureTolerance, Servers: []starling.RaftServerHealth{}}
	for id, server := range s.Servers {
		h.Servers = append(h.Servers, starling.RaftServerHealth{
			Name: string(id), Addr: string(server.Server.Address), Status: string(server.Server.NodeStatus),
			Leader: id == s.Leader, Voter: server.HasVotingRights(), Healthy: server.Health.Healthy,
			LastContactMS: server.Stats.LastContact.Milliseconds(), LastTerm: server.Stats.LastTerm, LastIndex: server.Stats.LastIndex,
			StableSince: server.Health.StableSince.UTC(),
		})
		if server.Stats.LastContact < 0 {
			h.Servers[len(h.Servers)-1].LastContactMS = never
		}
	}
	slices.SortFunc(h.Servers, func(a, b starling.RaftServerHealth) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return h, nil
}
