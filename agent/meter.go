package agent

import (
	"context"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
)

// Rules of what bounds a chunk.
const (
	cpuFull    = 0.85                   // of the CPU time that GOMAXPROCS allows
	linkFull   = 0.8                    // of the best rate or the cap
	meterLeast = 500 * time.Millisecond // a rate over less is no sustained one
)

// meter measures what comes in over blob streams, and what CPU time the process uses.
// Its counters may be read by any goroutine; tick is the loop's.
type meter struct {
	limit    int64 // bytes per second, the download cap; 0: none
	procs    int   // GOMAXPROCS
	received atomic.Int64
	best     atomic.Int64 // bytes per second, the best that was sustained so far

	last reading // of tick
}

// reading is the state of the counters at one time.
type reading struct {
	at       time.Time
	received int64
	cpu      time.Duration
}

func newMeter(limit int64) *meter {
	m := &meter{limit: limit, procs: runtime.GOMAXPROCS(0)}
	m.last = m.read()
	return m
}

func (m *meter) read() reading { return reading{time.Now(), m.received.Load(), cpuTime()} }

// tick looks at the rate since the tick before.
func (m *meter) tick() {
	now := m.read()
	if took := now.at.Sub(m.last.at); took >= meterLeast {
		m.sustained(perSecond(now.received-m.last.received, took))
		m.last = now
	}
}

// sustained notes a rate that was kept for meterLeast or more.
func (m *meter) sustained(bytesPerSecond float64) {
	for v := int64(bytesPerSecond); ; {
		old := m.best.Load()
		if v <= old || m.best.CompareAndSwap(old, v) {
			return
		}
	}
}

// over returns what this machine did between two readings: bytes received per second,
// and the part of its CPU time that this process used.
func (m *meter) over(a, b reading) (rate, cpu float64) {
	took := b.at.Sub(a.at)
	if took <= 0 {
		return 0, 0
	}
	rate = perSecond(b.received-a.received, took)
	if took >= meterLeast {
		m.sustained(rate)
	}
	return rate, float64(b.cpu-a.cpu) / float64(took) / float64(m.procs)
}

func perSecond(n int64, d time.Duration) float64 { return float64(n) / d.Seconds() }

// cpuTime is the CPU time that this process has used, user and system.
func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0 // cannot fail with these arguments; 0 only hides that the CPU was the bound
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// dial counts what is read from the streams that dial opens.
func (m *meter) dial(dial blobcache.Dial) blobcache.Dial {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		return &metered{conn, &m.received}, nil
	}
}

type metered struct {
	net.Conn
	received *atomic.Int64
}

// Read implements net.Conn.
func (c *metered) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.Add(int64(n))
	return n, err
}

// observed is what a machine saw while one chunk was on its way.
type observed struct {
	origin    bool // asked of a cache
	diskError bool // it came, and could not be kept
	took      time.Duration
	write     time.Duration // of it, checking and writing
	cpu       float64       // part of this process's CPU time that was used meanwhile
	rate      float64       // bytes per second that came in meanwhile, from all sources
	best      float64       // the best that ever came in
	limit     float64       // the download cap; 0: none
	sources   int           // that gave, or were to give, something meanwhile
}

// boundOf infers what bounded one chunk; the first rule that fits counts.
//
//   - cpu: this process used nearly all the CPU time that it may use.
//   - disk: at least half of the time went into checking and writing, or writing failed.
//   - own_link: bytes came in nearly as fast as the download cap allows, or, from two or
//     more sources at once, nearly as fast as they ever did. With one source alone the two
//     ends of the way cannot be told apart.
//   - cache, peer_link: there was room here, so it was up to the source, or the way from it.
func boundOf(o observed) starling.Bound {
	switch {
	case o.cpu >= cpuFull:
		return starling.BoundCPU
	case o.diskError, o.took > 0 && 2*o.write >= o.took:
		return starling.BoundDisk
	case o.limit > 0 && o.rate >= linkFull*o.limit:
		return starling.BoundOwnLink
	case o.sources >= 2 && o.best > 0 && o.rate >= linkFull*o.best:
		return starling.BoundOwnLink
	case o.origin:
		return starling.BoundCache
	default:
		return starling.BoundPeerLink
	}
}

// timedBlobs notes when a chunk came.
type timedBlobs struct {
	blobs
	answered, received time.Time // zero: not
}

// Fetch implements blobs.
func (t *timedBlobs) Fetch(ctx context.Context, addr string, f blobcache.Fetch, buf []byte) ([]byte, error) {
	f.Answered = &t.answered
	b, err := t.blobs.Fetch(ctx, addr, f, buf)
	t.received = time.Now()
	return b, err
}

// FetchPatch implements blobs.
func (t *timedBlobs) FetchPatch(ctx context.Context, addr string, f blobcache.Fetch, bases []starling.Digest, buf []byte) (blobcache.Patch, error) {
	f.Answered = &t.answered
	p, err := t.blobs.FetchPatch(ctx, addr, f, bases, buf)
	t.received = time.Now()
	return p, err
}

// spent is where the time of one chunk went.
type spent struct {
	from, to           reading
	answered, received time.Time // zero: not
}

func (s *spent) took() time.Duration { return s.to.at.Sub(s.from.at) }

// wait is the time to the first byte; all of it if none came.
func (s *spent) wait() time.Duration {
	if s.answered.IsZero() {
		return s.took()
	}
	return s.answered.Sub(s.from.at)
}

// write is the time that checking and writing took.
func (s *spent) write() time.Duration {
	if s.received.IsZero() {
		return 0
	}
	return s.to.at.Sub(s.received)
}
