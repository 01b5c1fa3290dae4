package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

// stage is where a download stands, for the time in which nothing is under way.
type stage int

const (
	stagePrepare stage = iota
	stageFetch
	stageFinish
	stagePaused // given up for now
	stageDone
	stageCount
)

// book is the account of one artifact as it is being written. Safe for concurrent use.
type book struct {
	node     *starling.Node
	meter    *meter
	artifact starling.Digest
	started  time.Time

	mu      sync.Mutex
	ended   time.Time
	chunks  int
	held    int64
	bytes   starling.Bytes
	sources []*bookSource
	index   map[sourceKey]int

	stage  stage
	flying int                       // chunks asked for
	since  time.Time                 // of the last change of stage or flying
	idle   [stageCount]time.Duration // with nothing asked for
	busy   time.Duration             // with something asked for

	weight [boundCount]time.Duration // time of chunks by bound
	count  [boundCount]int           // chunks by bound
	trace  starling.ChunkTrace
}

// boundCount is the length of what is indexed as starling.Bounds is.
const boundCount = len(starling.Bounds)

type sourceKey struct {
	name   string
	origin bool
	kind   starling.SourceKind // of those beyond MaxAccountSources, which have no name
}

// bookSource is one source; active and waited are the precise forms of ActiveMS and WaitMS.
type bookSource struct {
	starling.SourceAccount
	origin         bool
	flying         int
	since          time.Time // flying is not zero since
	last           time.Time // it gave something
	active, waited time.Duration
}

func newBook(node *starling.Node, m *meter, artifact starling.Digest) *book {
	now := time.Now()
	return &book{node: node, meter: m, artifact: artifact, started: now, since: now, index: map[sourceKey]int{}}
}

// step counts the time since the last change. The caller holds mu.
func (b *book) step(now time.Time) {
	if b.flying > 0 {
		b.busy += now.Sub(b.since)
	} else {
		b.idle[b.stage] += now.Sub(b.since)
	}
	b.since = now
}

func (b *book) to(s stage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.step(time.Now())
	b.stage = s
}

func (b *book) finished() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stage == stageDone
}

// resume begins a new attempt.
func (b *book) resume() { b.to(stagePrepare) }

// pause ends an attempt that did not finish.
func (b *book) pause() {
	if !b.finished() {
		b.to(stagePaused)
	}
}

// prepared notes what the directory holds: local bytes were cloned just now.
func (b *book) prepared(r *release, local int64) {
	held := -local
	for i, c := range r.manifest.Chunks {
		if r.tree.Has(i) {
			held += int64(c.Size)
		}
	}
	b.to(stageFetch)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.chunks == 0 { // the first attempt: later ones find what this account knows of
		b.held = max(0, held)
	}
	b.chunks, b.bytes.Artifact = len(r.manifest.Chunks), r.manifest.Bytes()
	b.bytes = b.bytes.From(starling.SourceLocal, local)
}

// done ends the account.
func (b *book) done() {
	b.to(stageDone)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = b.since
}

// ask notes that a chunk is asked of a node, and returns its number among the sources
// and of what kind it is.
func (b *book) ask(n *starling.Node, origin bool) (int, starling.SourceKind) {
	kind := starling.SourceCache
	if !origin {
		kind = starling.Nearness(b.node, n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.step(now)
	b.flying++
	i := b.source(n, kind, origin)
	s := b.sources[i]
	if s.flying == 0 {
		s.since = now
	}
	s.flying++
	return i, kind
}

// source returns the number of a source. The caller holds mu.
func (b *book) source(n *starling.Node, kind starling.SourceKind, origin bool) int {
	key := sourceKey{name: n.Name, origin: origin}
	i, ok := b.index[key]
	if !ok && len(b.sources) >= starling.MaxAccountSources {
		key = sourceKey{kind: kind}
		i, ok = b.index[key]
	}
	if !ok {
		i = len(b.sources)
		s := &bookSource{origin: origin, SourceAccount: starling.SourceAccount{Name: key.name, Kind: kind}}
		if key.name != "" {
			s.Zone, s.Rack = n.Zone, n.Rack
		}
		b.sources = append(b.sources, s)
		b.index[key] = i
	}
	return i
}

// got takes a chunk of size bytes from a source.
func (b *book) got(source, chunk, size int, t spent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	bound := b.landed(source, now, t, false)
	s := b.sources[source]
	s.last = now
	s.Bytes += int64(size)
	s.Chunks++
	b.bytes = b.bytes.From(s.Kind, int64(size))
	b.count[bound]++
	if len(b.trace.Chunk) >= starling.MaxTraceChunks {
		b.trace.Omitted++
		return
	}
	b.trace.Chunk = append(b.trace.Chunk, int32(chunk))
	b.trace.Source = append(b.trace.Source, int32(source))
	b.trace.TookMS = append(b.trace.TookMS, int32(t.took().Milliseconds()))
	b.trace.Bound = append(b.trace.Bound, int32(bound))
}

// reused counts bytes that a patch took from chunks on this machine.
func (b *book) reused(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes = b.bytes.From(starling.SourceLocal, n)
}

// failed takes the end of a request that brought nothing. Its time counts, too.
func (b *book) failed(source int, t spent, why swarm.Reason) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.landed(source, time.Now(), t, why == swarm.ReasonLocal)
	s := b.sources[source]
	if s.Failures == nil {
		s.Failures = map[string]int{}
	}
	s.Failures[why.String()]++
}

// landed ends a request and returns what bounded it, as an index in starling.Bounds.
// The caller holds mu.
func (b *book) landed(source int, now time.Time, t spent, diskError bool) int {
	b.step(now)
	b.flying--
	s := b.sources[source]
	if s.flying--; s.flying == 0 {
		s.active += now.Sub(s.since)
	}
	s.waited += t.wait()
	o := observed{origin: s.origin, diskError: diskError, took: t.took(), write: t.write(),
		limit: float64(b.meter.limit), sources: b.givers(source, t.from.at)}
	o.rate, o.cpu = b.meter.over(t.from, t.to)
	o.best = float64(b.meter.best.Load())
	bound := slices.Index(starling.Bounds[:], boundOf(o))
	b.weight[bound] += o.took
	return bound
}

// givers counts the sources, the one given included, that have given something since a
// time or are being asked. The caller holds mu.
func (b *book) givers(this int, since time.Time) int {
	n := 1
	for i, s := range b.sources {
		if i != this && (s.flying > 0 || s.last.After(since)) {
			n++
		}
	}
	return n
}

func (b *book) distrust(e swarm.Distrust) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i, ok := b.index[sourceKey{name: e.Peer, origin: e.Origin}]; ok {
		b.sources[i].Distrusted = e.Reason
	}
}

// summary tells how long the download has taken, and what bounded most of it.
func (b *book) summary() (ms int64, bound starling.Bound) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := starling.Account{Time: b.times(time.Now())}
	for _, t := range a.Time {
		ms += t.MS
	}
	return ms, a.Main()
}

// times shares the time out. Where something was asked for, it is shared by the time
// that chunks with each bound took; the rest is known. The caller holds mu.
func (b *book) times(now time.Time) []starling.BoundTime {
	b.step(now)
	var all time.Duration
	for _, w := range b.weight {
		all += w
	}
	out := make([]starling.BoundTime, boundCount)
	for i, bound := range starling.Bounds {
		var d time.Duration
		if all > 0 {
			d = time.Duration(float64(b.busy) * (float64(b.weight[i]) / float64(all)))
		}
		switch bound {
		case starling.BoundDisk:
			d += b.idle[stageFinish]
		case starling.BoundWaiting:
			d += b.idle[stageFetch]
		case starling.BoundPrepare:
			d += b.idle[stagePrepare]
		case starling.BoundUnknown:
			if all == 0 {
				d += b.busy
			}
		}
		out[i] = starling.BoundTime{Bound: bound, MS: d.Milliseconds(), Chunks: b.count[i]}
	}
	return out
}

// snapshot returns the account as it stands.
func (b *book) snapshot() *starling.Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	a := &starling.Account{
		Node: b.node.Name, Region: b.node.Region, Zone: b.node.Zone, Rack: b.node.Rack, Artifact: b.artifact,
		Chunks: b.chunks, StartedAt: b.started.UTC(), EndedAt: b.ended.UTC(), Bytes: b.bytes, HeldBytes: b.held,
		BestBytesPerSecond: b.meter.best.Load(), CapBytesPerSecond: b.meter.limit, Time: b.times(now),
		Sources: make([]starling.SourceAccount, len(b.sources)),
		Trace: starling.ChunkTrace{Chunk: column(b.trace.Chunk), Source: column(b.trace.Source),
			TookMS: column(b.trace.TookMS), Bound: column(b.trace.Bound), Omitted: b.trace.Omitted},
	}
	for _, t := range a.Time {
		a.TookMS += t.MS
	}
	for i, s := range b.sources {
		c := s.SourceAccount
		active := s.active
		if s.flying > 0 {
			active += now.Sub(s.since)
		}
		c.ActiveMS, c.WaitMS = active.Milliseconds(), s.waited.Milliseconds()
		c.Failures = maps.Clone(s.Failures) // the book goes on
		a.Sources[i] = c
	}
	return a
}

// column copies a column of a trace; an empty one is [] in JSON, not null.
func column(c []int32) []int32 { return append([]int32{}, c...) }

// encode returns the account as JSON, without its trace if it were too long.
func (b *book) encode() ([]byte, error) {
	a := b.snapshot()
	out, err := json.Marshal(a)
	if err == nil && len(out) > starling.MaxAccountBytes {
		a.Trace = starling.ChunkTrace{Omitted: a.Trace.Omitted + len(a.Trace.Chunk)}
		out, err = json.Marshal(a)
	}
	if err != nil {
		return nil, fmt.Errorf("account of %s: %w", b.artifact.Short(), err)
	}
	return out, nil
}
