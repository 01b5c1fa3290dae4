package swarm

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// Peer is the brain of one machine's part in the swarms of its cell. It is not safe
// for concurrent use: one goroutine owns it.
type Peer struct {
	cfg  Config
	hash uint64 // of self and seed
	spin uint64 // counts draws

	now         time.Duration
	out         []Effect
	wake        time.Duration // the pending Tick; 0: none
	due         time.Duration // when review next has something to do, at the earliest
	sources     []*source     // in order of appearance
	peers       map[string]*source
	caches      map[string]*source // a process may be both: its two parts are told apart
	origins     []*source          // in the order of originNames
	originNames []string           // sorted
	// downloads in order of Begin.
	downloads []*download

	inFlightBytes int64
	parkedBytes   int64         // of them, left standing at caches
	mixed         bool          // there are downloads of different priorities
	countedBytes  int64         // of them, what peers that gave something before will give
	took          time.Duration // mean over all sources; 0: nothing came yet
	pace          float64       // likewise
	base          time.Duration // mean of the sources' least
	cacheTook     time.Duration // mean over the caches; 0: nothing came yet
	rate          float64       // bytes a second from peers, over the last spell
	spellAt       time.Duration // when the spell began
	spellBytes    int64
	flushedAt     time.Duration
	flushAt       time.Duration // when news go out; 0: there are none
	hedgeAt       time.Duration // not before
	vain          int           // fetches that timed out since a chunk came
	rewire        bool          // the overlay must be computed anew
	refill        bool          // the event may let more be asked for
}

// New returns a peer that takes part in nothing yet.
func New(cfg Config) *Peer {
	if cfg.MaxInFlightBytes <= 0 {
		cfg.MaxInFlightBytes = DefaultInFlightBytes
	}
	return &Peer{
		cfg: cfg, hash: mix(hashName(cfg.Self) ^ mix(cfg.Seed)),
		peers: make(map[string]*source), caches: make(map[string]*source),
		flushedAt: -announceEvery,
	}
}

// Step takes in what happened and returns what is to be done, in order. now never
// runs backwards (an earlier time counts as the last one). The result is valid until
// the next Step. The cost does not grow with the number of machines, except for
// Members; with the number of chunks only as far as whole bitmaps are read.
func (p *Peer) Step(now time.Duration, ev Event) []Effect {
	p.now = max(p.now, now)
	clear(p.out)
	p.out = p.out[:0]
	if p.wake > 0 && p.now >= p.wake {
		p.wake = 0
	}
	p.refill = true
	p.apply(ev)
	if p.now >= p.due {
		p.review()
		p.refill = true
	}
	if p.refill {
		p.fill()
	}
	p.flush()
	p.sleep()
	return p.out
}

// review does what is due by time, or after anything unusual: it looks at everything.
// News and arrivals, which are most of the events, do without.
func (p *Peer) review() {
	p.unstick()
	p.expire()
	if p.rewire {
		p.rewire = false
		p.overlay()
	}
	p.dial()
	p.fallBack()
	p.schedule()
}

// reviewSoon has this step look at everything.
func (p *Peer) reviewSoon() { p.due = 0 }

// reviewAt has everything looked at no later than t.
func (p *Peer) reviewAt(t time.Duration) { p.due = min(p.due, t) }

// Progress returns how many chunks of an artifact are held, and how many there are.
func (p *Peer) Progress(artifact starling.Digest) (held, total int) {
	if d := p.download(artifact); d != nil {
		return d.n - d.left, d.n
	}
	return 0, 0
}

// Links returns the number of links that stand.
func (p *Peer) Links() int {
	n := 0
	for _, s := range p.sources {
		if s.up {
			n++
		}
	}
	return n
}

func (p *Peer) apply(ev Event) {
	switch ev := ev.(type) {
	case PeerHas:
		p.peerHas(ev)
		return
	case Got:
		p.got(ev)
		return
	case Held:
		if d := p.download(ev.Artifact); d != nil {
			for _, c := range ev.Chunks {
				if int(c) < d.n {
					p.hold(d, int(c), nil)
				}
			}
		}
		return
	case Tick:
		return
	}
	p.reviewSoon()
	switch ev := ev.(type) {
	case Begin:
		p.begin(ev)
	case End:
		p.end(ev.Artifact)
	case Members:
		if d := p.download(ev.Artifact); d != nil {
			d.members = ev.Members
			d.redeal(p.cfg.Self)
			p.rewire = true
		}
	case Origins:
		p.setOrigins(ev.Names)
	case PeerUp:
		p.peerUp(ev.Peer)
	case PeerDown:
		if s := p.peers[ev.Peer]; s != nil {
			p.peerDown(s)
		}
	case Lost:
		p.lost(ev)
	case Failed:
		p.failed(ev)
	}
}

func (p *Peer) emit(e Effect) { p.out = append(p.out, e) }

// draw returns the next number of this peer's own sequence.
func (p *Peer) draw() uint64 {
	p.spin++
	return mix(p.hash ^ p.spin)
}

func (p *Peer) download(artifact starling.Digest) *download {
	for _, d := range p.downloads {
		if d.artifact == artifact {
			return d
		}
	}
	return nil
}

func (p *Peer) begin(ev Begin) {
	d := p.download(ev.Artifact)
	switch {
	case d != nil && d.n != len(ev.Chunks), d == nil && len(p.downloads) >= MaxDownloads:
		return
	case d == nil:
		d = newDownload(ev, p.now)
		for i, o := range p.downloads {
			if i == 0 || o.bytes < d.bytes {
				d.bytes = o.bytes // start level with the others
			}
		}
		p.downloads = append(p.downloads, d)
	}
	d.priority, d.seed = ev.Priority, ev.Seed
	p.rank()
	if ev.Have.Valid(d.n) {
		for c := range d.n {
			switch had := d.held.has(c); {
			case ev.Have.Has(c) && !had:
				p.take(d, c, nil)
			case !ev.Have.Has(c) && had:
				p.drop(d, c)
			}
		}
	}
	for _, s := range p.sources {
		if s.up {
			p.hello(s, d, true)
		}
	}
	p.preempt(d)
	p.finished(d)
}

func (p *Peer) end(artifact starling.Digest) {
	d := p.download(artifact)
	if d == nil {
		return
	}
	for _, s := range p.sources {
		for _, f := range slices.Clone(s.fetches) {
			if f.d == d {
				p.cancel(s, f)
			}
		}
		s.views = slices.DeleteFunc(s.views, func(v *view) bool { return v.d == d })
	}
	p.downloads = slices.DeleteFunc(p.downloads, func(o *download) bool { return o == d })
	p.rank()
	p.overlay()
	for _, s := range p.sources {
		if s.up && !s.wanted && len(s.views) == 0 {
			p.emit(Disconnect{Peer: s.name})
			p.peerDown(s)
		}
	}
}

func (p *Peer) got(ev Got) {
	s, d := p.find(ev.Request), p.download(ev.Artifact)
	if d == nil || ev.Chunk < 0 || ev.Chunk >= d.n {
		return
	}
	var asked *source // nil: the answer is to an earlier download's request
	if s != nil {
		if f := s.find(d, ev.Chunk); f != nil {
			asked = s
			p.land(s, f)
			if f.wait == 0 { // else it may have taken long to come, which says nothing of the pace
				s.sample(f, max(ev.Took, time.Microsecond))
				p.measure(s, f, max(ev.Took, time.Microsecond))
			} else {
				s.parkAgain = p.now
			}
			s.trust()
			p.count(s)
		}
	}
	d.gotAt, p.vain = p.now, 0
	if !d.held.has(ev.Chunk) {
		d.bytes += d.size(ev.Chunk)
		if s != nil && s.origin && d.phase == 0 {
			d.novelty(p.now, ev.Chunk)
		}
	}
	p.hold(d, ev.Chunk, asked)
}

// measure learns the pace of the whole from a chunk that took so long.
func (p *Peer) measure(s *source, f *fetch, took time.Duration) {
	x := took.Seconds() / float64(f.ahead)
	if p.took == 0 {
		p.took, p.pace, p.base = took, x, took
		p.spellAt = p.now
		p.reviewSoon()
		for _, o := range p.sources { // the first guess was a long one
			for _, f := range o.fetches {
				f.deadline = min(f.deadline, p.now+p.patience(o, f))
			}
		}
	} else {
		p.took += (took - p.took) / 16
		p.pace += (x - p.pace) / 16
		p.base += (s.minTook - p.base) / 16
	}
	if s.origin {
		if p.cacheTook == 0 {
			p.cacheTook = took
		}
		p.cacheTook += (took - p.cacheTook) / 4
		return
	}
	p.spellBytes += f.size
	if spell := p.now - p.spellAt; spell >= max(minSpell, 2*p.took) {
		p.rate = float64(p.spellBytes) / spell.Seconds()
		p.spellAt, p.spellBytes = p.now, 0
	}
}

// setOrigins replaces the caches that are asked.
func (p *Peer) setOrigins(names []string) {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	gone := func(s *source) bool { return s.origin && !slices.Contains(names, s.name) }
	for _, s := range p.sources {
		if gone(s) {
			for _, f := range slices.Clone(s.fetches) {
				p.giveUp(s, f)
			}
			delete(p.caches, s.name)
		}
	}
	p.sources = slices.DeleteFunc(p.sources, gone)
	p.origins, p.originNames = p.origins[:0], names
	for _, name := range names {
		p.origins = append(p.origins, p.source(name, true))
	}
}

// source returns the record of a name, making it if need be.
func (p *Peer) source(name string, origin bool) *source {
	m := p.peers
	if origin {
		m = p.caches
	}
	s := m[name]
	if s == nil {
		s = &source{name: name, origin: origin, tie: mix(p.hash ^ hashName(name))}
		m[name] = s
		p.sources = append(p.sources, s)
	}
	return s
}

// find returns the source that a request went to, nil if it is not known.
func (p *Peer) find(r Request) *source {
	if r.Origin {
		return p.caches[r.From]
	}
	return p.peers[r.From]
}

// schedule finds out when review has something to do again.
func (p *Peer) schedule() {
	next := never
	at := func(t time.Duration) {
		if t > p.now && t < next {
			next = t
		}
	}
	busy := false
	for _, d := range p.downloads {
		if d.seed || d.left == 0 {
			continue
		}
		busy = true
		if len(p.origins) > 0 {
			at(d.newsAt + p.quiet(d))
			if d.owners != nil && d.counts[0] > 0 {
				at(d.coverAt)
			}
		}
		at(d.readyAt)
		for _, x := range d.deferred {
			at(x.until)
		}
	}
	for _, s := range p.sources {
		for _, f := range s.fetches {
			at(f.deadline)
		}
		at(p.doubtAt(s))
		if s.dialing || s.wanted && !s.up {
			at(s.dialAt)
		}
		if busy && (s.wanted || s.up || s.origin) {
			at(s.pausedTo)
			at(s.parkAgain)
		}
	}
	p.due = next
}

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// sleep asks for the next Tick, if it is needed before the pending one.
func (p *Peer) sleep() {
	next := p.due
	if p.flushAt > 0 {
		next = min(next, p.flushAt)
	}
	if p.hedgeAt > p.now && p.inFlightBytes > p.parkedBytes && slices.ContainsFunc(p.downloads, (*download).endgame) {
		next = min(next, p.hedgeAt)
	}
	if next != never && (p.wake == 0 || next < p.wake) {
		p.wake = max(next, p.now+1)
		p.emit(WakeAt{At: p.wake})
	}
}
