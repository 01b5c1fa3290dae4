package control

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/notify"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Bounds of telling sinks. The queue is the ring of events in the state: what a sink has not
// been told when an event leaves it is lost to that sink, and counted.
const (
	tellBatch      = 256  // events looked at in one go
	tellUnkept     = 2048 // events passed over before the place is kept, a quarter of the ring
	tellFinalTries = 5    // of a message that the receiver calls wrong
)

// notifyPace is how fast sinks are told; tests are in more of a hurry.
type notifyPace struct {
	retryMin, retryMax time.Duration
	giveUp             time.Duration // after the event
	keep               time.Duration // between two log entries that keep how far sinks were told
	look               time.Duration // between two looks for new events
}

func defaultNotifyPace() notifyPace {
	return notifyPace{retryMin: time.Second, retryMax: 5 * time.Minute, giveUp: 24 * time.Hour, keep: 5 * time.Second, look: 250 * time.Millisecond}
}

// teller tells one sink, in the order of events, each until it is taken or given up.
type teller struct {
	t      *term
	sink   *starling.Sink
	target notify.Target
	stop   context.CancelFunc

	mu      sync.Mutex
	at      starling.SinkProgress
	passed  int  // events since at was last kept
	dirty   bool // something was told since
	attempt int
	waiting string
	nextTry time.Time
}

// tellers are a term's, by sink.
type tellers struct {
	mu  sync.Mutex
	all map[string]*teller
}

// show adds how a sink stands now.
func (b *tellers) show(st *starling.SinkStatus) {
	b.mu.Lock()
	tl := b.all[st.Name]
	b.mu.Unlock()
	if tl == nil || tl.sink.Made != st.Made {
		return
	}
	tl.mu.Lock()
	defer tl.mu.Unlock()
	st.Progress, st.Attempt, st.Waiting, st.NextTry = tl.at, tl.attempt, tl.waiting, tl.nextTry
}

// notify tells the region's sinks of what happens to its deployments, for one term. How far
// it has come is kept in the state now and then: the next leader tells what was told since
// again, and nothing is left out.
func (t *term) notify(ctx context.Context) error {
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer running.Wait()
	defer cancel()
	kept := t.now()
	for {
		v := t.s.cfg.FSM.View()
		t.setTellers(ctx, v.Sinks(), &running)
		if now := t.now(); now.Sub(kept) >= t.s.pace.keep {
			kept = now
			t.keepTold(ctx)
		}
		if len(v.Sinks()) == 0 { // most regions: nothing to keep
			select {
			case <-t.s.cfg.FSM.Changed(v.Index()):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := sleep(ctx, t.s.pace.look); err != nil {
			return err
		}
	}
}

// setTellers starts and stops tellers so that there is one for each sink.
func (t *term) setTellers(ctx context.Context, sinks []*starling.Sink, running *sync.WaitGroup) {
	t.tellers.mu.Lock()
	defer t.tellers.mu.Unlock()
	for name, tl := range t.tellers.all {
		if !slices.ContainsFunc(sinks, func(k *starling.Sink) bool { return k.Name == name && k.Made == tl.sink.Made }) {
			tl.stop()
			delete(t.tellers.all, name)
		}
	}
	for _, k := range sinks {
		if t.tellers.all[k.Name] != nil {
			continue
		}
		tl := &teller{t: t, sink: k, at: k.Progress}
		if err := t.s.open("sink "+k.Name, k.Sealed, &tl.target); err != nil {
			continue // Sinks says so
		}
		tctx, stop := context.WithCancel(ctx)
		tl.stop = stop
		t.tellers.all[k.Name] = tl
		running.Go(func() { tl.run(tctx) })
	}
}

// keepTold commits how far sinks were told, all in one command.
func (t *term) keepTold(ctx context.Context) {
	var cmd raftfsm.SinkProgress
	var kept []*teller
	t.tellers.mu.Lock()
	for _, tl := range t.tellers.all {
		tl.mu.Lock()
		if tl.dirty || tl.passed >= tellUnkept {
			tl.dirty, tl.passed = false, 0
			kept = append(kept, tl)
			cmd.Sinks = append(cmd.Sinks, raftfsm.SinkTold{Name: tl.sink.Name, Made: tl.sink.Made, Progress: tl.at})
		}
		tl.mu.Unlock()
	}
	t.tellers.mu.Unlock()
	if len(cmd.Sinks) == 0 {
		return
	}
	c, err := raftfsm.NewCommand(raftfsm.TypeSinkProgress, t.now(), t.actor(), cmd)
	if err == nil {
		_, err = t.s.commit(ctx, c)
	}
	if err != nil && ctx.Err() == nil {
		t.s.cfg.Logger.Debug("cannot keep how far sinks were told; tried again", "err", err)
		for _, tl := range kept {
			tl.mu.Lock()
			tl.dirty = true
			tl.mu.Unlock()
		}
	}
}

// run tells the sink of one event after another, until ctx ends.
func (tl *teller) run(ctx context.Context) {
	for ctx.Err() == nil {
		v := tl.t.s.cfg.FSM.View()
		events, lost := v.EventsAfter(tl.at.Index, tl.at.N, tellBatch)
		if lost {
			tl.lost(events, v.Index())
		}
		for i := range events {
			m := tl.t.s.message(v, tl.sink, &events[i])
			if m != nil && !tl.tell(ctx, m) {
				return
			}
			tl.pass(&events[i])
		}
		if len(events) == tellBatch {
			continue
		}
		select {
		case <-tl.t.s.cfg.FSM.Changed(v.Index()):
		case <-ctx.Done():
		}
		_ = sleep(ctx, tl.t.s.pace.look) // an error is ctx's, at which the loop ends
	}
}

// lost notes that events have left the ring untold.
func (tl *teller) lost(events []starling.Event, newest uint64) {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	if len(events) == 0 {
		tl.at.Index, tl.at.N = newest, 0
	}
	tl.at.Dropped++
	tl.at.LastError, tl.at.LastErrorAt = "fell too far behind: events were dropped untold", tl.t.now().UTC()
	tl.dirty = true
}

func (tl *teller) pass(e *starling.Event) {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	tl.at.Index, tl.at.N = e.Index, e.N
	tl.passed++
}

// tell posts a message until it is taken or given up; false: ctx has ended.
func (tl *teller) tell(ctx context.Context, m *notify.Message) bool {
	pace := tl.t.s.pace
	backoff := pace.retryMin
	for {
		err := tl.t.s.poster.Post(ctx, &tl.target, m, tl.t.now())
		if ctx.Err() != nil {
			return false
		}
		wait := backoff/2 + rand.N(backoff/2+1)
		var refusal *notify.Refusal
		if errors.As(err, &refusal) {
			wait = max(wait, refusal.After)
		}
		if tl.done(m, err, wait) {
			return true
		}
		if sleep(ctx, wait) != nil {
			return false
		}
		backoff = min(2*backoff, pace.retryMax)
	}
}

// done notes what became of one try, and reports whether it was the last.
func (tl *teller) done(m *notify.Message, err error, wait time.Duration) bool {
	now := tl.t.now().UTC()
	tl.mu.Lock()
	defer tl.mu.Unlock()
	last := true
	switch {
	case err == nil:
		tl.at.Delivered++
		tl.at.LastSuccess = now
	default:
		tl.attempt++
		tl.at.LastError, tl.at.LastErrorAt = clip(fmt.Sprintf("%s: %v", m.ID, err), starling.MaxSinkErrorBytes), now
		var refusal *notify.Refusal
		wrong := errors.As(err, &refusal) && refusal.Final() && tl.attempt >= tellFinalTries
		if last = wrong || now.Add(wait).Sub(m.Timestamp) > tl.t.s.pace.giveUp; last {
			tl.at.Dropped++
			tl.t.s.cfg.Logger.Warn("a notification is given up", "sink", tl.sink.Name, "event", m.ID, "tries", tl.attempt, "err", err)
		}
	}
	tl.dirty = true
	if last {
		tl.attempt, tl.waiting, tl.nextTry = 0, "", time.Time{}
		return true
	}
	tl.waiting, tl.nextTry = m.ID, now.Add(wait)
	return false
}
