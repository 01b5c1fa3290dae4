package control

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// Rhythms and bounds of progress.
const (
	progressEvery     = 500 * time.Millisecond // that a deployment's progress is looked at
	progressEndedFor  = 30 * time.Second       // that the end of a deployment is told
	progressWithin    = 20 * time.Second       // one question, its wait included
	progressWait      = 10 * time.Second       // that a leader waits for something new
	regionsLookEvery  = 10 * time.Second       // that a follower of progress looks for new regions
	maxProgressAnswer = 1024                   // deployments in one answer
	maxEstimates      = 8                      // deployments whose stages are estimated at one look: each reads up to 400 records
)

// progressBoard remembers what was last told of each deployment under way, so that
// followers hear changes only, and all hear the same. It lives in a leader's memory, for
// one term.
type progressBoard struct {
	mu      sync.Mutex
	looked  time.Time
	version uint64
	told    map[string]*toldProgress
	stages  map[string][]starling.StageEstimate // by deployment under way, as estimated when it was first looked at
}

type toldProgress struct {
	starling.DeploymentProgress
	version uint64
	ended   time.Time // zero: under way
}

func newProgressBoard() *progressBoard {
	return &progressBoard{told: map[string]*toldProgress{}, stages: map[string][]starling.StageEstimate{}}
}

// ProgressSince returns what has changed since a version, in order of the changes, and the
// version to ask for next. It looks anew every progressEvery at most.
func (r *Reign) ProgressSince(v raftfsm.View, version uint64, now time.Time) ([]starling.DeploymentProgress, uint64) {
	b := r.progress
	b.mu.Lock()
	defer b.mu.Unlock()
	if since := now.Sub(b.looked); since >= progressEvery || since < 0 {
		b.looked = now
		r.lookAtProgress(v, now)
	}
	var news []*toldProgress
	for _, t := range b.told {
		if t.version > version {
			news = append(news, t)
		}
	}
	slices.SortFunc(news, func(x, y *toldProgress) int { return cmp.Compare(x.version, y.version) })
	var out []starling.DeploymentProgress
	for _, t := range news[:min(len(news), maxProgressAnswer)] {
		version = t.version
		out = append(out, t.DeploymentProgress)
	}
	return out, version
}

// lookAtProgress takes in how the deployments homed here stand, and forgets those that
// ended a while ago.
func (r *Reign) lookAtProgress(v raftfsm.View, now time.Time) {
	b := r.progress
	active := map[string]bool{}
	estimates := 0
	for _, d := range v.Active() {
		active[d.ID] = true
		p := r.progressOf(v, d, now)
		if _, known := b.stages[d.ID]; !known && estimates < maxEstimates {
			before := pastOf(v, d.App)
			b.stages[d.ID], _ = before.stages(d)
			estimates++
		}
		p.EndsAt = endsAt(&p, b.stages[d.ID])
		b.take(p)
	}
	maps.DeleteFunc(b.stages, func(id string, _ []starling.StageEstimate) bool { return !active[id] })
	for id, t := range b.told {
		switch d, ok := v.Deployment(id); {
		case active[id]:
		case !ok || !t.ended.IsZero() && now.Sub(t.ended) > progressEndedFor:
			delete(b.told, id)
		case t.ended.IsZero():
			b.take(r.progressOf(v, d, now))
			b.told[id].ended = now
		}
	}
}

// take keeps a word if it is news.
func (b *progressBoard) take(p starling.DeploymentProgress) {
	if old := b.told[p.Deployment]; old != nil {
		same := p
		same.At, same.LeftMS, same.EndsAt = old.At, old.LeftMS, old.EndsAt
		if reflect.DeepEqual(&same, &old.DeploymentProgress) {
			return
		}
	}
	b.version++
	b.told[p.Deployment] = &toldProgress{DeploymentProgress: p, version: b.version}
}

// progressOf is how a deployment stands now.
func (r *Reign) progressOf(v raftfsm.View, d *starling.Deployment, now time.Time) starling.DeploymentProgress {
	obs := Observations{Now: now, Reports: map[string]map[string]Report{d.App: r.home.of(d.App)}}
	c := &deciding{view: v, obs: &obs, dep: d, goal: goalOf(v, d)}
	p := starling.DeploymentProgress{
		Deployment: d.ID, App: d.App, Home: d.Home, Phase: d.Phase, PhaseAt: d.PhaseAt, CreatedAt: d.CreatedAt, Deadline: d.Deadline,
		Attempt: d.Attempt, Worker: d.Worker, Wave: d.Wave, Waves: len(d.Spec.Deploy.Strategy.Waves), Paused: d.Paused, Reason: d.Reason,
		Machines: d.Machines, Bytes: d.Bytes, At: now.UTC(),
	}
	if !d.Phase.Terminal() {
		if sum := c.tally(); sum.known {
			p.Machines, p.Bytes = sum.counts, sum.bytes
		}
	}
	for _, place := range d.Regions {
		p.Regions = append(p.Regions, c.regionProgress(place))
	}
	if d.Phase == starling.PhaseRollingOut {
		p.Step = d.StepText()
	}
	p.LeftMS = p.Left().Milliseconds()
	return p
}

func (c *deciding) regionProgress(p starling.Placing) starling.RegionProgress {
	out := starling.RegionProgress{Placing: p}
	r, ok := c.report(p.Name)
	if !ok || c.dep.Phase.Terminal() {
		return out
	}
	if !p.Placed {
		out.ChunksDone, out.ChunksTotal = r.Placing.ChunksDone, r.Placing.ChunksTotal
	}
	n := r.Counts
	out.Heard, out.Bytes, out.Progress = true, r.Bytes, r.Progress
	out.Target, out.Staged, out.Due, out.Healthy, out.Failed, out.Absent = n.Target, n.Staged, n.Due, n.Healthy, n.Failed, n.Absent
	if silent := c.obs.Now.Sub(r.At); silent >= regionSeenWithin {
		out.SilentMS = silent.Truncate(time.Second).Milliseconds()
	}
	return out
}

// serveProgress answers another server as soon as there is news, or after a while without.
func (s *Server) serveProgress(w http.ResponseWriter, r *http.Request, c *caller) error {
	version, wait, err := blocking(r)
	if err != nil {
		return err
	}
	out := rpc.ProgressResponse{Term: c.term.conf.Term, Deployments: []starling.DeploymentProgress{}}
	if r.URL.Query().Get("term") != out.Term {
		version = 0
	}
	ctx, cancel := s.whileLeading(r.Context(), c.term)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, min(wait, progressWait))
	defer stop()
	news, next := c.term.awaitProgress(ctx, version)
	out.Deployments, out.Version = append(out.Deployments, news...), next
	return answer(w, out)
}

// awaitProgress returns what is newer than a version, nothing once ctx ends.
func (t *term) awaitProgress(ctx context.Context, version uint64) ([]starling.DeploymentProgress, uint64) {
	for {
		news, next := t.ProgressSince(t.s.cfg.FSM.View(), version, t.now())
		if len(news) > 0 {
			return news, next
		}
		if sleep(ctx, progressEvery/2) != nil {
			return nil, version
		}
	}
}

// FollowProgress implements httpapi.Events: it calls tell with how deployments stand, first
// all that are under way, then those that changed, until ctx ends. It asks the leader
// of each region, once for all watchers of this server.
func (s *Server) FollowProgress(ctx context.Context, tell func([]starling.DeploymentProgress)) {
	var one sync.Mutex
	told := func(news []starling.DeploymentProgress) {
		one.Lock()
		defer one.Unlock()
		tell(news)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	following := map[string]bool{}
	for ctx.Err() == nil {
		for _, region := range append(s.otherRegions(s.cfg.FSM.View()), s.cfg.Region) {
			if !following[region] {
				following[region] = true
				wg.Go(func() { s.followProgressOf(ctx, region, told) })
			}
		}
		if sleep(ctx, regionsLookEvery) != nil {
			return
		}
	}
}

// followProgressOf follows the deployments homed in one region, over its changes of leader.
func (s *Server) followProgressOf(ctx context.Context, region string, tell func([]starling.DeploymentProgress)) {
	pause := backoff{most: time.Second}
	client := rpc.Client{HTTP: &http.Client{Transport: toLeader{s, region}}}
	var at rpc.ProgressResponse
	for ctx.Err() == nil {
		if t, _ := s.leading(); t != nil && region == s.cfg.Region {
			during, cancel := s.whileLeading(ctx, t)
			var version uint64
			for during.Err() == nil {
				var news []starling.DeploymentProgress
				if news, version = t.awaitProgress(during, version); len(news) > 0 {
					tell(news)
				}
			}
			cancel()
			continue
		}
		asked, cancel := context.WithTimeout(ctx, progressWithin)
		got, err := client.Progress(asked, at.Term, at.Version, progressWait)
		cancel()
		if err != nil { // no leader, or one of the version before
			if pause.wait(ctx) != nil {
				return
			}
			continue
		}
		pause.reset()
		if at = got; len(at.Deployments) > 0 {
			tell(at.Deployments)
			at.Deployments = nil
		}
	}
}
