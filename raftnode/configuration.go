package raftnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// keepConfiguration starts the cluster, announces this server, and while it leads
// keeps the configuration in step with gossip: it adds who appears, without a vote, and
// removes who left; autopilot, which it starts and stops, gives votes and removes who is
// dead. It looks at each change of gossip or leader, and now and then.
func (n *Node) keepConfiguration(ctx context.Context) {
	defer func() { <-n.autopilot.Stop() }()
	ticker := time.NewTicker(n.conf.Timing.Reconcile)
	defer ticker.Stop()
	for {
		var changed <-chan struct{}
		if n.conf.Changed != nil {
			changed = n.conf.Changed()
		}
		leadership := n.Leadership()
		peers := n.directory.refresh(n.conf.Peers())
		n.announce(tagLevel, strconv.Itoa(raftfsm.Level))
		n.announce(tagDisk, room(n.room.Load()).String())
		if err := n.leftBehind(peers); err != nil {
			n.stores.disk.stop(err)
			return
		}
		n.join(peers)
		if !n.Bootstrapped() {
			n.tryBootstrap(peers)
		}
		if n.Bootstrapped() {
			if r := n.recoveries(); r > 0 {
				n.announce(tagRecovered, strconv.Itoa(r))
			}
			n.announce(tagBoot, "1")
			n.announce(tagIntent, "")
			n.announce(tagExpect, "")
		}
		n.steer(ctx)
		if n.IsLeader() {
			// Announcing may have taken long: what was seen before it may be from before the cluster began.
			peers = n.directory.refresh(n.conf.Peers())
			if err := n.reconcile(ctx, n.admitting(peers)); err != nil && ctx.Err() == nil {
				n.logger.Warn("cannot bring the raft configuration in step with gossip yet", "error", err)
			}
		}
		select {
		case <-changed:
		case <-leadership:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// steer runs autopilot while this server leads.
func (n *Node) steer(ctx context.Context) {
	status, _ := n.autopilot.IsRunning()
	switch leads := n.IsLeader(); {
	case leads && status == autopilot.NotRunning:
		n.pilot.forget()
		n.autopilot.Start(ctx)
	case !leads && status == autopilot.Running:
		n.autopilot.Stop() // it ends by itself; the next term begins when it has
	}
}

// announce sets a gossip tag of this server, once.
func (n *Node) announce(key, value string) {
	if n.announced[key] == value {
		return
	}
	if err := n.conf.SetTag(key, value); err != nil {
		n.logger.Error("cannot announce this server", "tag", key, "error", err)
		return
	}
	n.announced[key] = value
}

// tryBootstrap starts a new cluster when all servers that it would begin with agree.
func (n *Node) tryBootstrap(peers []Peer) {
	expect := n.conf.BootstrapExpect
	if expect == 0 {
		return
	}
	n.announce(tagExpect, strconv.Itoa(expect))
	set, err := bootstrapSet(peers, n.conf.Name, expect)
	if err != nil {
		n.complain(err)
	}
	if set == nil {
		n.announce(tagIntent, "")
		return
	}
	intent := intentOf(set)
	n.announce(tagIntent, intent)
	for _, p := range set {
		if p.Tags[tagIntent] != intent {
			return
		}
	}
	var conf raft.Configuration
	for _, p := range set {
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(p.Name), Address: raft.ServerAddress(p.Addr)})
	}
	err = n.raft.BootstrapCluster(conf).Error()
	switch {
	case err == nil:
		for _, p := range set {
			n.welcome(p.Tags[tagFresh])
		}
		n.layer.open()
		n.logger.Info("the cluster begins", "region", n.conf.Region, "servers", names(set))
	case errors.Is(err, raft.ErrCantBootstrap): // the leader of another view was faster
	default:
		n.logger.Error("cannot begin the cluster", "error", err)
	}
}

// complain logs why the cluster does not begin, once for each reason.
func (n *Node) complain(err error) {
	if n.complaint != err.Error() {
		n.complaint = err.Error()
		n.logger.Warn("the cluster cannot begin", "error", err)
	}
}

// bootstrapSet returns the servers that self would begin a cluster with, sorted by name:
// the first expect by name of those alive. It is nil while there are too few, when a
// cluster exists, and when self is not among them.
func bootstrapSet(peers []Peer, self string, expect int) ([]Peer, error) {
	var set []Peer
	for _, p := range peers {
		if p.Tags[tagBoot] != "" && p.State != PeerLeft {
			return nil, nil // its leader will add this server
		}
		if p.State != PeerAlive || p.Addr == "" {
			continue
		}
		switch theirs := p.Tags[tagExpect]; theirs {
		case "": // it waits to be added
		case strconv.Itoa(expect):
			set = append(set, p)
		default:
			return nil, fmt.Errorf("bootstrap_expect is %.20s at %s and %d at %s: make them equal", theirs, p.Name, expect, self)
		}
	}
	if len(set) < expect {
		return nil, nil
	}
	sortPeers(set)
	set = set[:expect]
	if !slices.ContainsFunc(set, func(p Peer) bool { return p.Name == self }) {
		return nil, nil
	}
	return set, nil
}

func sortPeers(peers []Peer) {
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
}

// intentOf identifies a set and its addresses; 16 hex digits keep the tag short.
func intentOf(set []Peer) string {
	var b strings.Builder
	for _, p := range set {
		fmt.Fprintf(&b, "%s %s\n", p.Name, p.Addr)
	}
	return starling.DigestOf([]byte(b.String())).Hex()[:16]
}

func names(peers []Peer) []string {
	out := make([]string, len(peers))
	for i, p := range peers {
		out[i] = p.Name
	}
	return out
}

// change is one step from the configuration towards what gossip says.
type change struct {
	remove bool
	id     raft.ServerID
	addr   raft.ServerAddress // to add, or to update to
	fresh  string             // number of a server without a configuration that is to be let in
	why    string             // to remove
}

// changes compares the configuration with gossip. Servers that failed stay.
func changes(servers []raft.Server, peers []Peer, self raft.ServerID, addr raft.ServerAddress) []change {
	var out []change
	in := make(map[raft.ServerID]raft.Server, len(servers))
	for _, s := range servers {
		in[s.ID] = s
	}
	peers = slices.Clone(peers)
	sortPeers(peers)
	for _, p := range peers {
		id, at := raft.ServerID(p.Name), raft.ServerAddress(p.Addr)
		if id == self {
			at = addr
		}
		s, member := in[id]
		switch {
		case p.State == PeerLeft && member && id != self:
			out = append(out, change{remove: true, id: id, why: "it left"})
		case p.State != PeerAlive || at == "":
		case member && id != self && p.Tags[tagFresh] != "" && !letIn(peers, p.Tags[tagFresh]):
			out = append(out, change{remove: true, id: id, why: "its data is gone, and it will be added as a new server"})
		case !member:
			out = append(out, change{id: id, addr: at, fresh: p.Tags[tagFresh]})
		case s.Address != at:
			out = append(out, change{id: id, addr: at})
		}
	}
	return out
}

// reconcile brings the configuration in step with gossip, one change at a time.
func (n *Node) reconcile(ctx context.Context, peers []Peer) error {
	var errs []error
	for _, c := range changes(n.servers(), n.spoken(peers, time.Now()), raft.ServerID(n.conf.Name), n.directory.addr) {
		if ctx.Err() != nil || !n.IsLeader() {
			break
		}
		if c.remove {
			errs = append(errs, n.remove(ctx, c.id, c.why))
		} else {
			errs = append(errs, n.add(ctx, c.id, c.addr, c.fresh))
		}
	}
	return errors.Join(errs...)
}

// add takes in a server without a vote, or changes its address. Whoever has the address
// in the configuration under another name goes, unless a quorum would go with it.
func (n *Node) add(ctx context.Context, id raft.ServerID, addr raft.ServerAddress, fresh string) error {
	what := fmt.Sprintf("add server %s at %s", id, addr)
	ctx, cancel := context.WithTimeout(ctx, maxChangeWait)
	defer cancel()
	if string(id) != n.conf.Name {
		if err := errors.Join(n.admit(id), n.related(id)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		// A server that cannot be reached would only make the leader's log noisy.
		conn, err := n.conf.Layer.Dial(addr, maxDialWait)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if err := conn.Close(); err != nil {
			n.logger.Debug("close a trial connection", "server", string(id), "error", err)
		}
	}
	if fresh != "" {
		if err := n.readmit(ctx, id, fresh); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	err := n.await(ctx, what, func() raft.Future {
		return done{n.autopilot.AddServer(&autopilot.Server{ID: id, Address: addr})}
	})
	if err == nil {
		n.logger.Info("changed the raft configuration", "change", what)
	}
	return err
}

// remove takes a server out of the configuration.
func (n *Node) remove(ctx context.Context, id raft.ServerID, why string) error {
	what := fmt.Sprintf("remove server %s", id)
	ctx, cancel := context.WithTimeout(ctx, maxChangeWait)
	defer cancel()
	err := n.await(ctx, what, func() raft.Future { return n.raft.RemoveServer(id, 0, maxChangeWait) })
	if err == nil {
		n.logger.Info("changed the raft configuration", "change", what, "why", why)
	}
	return err
}

// done is a future whose outcome is known.
type done struct{ err error }

func (d done) Error() error { return d.err }

// Peers returns the servers of the Raft configuration, sorted by name.
func (n *Node) Peers() ([]starling.RaftPeer, error) {
	future := n.raft.GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, fmt.Errorf("raft configuration: %w", mapError(err))
	}
	_, leader := n.raft.LeaderWithID()
	var out []starling.RaftPeer
	for _, s := range future.Configuration().Servers {
		out = append(out, starling.RaftPeer{
			Name: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter, Leader: s.ID == leader,
			Level: n.levelOf(s.ID),
		})
	}
	slices.SortFunc(out, func(a, b starling.RaftPeer) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// RemovePeer removes a server that will not return. ErrNotFound: it is no server of the
// cluster. ErrConflict: gossip sees it alive, so that it would be added again at once.
func (n *Node) RemovePeer(ctx context.Context, name string) error {
	if !slices.ContainsFunc(n.servers(), func(s raft.Server) bool { return string(s.ID) == name }) {
		return fmt.Errorf("remove server %.63q: no such server in the raft configuration: %w", name, starling.ErrNotFound)
	}
	for _, p := range n.conf.Peers() {
		if p.Name == name && p.State == PeerAlive {
			return fmt.Errorf("remove server %s: it is alive and would be added again, stop it first: %w", name, starling.ErrConflict)
		}
	}
	return n.remove(ctx, raft.ServerID(name), "an operator asked")
}

// TransferLeadership hands leadership to the follower that is furthest along.
// ErrConflict: there is no other server.
func (n *Node) TransferLeadership(ctx context.Context) error {
	voters := 0
	for _, s := range n.servers() {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters < 2 && n.IsLeader() {
		return fmt.Errorf("transfer leadership: there is no other server: %w", starling.ErrConflict)
	}
	return n.await(ctx, "transfer leadership", n.raft.LeadershipTransfer)
}
