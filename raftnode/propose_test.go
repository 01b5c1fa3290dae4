package raftnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

func TestManyCallersShareEntries(t *testing.T) {
	g := newGossip()
	s := start(t, g, "s1", t.TempDir(), 1)
	leader(t, s)
	const callers, each = 64, 20
	var wg sync.WaitGroup
	var wrong atomic.Int64
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				a, b := fmt.Sprintf("%d-%d-a", c, i), fmt.Sprintf("%d-%d-b", c, i)
				res, err := s.Propose(t.Context(), command(t, a), command(t, b))
				if err != nil || len(res) != 2 || res[0].App.Name != `"`+a+`"` || res[1].App.Name != `"`+b+`"` || res[0].Index != res[1].Index {
					wrong.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d calls failed or got the results of others", n)
	}
	got := s.fsm.all()
	slices.Sort(got)
	if len(slices.Compact(got)) != callers*each*2 {
		t.Errorf("%d of %d commands applied once", len(got), callers*each*2)
	}
	s.fsm.mu.Lock()
	entries := s.fsm.entries
	s.fsm.mu.Unlock()
	if entries >= callers*each {
		t.Errorf("%d entries for %d calls: nothing was shared", entries, callers*each)
	}
	t.Logf("%d calls in %d entries", callers*each, entries)
}

func TestProposeBounds(t *testing.T) {
	g := newGossip()
	s := start(t, g, "s1", t.TempDir(), 1)
	leader(t, s)
	if res, err := s.Propose(t.Context()); res != nil || err != nil {
		t.Errorf("nothing proposed: %v, %v", res, err)
	}
	many := slices.Repeat([]raftfsm.Command{command(t, "x")}, raftfsm.MaxEntryCommands+1)
	if _, err := s.Propose(t.Context(), many...); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many commands: %v", err)
	}
	if _, err := s.Propose(t.Context(), many[1:]...); err != nil {
		t.Errorf("as many commands as fit: %v", err)
	}
	if _, err := s.Propose(t.Context(), command(t, strings.Repeat("x", raftfsm.MaxCommandBytes))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many bytes: %v", err)
	}
	half := command(t, strings.Repeat("x", raftfsm.MaxEntryBytes/2))
	if _, err := s.Propose(t.Context(), half, half); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many bytes in two commands: %v", err)
	}
	large := command(t, strings.Repeat("x", raftfsm.MaxCommandBytes-1000))
	if _, err := s.Propose(t.Context(), large); err != nil {
		t.Errorf("one large command: %v", err)
	}
	if _, err := s.Propose(t.Context(), raftfsm.Command{Type: raftfsm.TypeAppApply, Data: []byte("{")}); err == nil {
		t.Error("proposed a payload that is no JSON")
	}
}

func TestProposeWhileTheStateMachineIsSlow(t *testing.T) {
	g := newGossip()
	s := start(t, g, "s1", t.TempDir(), 1)
	leader(t, s)
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	defer release()
	s.fsm.mu.Lock()
	s.fsm.block = gate
	s.fsm.mu.Unlock()

	// The first is taken; its caller gives up without knowing the outcome.
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := s.Propose(ctx, command(t, "first"))
		first <- err
	}()
	eventually(t, "the first entry is under way", func() bool { return s.Stats().InFlight == 1 })
	cancel()
	if err := <-first; !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) {
		t.Errorf("caller gone while under way: %v", err)
	}

	// Each place takes an entry, the rest waits.
	const waiting = 5
	full := slices.Repeat([]raftfsm.Command{command(t, "x")}, raftfsm.MaxEntryCommands)
	var wg sync.WaitGroup
	for range maxInFlightEntries - 1 + waiting {
		wg.Go(func() {
			if _, err := s.Propose(t.Context(), full...); err != nil {
				t.Errorf("patient caller: %v", err)
			}
		})
	}
	stamped, err := json.Marshal(full[0].Stamped())
	if err != nil {
		t.Fatal(err)
	}
	waitingBytes := int64(waiting * len(full) * (len(stamped) + 1))
	eventually(t, "proposals wait", func() bool {
		return s.Stats().InFlight == maxInFlightEntries && s.Stats().QueuedBytes == waitingBytes
	})

	// One that gives up while waiting is never applied.
	ctx, cancel = context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() {
		_, err := s.Propose(ctx, command(t, "given up"))
		second <- err
	}()
	eventually(t, "the second waits", func() bool { return s.Stats().QueuedBytes > waitingBytes })
	cancel()
	if err := <-second; errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) {
		t.Errorf("caller gone while waiting: %v", err)
	}
	release()
	wg.Wait()
	applied := s.fsm.all()
	if !slices.Contains(applied, `"first"`) || slices.Contains(applied, `"given up"`) {
		t.Errorf("want the first of %d applied, and not the one given up", len(applied))
	}
	eventually(t, "nothing is queued", func() bool { st := s.Stats(); return st.QueuedBytes == 0 && st.InFlight == 0 })
}

func TestProposeIsRefusedWhenBusy(t *testing.T) {
	n := &Node{proposals: make(chan *proposal, 1)}
	if err := n.enqueue(&proposal{bytes: 1}); err != nil {
		t.Fatal(err)
	}
	if err := n.enqueue(&proposal{bytes: 1}); !errors.Is(err, starling.ErrUnavailable) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("queue full: %v", err)
	}
	n = &Node{proposals: make(chan *proposal, 2)}
	if err := n.enqueue(&proposal{bytes: maxQueuedBytes + 1}); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("bytes full: %v", err)
	}
	if n.queued.Load() != 0 {
		t.Errorf("%d bytes queued after a refusal", n.queued.Load())
	}
	n.closing = true
	if err := n.enqueue(&proposal{}); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("closing: %v", err)
	}
}

func TestLostQuorumLeavesTheOutcomeOpen(t *testing.T) {
	g := newGossip()
	servers := cluster(t, g, "s1", "s2", "s3")
	l := leader(t, servers...)
	for _, s := range servers {
		if s != l {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := l.Propose(t.Context(), command(t, "lost"))
	if !errors.Is(err, starling.ErrUnavailable) && !errors.Is(err, starling.ErrNotLeader) {
		t.Errorf("without a quorum: %v", err)
	}
	if errors.Is(err, starling.ErrUnavailable) && !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("the outcome is said to be known: %v", err)
	}
}

// What encodeEntry joins by hand is what the state machine reads, and gather keeps the
// bounds and the order.
func TestEntriesHoldWhatWasProposed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := &Node{proposals: make(chan *proposal, maxQueuedProposals)}
		var want []raftfsm.Command
		calls := rapid.SliceOfN(rapid.IntRange(1, raftfsm.MaxEntryCommands), 1, 3).Draw(t, "calls")
		for _, k := range calls {
			p := &proposal{answer: make(chan answer, 1)}
			size := rapid.SampledFrom([]int{0, 10, 5000}).Draw(t, "size")
			if rapid.IntRange(0, 39).Draw(t, "large") == 0 {
				k, size = 1, raftfsm.MaxEntryBytes+1
			}
			actor := rapid.String().Draw(t, "actor")
			for range k {
				c := raftfsm.Command{Type: raftfsm.TypeAppApply, Actor: actor, Data: []byte(`"` + strings.Repeat("x", size) + `"`)}
				b, err := json.Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				p.commands, p.bytes = append(p.commands, b), p.bytes+len(b)+1
				want = append(want, c)
			}
			if err := n.enqueue(p); err != nil {
				t.Fatal(err)
			}
		}
		var next *proposal
		for len(want) > 0 {
			if next == nil {
				next = <-n.proposals
			}
			var batch []*proposal
			batch, next = n.gather(next)
			b := encodeEntry(batch)
			var e raftfsm.Entry
			if err := json.Unmarshal(b, &e); err != nil {
				t.Fatal(err)
			}
			if len(b) > entryOverheadBytes+maxCallBytes(len(e.Commands)) || len(e.Commands) > raftfsm.MaxEntryCommands || e.Version != raftfsm.EntryVersion {
				t.Fatalf("entry of %d bytes, %d commands, version %d", len(b), len(e.Commands), e.Version)
			}
			for i, c := range e.Commands {
				w := want[i]
				if !bytes.Equal(c.Data, w.Data) || c.Type != w.Type {
					t.Fatalf("command %d of %d differs", i, len(e.Commands))
				}
			}
			want = want[len(e.Commands):]
		}
		if n.queued.Load() != 0 || len(n.proposals) != 0 {
			t.Fatalf("%d bytes and %d calls left", n.queued.Load(), len(n.proposals))
		}
	})
}

func TestDeliverChecksTheAnswer(t *testing.T) {
	p := &proposal{commands: make([][]byte, 2), answer: make(chan answer, 1)}
	deliver([]*proposal{p}, make(results, 1), nil)
	if a := <-p.answer; a.err == nil {
		t.Error("one result passed for two commands")
	}
}

func TestErrorsTellWhatMayHaveHappened(t *testing.T) {
	tests := []struct {
		err     error
		is      error
		unknown bool
	}{
		{raft.ErrNotLeader, starling.ErrNotLeader, false},
		{raft.ErrLeadershipTransferInProgress, starling.ErrNotLeader, false},
		{raft.ErrEnqueueTimeout, starling.ErrUnavailable, false},
		{raft.ErrLeadershipLost, starling.ErrUnavailable, true},
		{raft.ErrRaftShutdown, starling.ErrUnavailable, true},
		{raft.ErrAbortedByRestore, starling.ErrUnavailable, true},
		{errors.New("disk full"), starling.ErrUnavailable, true},
	}
	for _, tc := range tests {
		got := proposeError(tc.err)
		if !errors.Is(got, tc.is) || !errors.Is(got, tc.err) || errors.Is(got, ErrOutcomeUnknown) != tc.unknown {
			t.Errorf("%v becomes %v", tc.err, got)
		}
	}
}

// While an entry is under way, a few small proposals wait for it and then share the next.
func TestProposalsGatherWhileAnEntryIsUnderWay(t *testing.T) {
	g := newGossip()
	s := start(t, g, "s1", t.TempDir(), 1)
	leader(t, s)
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	defer release()
	s.fsm.mu.Lock()
	s.fsm.block = gate
	s.fsm.mu.Unlock()

	indexes := make([]uint64, 9)
	var wg sync.WaitGroup
	propose := func(i int) {
		wg.Go(func() {
			res, err := s.Propose(t.Context(), command(t, "x"))
			if err != nil {
				t.Errorf("proposal %d: %v", i, err)
				return
			}
			indexes[i] = res[0].Index
		})
	}
	propose(0)
	eventually(t, "the first entry is under way", func() bool { return s.Stats().InFlight == 1 && s.Stats().QueuedBytes == 0 })
	one := int64(0)
	for i := 1; i < len(indexes); i++ {
		propose(i)
		eventually(t, "a proposal waits", func() bool {
			queued := s.Stats().QueuedBytes
			if i == 1 {
				one = queued
			}
			return one > 0 && queued == one*int64(i)
		})
	}
	if n := s.Stats().InFlight; n != 1 {
		t.Errorf("%d entries are under way for %d bytes", n, s.Stats().QueuedBytes)
	}
	release()
	wg.Wait()
	for i, index := range indexes {
		if want := indexes[0] + uint64(min(i, 1)); index != want {
			t.Errorf("proposal %d is in entry %d, want %d: %v", i, index, want, indexes)
		}
	}
}
