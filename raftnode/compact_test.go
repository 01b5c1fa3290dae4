package raftnode

import (
	"slices"
	"testing"
	"time"
)

// The log is cut behind each snapshot, and a server that starts again has everything.
func TestTheLogIsCompacted(t *testing.T) {
	g, dir := newGossip(), t.TempDir()
	conf := testConfig(t, g, "s1", dir, 1)
	conf.Timing.SnapshotInterval, conf.Timing.SnapshotThreshold, conf.Timing.TrailingLogs = 20*time.Millisecond, 50, 10
	n, err := Open(conf)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Node: n, name: "s1", dir: dir, fsm: conf.FSM.(*fsm)}
	leader(t, s)
	const entries = 300
	for i := range entries {
		if _, err := s.Propose(t.Context(), command(t, i)); err != nil {
			t.Fatal(err)
		}
	}
	want := s.fsm.all()
	eventually(t, "the log is cut", func() bool {
		first, err := s.stores.logs.FirstIndex()
		last, err2 := s.stores.logs.LastIndex()
		return err == nil && err2 == nil && last-first < 100
	})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	again := start(t, g, "s1", dir, 1)
	leader(t, again)
	if got := again.fsm.all(); !slices.Equal(got, want) {
		t.Errorf("%d of %d commands are left", len(got), len(want))
	}
}
