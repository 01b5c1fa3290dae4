package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
)

// Bounds of the desk.
const (
	maxLeaseAsks    = 8192 // workers' slots that wait for a job
	maxGrantEntries = 4    // entries of leases under way
)

// LeaseAsk is one worker's slot that waits for a job: a question for one desk.
type LeaseAsk struct {
	worker  string
	holding []string
	once    bool        // it does not wait: no job now is an answer, too
	known   bool        // it has been looked for a job that this slot has lost
	pick    string      // the deployment that it is to get; "": the first that waits
	taken   atomic.Bool // by the desk, or by its caller giving up
	answer  chan leaseAnswer
}

// NewLeaseAsk returns the question of a worker's slot for a job; holding lists those that
// it has. With once no job now is an answer, too.
func NewLeaseAsk(worker string, holding []string, once bool) *LeaseAsk {
	return &LeaseAsk{worker: worker, holding: holding, once: once, answer: make(chan leaseAnswer, 1)}
}

// Answer returns the answer, if it is there: a job or none, or an error; again if another
// slot was faster and the question is to be asked anew.
func (a *LeaseAsk) Answer() (job *starling.Deployment, again, ok bool, err error) {
	select {
	case got := <-a.answer:
		return got.job, got.again, true, got.err
	default:
		return nil, false, false, nil
	}
}

type leaseAnswer struct {
	job   *starling.Deployment // nil: there was none
	err   error
	again bool // another was faster: ask again
}

// Withdraw gives up waiting. False: a lease is under way, and its answer will come.
func (a *LeaseAsk) Withdraw() bool { return a.taken.CompareAndSwap(false, true) }

// LeaseDesk decides which workers' questions become commands: no more than there are
// jobs, first come, first served, so that the idle cost no log entries however many they
// are; and as many at once as there are, so that an entry grants leases to all of them.
// Where there are more jobs than workers it also picks which: see jobLine. It is for one
// goroutine.
type LeaseDesk struct {
	waiting  []*LeaseAsk
	busy     map[string]bool // workers whose lease is under way
	underWay int             // leases that are; the state may still show their jobs as free
	line     jobLine
}

// NewLeaseDesk returns a desk at which nobody waits.
func NewLeaseDesk() *LeaseDesk { return &LeaseDesk{busy: map[string]bool{}, line: newJobLine()} }

// Add queues a question. A newer one of the same slot takes the place of the older,
// whose caller must have gone.
func (d *LeaseDesk) Add(a *LeaseAsk) {
	d.waiting = slices.DeleteFunc(d.waiting, func(old *LeaseAsk) bool {
		if old.worker != a.worker {
			return old.taken.Load()
		}
		if old.Withdraw() {
			old.answer <- leaseAnswer{}
		}
		return true
	})
	if len(d.waiting) >= maxLeaseAsks && a.Withdraw() {
		a.answer <- leaseAnswer{err: fmt.Errorf("%d workers wait for jobs: %w", maxLeaseAsks, starling.ErrUnavailable)}
		return
	}
	d.waiting = append(d.waiting, a)
}

// Take removes those whose questions are to be proposed now, in one entry. The view must
// not be older than the last call of Done.
func (d *LeaseDesk) Take(v raftfsm.View) []*LeaseAsk {
	if len(d.waiting) == 0 {
		return nil
	}
	most := len(d.waiting) + d.underWay
	free := v.CountBuildable(most+1) - d.underWay
	var picks []string
	// By itself a leader uses nothing new: the way back to the version before stays open.
	if free > len(d.waiting) && v.Level() >= raftfsm.LevelPicks {
		picks = d.line.order(v)
	}
	var batch []*LeaseAsk
	left := d.waiting[:0]
	for _, a := range d.waiting {
		switch {
		case len(batch) == raftfsm.MaxEntryCommands || d.busy[a.worker]:
			left = append(left, a)
		case free > 0 || !a.known && lostJob(v, a.worker, a.holding):
			if a.taken.CompareAndSwap(false, true) { // else its caller has gone
				batch = append(batch, a)
				d.busy[a.worker] = true
				free--
				if len(picks) > 0 {
					a.pick, picks = picks[0], picks[1:]
					d.line.picked[a.pick] = true
				}
			}
		case a.once:
			if a.Withdraw() {
				a.answer <- leaseAnswer{}
			}
		default:
			a.known = true
			left = append(left, a)
		}
	}
	clear(d.waiting[len(left):])
	d.waiting = left
	d.underWay += len(batch)
	return batch
}

// Done notes that a batch has its answers.
func (d *LeaseDesk) Done(batch []*LeaseAsk) {
	d.underWay -= len(batch)
	for _, a := range batch {
		delete(d.busy, a.worker)
		delete(d.line.picked, a.pick)
	}
}

// lostJob reports whether the state says that a slot builds what it says it does not.
func lostJob(v raftfsm.View, worker string, holding []string) bool {
	return slices.ContainsFunc(v.BuiltBy(worker), func(d *starling.Deployment) bool { return !slices.Contains(holding, d.ID) })
}

// grantLoop runs the desk until ctx ends.
func (t *term) grantLoop(ctx context.Context) error {
	desk := NewLeaseDesk()
	answered := make(chan []*LeaseAsk, maxGrantEntries)
	granting := 0
	var grants sync.WaitGroup
	defer grants.Wait()
	for {
		v := t.s.cfg.FSM.View()
		var changed <-chan struct{}
		if granting < maxGrantEntries {
			if batch := desk.Take(v); len(batch) > 0 {
				granting++
				grants.Go(func() {
					t.grant(ctx, batch)
					answered <- batch
				})
				continue
			}
			if len(desk.waiting) > 0 {
				changed = t.s.cfg.FSM.Changed(v.Index())
			}
		}
		select {
		case a := <-t.asks:
			desk.Add(a)
			for range len(t.asks) {
				desk.Add(<-t.asks)
			}
		case batch := <-answered:
			granting--
			desk.Done(batch)
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// grant proposes leases in one entry and gives everybody their answer.
func (t *term) grant(ctx context.Context, batch []*LeaseAsk) {
	results, err := t.proposeLeases(ctx, batch)
	t.Grant(batch, results, err, t.now())
}

// Grant gives those in a batch their answers: the results of their commands, or why there
// are none.
func (r *Reign) Grant(batch []*LeaseAsk, results []raftfsm.Result, err error, now time.Time) {
	for i, a := range batch {
		switch {
		case err != nil:
			a.answer <- leaseAnswer{err: err}
		case results[i].Err != nil:
			a.answer <- leaseAnswer{err: fmt.Errorf("lease: %w", results[i].Err)}
		default:
			d := results[i].Deployment
			if d != nil {
				r.jobs.beat(d.ID, d.Lease, now)
			}
			a.answer <- leaseAnswer{job: d, again: d == nil && !a.once}
		}
	}
}

func (t *term) proposeLeases(ctx context.Context, batch []*LeaseAsk) ([]raftfsm.Result, error) {
	cmds, err := LeaseCommands(batch, t.now())
	if err != nil {
		return nil, err
	}
	if err := t.Supported(t.s.cfg.FSM.View(), t.now()); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	results, err := t.s.commit(ctx, cmds...)
	if err == nil {
		err = t.proposeUnpicked(ctx, batch, results)
	}
	if err == nil {
		err = t.Supported(t.s.cfg.FSM.View(), t.now()) // committing may have taken long
	}
	switch {
	case err != nil && ctx.Err() != nil && !errors.Is(err, starling.ErrOutcomeUnknown):
		return nil, fmt.Errorf("lease: %w", errors.Join(starling.ErrNotLeader, err))
	case err != nil:
		return nil, fmt.Errorf("lease: %w", err)
	}
	return results, nil
}

// proposeUnpicked asks again, without a pick, for those whose pick a server of the version
// before could not follow. Of them nothing was committed.
func (t *term) proposeUnpicked(ctx context.Context, batch []*LeaseAsk, results []raftfsm.Result) error {
	var again []*LeaseAsk
	var places []int
	for i := range results {
		if errors.Is(results[i].Err, raftnode.ErrServerTooOld) {
			plain := &LeaseAsk{worker: batch[i].worker, holding: batch[i].holding}
			again, places = append(again, plain), append(places, i)
		}
	}
	if len(again) == 0 {
		return nil
	}
	cmds, err := LeaseCommands(again, t.now())
	if err != nil {
		return err
	}
	more, err := t.s.commit(ctx, cmds...)
	for k := range more {
		results[places[k]] = more[k]
	}
	return err
}

// LeaseCommands makes one command of each question.
func LeaseCommands(batch []*LeaseAsk, now time.Time) ([]raftfsm.Command, error) {
	cmds := make([]raftfsm.Command, len(batch))
	for i, a := range batch {
		var err error
		cmds[i], err = raftfsm.NewCommand(raftfsm.TypeJobLease, now, "worker:"+a.worker, raftfsm.JobLease{Worker: a.worker, Holding: a.holding, Deployment: a.pick})
		if err != nil {
			return nil, err
		}
	}
	return cmds, nil
}

// lease waits until wait ends, or only for a look if it is but once, for a job for a
// worker's slot; nil: there was none. A lease that is under way is seen through even if
// the wait ends.
func (t *term) lease(wait context.Context, worker string, holding []string, once bool) (*starling.Deployment, error) {
	for {
		a := NewLeaseAsk(worker, holding, once)
		select {
		case t.asks <- a:
		case <-wait.Done():
			return nil, nil
		}
		select {
		case got := <-a.answer:
			if !got.again {
				return got.job, got.err
			}
		case <-wait.Done():
			if a.Withdraw() {
				return nil, nil
			}
			got := <-a.answer // as long as a proposal may take
			return got.job, got.err
		}
	}
}
