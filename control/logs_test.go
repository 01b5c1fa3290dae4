package control

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// readAll reads a log from a place on until there is no more for now.
func readAll(t *testing.T, s *Server, id string, at starling.LogPlace) (got map[string]string, lost string, done bool) {
	t.Helper()
	got = map[string]string{}
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		news, err := s.Log(ctx, id, at)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		data := false
		for _, c := range news.Chunks {
			if c.Offset != at[c.Section] {
				t.Errorf("%s at %d, asked for %d", c.Section, c.Offset, at[c.Section])
			}
			at[c.Section] += int64(len(c.Data))
			got[c.Section] += string(c.Data)
			data = data || len(c.Data) > 0
			lost += c.Lost
		}
		if !data {
			return got, lost, news.Done
		}
	}
}

// The log of a build whose worker was lost is stored by the leader; that of the next one by
// its worker. A reader goes on exactly where it was, over attempts and leaders, and what
// nobody has any more is said.
func TestALogOutlivesWorkersAndLeaders(t *testing.T) {
	b := oneRegion(t, 0)
	b.app("web", nil)
	b.submit("d1", "web", starling.Digest{})
	b.must(raftfsm.TypeJoinTokenCreate, raftfsm.JoinTokenCreate{Token: starling.JoinToken{
		ID: "jt", Hash: starling.DigestOf([]byte("x")), MaxUses: 1, CreatedAt: b.clock.Now(), ExpiresAt: b.clock.Now().Add(time.Hour),
	}}) // level 2 is in use
	term := b.elect()
	w1 := clientOf(b.server, usWorker)
	job, err := w1.Lease(t.Context(), rpc.LeaseRequest{})
	if err != nil {
		t.Fatal(err)
	}
	write := func(lease uint64, offset int64, text string) {
		t.Helper()
		if _, err := w1.JobLog(t.Context(), "d1", rpc.LogRequest{Lease: lease, Offset: offset, Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	write(job.Lease, 0, "first\n")
	at := starling.LogPlace{}
	if got, _, done := readAll(t, b.server, "d1", at); got["build.1"] != "first\n" || done {
		t.Fatalf("%q, %v", got, done)
	}
	write(job.Lease, 6, "and last\n")
	again, err := w1.Lease(t.Context(), rpc.LeaseRequest{}) // it has forgotten its job
	if err != nil {
		t.Fatal(err)
	}
	write(again.Lease, 0, "second\n")
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan error, 1)
	go func() { kept <- term.keepLogs(ctx) }()
	stored := b.server.waitView(t.Context(), time.Minute, func(v raftfsm.View) bool {
		d, _ := v.Deployment("d1")
		return len(d.Logs) == 1
	})
	cancel()
	<-kept
	if !stored {
		t.Fatal("the first attempt's log was not stored")
	}

	b.elect() // the next leader has no memory of it; the worker sends all of its own again
	write(again.Lease, 0, "second\nthird\n")
	if got, lost, _ := readAll(t, b.server, "d1", at); got["build.1"] != "and last\n" || got["build.2"] != "second\nthird\n" || lost != "" {
		t.Errorf("over attempts and leaders: %q, lost %q", got, lost)
	}
	final := "second\nthird\nthe end\n"
	_ = b.blobs.Put(t.Context(), starling.DigestOf([]byte(final)), []byte(final))
	if err := w1.Fail(t.Context(), "d1", rpc.FailRequest{Lease: again.Lease, Reason: "no", Log: starling.DigestOf([]byte(final))}); err != nil {
		t.Fatal(err)
	}
	b.elect()
	if got, lost, done := readAll(t, b.server, "d1", at); got["build.2"] != "the end\n" || got["build.1"] != "" || lost != "" || !done {
		t.Errorf("after the end: %q, lost %q, done %v", got, lost, done)
	}
	if got, _, done := readAll(t, b.server, "d1", starling.LogPlace{}); got["build.1"] != "first\nand last\n" || got["build.2"] != final || !done {
		t.Errorf("all of it: %q, done %v", got, done)
	}
	part, err := b.server.BuildLog(t.Context(), "d1", 0)
	if want := "first\nand last\n\n--- attempt 2 ---\n" + final; err != nil || string(part.Data) != want || !part.Done {
		t.Errorf("as text: %q, %v", part.Data, err)
	}

	b.blobs.mu.Lock()
	delete(b.blobs.chunks, starling.DigestOf([]byte(final)))
	b.blobs.mu.Unlock()
	if got, lost, done := readAll(t, b.server, "d1", starling.LogPlace{"build.2": 7}); got["build.1"] == "" || !strings.Contains(lost, "no longer in the caches") || !done {
		t.Errorf("evicted: %q, lost %q, done %v", got, lost, done)
	}
}

// A worker and its leader that are lost together take what the build had printed with them.
func TestALogThatNobodyHasIsSaidToBeLost(t *testing.T) {
	b := oneRegion(t, 0)
	b.app("web", nil)
	b.submit("d1", "web", starling.Digest{})
	b.elect()
	w1 := clientOf(b.server, usWorker)
	if _, err := w1.Lease(t.Context(), rpc.LeaseRequest{}); err != nil {
		t.Fatal(err)
	}
	b.elect()
	if _, err := w1.Lease(t.Context(), rpc.LeaseRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.server.Act(t.Context(), "ann", "d1", starling.ActionCancel, starling.ActionOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, lost, done := readAll(t, b.server, "d1", starling.LogPlace{}); !strings.Contains(lost, "lost with the worker") || !done {
		t.Errorf("lost %q, done %v", lost, done)
	}
}
