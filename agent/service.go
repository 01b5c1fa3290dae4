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
	up     bool
	reason string

	keep     chan struct{} // closed: restart from now on
	keepOnce sync.Once
	cancel   context.CancelFunc
	done     chan struct{} // closed when the process is gone for good
	err      error         // why a trial ended by itself; read after done
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
		keep: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	s.cmd.out = io.MultiWriter(c.out, s.last)
	if c.kept {
		s.keepUp()
	}
	p, err := startProcess(s.cmd)
	if err != nil && !c.kept {
		cancel()
		return nil, err
	}
	go func() {
		defer close(s.done)
		defer cancel()
		s.err = s.run(ctx, p, err)
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
	s.changed()
}

// keepUp ends the trial.
func (s *service) keepUp() { s.keepOnce.Do(func() { close(s.keep) }) }

func (s *service) kept() bool {
	select {
	case <-s.keep:
		return true
	default:
		return false
	}
}

// stop ends the process, gently at first, and returns when it is gone.
func (s *service) stop() {
	s.cancel()
	<-s.done
}

// run is the supervisor. p is the first process, or nil with the error of its start.
func (s *service) run(ctx context.Context, p *process, err error) error {
	backoff := restartBackoffMin
	for restarted := false; ; restarted = true {
		began := time.Now()
		if p != nil {
			err = s.oversee(ctx, p, restarted || s.kept())
		}
		if ctx.Err() != nil {
			return nil
		}
		if !s.kept() {
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
