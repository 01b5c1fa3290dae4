package chaos

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

// Probes of leaders.
const (
	probeEvery  = 100 * time.Millisecond
	probeWithin = time.Second
	// leaderlessOver is from when on a pause between two answers of a leader counts.
	leaderlessOver = 500 * time.Millisecond
)

// board is what the servers say: the phases of deployments and who leads. Safe for
// concurrent use.
type board struct {
	ledger *ledger

	mu       sync.Mutex
	phases   map[string]map[starling.Phase]bool // by deployment, those that it has entered
	changed  chan struct{}                      // closed and replaced at each new phase
	leaders  map[string]string                  // by region, the last server that said it leads
	answered map[string]time.Time               // by region, when
	gaps     []gap
}

// gap is a time without an answer of a leader.
type gap struct {
	region      string
	from, until time.Time
}

func newBoard(l *ledger) *board {
	return &board{ledger: l, phases: map[string]map[starling.Phase]bool{}, changed: make(chan struct{}),
		leaders: map[string]string{}, answered: map[string]time.Time{}}
}

// follow notes the events of one server until ctx ends.
func (b *board) follow(ctx context.Context, api *client.Client) error {
	last := ""
	for ctx.Err() == nil {
		err := api.Events(ctx, last, func(e client.ServerEvent) error {
			last = e.ID
			if e.Deployment != "" && e.Phase != "" {
				b.enter(e.Deployment, e.Phase)
			}
			return nil
		})
		if ctx.Err() != nil {
			break
		}
		var problem *client.Error
		if errors.As(err, &problem) && problem.Status < 500 { // the ID is of events that are gone
			last = ""
		}
		if sleep(ctx, probeEvery) != nil {
			break
		}
	}
	return ctx.Err()
}

func (b *board) enter(id string, p starling.Phase) {
	b.ledger.phase(id, p, time.Now())
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phases[id] == nil {
		b.phases[id] = map[starling.Phase]bool{}
	}
	if !b.phases[id][p] {
		b.phases[id][p] = true
		close(b.changed)
		b.changed = make(chan struct{})
	}
}

// entered waits until a deployment has entered a phase; false: it ended, or ctx did, before.
func (b *board) entered(ctx context.Context, id string, p starling.Phase) bool {
	for {
		b.mu.Lock()
		there, over, changed := b.phases[id][p], b.overLocked(id), b.changed
		b.mu.Unlock()
		if there || over {
			return there
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (b *board) overLocked(id string) bool {
	for p := range b.phases[id] {
		if p.Terminal() {
			return true
		}
	}
	return false
}

// ended waits until a deployment has ended, or ctx has.
func (b *board) ended(ctx context.Context, id string) {
	for {
		b.mu.Lock()
		over, changed := b.overLocked(id), b.changed
		b.mu.Unlock()
		if over {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// probe asks a server again and again whether it leads, until ctx ends.
func (b *board) probe(ctx context.Context, a *actor) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, probeWithin)
		status, err := a.api.Leader(asking)
		cancel()
		if err == nil && status.Self {
			b.leads(a.Region, a.Name, time.Now())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (b *board) leads(region, name string, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if last, ok := b.answered[region]; ok && at.Sub(last) > leaderlessOver {
		b.gaps = append(b.gaps, gap{region, last, at})
	}
	b.answered[region], b.leaders[region] = at, name
}

// leader returns who leads a region as far as is known, and how long ago it said so.
func (b *board) leader(region string) (string, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leaders[region], time.Since(b.answered[region])
}

// pauses returns the gaps, those that are still open included.
func (b *board) pauses(now time.Time) []gap {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := append([]gap{}, b.gaps...)
	for region, at := range b.answered {
		if now.Sub(at) > leaderlessOver {
			out = append(out, gap{region, at, now})
		}
	}
	return out
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
