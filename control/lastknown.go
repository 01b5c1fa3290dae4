package control

import (
	"fmt"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// lastKnown says what a server that does not lead a deployment's home knows of it: its
// phase as it last heard of it, and whether anybody is there to know more.
func (s *Server) lastKnown(d *starling.Deployment) []string {
	return []string{
		fmt.Sprintf("It was %s since %s when server %s of region %s last heard of it; it may have gone on.",
			strings.ReplaceAll(string(d.Phase), "_", " "), d.PhaseAt.UTC().Format(time.DateTime+" UTC"), s.cfg.Name, s.cfg.Region),
		s.whoLeads(d.Home),
	}
}

// whoLeads says whether a region has a leader, as far as this server can tell, and
// what it takes to have one again.
func (s *Server) whoLeads(region string) string {
	if region != s.cfg.Region {
		return fmt.Sprintf("Its home is region %s, which this server asks in vain for its leader, or was not to ask (?stale): it has lost its quorum, or the way to it is cut. `starling region show %s` at one of its servers says more.", region, region)
	}
	if p, ok := s.cfg.Raft.Leader(); ok {
		return fmt.Sprintf("Region %s is led by server %s, which knows what it waits for.", region, p.Name)
	}
	since := "since server " + s.cfg.Name + " started"
	if silent := s.cfg.Raft.PeerStats().LastContact; silent >= 0 {
		since = fmt.Sprintf("since %s, %s ago", s.cfg.Now().Add(-silent).UTC().Format(time.TimeOnly+" UTC"), brief(silent.Truncate(time.Second)))
	}
	text := fmt.Sprintf("Region %s has had no leader %s", region, since)
	if alive, voters := s.votersAlive(); voters > 0 {
		text += fmt.Sprintf("; servers alive: %d of %d, and %d are needed", alive, voters, voters/2+1)
	}
	return text + ". Nothing begins until it has one; machines go on with the goal that they have."
}

// votersAlive counts the servers that vote, and those that gossip sees; 0 of 0 if Raft does
// not tell.
func (s *Server) votersAlive() (alive, voters int) {
	peers, err := s.cfg.Raft.Peers()
	if err != nil {
		s.cfg.Logger.Warn("cannot read the raft configuration", "err", err)
		return 0, 0
	}
	seen := map[string]bool{s.cfg.Name: true}
	for _, n := range s.cfg.Members.Members() {
		seen[n.Name] = seen[n.Name] || n.Alive
	}
	for _, p := range peers {
		if !p.Voter {
			continue
		}
		voters++
		if seen[p.Name] {
			alive++
		}
	}
	return alive, voters
}
