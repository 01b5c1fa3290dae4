package build

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

func smallLog(head, tail int) *buildLog {
	l := newBuildLog()
	l.headMax, l.tailMax = head, tail
	return l
}

func TestLogBoundsFitOneChunk(t *testing.T) {
	l := newBuildLog()
	block := []byte(strings.Repeat("x", 100_000))
	for range 100 {
		l.Write(block)
	}
	if n := len(l.finish()); n > starling.MaxChunkBytes || n < logHeadBytes+logTailBytes {
		t.Errorf("%d bytes", n)
	}
}

// TestLogKeepsHeadAndTail compares with the text that was written, whatever the writes.
func TestLogKeepsHeadAndTail(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		head, tail := rapid.IntRange(1, 40).Draw(t, "head"), rapid.IntRange(1, 40).Draw(t, "tail")
		l := smallLog(head, tail)
		var all []byte
		for i, n := range rapid.SliceOf(rapid.IntRange(0, 60)).Draw(t, "writes") {
			p := []byte(strings.Repeat(string(rune('a'+i%26)), n))
			all = append(all, p...)
			l.Write(p)
			if piece, _, done := l.from(0, 1000); done || string(piece) != string(all[:min(len(all), head)]) {
				t.Fatalf("before the end one reads %q", piece)
			}
		}
		want := string(all)
		if left := len(all) - head - tail; left > 0 {
			want = fmt.Sprintf("%s\n… %d bytes left out …\n%s", all[:head], left, all[len(all)-tail:])
		}
		last := l.lastLines(3, 30)
		if !strings.HasSuffix(string(all), last) || len(last) > 30 {
			t.Fatalf("last lines %q", last)
		}
		if got := string(l.finish()); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		l.Write([]byte("late"))
		if piece, size, done := l.from(0, 10_000); !done || string(piece) != want || size != int64(len(want)) {
			t.Fatalf("after the end one reads %q", piece)
		}
	})
}

func TestLastLines(t *testing.T) {
	l := newBuildLog()
	l.printf("a line of ours")
	l.begin()
	if got := l.lastLines(5, 1000); got != "" {
		t.Errorf("got %q", got)
	}
	for i := range 100 {
		fmt.Fprintf(l, "line %d\n", i)
	}
	l.Write([]byte("bad \xff byte\n\n"))
	if got := l.lastLines(2, 1000); got != "line 99\nbad  byte" {
		t.Errorf("got %q", got)
	}
}

// TestStreamGoesBackAfterAnElection has the leader forget half of what it got, and be
// away for a while.
func TestStreamGoesBackAfterAnElection(t *testing.T) {
	r := newRig(t, SandboxOff)
	leader := r.leader
	leader.onLog = func(n int) error {
		switch {
		case n == 3:
			leader.log = leader.log[:len(leader.log)/2]
		case n > 5 && n < 8:
			return fmt.Errorf("election: %w", starling.ErrUnavailable)
		}
		return nil
	}
	log := newBuildLog()
	var lost error
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	streamed := make(chan struct{})
	go func() {
		defer close(streamed)
		r.worker.stream(ctx, r.worker.logOf(&rpc.Job{Deployment: "d"}), log, func(err error) { lost = err })
	}()
	for i := range 20 {
		fmt.Fprintf(log, "%d %s\n", i, strings.Repeat("x", rpc.MaxLogPostBytes/8))
		eventually(t, "the piece is streamed", func() bool { return strings.HasSuffix(leader.logText(), "x\n") })
	}
	want := string(log.finish())
	<-streamed
	if got := leader.logText(); got != want || lost != nil {
		t.Errorf("the leader has %d bytes of %d; lost: %v", len(got), len(want), lost)
	}
}

func TestStreamSurvivesAnAnswerOutOfBounds(t *testing.T) {
	for _, answer := range []int64{-5, 1 << 40} {
		r := newRig(t, SandboxOff)
		r.worker.cfg.Leader = &wildLeader{testLeader: r.leader, answer: answer}
		log := newBuildLog()
		log.Write([]byte("some text"))
		text := log.finish()
		ctx, cancel := context.WithCancel(t.Context())
		streamed := make(chan struct{})
		go func() {
			defer close(streamed)
			r.worker.stream(ctx, r.worker.logOf(&rpc.Job{Deployment: "d"}), log, func(error) {})
		}()
		eventually(t, "all is streamed", func() bool { return r.leader.logText() == string(text) })
		cancel()
		<-streamed
	}
}

// wildLeader answers the first log call with nonsense.
type wildLeader struct {
	*testLeader
	answer int64
	calls  int
}

func (l *wildLeader) JobLog(ctx context.Context, id string, req rpc.LogRequest) (int64, error) {
	next, err := l.testLeader.JobLog(ctx, id, req)
	if l.calls++; l.calls == 1 {
		return l.answer, err
	}
	return next, err
}
