package agent

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// scribe keeps posts with their times.
type scribe struct {
	mu    sync.Mutex
	fail  bool
	tries []time.Time
	posts [][]starling.MachineReport
	at    []time.Time
}

func (s *scribe) Goals(ctx context.Context, _ uint64, _ string, _ time.Duration) (rpc.Goals, error) {
	<-ctx.Done()
	return rpc.Goals{}, ctx.Err()
}

func (s *scribe) ReportMachine(_ context.Context, reports []starling.MachineReport) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries = append(s.tries, time.Now())
	if s.fail {
		return errors.New("no leader")
	}
	s.posts, s.at = append(s.posts, reports), append(s.at, time.Now())
	return nil
}

func (s *scribe) take() (posts [][]starling.MachineReport, at []time.Time, tries int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	posts, at, tries = s.posts, s.at, len(s.tries)
	s.posts, s.at, s.tries = nil, nil, nil
	return posts, at, tries
}

func withReporter(t *testing.T, f func(r *reporter, s *scribe)) {
	synctest.Test(t, func(t *testing.T) {
		s := &scribe{}
		r := newReporter(s, newLog())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.run(ctx) }()
		f(r, s)
		cancel()
		<-done
	})
}

func report(state starling.MachineState, chunks int) starling.MachineReport {
	return starling.MachineReport{Node: "m", App: "a", State: state, ChunksDone: chunks}
}

func TestChangesOfStateAreReportedAtOnceAndTogether(t *testing.T) {
	withReporter(t, func(r *reporter, s *scribe) {
		time.Sleep(3 * time.Second)
		began := time.Now()
		r.put(report(starling.MachineFetching, 0))
		time.Sleep(40 * time.Millisecond)
		r.put(report(starling.MachineStaged, 9))
		other := report(starling.MachineHealthy, 1)
		other.App = "b"
		r.put(other)
		time.Sleep(5 * time.Second)
		posts, at, _ := s.take()
		if len(posts) != 1 || len(posts[0]) != 2 || posts[0][0].State != starling.MachineStaged || at[0].Sub(began) != reportCoalesce {
			t.Errorf("posts %+v at %v", posts, at)
		}
	})
}

func TestProgressIsReportedEachSecond(t *testing.T) {
	withReporter(t, func(r *reporter, s *scribe) {
		for i := range 100 {
			r.put(report(starling.MachineFetching, i))
			time.Sleep(50 * time.Millisecond)
		}
		posts, _, _ := s.take()
		if len(posts) < 5 || len(posts) > 6 {
			t.Errorf("%d posts in five seconds", len(posts))
		}
		time.Sleep(2 * time.Second)
		posts, _, _ = s.take()
		if len(posts) != 1 || posts[0][0].ChunksDone != 99 {
			t.Errorf("the last progress: %+v", posts)
		}
		r.put(report(starling.MachineFetching, 99)) // nothing new
		time.Sleep(5 * time.Second)
		if posts, _, _ := s.take(); len(posts) != 0 {
			t.Errorf("nothing new was posted: %+v", posts)
		}
	})
}

func TestEverythingIsReportedNowAndThen(t *testing.T) {
	withReporter(t, func(r *reporter, s *scribe) {
		r.put(report(starling.MachineHealthy, 1))
		time.Sleep(4*reportRefresh + reportRefresh/2) // between two posts
		posts, _, _ := s.take()
		if len(posts) != 5 {
			t.Errorf("%d posts", len(posts))
		}
		r.drop("a")
		time.Sleep(time.Minute)
		if posts, _, _ := s.take(); len(posts) != 0 {
			t.Errorf("a dropped app was reported: %+v", posts)
		}
	})
}

func TestANewLeaderIsToldEverythingSoon(t *testing.T) {
	withReporter(t, func(r *reporter, s *scribe) {
		r.put(report(starling.MachineHealthy, 1))
		time.Sleep(2 * time.Second)
		s.take()
		r.recall()
		time.Sleep(reportSpread)
		if posts, _, _ := s.take(); len(posts) != 1 || len(posts[0]) != 1 {
			t.Errorf("the new leader was told %+v", posts)
		}
		time.Sleep(reportRefresh - 2*reportSpread)
		if posts, _, _ := s.take(); len(posts) != 0 {
			t.Errorf("it was told again: %+v", posts)
		}
	})
}

func TestReportsAreRetriedWithTheNewest(t *testing.T) {
	withReporter(t, func(r *reporter, s *scribe) {
		s.fail = true
		r.put(report(starling.MachineFetching, 1))
		time.Sleep(2 * time.Minute)
		if _, _, tries := s.take(); tries < 8 || tries > 25 {
			t.Errorf("%d tries in two minutes", tries)
		}
		r.put(report(starling.MachineHealthy, 2))
		s.mu.Lock()
		s.fail = false
		s.mu.Unlock()
		time.Sleep(reportBackoffMax + time.Second)
		posts, _, _ := s.take()
		if len(posts) == 0 || posts[0][0].State != starling.MachineHealthy {
			t.Errorf("posts %+v", posts)
		}
	})
}

func TestReasonIsClipped(t *testing.T) {
	got := clip(strings.Repeat("ä", starling.MaxReasonBytes))
	if len(got) > starling.MaxReasonBytes || !strings.HasSuffix(got, "ä...") {
		t.Errorf("%d bytes, ends with %q", len(got), got[len(got)-8:])
	}
}
