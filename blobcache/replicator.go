package blobcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Control is what a Replicator needs of its region's servers; *rpc.Client satisfies it.
type Control interface {
	Wants(ctx context.Context, index uint64, wait time.Duration) (rpc.Wants, error)
	ReportCache(ctx context.Context, r rpc.CacheReport) error
}

// Bounds of a Replicator.
const (
	wanInFlight     = 16 // chunks on their way from other regions
	lanInFlight     = 16 // chunks on their way, or waited for, from caches of the region
	nearestInFlight = 12 // of either, for the nearest deadline while others of its priority want some
	dryInFlight     = 4  // of wanInFlight, for an artifact whose sources lack chunks
	maxMisses       = 16 // failures in a row, of one artifact's chunks, before it pauses
	plansInFlight   = 2
	reportEvery     = 250 * time.Millisecond // when something changed
	reportIdle      = 5 * time.Second        // when nothing did
	reportTimeout   = 10 * time.Second
	minBackoff      = 250 * time.Millisecond
	maxBackoff      = 15 * time.Second
	defaultPatience = 20 * time.Second
)

// ReplicatorConfig says what a Replicator works with.
type ReplicatorConfig struct {
	Name    string // of this cache
	Store   Store
	Client  *Client
	Control Control
	// Members tells the nodes of the region, this one included; Changed gives a channel
	// that closes at the next change of them.
	Members func() []starling.Node
	Changed func() <-chan struct{}
	// Verify judges an envelope from a peer or from the disk.
	Verify func(envelope []byte, artifact starling.Digest) (*starling.Manifest, error)
	// OutBytes tells the bytes sent to machines for an artifact, for reports.
	OutBytes func(artifact starling.Digest) int64
	// Egress is told how many caches share it; nil: there is none.
	Egress *Egress
	// Patcher applies patches from other regions, and gives them to the Server that
	// shares it; nil: an own one.
	Patcher *Patcher
	// ReadBase reads an older chunk that Store lacks from nearby; nil: there is nowhere.
	ReadBase ReadChunk
	Logger   *slog.Logger
	// FollowPatience is how long a cache that is second in line for a chunk waits for
	// signs of life of the first before it pulls from another region itself; 0: 20 s.
	FollowPatience time.Duration
}

// Replicator brings to one cache its share of what the region's servers want.
//
// Of the caches of a region, the first R in a chunk's rendezvous order hold it. The
// first pulls it from another region, the rest from the first: about one copy
// crosses the link. What a neighbour holds already is taken from there. Drafts of
// builds under way elsewhere are fetched in the same way ahead of their manifest.
//
// One loop, Run, owns all state; planning, transfers and reports run in a bounded
// number of goroutines that send back results.
type Replicator struct {
	cfg     ReplicatorConfig
	buffers *buffers
	follow  progress

	replicas int
	jobs     map[starling.Digest]*job
	active   map[starling.Digest]bool // chunks in flight, for whichever artifact
	wan, lan int                      // slots in use
	plans    int
	lost     uint64 // Usage().Lost when last looked at

	informed    bool            // wants are known; before, a report would seem to say that all is lost
	reported    rpc.CacheReport // the last one delivered
	reportedAt  time.Time
	reign       string    // of the leader that was reported to
	reportAfter time.Time // not before, after a failure
	reporting   bool

	urgency sync.Map // of jobs' Urgency, by artifact, for those who are not the loop

	wants   chan rpc.Wants
	planned chan plan
	pulled  chan pulled
	sent    chan sent
}

// sent is the result of delivering a report.
type sent struct {
	report rpc.CacheReport
	err    error
}

// NewReplicator returns a replicator; Run runs it.
func NewReplicator(cfg ReplicatorConfig) *Replicator {
	if cfg.FollowPatience == 0 {
		cfg.FollowPatience = defaultPatience
	}
	if cfg.Patcher == nil {
		cfg.Patcher = NewPatcher()
	}
	return &Replicator{
		cfg:     cfg,
		buffers: newBuffers((2*wanInFlight+lanInFlight)*starling.MaxChunkBytes, exchangeTimeout),
		follow:  progress{at: map[string]time.Time{}},
		jobs:    map[starling.Digest]*job{},
		active:  map[starling.Digest]bool{},
		wants:   make(chan rpc.Wants),
		planned: make(chan plan, plansInFlight), // results never block
		pulled:  make(chan pulled, wanInFlight+lanInFlight),
		sent:    make(chan sent, 1),
	}
}

// Urgency returns how urgently the region's servers want an artifact, and false if
// they do not. Safe for concurrent use; it fits ServerConfig.Urgency.
func (r *Replicator) Urgency(artifact starling.Digest) (u Urgency, known bool) {
	v, known := r.urgency.Load(artifact)
	u, _ = v.(Urgency)
	return u, known
}

// Run works until ctx ends, then returns nil when all it began has stopped.
func (r *Replicator) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		r.watchWants(ctx)
		return nil
	})
	g.Go(func() error {
		r.loop(ctx, g)
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("replicate: %w", err)
	}
	return nil
}

// watchWants keeps a blocking query for the region's wants open.
func (r *Replicator) watchWants(ctx context.Context) {
	var index uint64
	failures := 0
	for ctx.Err() == nil {
		w, err := r.cfg.Control.Wants(ctx, index, rpc.MaxWait)
		if err != nil {
			if failures == 0 && ctx.Err() == nil {
				r.cfg.Logger.Info("cannot learn what to hold; retrying", "error", err)
			}
			pause(ctx, backoff(failures))
			failures++
			continue
		}
		failures, index = 0, w.Index
		select {
		case r.wants <- w:
		case <-ctx.Done():
		}
	}
}

func (r *Replicator) loop(ctx context.Context, g *errgroup.Group) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	defer r.unfollowAll()
	changed := r.cfg.Changed()
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-r.wants:
			r.want(w)
		case <-changed:
			changed = r.cfg.Changed()
			r.shareEgress()
			r.replanAll()
		case p := <-r.planned:
			r.install(p)
		case p := <-r.pulled:
			r.finish(p)
		case s := <-r.sent:
			r.delivered(s)
		case <-tick.C:
			if lost := r.cfg.Store.Usage().Lost; lost != r.lost {
				r.lost = lost
				r.replanAll()
			}
			r.report(ctx, g)
		}
		r.start(ctx, g)
	}
}

// want takes over a new list of wanted artifacts and drafts.
func (r *Replicator) want(w rpc.Wants) {
	r.informed = true
	r.shareEgress()
	if w.Reign != r.reign {
		r.reign, r.reportedAt = w.Reign, time.Time{}
	}
	wanted := make(map[starling.Digest]bool, len(w.Wants)+len(w.Drafts))
	for _, one := range w.Wants {
		wanted[one.Artifact] = true
		j := r.jobs[one.Artifact]
		if j == nil {
			j = r.built(one)
		}
		j.sources, j.urgency, j.base = one.Sources, Urgency{one.Priority, one.Deadline}, one.Base
		r.urgency.Store(one.Artifact, j.urgency)
	}
	for _, one := range w.Drafts[:min(len(w.Drafts), rpc.MaxDrafts)] {
		r.wantDraft(one, wanted)
	}
	for artifact, j := range r.jobs {
		if !wanted[artifact] {
			j.unfollow()
			r.cfg.Store.Pin(artifact, nil)
			delete(r.jobs, artifact)
			r.urgency.Delete(artifact)
		}
	}
	if replicas := max(w.Replicas, 1); replicas != r.replicas {
		r.replicas = replicas
		r.replanAll()
	}
}

// shareEgress takes this cache's part among those that live, once it can know them.
func (r *Replicator) shareEgress() {
	if r.informed && r.cfg.Egress != nil {
		r.cfg.Egress.live(len(cachesOf(r.cfg.Members()).names))
	}
}

// replanAll has every share computed anew. What is being waited for inside the
// region is let go, since somebody else may be the one to wait for now.
func (r *Replicator) replanAll() {
	for _, j := range r.jobs {
		j.replan()
	}
}

func (r *Replicator) unfollowAll() {
	for _, j := range r.jobs {
		j.unfollow()
	}
}

// install begins the pulls of a finished plan.
func (r *Replicator) install(p plan) {
	r.plans--
	j := p.job
	if r.jobs[j.artifact] != j { // not wanted any more, or wanted anew
		if r.jobs[p.artifact] == nil {
			r.cfg.Store.Pin(p.artifact, nil)
		}
		return
	}
	j.planning = false
	if p.artifact != j.artifact {
		return // of the draft, and there is a manifest now
	}
	if p.chunks != nil {
		j.chunks, j.read = p.chunks, p.read
	}
	if p.err != nil {
		r.fail(j, p.err)
		return
	}
	if j.build != "" { // there is always something missing of what grows
		j.failures, j.problem = 0, ""
	}
	j.adopt(p)
}

// finish takes the result of one pull.
func (r *Replicator) finish(p pulled) {
	delete(r.active, p.digest)
	if p.lan {
		r.lan--
	} else {
		r.wan--
	}
	if p.err == nil && !p.stalled {
		r.got(p.digest)
	}
	j := p.job
	if r.jobs[j.artifact] != j {
		return
	}
	j.inFlight--
	j.wanBytes += p.wanBytes
	if !p.lan {
		j.wan--
		j.dry = p.dry
	}
	switch {
	case p.stalled: // nobody near has it: fetch it from afar
		j.wanQueue = append(j.wanQueue, p.digest)
	case errors.Is(p.err, context.Canceled): // let go for another plan
	case p.err != nil:
		r.fail(j, p.err)
	default:
		j.misses = 0
	}
}

// got notes that a chunk is held, for all that want it.
func (r *Replicator) got(d starling.Digest) {
	for _, j := range r.jobs {
		j.got(d)
	}
}

// fail notes what went wrong with a job. It goes on with its other chunks, unless
// they would fail as well, and is then planned anew after a while.
func (r *Replicator) fail(j *job, err error) {
	switch {
	case j.problem != "":
	case j.build != "":
		r.cfg.Logger.Info("cannot fetch ahead for a build; retrying", "deployment", j.build, "error", err)
	default:
		r.cfg.Logger.Warn("cannot replicate; retrying", "artifact", j.artifact.String(), "error", err)
	}
	j.problem = err.Error()
	j.problem = j.problem[:min(len(j.problem), starling.MaxReasonBytes)]
	j.failed = true
	j.again = max(j.again, AskAgainAfter(err))
	var own *storeError
	if j.misses++; j.misses >= maxMisses || errors.As(err, &own) {
		j.lanQueue, j.wanQueue = nil, nil
	}
}

// start begins what has a free slot: plans first, then pulls by priority.
func (r *Replicator) start(ctx context.Context, g *errgroup.Group) {
	if ctx.Err() != nil {
		return
	}
	jobs := make([]*job, 0, len(r.jobs))
	for _, j := range r.jobs {
		if j.busy() {
			jobs = append(jobs, j)
		}
	}
	slices.SortFunc(jobs, func(a, b *job) int {
		return cmp.Or(a.urgency.compare(b.urgency), slices.Compare(a.artifact[:], b.artifact[:]))
	})
	now := time.Now()
	for _, j := range jobs {
		if j.failed && !j.due && !j.planning && j.drained() {
			j.due, j.notBefore = true, now.Add(max(backoff(j.failures), j.again))
			j.again = 0
			j.failures++
		}
		if j.due && !j.planning && r.plans < plansInFlight && !now.Before(j.notBefore) {
			j.due, j.failed, j.planning, j.misses = false, false, true, 0
			r.plans++
			task := r.planTask(j)
			g.Go(func() error {
				r.planned <- task.run(ctx)
				return nil
			})
		}
	}
	for len(jobs) > 0 {
		n := 1
		for n < len(jobs) && jobs[n].urgency.Priority == jobs[0].urgency.Priority {
			n++
		}
		r.startPulls(ctx, g, jobs[:n], true)
		r.startPulls(ctx, g, jobs[:n], false)
		jobs = jobs[n:]
	}
}

// startPulls shares the free slots among jobs of one priority, the nearest deadline first: it
// gets nearestInFlight as long as the others have something to pull, who get the rest in
// turn, so that each of them moves.
func (r *Replicator) startPulls(ctx context.Context, g *errgroup.Group, jobs []*job, lan bool) {
	start := func(j *job) bool {
		if lan {
			return r.lan < lanInFlight && r.startPull(ctx, g, j, true)
		}
		return r.wan < wanInFlight && (!j.dry || j.wan < dryInFlight) && r.startPull(ctx, g, j, false)
	}
	first, rest := jobs[0], jobs[1:]
	for first.pulling(lan) < nearestInFlight && start(first) {
	}
	for more := true; more; {
		more = false
		for _, j := range rest {
			more = start(j) || more
		}
	}
	for start(first) {
	}
}

// startPull begins the next pull of one of a job's queues; false: there is none.
func (r *Replicator) startPull(ctx context.Context, g *errgroup.Group, j *job, lan bool) bool {
	p, ok := j.next(lan, r.active)
	if !ok {
		return false
	}
	if _, held := r.cfg.Store.Stat(p.chunk.Digest); held { // it came while the plan was made
		r.got(p.chunk.Digest)
		return true
	}
	r.active[p.chunk.Digest] = true
	j.inFlight++
	if lan {
		r.lan++
		ctx = j.following(ctx)
	} else {
		r.wan++
		j.wan++
	}
	task := r.pullTask(j, p)
	g.Go(func() error {
		r.pulled <- task.run(ctx, lan)
		return nil
	})
	return true
}

// backoff returns a pause that doubles with the failures before it, with jitter.
func backoff(failures int) time.Duration {
	d := min(minBackoff<<min(failures, 10), maxBackoff)
	return d/2 + rand.N(d/2+1)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
