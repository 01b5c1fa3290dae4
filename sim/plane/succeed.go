package plane

import (
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

const (
	succeedEvery = time.Second
	voteWithin   = 5 * time.Second
)

// campaign is a leader's part in who is the home of whose apps.
type campaign struct {
	s          *server
	life, term uint64
	running    bool
}

func (c *campaign) over() bool {
	return !c.s.up || c.s.life != c.life || c.s.reign == nil || c.s.term != c.term
}

// watch looks whether a region should be taken over, now and then.
func (c *campaign) watch() {
	c.s.w.after(succeedEvery, func() {
		if c.over() {
			return
		}
		c.watch()
		if c.running {
			return
		}
		c.s.run(c.life, func() {
			if c.over() {
				return
			}
			if vote, due := c.s.reign.Due(c.s.fsm.View(), c.s.clock()); due {
				c.running = true
				c.begin(vote)
			}
		})
	})
}

// begin asks who would vote, then votes, then asks for votes, then takes over.
func (c *campaign) begin(vote raftfsm.Vote) {
	s := c.s
	if s.reign.May(s.fsm.View(), vote, s.clock()) != nil {
		c.failed(vote)
		return
	}
	most := func(votes []string) bool { return 2*(len(votes)+1) > len(vote.Regions) }
	c.ask(vote, true, func(would []string) {
		if !most(would) {
			c.failed(vote)
			return
		}
		s.vote(vote, func(_ any, err error) {
			if err != nil || c.over() {
				c.failed(vote)
				return
			}
			c.ask(vote, false, func(votes []string) {
				if !most(votes) {
					c.failed(vote)
					return
				}
				votes = append(votes, s.region.name)
				s.w.tell("%s takes over %s at epoch %d with the votes of %v", s.region.name, vote.Lost, vote.Epoch, votes)
				s.takeOver(raftfsm.Takeover{From: vote.Lost, Epoch: vote.Epoch, Votes: votes}, func(any, error) { c.running = false })
			})
		})
	})
}

func (c *campaign) failed(vote raftfsm.Vote) {
	c.running = false
	if !c.over() {
		c.s.w.stats.Campaigns++
		c.s.reign.Failed(vote.Lost, c.s.clock())
	}
}

// ask hands those who agree to done, once all have spoken or the time is over.
func (c *campaign) ask(vote raftfsm.Vote, dry bool, done func([]string)) {
	s := c.s
	var agree []string
	left := 1
	one := func() {
		if left--; left == 0 {
			s.run(c.life, func() {
				if !c.over() {
					done(agree)
				}
			})
		}
	}
	for _, o := range s.w.regions {
		if o == s.region || o.name == vote.Lost {
			continue
		}
		left++
		s.w.ask(&s.node, o.anyServer(), voteWithin, func(t *server, r reply) {
			t.atLeader(1, func(t *server, r reply) {
				if dry && s.w.conf.Break != HastyVote {
					r(nil, t.reign.May(t.fsm.View(), vote, t.clock()))
					return
				}
				if dry {
					r(nil, nil)
					return
				}
				t.vote(vote, r)
			}, r)
		}, func(_ any, err error) {
			if err == nil {
				agree = append(agree, o.name)
			}
			one()
		})
	}
	one()
}

// vote commits this region's vote before it answers.
func (s *server) vote(vote raftfsm.Vote, answer reply) {
	if err := s.reign.Promise(s.fsm.View(), vote, s.clock()); err != nil && s.w.conf.Break != HastyVote {
		answer(nil, err)
		return
	}
	s.commit("server:"+s.name, raftfsm.TypeVote, vote, answer)
}

func (s *server) takeOver(t raftfsm.Takeover, answer reply) {
	s.commit("server:"+s.name, raftfsm.TypeTakeover, t, func(got any, err error) {
		if err == nil {
			s.w.stats.Takeovers++
		}
		answer(got, err)
	})
}

// order is an operator who has one region take over another: mostly one that has no
// leader, sometimes one that is well.
func (u *user) order() {
	w := u.w
	if w.now > w.plan.active {
		return
	}
	w.after(w.between(3*time.Second, 15*time.Second), u.order)
	from, to := w.anyRegion(), w.anyRegion()
	if from == to || !w.agreed() || from.leader() != nil && w.chance(85) {
		return
	}
	w.ask(&u.node, to.anyServer(), 2*hopWithin, func(s *server, r reply) {
		s.atLeader(1, func(s *server, r reply) {
			t := raftfsm.Takeover{From: from.name, Epoch: s.fsm.View().NextEpoch(from.name)}
			w.tell("an operator orders %s to take over %s at epoch %d", to.name, from.name, t.Epoch)
			s.takeOver(t, r)
		}, r)
	}, func(any, error) {})
}

// agreed reports whether all leaders that there are know of the same takeovers. Two
// orders at a time, for one region, are an operator's error that Starling does not mend.
func (w *world) agreed() bool {
	if w.now < w.ordered {
		return false
	}
	var first map[string]starling.Takeover
	for _, r := range w.regions {
		l := r.leader()
		if l == nil {
			continue
		}
		known := map[string]starling.Takeover{}
		for _, t := range l.fsm.View().Takeovers() {
			known[t.From] = starling.Takeover{To: t.To, Epoch: t.Epoch}
		}
		if first == nil {
			first = known
		}
		if !same(first, known) {
			return false
		}
	}
	w.ordered = w.now + 2*hopWithin + proposalsLive
	return true
}

// proposalsLive bounds for how long an entry of a leader that was deposed may still be
// committed by the next one.
const proposalsLive = 20 * time.Second
