package swarm

import (
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/starlingdeploy/starling"
)

// levels of rarity that are told apart: chunks that topLevel or more sources hold
// are equally common.
const (
	levels   = 16
	topLevel = levels - 1
)

// download is one artifact.
type download struct {
	artifact starling.Digest
	chunks   []starling.Chunk
	n        int
	priority int
	seed     bool
	done     bool
	left     int   // chunks not held
	wants    int   // of those, neither held nor in flight
	mean     int64 // bytes of a chunk
	bytes    int64 // credit for fairness: what was fetched, or what the others had at Begin

	held bitset
	// avail counts the linked peers that hold a chunk. level[k] holds the chunks
	// that are wanted (neither held nor in flight) with avail k, so that the rarest
	// chunk that a source can give is a matter of a few words' AND.
	avail  []uint8
	level  [levels]bitset
	counts [levels]int

	asked, askedAgain bitset   // chunks that were asked for at least once, and twice
	fresh             []uint32 // held since the last announcements

	members []Member

	// The part that is asked of the caches: the share that the deal gives, plus what
	// the fall-back opens, less what is deferred.
	share    []uint32
	mine     bitset
	owners   *owners       // nil: not needed yet
	coverAt  time.Duration // laggards are looked for then, at the earliest
	begunAt  time.Duration
	gotAt    time.Duration // the latest chunk
	deferred []deferral
	tries    map[int]int // caches tried without luck, per chunk

	// What was looked for in vain, and need not be until something changes.
	spent bool // nothing of mine is wanted
	stuck bool // no peer can be asked for anything

	seen      bitset // chunks that some source was known to hold, once
	noveltyAt time.Duration
	gap       time.Duration // usual time between news; 0: unknown
	phase     int           // of the fall-back: how many times it opened
	lackedAt  time.Duration // when a cache last lacked a chunk; 0: never
	readyAt   time.Duration // before it, caches are asked only once neighbours have answered
	newsAt    time.Duration // since when news are counted
	news      int
	allNews   int // since Begin
}

// deferral is a chunk that no cache had or gave; it becomes mine again later.
type deferral struct {
	chunk int
	until time.Duration
}

func newDownload(ev Begin, now time.Duration) *download {
	n := len(ev.Chunks)
	d := &download{
		artifact: ev.Artifact, chunks: ev.Chunks, n: n, left: n,
		held: newBitset(n), avail: make([]uint8, n), mine: newBitset(n), seen: newBitset(n),
		asked: newBitset(n), askedAgain: newBitset(n),
		tries: make(map[int]int), noveltyAt: -1, newsAt: now, readyAt: now + greetingWait, begunAt: now,
	}
	for i := range ev.Chunks {
		d.mean += int64(ev.Chunks[i].Size)
	}
	d.mean /= int64(max(n, 1))
	words := make(bitset, levels*len(d.held)) // one allocation for all levels
	for k := range d.level {
		d.level[k] = words[k*len(d.held) : (k+1)*len(d.held)]
	}
	for c := range n {
		d.want(c)
	}
	return d
}

// seedOf is where the deal and the ties of this artifact begin.
func (d *download) seedOf() uint64 { return binary.BigEndian.Uint64(d.artifact[:8]) }

func (d *download) size(c int) int64 { return int64(d.chunks[c].Size) }

func (d *download) levelOf(c int) int { return min(int(d.avail[c]), topLevel) }

func (d *download) want(c int) {
	k := d.levelOf(c)
	if !d.level[k].has(c) {
		d.level[k].set(c)
		d.counts[k]++
		d.wants++
		d.spent, d.stuck = false, false
	}
}

func (d *download) unwant(c int) {
	k := d.levelOf(c)
	if d.level[k].has(c) {
		d.level[k].clear(c)
		d.counts[k]--
		d.wants--
	}
}

// endgame reports whether all that peers can give has been asked for.
func (d *download) endgame() bool { return d.left > 0 && d.wants == d.counts[0] }

func (d *download) wanted(c int) bool { return d.level[d.levelOf(c)].has(c) }

// more and fewer count a source that holds c.
func (d *download) more(c int) {
	if k := d.levelOf(c); d.level[k].has(c) && k < topLevel {
		d.move(c, k, k+1)
	}
	d.avail[c]++
}

func (d *download) fewer(c int) {
	if k := d.levelOf(c); d.level[k].has(c) && int(d.avail[c]) <= topLevel {
		d.move(c, k, k-1)
	}
	d.avail[c]--
}

// move puts a wanted chunk on another level.
func (d *download) move(c, from, to int) {
	d.level[from].clear(c)
	d.level[to].set(c)
	d.counts[from]--
	d.counts[to]++
}

// pick returns the rarest wanted chunk of has, of those that least sources or more
// hold, or -1. Ties are broken by spin, so that peers that know the same do not all
// choose the same.
func (d *download) pick(has bitset, least int, spin uint64) int {
	for k := least; k < levels; k++ {
		if d.counts[k] > 0 {
			if c := first(d.level[k], has, spin); c >= 0 {
				return c
			}
		}
	}
	return -1
}

// pickMine returns a wanted chunk that is ours to ask of the caches and that most peers
// or fewer hold, or -1.
func (d *download) pickMine(most int, spin uint64) int {
	for k := range min(most, topLevel) + 1 {
		if d.counts[k] > 0 {
			if c := first(d.level[k], d.mine, spin); c >= 0 {
				return c
			}
		}
	}
	return -1
}

// first returns a member of both sets, searching from a place that spin gives.
func first(a, b bitset, spin uint64) int {
	n := len(a)
	if n == 0 {
		return -1
	}
	w := int(spin % uint64(n))
	r := int(spin >> 58)
	for range n {
		if x := a[w] & b[w]; x != 0 {
			return w<<6 + (bits.TrailingZeros64(bits.RotateLeft64(x, -r))+r)&63
		}
		if w++; w == n {
			w = 0
		}
	}
	return -1
}

// redeal computes the share anew. What the fall-back opened is closed again.
func (d *download) redeal(self string) {
	d.share = share(d.seedOf(), self, d.members, d.chunks)
	d.owners = nil
	d.resetMine()
}

func (d *download) resetMine() {
	clear(d.mine)
	d.spent = false
	for _, c := range d.share {
		d.mine.set(int(c))
	}
	for _, x := range d.deferred {
		d.mine.clear(x.chunk)
	}
}

// novelty notes that chunk c was seen for the first time. What comes at one moment
// is one piece of news.
func (d *download) novelty(now time.Duration, c int) {
	if !d.seen.has(c) {
		d.seen.set(c)
		if now != d.noveltyAt {
			d.noveltyAt = now
			d.news++
		}
	}
}

// flowing ends a spell of watching for news, and reports whether they came at a quarter
// of the usual rate or more; at the whole of it once the fall-back is at work, since the
// trickle that others' fall-back gives is no flow.
func (d *download) flowing(now time.Duration) bool {
	spell, news := now-d.newsAt, time.Duration(d.news)
	d.newsAt, d.news = now, 0
	gap, slower := d.gap, time.Duration(flowPart)
	d.allNews += int(news)
	if gap == 0 && d.allNews >= minNews { // then the mean since the beginning
		gap = (now - d.begunAt) / time.Duration(d.allNews)
	}
	if d.phase > 0 {
		slower = 1
	}
	switch {
	case news == 0 || gap > 0 && news*gap*slower < spell:
		return false
	case news < minNews || d.phase > 0: // too few to learn from, or not usual
	case d.gap == 0:
		d.gap = spell / news
	default:
		d.gap += (spell/news - d.gap) / 4
	}
	return true
}

// vanish notes that no source is left that holds c: if somebody brings it again, that is news.
func (d *download) vanish(c int) {
	if d.avail[c] == 0 && !d.held.has(c) && d.seen.has(c) {
		d.seen.clear(c)
		d.gap = 0 // the news it was learnt from were false
	}
}

// open adds to mine some of the chunks that no peer holds: in the first phases those
// that another deal gives to this machine, one machine per chunk each time; then those
// for which it is among the two first by a hash, the four, the eight.
func (d *download) open(self string, all bool) {
	d.spent = false
	if d.phase < backups && !all {
		for _, c := range share(mix(d.seedOf()+uint64(d.phase)+1), self, d.members, d.chunks) {
			if d.level[0].has(int(c)) {
				d.mine.set(int(c))
			}
		}
	} else {
		limit := uint64(2) << min(max(d.phase-backups, 0), 40)
		key, n := hashName(self)^d.seedOf(), uint64(len(d.members)+1)
		d.level[0].each(func(c int) {
			if hi, _ := bits.Mul64(mix(key^mix(uint64(c))), n); all || hi < limit {
				d.mine.set(c)
			}
		})
	}
	for _, x := range d.deferred {
		d.mine.clear(x.chunk)
	}
}
