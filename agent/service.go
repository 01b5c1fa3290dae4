package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Back-off between restarts of a release that crashes.
const (
	restartBackoffMin = time.Second
	restartBackoffMax = 30 * time.Second
	restartStable     = 30 * time.Second // running for this long resets the back-off
)

// service keeps a release's run command running. While it is on trial, the first
// exit ends it; once kept, it is started again with back-off. One goroutine, run,
// owns the process.
type service struct {
	cmd     command
	check   *checker // nil: it need only run for settleTime
	log     *slog.Logger
	last    *tail
	changed func() // what status returns has changed; called by run

	mu     sync.Mutex
	kept   bool // past its trial: restart from now on
	failed bool // the trial has ended by itself
	up     bool
	reason string

	news   chan struct{} // room for one; the status has changed
	cancel context.CancelFunc
	done   chan struct{} // closed when the process is gone for good
	err    error         // why a trial ended by itself; read after done
}

// serviceConfig is what a service runs and whom it tells.
type serviceConfig struct {
	cmd     command
	out     io.Writer
	check   *checker
	log     *slog.Logger
	changed func()
	kept    bool // past its trial from the start
}

// startService starts the run command. A service on trial that cannot be started
// is an error; a kept one is tried again with back-off.
func startService(c serviceConfig) (*service, error) {
	ctx, cancel := context.WithCancel(context.Background()) // ended by stop, which every owner calls
	s := &service{cmd: c.cmd, check: c.check, log: c.log, last: &tail{}, changed: c.changed,
		kept: c.kept, news: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	s.cmd.out = io.MultiWriter(c.out, s.last)
	p, err := startProcess(s.cmd)
	if err != nil && !c.kept {
		cancel()
		return nil, err
	}
	go func() {
		defer close(s.done)
		defer cancel()
		s.err = s.run(ctx, p, err, c.kept)
	}()
	return s, nil
}

// status tells whether a kept service does well and, if not, why.
func (s *service) status() (up bool, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.up, s.reason
}

func (s *service) setStatus(up bool, reason string) {
	s.mu.Lock()
	s.up, s.reason = up, reason
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
	s.changed()
}

// awaitUp waits until a kept service does well, for as long as that may take.
func (s *service) awaitUp(ctx context.Context) error {
	limit := 2 * settleTime
	if s.check != nil {
		limit += s.check.spec.Deadline.D()
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	for {
		up, reason := s.status()
		if up {
			return nil
		}
		select {
		case <-s.news:
		case <-t.C:
			return fmt.Errorf("not well within %s: %s", limit, reason)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keepUp ends the trial well; false: it has ended ill already.
func (s *service) keepUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = !s.failed
	return s.kept
}

// endTrial ends the trial ill; false: there is none any more.
func (s *service) endTrial() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = !s.kept
	return s.failed
}

// stop ends the process, gently at first, and returns when it is gone.
func (s *service) stop() {
	s.cancel()
	<-s.done
}

// run is the supervisor. p is the first process, or nil with the error of its
// start; kept tells whether it is past its trial.
func (s *service) run(ctx context.Context, p *process, err error, kept bool) error {
	backoff := restartBackoffMin
	for announce := kept; ; announce = true {
		began := time.Now()
		if p != nil {
			err = s.oversee(ctx, p, announce)
		}
		if ctx.Err() != nil {
			return nil
		}
		if s.endTrial() {
			return err
		}
		if time.Since(began) >= restartStable {
			backoff = restartBackoffMin
		}
		s.log.Warn("the release has ended by itself; it will be started again", "error", err, "in", backoff)
		s.setStatus(false, withOutput(fmt.Errorf("%w; started again after %s", err, backoff), s.last).Error())
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
		backoff = min(2*backoff, restartBackoffMax)
		p, err = startProcess(s.cmd)
	}
}

// oversee waits until p has ended, or stops it when ctx ends. If announce is set,
// it tells when the process does well, and while it does not.
func (s *service) oversee(ctx context.Context, p *process, announce bool) error {
	if announce {
		watching, cancel := context.WithCancel(ctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			s.watch(watching)
		}()
		defer func() {
			cancel()
			<-watched
		}()
	}
	select {
	case <-p.done:
		return exitError(p.err)
	case <-ctx.Done():
		p.stop(stopGrace)
		return ctx.Err()
	}
}

// watch ends as soon as it has told that the process does well.
func (s *service) watch(ctx context.Context) {
	for {
		err := s.untilWell(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			s.setStatus(true, "")
			return
		}
		s.setStatus(false, withOutput(err, s.last).Error())
		select {
		case <-time.After(restartBackoffMin):
		case <-ctx.Done():
			return
		}
	}
}

// awaitTrial returns nil when the process does well, and the reason when it has
// ended, does not become healthy, or ctx ends.
func (s *service) awaitTrial(ctx context.Context) error {
	checking, cancel := context.WithCancel(ctx)
	defer cancel()
	well := make(chan error, 1)
	go func() { well <- s.untilWell(checking) }()
	select {
	case err := <-well:
		select {
		case <-s.done: // the check may have passed against another process on the same port
			return withOutput(s.err, s.last)
		default:
		}
		if err == nil {
			s.setStatus(true, "")
		} else if ctx.Err() == nil {
			err = withOutput(err, s.last)
		}
		return err
	case <-s.done:
		cancel()
		<-well
		return withOutput(s.err, s.last)
	}
}

func (s *service) untilWell(ctx context.Context) error {
	if s.check != nil {
		return s.check.await(ctx)
	}
	t := time.NewTimer(settleTime)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errEnded = errors.New("the process has ended")

func exitError(err error) error {
	if err == nil {
		return fmt.Errorf("%w: exit status 0", errEnded)
	}
	return fmt.Errorf("%w: %w", errEnded, err)
}
