package raftnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// proposal is one call of Propose.
type proposal struct {
	commands [][]byte // encoded
	bytes    int
	taken    atomic.Bool // by the proposer, or by its caller giving up
	answer   chan answer // of one
}

type answer struct {
	results results
	err     error
}

// Propose commits commands in one log entry, in order, and returns the result of each
// once the state machine here has applied them. Calls made at the same time share
// entries, and several entries are under way at once.
//
// It works on the leader only: errors wrap starling.ErrNotLeader (nothing was done) or
// starling.ErrUnavailable. One that also wraps ErrOutcomeUnknown leaves open whether
// the commands are, or will be, applied; so does the end of ctx. The refusal of a
// command is no error: it stands in its Result. So does that of a command which some
// server of the cluster is too old to apply; that one is not committed.
func (n *Node) Propose(ctx context.Context, cmds ...raftfsm.Command) ([]raftfsm.Result, error) {
	if refused := n.tooNew(cmds); refused != nil {
		return n.proposeRest(ctx, cmds, refused)
	}
	return n.proposeSpoken(ctx, cmds)
}

// proposeSpoken is Propose for commands that every server can apply.
func (n *Node) proposeSpoken(ctx context.Context, cmds []raftfsm.Command) ([]raftfsm.Result, error) {
	if len(cmds) == 0 {
		return nil, nil
	}
	p := &proposal{commands: make([][]byte, len(cmds)), answer: make(chan answer, 1)}
	for i := range cmds {
		b, err := json.Marshal(cmds[i].Stamped())
		if err != nil {
			return nil, fmt.Errorf("propose %s: %w", cmds[i].Type, err)
		}
		p.commands[i] = b
		p.bytes += len(b) + 1
	}
	if len(cmds) > raftfsm.MaxEntryCommands || p.bytes > maxCallBytes(len(cmds)) {
		return nil, fmt.Errorf("propose %d commands of %d bytes: %w", len(cmds), p.bytes, ErrTooLarge)
	}
	if err := n.Err(); err != nil {
		return nil, fmt.Errorf("propose: %w", err)
	}
	if !n.IsLeader() {
		return nil, fmt.Errorf("propose: %w", starling.ErrNotLeader)
	}
	if err := n.enqueue(p); err != nil {
		return nil, err
	}
	select {
	case a := <-p.answer:
		return a.results, a.err
	case <-n.failed: // Raft forgets some futures when it stops
		return nil, fmt.Errorf("propose: %w: %w", ErrOutcomeUnknown, n.Err())
	case <-ctx.Done():
		if p.taken.CompareAndSwap(false, true) {
			return nil, fmt.Errorf("propose: gave up before it began: %w", ctx.Err())
		}
		return nil, fmt.Errorf("propose: %w: %w", ErrOutcomeUnknown, ctx.Err())
	}
}

// maxCallBytes is what the commands of one call may take: a single one, a mirror batch
// perhaps, may be larger than several together, and then has an entry to itself.
func maxCallBytes(commands int) int {
	if commands == 1 {
		return raftfsm.MaxCommandBytes - entryOverheadBytes
	}
	return raftfsm.MaxEntryBytes - entryOverheadBytes
}

func (n *Node) enqueue(p *proposal) error {
	n.mu.Lock() // so that none is queued after the proposer has ended
	defer n.mu.Unlock()
	if n.closing {
		return fmt.Errorf("propose: the server is shutting down: %w", starling.ErrUnavailable)
	}
	if n.queued.Add(int64(p.bytes)) > maxQueuedBytes {
		n.queued.Add(-int64(p.bytes))
		return fmt.Errorf("propose: busy, %d MiB are waiting: %w", maxQueuedBytes>>20, starling.ErrUnavailable)
	}
	select {
	case n.proposals <- p:
		if n.queued.Load() >= pipelineBytes {
			n.wakeProposer()
		}
		return nil
	default:
		n.queued.Add(-int64(p.bytes))
		return fmt.Errorf("propose: busy, %d proposals are waiting: %w", maxQueuedProposals, starling.ErrUnavailable)
	}
}

// propose turns proposals into entries until ctx ends. While an entry is under way,
// proposals gather until there is enough for a good one, or it has ended; so entries grow
// with the load. Each costs every server two fsyncs, however little is in it.
func (n *Node) propose(ctx context.Context) {
	var next *proposal // did not fit into the entry before
	for {
		if next == nil {
			select {
			case next = <-n.proposals:
			case <-ctx.Done():
				n.refuseQueued(nil)
				return
			}
		}
		if err := n.awaitPlace(ctx); err != nil {
			n.refuseQueued(next)
			return
		}
		var batch []*proposal
		batch, next = n.gather(next)
		if len(batch) == 0 {
			n.leave()
			continue
		}
		n.apply(batch)
	}
}

// awaitPlace takes a place for an entry once none is taken, or much is queued and not all are.
func (n *Node) awaitPlace(ctx context.Context) error {
	for len(n.inFlight) > 0 && n.queued.Load() < pipelineBytes {
		select {
		case <-n.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case n.inFlight <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wakeProposer makes it look again whether it is time for an entry.
func (n *Node) wakeProposer() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// leave gives a place for an entry back.
func (n *Node) leave() {
	<-n.inFlight
	n.wakeProposer()
}

// gather takes first, whatever its size, and what else is queued, up to the bounds of
// an entry.
func (n *Node) gather(first *proposal) (batch []*proposal, next *proposal) {
	commands, bytes := 0, entryOverheadBytes
	for p := first; p != nil; {
		if commands > 0 && (commands+len(p.commands) > raftfsm.MaxEntryCommands || bytes+p.bytes > raftfsm.MaxEntryBytes) {
			return batch, p
		}
		n.queued.Add(-int64(p.bytes))
		if p.taken.CompareAndSwap(false, true) { // else its caller has gone
			batch = append(batch, p)
			commands += len(p.commands)
			bytes += p.bytes
		}
		select {
		case p = <-n.proposals:
		default:
			p = nil
		}
	}
	return batch, nil
}

// apply hands one entry to Raft and has its outcome awaited.
func (n *Node) apply(batch []*proposal) {
	if !n.enter() {
		n.leave()
		deliver(batch, nil, fmt.Errorf("propose: the server is shutting down: %w", starling.ErrUnavailable))
		return
	}
	future := n.raft.Apply(encodeEntry(batch), maxEnqueueWait)
	go func() { // at most maxInFlightEntries; Close waits for them
		defer n.waiting.Done()
		defer n.leave()
		if err := future.Error(); err != nil {
			deliver(batch, nil, proposeError(err))
			return
		}
		switch res := future.Response().(type) {
		case results:
			deliver(batch, res, nil)
		case error:
			deliver(batch, nil, fmt.Errorf("propose: apply: %w", res))
		default:
			deliver(batch, nil, fmt.Errorf("propose: the state machine answered a %T", res))
		}
	}()
}

// proposeError tells errors before which nothing was done from those that leave it open.
func proposeError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader),
		errors.Is(err, errNoRoom), // nothing was written or sent
		errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("propose: %w", mapError(err))
	default:
		return fmt.Errorf("propose: %w: %w", ErrOutcomeUnknown, mapError(err))
	}
}

// encodeEntry writes a raftfsm.Entry around commands that are encoded already.
func encodeEntry(batch []*proposal) []byte {
	size := entryOverheadBytes
	for _, p := range batch {
		size += p.bytes
	}
	b := make([]byte, 0, size)
	b = append(b, `{"v":`...)
	b = strconv.AppendInt(b, raftfsm.EntryVersion, 10)
	b = append(b, `,"commands":[`...)
	for i, p := range batch {
		for j, c := range p.commands {
			if i+j > 0 {
				b = append(b, ',')
			}
			b = append(b, c...)
		}
	}
	return append(b, `]}`...)
}

// deliver gives every caller its own part of the results.
func deliver(batch []*proposal, res results, err error) {
	want := 0
	for _, p := range batch {
		want += len(p.commands)
	}
	if err == nil && len(res) != want {
		err = fmt.Errorf("propose: the state machine gave %d results for %d commands", len(res), want)
	}
	for _, p := range batch {
		if err != nil {
			p.answer <- answer{err: err}
			continue
		}
		k := len(p.commands)
		p.answer <- answer{results: res[:k:k]}
		res = res[k:]
	}
}

// refuseQueued answers what waits when the node closes.
func (n *Node) refuseQueued(first *proposal) {
	refuse := func(p *proposal) {
		n.queued.Add(-int64(p.bytes))
		p.answer <- answer{err: fmt.Errorf("propose: the server is shutting down: %w", starling.ErrUnavailable)}
	}
	if first != nil {
		refuse(first)
	}
	for {
		select {
		case p := <-n.proposals:
			refuse(p)
		default:
			return
		}
	}
}
