package plane

import (
	"fmt"
	"time"

	"github.com/starlingdeploy/starling/control"
	"github.com/starlingdeploy/starling/raftfsm"
)

func (s *server) beginReign() {
	s.term, s.since, s.started = s.raft.term, s.wall(), s.w.now
	began := s.since
	if s.w.conf.Break == NoGrace {
		began = began.Add(-time.Hour)
	}
	s.reign = control.NewReign(control.ReignConfig{Region: s.region.name, Regions: s.region.others(), Replicas: 2, CellMax: s.w.plan.cellMax,
		TakeoverAfter: s.w.plan.takeoverAfter, Term: fmt.Sprintf("%s/%d/%d", s.name, s.term, s.life)}, began)
	s.desk = control.NewLeaseDesk()
	s.version, s.asking, s.looking = 0, false, false
	s.lastLook = s.w.now
	s.w.tell("%s leads term %d", s.name, s.term)
	s.w.stats.Terms++
	if s.springs(trapElected, true) {
		return
	}
	s.look(0)
	s.federate(s.life, s.term)
	if s.w.plan.takeoverAfter > 0 {
		c := &campaign{s: s, life: s.life, term: s.term}
		c.watch()
	}
}

// look schedules a look at the state, after a rest.
func (s *server) look(rest time.Duration) {
	if s.looking {
		return
	}
	s.looking = true
	life, term := s.life, s.term
	s.w.at(max(s.w.now+rest, s.lastLook+lookRest), func() {
		s.looking = false
		s.run(life, func() {
			if s.reign != nil && s.term == term {
				s.decide()
			}
		})
	})
}

// decide is one round of the decide loop.
func (s *server) decide() {
	if s.asking {
		return // a look follows when they are settled
	}
	s.lastLook = s.w.now
	if s.version != s.region.version {
		s.version = s.region.version
		s.reign.SetMembers(s.region.members())
	}
	now := s.clock()
	if s.w.conf.Break == SlackDeadline {
		now = now.Add(-time.Minute)
	}
	v := s.fsm.View()
	cmds, err := s.reign.Commands(s.reign.Decide(v, now), now, "server:"+s.name)
	if err != nil {
		s.w.fail("%s: %v", s.name, err)
		return
	}
	if len(v.Active()) > 0 {
		life, term := s.life, s.term
		s.w.after(lookEvery, func() {
			if s.life == life && s.reign != nil && s.term == term && s.w.now-s.lastLook >= lookEvery {
				s.look(0)
			}
		})
	}
	if len(cmds) == 0 {
		return
	}
	reign := s.reign
	s.asking = true
	s.propose(cmds[:min(len(cmds), raftfsm.MaxEntryCommands)], func(results []raftfsm.Result, err error) {
		for i := range results {
			if results[i].Err != nil {
				reign.Refused(cmds[i], now)
			}
		}
		if s.reign == reign {
			s.asking = false
			s.look(lookRest)
		}
	})
}
