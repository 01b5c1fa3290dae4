package control

import (
	"fmt"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// jobBoard holds the heartbeats and the live logs of the builds under way. It lives
// in the leader's memory, for one term.
type jobBoard struct {
	mu    sync.Mutex
	heard map[string]beat
	logs  map[string]*jobLog
}

// beat is the last sign of life under one lease.
type beat struct {
	lease uint64
	at    time.Time
}

// jobLog is the log of a job as far as this leader has it, attempts one after another.
type jobLog struct {
	lease     uint64 // of the attempt that writes
	data      []byte // maxLogBytesPerJob at most
	written   int64  // bytes of the present attempt, those beyond the bound counted
	truncated bool
	touched   time.Time
	changed   chan struct{} // closed at the next change
}

func newJobBoard() *jobBoard {
	return &jobBoard{heard: map[string]beat{}, logs: map[string]*jobLog{}}
}

// beat notes a sign of life. An older lease never overwrites a newer one.
func (b *jobBoard) beat(id string, lease uint64, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.heard[id].lease <= lease {
		b.heard[id] = beat{lease, at}
	}
}

// lastHeard returns the sign of life under the present lease of each deployment,
// and forgets deployments that are not being built.
func (b *jobBoard) lastHeard(active []*starling.Deployment) map[string]time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.heard) == 0 {
		return nil
	}
	out := make(map[string]time.Time, len(b.heard))
	building := make(map[string]bool, len(b.heard))
	for _, d := range active {
		if d.Phase != starling.PhaseBuilding {
			continue
		}
		building[d.ID] = true
		if h, ok := b.heard[d.ID]; ok && h.lease == d.Lease {
			out[d.ID] = h.at
		}
	}
	for id := range b.heard {
		if !building[id] {
			delete(b.heard, id)
		}
	}
	return out
}

// appendLog adds what a worker sent from offset on and returns the offset to go on
// from: less than sent if this leader lacks what came before.
func (b *jobBoard) appendLog(id string, lease uint64, attempt int, offset int64, data []byte, at time.Time) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.logs[id]
	if l == nil {
		b.evictLogs()
		l = &jobLog{lease: lease, changed: make(chan struct{})}
		b.logs[id] = l
	}
	l.touched = at
	if lease < l.lease {
		return l.written // fenced by the caller in the same breath
	}
	if lease > l.lease {
		if len(l.data) < maxLogBytesPerJob {
			l.data = fmt.Appendf(l.data, "\n--- attempt %d ---\n", attempt)
		}
		l.lease, l.written = lease, 0
	}
	if offset < 0 || offset > l.written {
		return l.written
	}
	if fresh := l.written - offset; fresh < int64(len(data)) {
		data = data[fresh:]
		l.written += int64(len(data))
		room := max(0, maxLogBytesPerJob-len(l.data))
		if len(data) > room {
			data, l.truncated = data[:room], true
		}
		l.data = append(l.data, data...)
		close(l.changed)
		l.changed = make(chan struct{})
	}
	return l.written
}

// evictLogs makes room for one more log: the one that was longest untouched goes.
func (b *jobBoard) evictLogs() {
	for len(b.logs) >= maxLogJobs {
		var oldest string
		for id, l := range b.logs {
			if o := b.logs[oldest]; o == nil || l.touched.Before(o.touched) || (l.touched.Equal(o.touched) && id < oldest) {
				oldest = id
			}
		}
		delete(b.logs, oldest)
	}
}

// wholeLog returns all of a job's output: what this leader has, attempts before the last
// included, if that ends with all of output, the last attempt's, or else output alone.
func (b *jobBoard) wholeLog(id string, lease uint64, output []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.logs[id]
	if l != nil && !l.truncated && l.lease == lease && l.written == int64(len(output)) && len(l.data) <= starling.MaxChunkBytes {
		return l.data
	}
	return output
}

// readLog returns what there is of a log, a channel that is closed when there may be more,
// and whether this leader has the log at all and in full so far. The text only grows.
func (b *jobBoard) readLog(id string) (text []byte, more <-chan struct{}, whole bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.logs[id]
	if l == nil {
		return nil, nil, false
	}
	return l.data, l.changed, !l.truncated
}
