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
	body    []byte
	changed chan struct{} // closed at the next change
}

func (f *goalFeed) init() {
	f.body = []byte(`{"index":0,"goals":[]}`)
	f.changed = make(chan struct{})
}

func (f *goalFeed) set(index uint64, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index, f.body = index, body
	close(f.changed)
	f.changed = make(chan struct{})
}

// wait returns the goals as soon as they are newer than index, or after wait.
func (f *goalFeed) wait(ctx context.Context, index uint64, wait time.Duration) []byte {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		f.mu.Lock()
		have, body, changed := f.index, f.body, f.changed
		f.mu.Unlock()
		if have > index {
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

// feedGoals encodes the goals whenever they have changed. Their index is that of the
// state in which the change was seen, which is comparable between servers.
func (s *Server) feedGoals(ctx context.Context) error {
	var last []*starling.Goal
	first := true
	for {
		v := s.cfg.FSM.View()
		goals := v.Goals()
		// Records are never changed in place: the same pointers are the same goals.
		if first && v.Index() > 0 || !slices.Equal(goals, last) {
			body, err := json.Marshal(rpc.Goals{Index: v.Index(), Goals: slices.Concat([]*starling.Goal{}, goals)})
			if err != nil {
				return fmt.Errorf("encode goals: %w", err)
			}
			s.goals.set(v.Index(), body)
			last, first = goals, false
		}
		select {
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
