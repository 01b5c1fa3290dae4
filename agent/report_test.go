package agent

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/swarm"
)

// scribe keeps posts with their times.
type scribe struct {
	mu    sync.Mutex
	fail  bool
	tries []time.Time
	posts [][]starling.MachineReport
	at    []time.Time
}

func (s *scribe) Goals(ctx context.Context, _ uint64, _ time.Duration) (rpc.Goals, error) {
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

func TestUploadIsCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, total = 1 << 20, 5 << 20
		near, far := net.Pipe()
		u := newUpload(near, semaphore.NewWeighted(swarm.UploadSlots), newLimiter(rate))
		defer u.Close()
		go drain(far)
		began := time.Now()
		if n, err := u.Write(make([]byte, total)); n != total || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		if took := time.Since(began); took < 4900*time.Millisecond || took > 5*time.Second {
			t.Errorf("%d bytes at %d/s took %s", total, rate, took)
		}
	})
}

func TestDownloadIsCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, total = 1 << 20, 5 << 20
		near, far := net.Pipe()
		dial := capReads(func(context.Context, string) (net.Conn, error) { return near, nil }, newLimiter(rate))
		conn, err := dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = far.Write(make([]byte, total))
			far.Close()
		}()
		began := time.Now()
		if n := drain(conn); n != total {
			t.Errorf("%d bytes came", n)
		}
		if took := time.Since(began); took < 4900*time.Millisecond || took > 5*time.Second {
			t.Errorf("%d bytes at %d/s took %s", total, rate, took)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
}

func drain(c net.Conn) (total int) {
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		total += n
		if err != nil {
			return total
		}
	}
}

func TestUploadSlotsAreTakenInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := semaphore.NewWeighted(1)
		firstNear, firstFar := net.Pipe()
		first := newUpload(firstNear, slots, nil)
		secondNear, secondFar := net.Pipe()
		second := newUpload(secondNear, slots, nil)
		done := make(chan int, 2)
		go func() { _, _ = first.Write(make([]byte, slotMinBytes)); done <- 1 }()
		synctest.Wait()
		go func() { _, _ = second.Write(make([]byte, slotMinBytes)); done <- 2 }()
		go drain(secondFar)
		synctest.Wait()
		select {
		case n := <-done:
			t.Errorf("%d ended while the first holds the slot", n)
		default:
		}
		go drain(firstFar)
		if a, b := <-done, <-done; a != 1 || b != 2 {
			t.Errorf("ended in order %d, %d", a, b)
		}
		first.Close()
		second.Close()
		if _, err := second.Write(make([]byte, slotMinBytes)); err == nil {
			t.Error("wrote to a closed stream")
		}
	})
}
