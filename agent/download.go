package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

// Bounds of a download.
const (
	manifestTimeout    = 30 * time.Second // of one attempt at one source
	maxManifestSources = 8                // asked in one round
	downloadRetryMin   = 250 * time.Millisecond
	downloadRetryMax   = 30 * time.Second
	syncEvery          = 5 * time.Second // what a loss of power can lose; a kill loses nothing
)

// download brings one artifact into one app's directory: manifest, clone, swarm,
// finish. The loop owns it; its workers post events, and it is gone only when all
// of them have ended.
type download struct {
	f        *flock
	dir      appDir
	artifact starling.Digest
	sel      starling.Selector
	log      *slog.Logger

	ctx      context.Context
	cancel   context.CancelFunc
	workers  int
	ended    bool
	olds     []*release // of the app, complete
	rel      *release   // nil until prepared
	older    *older     // one of olds; nil: none
	bytes    starling.Bytes
	book     *book  // where it came from, and why it took so long
	problem  string // for people
	retry    time.Duration
	unsynced bool      // something was written after the last sync began
	syncedAt time.Time // when the last sync began
	syncing  bool
	fetching int  // workers that bring chunks
	due      bool // every chunk is held: seal once nobody writes
	sealing  bool // Finish is under way
	finished bool

	verify   VerifyFunc
	progress func() // something to report
	complete func() // all is on disk, ready to run
	gone     func() // it has ended, and no worker is left
}

// start begins, or begins anew, with a worker that prepares the directory.
func (d *download) start() {
	sources := d.f.manifestSources(d.sel)
	d.worker(func(ctx context.Context) event {
		rel, err := prepareRelease(ctx, d, sources)
		var local int64
		if err == nil {
			if local, err = cloneChunks(ctx, rel, d.f.catalog, d.f.buffers); err != nil {
				err = errors.Join(err, rel.close())
				rel = nil
			}
		}
		prepared := downloadPrepared{d: d, rel: rel, local: local, err: err}
		if err == nil && !rel.tree.Complete() {
			prepared.older = findOlder(rel, d.olds)
		}
		return prepared
	})
}

// worker runs do, whose event is posted.
func (d *download) worker(do func(context.Context) event) {
	d.workers++
	d.f.run.work(func() { d.f.run.post(do(d.ctx)) })
}

// end stops the download; closed is called when its last worker has ended.
func (d *download) end() {
	if d.ended {
		return
	}
	d.ended = true
	d.cancel()
	if d.workers == 0 {
		d.closed()
	}
}

// closed is called by the events of workers once the download has ended.
func (d *download) closed() {
	if d.workers == 0 {
		d.gone()
	}
}

// later tries again after a growing, jittered pause.
func (d *download) later(again func()) {
	d.retry = min(max(2*d.retry, downloadRetryMin), downloadRetryMax)
	pause := d.retry/2 + rand.N(d.retry/2)
	d.worker(func(ctx context.Context) event {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		return downloadRetry{d: d, again: again}
	})
}

type downloadRetry struct {
	light
	d     *download
	again func()
}

func (e downloadRetry) apply() {
	e.d.workers--
	if e.d.ended {
		e.d.closed()
		return
	}
	e.again()
}

// downloadPrepared ends the preparation: the directory stands, and holds what other
// releases had.
type downloadPrepared struct {
	d     *download
	rel   *release
	older *older
	local int64
	err   error
}

func (e downloadPrepared) discard() {
	if e.rel == nil {
		return
	}
	if err := e.rel.close(); err != nil {
		e.d.log.Warn("a release was not closed well", "error", err)
	}
}

func (e downloadPrepared) apply() {
	d := e.d
	d.workers--
	if e.err == nil {
		d.rel, d.older = e.rel, e.older
		d.bytes.Local += e.local
		d.f.catalog.add(d.rel)
		d.book.prepared(d.rel, e.local)
	}
	switch {
	case d.ended:
		d.closed()
	case e.err != nil:
		level := slog.LevelWarn
		if errors.Is(e.err, starling.ErrNotFound) { // the region's caches may not have heard of it yet
			level = slog.LevelInfo
		}
		d.log.Log(d.ctx, level, "the artifact cannot be prepared; trying again", "error", e.err)
		d.problem = e.err.Error()
		d.progress()
		d.later(d.start)
	default:
		d.problem, d.retry = "", 0
		d.f.begin(d.rel, d.sel)
		d.progress()
		if d.rel.tree.Complete() {
			d.seal()
		}
	}
}

// seal makes a complete tree ready to run, once the last writer has ended.
func (d *download) seal() {
	d.due = true
	if d.fetching > 0 || d.sealing || d.finished || d.ended {
		return
	}
	d.due, d.sealing = false, true
	d.book.to(stageFinish)
	d.worker(func(ctx context.Context) event {
		err := d.rel.tree.Finish(ctx)
		if err == nil {
			d.closeBook()
		}
		return downloadSealed{d: d, err: err}
	})
}

type downloadSealed struct {
	light
	d   *download
	err error
}

func (e downloadSealed) apply() {
	d := e.d
	d.workers--
	d.sealing = false
	switch {
	case d.ended:
		d.closed()
	case e.err == nil:
		d.finished = true
		d.complete()
		d.end()
	default:
		d.log.Warn("the artifact cannot be completed; trying again", "error", e.err)
		d.problem = e.err.Error()
		d.progress()
		if lost := missingChunks(d.rel); len(lost) > 0 {
			d.book.to(stageFetch)
			d.f.step(swarm.Lost{Artifact: d.artifact, Chunks: lost}) // Done comes again
			return
		}
		d.later(d.seal)
	}
}

func missingChunks(r *release) []uint32 {
	var out []uint32
	for i := range r.manifest.Chunks {
		if !r.tree.Has(i) {
			out = append(out, uint32(i))
		}
	}
	return out
}

// sync notes progress on disk now and then, so that a loss of power loses little.
func (d *download) sync() {
	now := time.Now()
	if !d.unsynced || d.syncing || d.sealing || d.ended || now.Sub(d.syncedAt) < syncEvery {
		return
	}
	d.unsynced, d.syncing, d.syncedAt = false, true, now
	d.worker(func(context.Context) event { return downloadSynced{d: d, err: d.rel.tree.Sync()} })
}

type downloadSynced struct {
	light
	d   *download
	err error
}

func (e downloadSynced) apply() {
	d := e.d
	d.workers--
	d.syncing = false
	if d.ended {
		d.closed()
		return
	}
	if e.err != nil {
		d.log.Warn("fetched chunks cannot be flushed", "error", e.err)
		d.problem = e.err.Error()
		d.unsynced = true
	}
}

// prepareRelease opens what an earlier run has begun, or gets the manifest from
// one of the sources and makes the directory.
func prepareRelease(ctx context.Context, d *download, sources []starling.Node) (*release, error) {
	rel, err := openRelease(d.dir, d.artifact)
	switch {
	case err == nil:
		buf := d.f.buffers.get(starling.MaxChunkBytes)
		defer d.f.buffers.put(buf)
		if err := rel.tree.Recover(ctx, buf); err != nil {
			return nil, errors.Join(err, rel.close())
		}
		return rel, nil
	case !errors.Is(err, starling.ErrNotFound):
		d.log.Warn("what is on disk of the artifact is of no use", "error", err)
	}
	if envelope, err := d.f.catalog.envelope(d.artifact); err == nil { // another app has it
		if m, payload, err := d.verify(envelope, d.artifact); err == nil {
			return createRelease(d.dir, d.artifact, m, payload, envelope)
		}
	}
	var problems []error
	for _, n := range sources {
		m, payload, envelope, err := manifestFrom(ctx, d, n)
		if err == nil {
			return createRelease(d.dir, d.artifact, m, payload, envelope)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		problems = append(problems, fmt.Errorf("%s: %w", n.Name, err))
	}
	if len(problems) == 0 {
		return nil, fmt.Errorf("get manifest: no cache and no machine is in sight: %w", starling.ErrUnavailable)
	}
	return nil, fmt.Errorf("get manifest: %w", errors.Join(problems...))
}

func manifestFrom(ctx context.Context, d *download, n starling.Node) (m *starling.Manifest, payload, envelope []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	if envelope, err = d.f.blobs.GetManifest(ctx, n.Addr, d.artifact); err != nil {
		return nil, nil, nil, err
	}
	if m, payload, err = d.verify(envelope, d.artifact); err != nil {
		return nil, nil, nil, err
	}
	return m, payload, envelope, nil
}

// manifestSources lists whom to ask for a manifest: caches first, then some of
// the machines that sel chooses, each in random order so that the load is spread.
func (f *flock) manifestSources(sel starling.Selector) []starling.Node {
	var caches, machines []starling.Node
	for _, n := range f.caches {
		caches = append(caches, n)
	}
	for _, n := range f.machines {
		if n.Name != f.node.Name && !f.distrusted[n.Name] && sel.Matches(&n) {
			machines = append(machines, n)
		}
	}
	for _, nodes := range [][]starling.Node{caches, machines} {
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	}
	// Half of the places at most for caches: with all of them away, machines help.
	out := append(caches[:min(len(caches), maxManifestSources/2)], machines...)
	return out[:min(len(out), maxManifestSources)]
}

// cloneChunks fills what other releases on this machine hold, and returns how many
// bytes that was. A copy that turns out spoiled is left to the swarm.
func cloneChunks(ctx context.Context, rel *release, c *catalog, pool *buffers) (int64, error) {
	var local int64
	others := c.all()
	buf := pool.get(starling.MaxChunkBytes)
	defer pool.put(buf)
	for i, chunk := range rel.manifest.Chunks {
		if err := ctx.Err(); err != nil {
			return local, err
		}
		if rel.tree.Has(i) {
			continue
		}
		for _, from := range others {
			err := from.cloneInto(rel.tree, i, chunk.Digest, buf)
			if err == nil {
				local += int64(chunk.Size)
				break
			}
			if !errors.Is(err, starling.ErrNotFound) && !errors.Is(err, starling.ErrCorrupt) {
				return local, fmt.Errorf("clone chunk: %w", err)
			}
		}
	}
	return local, nil
}

// startDownload begins to fetch g's artifact for p.
func (a *Agent) startDownload(p *app, g *starling.Goal) *download {
	sel, _ := starling.ParseSelector(g.Deploy.Targets) // parsed well: it chose this machine
	ctx, cancel := context.WithCancel(a.run.ctx)
	d := &download{
		f: a.flock, dir: p.dir, artifact: g.Artifact, sel: sel, verify: a.conf.Verify,
		log: p.log.With("artifact", g.Artifact.Short()), ctx: ctx, cancel: cancel, olds: p.olds(),
		progress: p.publish, book: a.ledger.open(&a.conf.Node, a.meter, g.Artifact),
	}
	p.book = d.book
	d.complete = func() {
		d.log.Info("artifact complete", "cache_bytes", d.bytes.CacheOut, "peer_bytes", d.bytes.Peer, "local_bytes", d.bytes.Local)
		if p.rec.release(d.artifact) == nil {
			p.rec.use(d.artifact, time.Now())
		}
		p.rec.release(d.artifact).Complete = true
		p.releases[d.artifact] = d.rel
		p.changedRecord()
	}
	d.gone = func() {
		delete(a.flock.downloads, d.artifact)
		p.download = nil
		if p.rec.Goal.Artifact == d.artifact {
			p.bytes = d.bytes
		}
		if !d.finished {
			d.book.pause()
			a.flock.end(d.artifact) // another app may hold all of it: then it begins again with that
			a.abandon(d)
		}
		for _, q := range a.apps { // another app may wait for the same artifact
			q.reconcile()
		}
	}
	a.flock.downloads[g.Artifact] = d
	d.start()
	return d
}

// abandon closes what an unfinished download has made; it stays on disk for now.
func (a *Agent) abandon(d *download) {
	if d.rel == nil {
		return
	}
	a.catalog.remove(d.rel)
	if err := d.rel.close(); err != nil {
		d.log.Warn("a release was not closed well", "error", err)
	}
}
