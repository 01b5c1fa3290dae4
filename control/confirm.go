package control

import (
	"context"
	"fmt"
	"sync"

	"github.com/starlingdeploy/starling"
)

// confirmations lets consistent reads share log entries: those that come while one is
// being committed wait for the next, which all of them share. One is under way at a time.
type confirmations struct {
	token chan struct{} // held by the call that commits

	mu   sync.Mutex
	next *confirmation // begins when the token is free; nil: nobody waits
}

// confirmation is one entry that several calls wait for.
type confirmation struct {
	done chan struct{}
	err  error
}

// Confirm implements httpapi.Router by a barrier: an entry that commits proves that this
// server led after the call began, and its application that all before it has been applied.
// Raft's VerifyLeader proves less: hashicorp/raft counts the answers to heartbeats that were
// sent before the question, which a server that was frozen finds in its socket when it wakes.
func (s *Server) Confirm(ctx context.Context) error {
	t, _ := s.leading()
	if t == nil {
		return fmt.Errorf("confirm: %s: %w", s.cfg.Name, starling.ErrNotLeader)
	}
	c := s.confirms.join()
	select {
	case s.confirms.token <- struct{}{}:
		defer func() { <-s.confirms.token }()
		s.confirms.run(c, func() error {
			// For the others' sake it is seen through even if this caller goes away.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), barrierWithin)
			defer cancel()
			if err := s.cfg.Raft.Barrier(ctx); err != nil {
				return err
			}
			return t.Supported(s.cfg.FSM.View(), t.now()) // otherwise another region may be the home
		})
	case <-c.done:
	case <-ctx.Done():
		return fmt.Errorf("confirm: %w", ctx.Err())
	}
	<-c.done
	if c.err != nil {
		return fmt.Errorf("confirm: %w", c.err)
	}
	return nil
}

func (c *confirmations) join() *confirmation {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = &confirmation{done: make(chan struct{})}
	}
	return c.next
}

// run commits for one confirmation, unless another call has done so. The caller holds the token.
func (c *confirmations) run(which *confirmation, barrier func() error) {
	c.mu.Lock()
	open := c.next == which
	if open {
		c.next = nil // whoever comes now waits for the one after
	}
	c.mu.Unlock()
	if open {
		which.err = barrier()
		close(which.done)
	}
}
