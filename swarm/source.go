package swarm

import (
	"slices"
	"time"
)

// source is a peer or a cache, and what is known of it.
type source struct {
	name   string
	origin bool
	tie    uint64 // breaks ties

	// Links; peers only.
	up        bool
	dialled   bool // by us
	dialing   bool
	wanted    bool // an overlay's neighbour
	dialFails int
	dialAt    time.Duration // not before; while dialing, when to take it for failed
	avoidTill time.Duration // left out of the overlay until then: it cannot be reached

	distrusted bool
	suspicions int // chunks claimed, then denied, less those given since

	fetches       []*fetch
	inFlightBytes int64
	countedBytes  int64 // of those, what is part of Peer.countedBytes

	// Pace: seconds per byte of what was in flight to the source when a chunk was
	// asked for, mean and mean deviation as in RFC 6298. Queueing at the source counts.
	samples   int
	pace      float64
	paceDev   float64
	minTook   time.Duration // the shortest took: nearly the delay without a queue
	pausedTo  time.Duration
	parkAgain time.Duration // no request is left standing before
	strikes   int           // failures in a row; each doubles the pause
	// doubted: it let a fetch time out or break and has given nothing since. What it
	// holds does not count as available, and it gets one request at a time.
	doubted bool

	views []*view
}

// view is what a source holds of one artifact.
type view struct {
	s    *source
	d    *download
	has  bitset
	dry  bool // nothing wanted was found; cleared when either side changes
	owed bool // it asked for all that is held here
}

// fetch is one chunk asked of one source.
type fetch struct {
	d        *download
	chunk    int
	size     int64
	ahead    int64 // bytes in flight to the source when asked, this one included
	at       time.Duration
	deadline time.Duration
	wait     time.Duration // that a cache may keep the request
}

func (s *source) view(d *download) *view {
	for _, v := range s.views {
		if v.d == d {
			return v
		}
	}
	return nil
}

func (s *source) find(d *download, chunk int) *fetch {
	for _, f := range s.fetches {
		if f.d == d && f.chunk == chunk {
			return f
		}
	}
	return nil
}

func (s *source) forget(f *fetch) {
	if i := slices.Index(s.fetches, f); i >= 0 {
		s.fetches = slices.Delete(s.fetches, i, i+1)
		s.inFlightBytes -= f.size
	}
}

// usable reports whether the source may be asked for something now.
func (s *source) usable(now time.Duration) bool {
	return (s.up || s.origin) && !s.distrusted && now >= s.pausedTo
}

// finish estimates the time until n more bytes would have come from s; guess is the
// pace of a source that nothing is known of.
func (s *source) finish(n int64, guess float64) time.Duration {
	pace := guess
	if s.samples > 0 {
		pace = s.pace
	}
	return time.Duration(pace * float64(s.inFlightBytes+n) * float64(time.Second))
}

// depthBytes is how much may be in flight to s: a few times what it yields in the
// delay of an unqueued chunk, so that it never idles between two of our requests.
func (s *source) depthBytes() int64 {
	if s.samples == 0 || s.pace <= 0 {
		return 0
	}
	return min(int64(depthGain*s.minTook.Seconds()/s.pace), maxDepthBytes)
}

// requests counts what is asked of s for downloads as urgent as d, or more.
func (s *source) requests(d *download) int {
	n := len(s.fetches)
	for _, f := range s.fetches {
		if f.d.priority < d.priority {
			n--
		}
	}
	return n
}

// room reports whether one more chunk of d, of size bytes, may be asked of s. What is
// less urgent does not stand in its way.
func (s *source) room(d *download, size int64) bool {
	switch n := s.requests(d); {
	case n == 0:
		return true
	case s.doubted || s.samples == 0 && !s.origin: // on probation
		return false
	case s.inFlightBytes+size > maxDepthBytes:
		return false
	case n < minDepthChunks:
		return true
	}
	return s.inFlightBytes+size <= s.depthBytes()
}

// sample learns from a chunk that took so long.
func (s *source) sample(f *fetch, took time.Duration) {
	x := took.Seconds() / float64(f.ahead)
	if s.samples == 0 {
		s.pace, s.paceDev, s.minTook = x, x/2, took
	} else {
		s.paceDev += (abs(x-s.pace) - s.paceDev) / 4
		s.pace += (x - s.pace) / 8
		s.minTook = min(s.minTook, took)
	}
	s.samples++
	s.strikes = 0
	s.suspicions = max(0, s.suspicions-1)
	s.pausedTo = 0
}

// doubt takes what s holds out of the count; trust puts it back.
func (s *source) doubt() {
	if !s.doubted {
		s.doubted = true
		for _, v := range s.views {
			v.has.each(func(c int) {
				v.d.fewer(c)
				v.d.vanish(c)
			})
		}
	}
}

func (s *source) trust() {
	if s.doubted {
		s.doubted = false
		for _, v := range s.views {
			v.has.each(v.d.more)
		}
		for _, f := range s.fetches {
			f.d.unwant(f.chunk)
		}
	}
}

// pause leaves the source alone for base, doubled per strike in a row, 30 s at most,
// spread by a quarter so that many peers do not come back at once.
func (s *source) pause(now, base time.Duration, spread uint64) {
	if now < s.pausedTo {
		return // of the same cause
	}
	d := min(base<<min(s.strikes, 10), maxPause)
	s.pausedTo = now + d + time.Duration(spread%uint64(d/4+1))
	s.strikes++
}

// rest leaves the source alone for as long as it asks for, and up to a quarter more.
func (s *source) rest(now, d time.Duration, spread uint64) {
	s.pausedTo = max(s.pausedTo, now+d+time.Duration(spread%uint64(d/4+1)))
}

func abs(x float64) float64 {
	if x < 0 {
		return -x
	}
	return x
}
