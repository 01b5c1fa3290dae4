package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// Bounds of the fan-out.
const (
	maxFrames     = 128                   // that are kept for watchers who write slowly
	maxStanding   = 4096                  // deployments whose progress a new watcher hears
	fanoutRest    = 10 * time.Millisecond // between two looks at the events: a burst is one write
	eventMessage  = "id: %s\ndata: %s\n\n"
	eventProgress = "event: progress\ndata: %s\n\n" // no id: a watcher resumes after an event that is committed
	eventGap      = "event: gap\ndata: {}\n\n"
)

// note is something to tell watchers, encoded once for all of them.
type note struct {
	at         position // of a committed event; zero: progress
	app        string
	deployment string
	data       []byte
	full       []byte // progress, for those who watch this deployment alone
}

// frame is what one look at the events gave.
type frame struct {
	notes []note
	gap   bool     // events before these are gone
	upTo  position // everything up to here has been told
}

// fanout reads events and progress once for all who watch this server. Its two goroutines
// begin with the first watcher and end with the last.
type fanout struct {
	backend Backend
	logger  *slog.Logger
	region  string

	mu       sync.Mutex
	watchers int
	stop     context.CancelFunc // of the readers; nil: none run
	ended    chan struct{}      // closed when they have
	at       position           // what the newest frame tells of, and all before
	newest   uint64             // number of the newest frame, from 1
	frames   [maxFrames]frame   // number n is at n % maxFrames
	changed  chan struct{}      // closed by the next frame
	standing map[string]note    // the last progress of each deployment under way
}

func newFanout(b Backend, logger *slog.Logger) *fanout {
	return &fanout{backend: b, logger: logger, region: b.Leader().Region, changed: make(chan struct{}), standing: map[string]note{}}
}

// enter counts a watcher in, and starts the readers for the first. The watcher calls leave.
func (f *fanout) enter() (leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers++
	if f.stop == nil {
		f.start()
	}
	return f.leave
}

func (f *fanout) start() {
	ctx, stop := context.WithCancel(context.Background()) // until the last watcher leaves
	before, ended := f.ended, make(chan struct{})
	f.stop, f.ended = stop, ended
	f.at = position{f.backend.Leader().Index, math.MaxInt32, f.region}
	clear(f.standing)
	go func() {
		defer close(ended)
		if before != nil {
			<-before // the readers of earlier watchers must not tell these
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			f.backend.FollowProgress(ctx, func(news []starling.DeploymentProgress) { f.tellProgress(ctx, news) })
		})
		f.readEvents(ctx)
		wg.Wait()
	}()
}

func (f *fanout) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers--; f.watchers == 0 {
		f.stop()
		f.stop = nil
	}
}

// readEvents makes frames of the events from f.at on.
func (f *fanout) readEvents(ctx context.Context) {
	f.mu.Lock()
	at := f.at
	f.mu.Unlock()
	for ctx.Err() == nil {
		seen := f.backend.Leader().Index
		fr, full := readFrame(f.backend, f.region, at, seen, f.logger)
		at = fr.upTo
		f.tell(ctx, fr)
		if full {
			continue
		}
		f.backend.WaitIndex(ctx, seen)
		rest(ctx, fanoutRest)
	}
}

// readFrame reads the events after a position. With full there may be more; otherwise it
// has told all up to index seen, which was applied before the call.
func readFrame(b Events, region string, at position, seen uint64, logger *slog.Logger) (fr frame, full bool) {
	events, lost := b.EventsAfter(at.index, at.n, maxEventsBatch)
	fr = frame{gap: lost, upTo: at}
	for i := range events {
		e := &events[i]
		fr.upTo = position{e.Index, e.N, region}
		data, err := json.Marshal(e) // one line: JSON escapes line ends
		if err != nil {
			logger.Error("an event cannot be told", "event", fr.upTo, "error", err) // plain data: unreachable
			fr.gap = true
			continue
		}
		fr.notes = append(fr.notes, note{at: fr.upTo, app: e.App, deployment: e.Deployment, data: fmt.Appendf(nil, eventMessage, fr.upTo, data)})
	}
	if full = len(events) == maxEventsBatch; !full {
		if all := (position{seen, math.MaxInt32, region}); fr.upTo.before(all) {
			fr.upTo = all
		}
	}
	return fr, full
}

// tell notes how far the events are read, and adds the frame if it says anything; once ctx is
// over, neither.
func (f *fanout) tell(ctx context.Context, fr frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	f.at = fr.upTo
	if fr.gap || len(fr.notes) > 0 {
		f.addLocked(fr)
	}
}

func (f *fanout) addLocked(fr frame) {
	f.newest++
	f.frames[f.newest%maxFrames] = fr
	close(f.changed)
	f.changed = make(chan struct{})
}

// tellProgress makes a frame of what deployments have come to, unless ctx is over.
func (f *fanout) tellProgress(ctx context.Context, news []starling.DeploymentProgress) {
	fr := frame{}
	for i := range news {
		p := news[i]
		full, err := json.Marshal(&p)
		p.Regions = nil
		brief, berr := json.Marshal(&p)
		if err != nil || berr != nil {
			continue // plain data: unreachable
		}
		fr.notes = append(fr.notes, note{
			app: p.App, deployment: p.Deployment,
			data: fmt.Appendf(nil, eventProgress, brief), full: fmt.Appendf(nil, eventProgress, full),
		})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	for i, n := range fr.notes {
		switch {
		case news[i].Phase.Terminal():
			delete(f.standing, n.deployment)
		case len(f.standing) < maxStanding || f.standing[n.deployment].data != nil:
			f.standing[n.deployment] = n
		}
	}
	fr.upTo = f.at
	f.addLocked(fr)
}

// after returns the frames after number seen, which must be one that was returned before or
// 0, and what is closed when there is another. behind: some are no longer here.
func (f *fanout) after(seen uint64) (frames []frame, newest uint64, changed <-chan struct{}, behind bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.newest-seen > maxFrames {
		return nil, f.newest, f.changed, true
	}
	for n := seen + 1; n <= f.newest; n++ {
		frames = append(frames, f.frames[n%maxFrames])
	}
	return frames, f.newest, f.changed, false
}

// join returns where the frames to come begin: their number, the position up to which
// everything is told in the frames before, and how deployments stand.
func (f *fanout) join() (seen uint64, at position, standing []note) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.standing {
		standing = append(standing, n)
	}
	return f.newest, f.at, standing
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
