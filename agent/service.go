package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

const watchPause = time.Second // between a check that has failed and the next

// service keeps a release's run command running. While it is on trial, the first
// exit ends it; once kept, it is started again with back-off. One goroutine, run,
// owns the process.
type service struct {
	cmd     command
	check   *checker // nil: it need only run for settleTime
	log     *slog.Logger
	last    *tail
	restart starling.Restart
	signal  unix.Signal   // that asks it to end
	grace   time.Duration // from there to SIGKILL
	*board

	mu     sync.Mutex
	kept   bool // past its trial: restart from now on
	failed bool // the trial has ended by itself

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
	kept    bool                 // past its trial from the start
	deploy  *starling.DeploySpec // says how it is started again and stopped
}

// startService starts the run command. A service on trial that cannot be started
// is an error; a kept one is tried again with back-off.
func startService(c serviceConfig) (*service, error) {
	ctx, cancel := context.WithCancel(context.Background()) // ended by stop, which every owner calls
	s := &service{cmd: c.cmd, check: c.check, log: c.log, last: &tail{}, board: newBoard(c.changed),
		kept: c.kept, cancel: cancel, done: make(chan struct{}), restart: c.deploy.RestartOrDefault()}
	name, grace := c.deploy.StopOrDefault()
	s.signal, s.grace = unix.SignalNum(name), grace
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

func (s *service) awaitUp(ctx context.Context) error { return s.await(ctx, awaitLimit(s.check)) }

// keep ends the trial well. An error says why it had ended ill already.
func (s *service) keep() error {
	if s.keepUp() {
		return nil
	}
	<-s.done
	return withOutput(s.err, s.last)
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

// leave is stop: a child does not outlive its agent.
func (s *service) leave() { s.stop() }

// run is the supervisor. p is the first process, or nil with the error of its
// start; kept tells whether it is past its trial.
func (s *service) run(ctx context.Context, p *process, err error, kept bool) error {
	turns := restarts{policy: s.restart}
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
		pause, again := turns.next(time.Since(began))
		if !again {
			s.log.Error("the release has ended by itself too often and stays down", "error", err, "restarts", turns.made)
			s.set(ended, withOutput(fmt.Errorf("%w; given up after %d restarts", err, turns.made), s.last).Error())
			<-ctx.Done()
			return nil
		}
		s.log.Warn("the release has ended by itself; it will be started again", "error", err, "in", pause)
		s.set(down, withOutput(fmt.Errorf("%w; started again after %s", err, pause), s.last).Error())
		if wait(ctx, pause) != nil {
			return nil
		}
		p, err = startProcess(s.cmd)
	}
}

// restarts counts how often a child was started again without running for a while.
type restarts struct {
	policy starling.Restart // without zero fields
	made   int
	pause  time.Duration // the last
}

// next returns after what pause a child that has run for a while is started again, and
// whether it is at all.
func (r *restarts) next(ran time.Duration) (pause time.Duration, again bool) {
	p := &r.policy
	if ran >= p.Interval.D() {
		r.made, r.pause = 0, 0
	}
	over := p.Attempts > 0 && r.made >= p.Attempts
	switch {
	case over && p.Mode == starling.RestartFail:
		return 0, false
	case over:
		r.pause = p.MaxDelay.D()
	case r.pause == 0:
		r.pause = p.Delay.D()
	default:
		r.pause = min(2*r.pause, p.MaxDelay.D())
	}
	r.made++
	return r.pause, true
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
		p.stop(s.signal, s.grace)
		return ctx.Err()
	}
}

// watch ends as soon as it has told that the process does well.
func (s *service) watch(ctx context.Context) {
	for {
		err := untilWell(ctx, s.check)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			s.set(up, "")
			return
		}
		s.set(down, withOutput(err, s.last).Error())
		if wait(ctx, watchPause) != nil {
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
	go func() { well <- untilWell(checking, s.check) }()
	select {
	case err := <-well:
		select {
		case <-s.done: // the check may have passed against another process on the same port
			return withOutput(s.err, s.last)
		default:
		}
		if err == nil {
			s.set(up, "")
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

var errEnded = errors.New("the process has ended")

func exitError(err error) error {
	if err == nil {
		return fmt.Errorf("%w: exit status 0", errEnded)
	}
	return fmt.Errorf("%w: %w", errEnded, err)
}
