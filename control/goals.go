package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// goalFeed holds the region's goals as machines get them, encoded once for all. Every
// server has one: machines go on hearing goals while there is no leader.
type goalFeed struct {
	mu      sync.Mutex
	index   uint64
	reign   string
	body    []byte
	changed chan struct{} // closed at the next change
}

func (f *goalFeed) init() {
	f.body = []byte(`{"index":0,"goals":[]}`)
	f.changed = make(chan struct{})
}

func (f *goalFeed) set(index uint64, reign string, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index, f.reign, f.body = index, reign, body
	close(f.changed)
	f.changed = make(chan struct{})
}

// wait returns the goals as soon as they are newer than index or the leader is another
// than reign names (nil: of no matter), or after wait.
func (f *goalFeed) wait(ctx context.Context, index uint64, reign *string, wait time.Duration) []byte {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		f.mu.Lock()
		have, lead, body, changed := f.index, f.reign, f.body, f.changed
		f.mu.Unlock()
		if have > index || reign != nil && lead != "" && lead != *reign {
			return body
		}
		select {
		case <-changed:
		case <-timer.C:
			return body
		case <-ctx.Done():
			return body
		}
	}
}

// feedGoals encodes what machines are told whenever it, or the leader, has changed. Its index
// is that of the state in which its change was seen, which is comparable between servers.
func (s *Server) feedGoals(ctx context.Context) error {
	var last told
	var index, goalIndex uint64
	reign, first, unsigned := "", true, false
	for {
		elected := s.cfg.Raft.Leadership()
		v := s.cfg.FSM.View()
		now, late := toldBy(v, &last, time.Now())
		lead := s.leadership()
		goalsChanged := first && v.Index() > 0 || !slices.Equal(now.goals, last.goals)
		if goalsChanged {
			goalIndex = v.Index()
		}
		if goalsChanged || lead != reign {
			body, err := json.Marshal(rpc.Goals{Index: goalIndex, Goals: slices.Concat([]*starling.Goal{}, starling.GoalsIn(now.goals, s.cfg.Region)), Reign: lead})
			if err != nil {
				return fmt.Errorf("encode goals: %w", err)
			}
			s.goals.set(goalIndex, lead, body)
		}
		changed := first && v.Index() > 0 || !now.same(&last)
		if changed {
			index, first = v.Index(), false
		}
		if s.cfg.SignFeed != nil && v.Index() > 0 && (changed || unsigned || lead != reign) {
			edition, signed, err := s.signFeed(index, lead, &now)
			if unsigned = err != nil; unsigned {
				s.cfg.Logger.Error("machines are told nothing new", "err", err)
			} else {
				s.feed.set(edition, signed)
			}
		}
		if !slices.Equal(now.cells, last.cells) {
			s.feed.wake()
		}
		last, reign = now, lead
		var again <-chan time.Time
		if late {
			again = time.After(standingsEvery)
		}
		select {
		case <-again:
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-elected:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leadership names the leader and its term, as rpc.Goals does.
func (s *Server) leadership() string {
	p, ok := s.cfg.Raft.Leader()
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s/%d", p.Name, s.cfg.Raft.Term())
}
