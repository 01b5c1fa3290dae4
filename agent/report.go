package agent

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Cadence of reports.
const (
	reportCoalesce   = 100 * time.Millisecond // after a change of state
	reportProgress   = time.Second            // while only numbers change
	reportRefresh    = 15 * time.Second       // of everything, in case a leader lost it
	reportSpread     = time.Second            // over which a fleet reports to a new leader
	reportTimeout    = 10 * time.Second
	reportBackoffMin = 250 * time.Millisecond
	reportBackoffMax = 15 * time.Second
)

// reporter tells the region's leader where this machine stands. It keeps the
// latest report of each app, never a queue: what is retried is always the newest.
// Its goroutine, run, owns the pace.
type reporter struct {
	leader Leader
	log    *slog.Logger

	mu       sync.Mutex
	apps     map[string]*reported
	recalled time.Time     // when a new leader is to be told everything; zero: it has been
	nudge    chan struct{} // room for one
}

type reported struct {
	latest starling.MachineReport
	fresh  bool      // differs from what was sent last
	urgent bool      // in more than numbers
	since  time.Time // when it became urgent
}

func newReporter(leader Leader, log *slog.Logger) *reporter {
	return &reporter{leader: leader, log: log, apps: map[string]*reported{}, nudge: make(chan struct{}, 1)}
}

// put replaces the report of an app. It never waits.
func (r *reporter) put(m starling.MachineReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.apps[m.App]
	if e == nil {
		e = &reported{}
		r.apps[m.App] = e
	}
	if !e.urgent && !sameState(&e.latest, &m) {
		e.urgent, e.since = true, time.Now()
	}
	e.fresh = e.fresh || e.urgent || e.latest.ChunksDone != m.ChunksDone || e.latest.Bytes != m.Bytes
	e.latest = m
	if e.fresh {
		select {
		case r.nudge <- struct{}{}:
		default:
		}
	}
}

// recall has everything reported soon: there is a new leader, which knows nothing.
func (r *reporter) recall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recalled.IsZero() {
		r.recalled = time.Now().Add(rand.N(reportSpread))
	}
	select {
	case r.nudge <- struct{}{}:
	default:
	}
}

// drop forgets an app.
func (r *reporter) drop(app string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.apps, app)
}

func sameState(a, b *starling.MachineReport) bool {
	return a.Generation == b.Generation && a.State == b.State && a.Running == b.Running && a.Reason == b.Reason &&
		slices.Equal(a.Kept, b.Kept) && slices.Equal(a.Distrusted, b.Distrusted)
}

// take returns what is to be sent: everything if that is due, or what is fresh. It counts as sent.
func (r *reporter) take(refreshed time.Time) (out []starling.MachineReport, everything bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if everything = !time.Now().Before(r.refresh(refreshed)); everything {
		r.recalled = time.Time{}
	}
	for _, name := range slices.Sorted(maps.Keys(r.apps)) {
		if e := r.apps[name]; (everything || e.fresh) && len(out) < rpc.MaxReports {
			out = append(out, e.latest)
			e.fresh, e.urgent = false, false
		}
	}
	return out, everything
}

// giveBack marks apps whose reports could not be sent.
func (r *reporter) giveBack(reports []starling.MachineReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range reports {
		if e := r.apps[m.App]; e != nil {
			if !e.urgent {
				e.urgent, e.since = true, time.Now()
			}
			e.fresh = true
		}
	}
}

// refresh returns when everything is to be reported again.
func (r *reporter) refresh(refreshed time.Time) time.Time {
	at := refreshed.Add(reportRefresh)
	if !r.recalled.IsZero() && r.recalled.Before(at) {
		return r.recalled
	}
	return at
}

// next returns when the next post is due.
func (r *reporter) next(last, refreshed time.Time, backoff time.Duration) time.Time {
	if backoff > 0 {
		return last.Add(backoff)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.refresh(refreshed)
	for _, e := range r.apps {
		due := at
		switch {
		case e.urgent:
			due = e.since.Add(reportCoalesce)
		case e.fresh:
			due = last.Add(reportProgress)
		}
		if due.Before(at) {
			at = due
		}
	}
	return at
}

// run sends until ctx ends.
func (r *reporter) run(ctx context.Context) {
	last := time.Now() // when the last post ended, well or ill
	refreshed := last
	var backoff time.Duration
	for ctx.Err() == nil {
		if wait := time.Until(r.next(last, refreshed, backoff)); wait > 0 {
			r.pause(ctx, wait)
			continue
		}
		reports, everything := r.take(refreshed)
		if everything {
			refreshed = time.Now()
		}
		err := r.post(ctx, reports)
		last = time.Now()
		switch {
		case err == nil:
			if backoff > 0 {
				r.log.Info("reports go out again")
			}
			backoff = 0
			continue
		case ctx.Err() != nil:
			return
		case backoff == 0:
			r.log.Warn("reports cannot be sent; trying again", "error", err)
		}
		r.giveBack(reports)
		backoff = min(max(2*backoff, reportBackoffMin), reportBackoffMax)
		backoff -= rand.N(backoff / 4) // so that a fleet does not retry in step
	}
}

// pause waits for d, news, or the end of ctx.
func (r *reporter) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.nudge:
	case <-ctx.Done():
	}
}

func (r *reporter) post(ctx context.Context, reports []starling.MachineReport) error {
	if len(reports) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	return r.leader.ReportMachine(ctx, reports)
}
