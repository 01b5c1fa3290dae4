package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Pace of looking after units.
const (
	unitTrialEvery = 250 * time.Millisecond // while on trial, and until it does well
	unitWatchEvery = 5 * time.Second
	unitRetryMin   = time.Second // between starts of one that is kept and does not start
	unitRetryMax   = 30 * time.Second
)

// unitService runs a release by a unit of systemd, which has its own rules for restarts,
// stopping and logs: once it has started well, the agent only watches it. It outlives the
// agent, and is taken over by the next.
type unitService struct {
	bus   systemd
	unit  string
	check *checker // nil: it need only be active for settleTime
	log   *slog.Logger
	kept  bool // from the start
	*board

	started chan struct{} // closed when the first start has ended
	err     error         // of that; read after started
	well    chan struct{} // closed when the trial has ended well
	over    sync.Once     // closes well
	cancel  context.CancelFunc
	done    chan struct{} // closed when run has ended
}

// startUnit has systemd start a release. With adopt one that is active already is left alone.
func startUnit(bus systemd, unit string, check *checker, log *slog.Logger, kept, adopt bool, changed func()) *unitService {
	ctx, cancel := context.WithCancel(context.Background()) // ended by stop or leave, which every owner calls
	u := &unitService{bus: bus, unit: unit, check: check, log: log.With("unit", unit), kept: kept, board: newBoard(changed),
		started: make(chan struct{}), well: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	if kept {
		u.over.Do(func() { close(u.well) })
	}
	go func() {
		defer close(u.done)
		u.run(ctx, adopt)
	}()
	return u
}

// run starts the unit and, once it is kept, watches it until ctx ends.
func (u *unitService) run(ctx context.Context, adopt bool) {
	if adopt {
		if s, err := u.bus.look(ctx, u.unit); err != nil || !s.running() {
			adopt = false
		}
	}
	if !adopt {
		u.err = u.bus.job(ctx, "restart", u.unit)
	}
	close(u.started)
	if u.err != nil && !u.kept {
		return // stop or leave comes
	}
	for err, pause := u.err, unitRetryMin; err != nil; pause = min(2*pause, unitRetryMax) {
		u.set(down, fmt.Sprintf("%s; tried again after %s", err, pause))
		if wait(ctx, pause) != nil {
			return
		}
		err = u.bus.job(ctx, "restart", u.unit)
	}
	select {
	case <-u.well:
	case <-ctx.Done():
		return
	}
	u.watch(ctx)
}

// watch tells how the unit does. A check is asked only until it has passed once.
func (u *unitService) watch(ctx context.Context) {
	passed, every := !u.kept, unitWatchEvery
	if u.kept {
		every = unitTrialEvery
	}
	for {
		s, err := u.bus.look(ctx, u.unit)
		if err == nil && !s.running() {
			err = fmt.Errorf("unit %s is %s", u.unit, s)
		}
		if err == nil && !passed {
			if err = untilWell(ctx, u.check); err == nil {
				passed, every = true, unitWatchEvery
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			u.set(down, err.Error())
		default:
			u.set(up, "")
		}
		if wait(ctx, every) != nil {
			return
		}
	}
}

// awaitTrial returns nil when the unit does well, and the reason when it does not start,
// ends, does not become healthy, or ctx ends.
func (u *unitService) awaitTrial(ctx context.Context) error {
	select {
	case <-u.started:
	case <-ctx.Done():
		return ctx.Err()
	}
	if u.err != nil {
		return u.err
	}
	checking, cancel := context.WithCancel(ctx)
	defer cancel()
	well := make(chan error, 1)
	go func() { well <- untilWell(checking, u.check) }()
	for {
		var err error
		ended := false
		select {
		case err = <-well:
			ended = true
		case <-time.After(unitTrialEvery):
		}
		s, lerr := u.bus.look(ctx, u.unit)
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case lerr != nil:
			err = lerr
		case !s.running():
			err = fmt.Errorf("unit %s has ended: it is %s; journalctl -u %s says more", u.unit, s, u.unit)
		case !ended:
			continue
		}
		cancel()
		if !ended {
			<-well
		}
		if err == nil {
			u.set(up, "")
		}
		return err
	}
}

func (u *unitService) awaitUp(ctx context.Context) error { return u.await(ctx, awaitLimit(u.check)) }

// keep ends the trial well: awaitTrial has just seen it active.
func (u *unitService) keep() error {
	u.over.Do(func() { close(u.well) })
	return nil
}

// stop has systemd stop the unit.
func (u *unitService) stop() {
	u.leave()
	// Whatever else ends: the next release needs its place. The job has a bound of its own.
	if err := u.bus.job(context.Background(), "stop", u.unit); err != nil {
		u.log.Error("a unit cannot be stopped", "error", err)
	}
}

// leave stops watching.
func (u *unitService) leave() {
	u.cancel()
	<-u.done
}
