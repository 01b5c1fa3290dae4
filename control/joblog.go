package control

import (
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// logBoard holds the logs that are being written, as far as this leader has them: in memory,
// for one term. Whoever writes keeps its text until it is stored, and sends the next
// leader what that lacks; a section that has ended is stored in the caches.
type logBoard struct {
	mu   sync.Mutex
	logs map[string]*liveLog // by deployment
}

// liveLog is the log of one deployment.
type liveLog struct {
	sections []*liveSection // in the order in which they began
	touched  time.Time
	changed  chan struct{} // closed at the next change
}

// liveSection is one build's or hook's text.
type liveSection struct {
	name    string
	lease   uint64 // under which it is written
	data    []byte // starling.MaxLogSectionBytes at most
	written int64  // bytes sent, those beyond the bound counted
}

// whole reports whether nothing was left out.
func (s *liveSection) whole() bool { return s.written == int64(len(s.data)) }

func newLogBoard() *logBoard { return &logBoard{logs: map[string]*liveLog{}} }

// append adds what the holder of a lease sent from offset on and returns the offset to go on
// from: less than sent if this leader lacks what came before. A section belongs to one lease:
// whoever comes with a later one begins it anew, so a further run needs a further name.
func (b *logBoard) append(id, section string, lease uint64, offset int64, data []byte, at time.Time) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.logs[id]
	if l == nil {
		b.evict()
		l = &liveLog{changed: make(chan struct{})}
		b.logs[id] = l
	}
	l.touched = at
	s := l.section(section)
	switch {
	case s == nil && len(l.sections) >= starling.MaxLogSections:
		return offset + int64(len(data)) // taken, and left out
	case s == nil:
		s = &liveSection{name: section, lease: lease}
		l.sections = append(l.sections, s)
	case lease < s.lease:
		return s.written // fenced by the caller in the same breath
	case lease > s.lease:
		s.lease, s.data, s.written = lease, nil, 0
	}
	if offset < 0 || offset > s.written {
		return s.written
	}
	if fresh := s.written - offset; fresh < int64(len(data)) {
		data = data[fresh:]
		s.written += int64(len(data))
		s.data = append(s.data, data[:min(len(data), l.room(), starling.MaxLogSectionBytes-len(s.data))]...)
		close(l.changed)
		l.changed = make(chan struct{})
	}
	return s.written
}

func (l *liveLog) section(name string) *liveSection {
	if i := slices.IndexFunc(l.sections, func(s *liveSection) bool { return s.name == name }); i >= 0 {
		return l.sections[i]
	}
	return nil
}

// room is how many bytes more this log may take.
func (l *liveLog) room() int {
	n := maxLogBytesPerJob
	for _, s := range l.sections {
		n -= len(s.data)
	}
	return max(0, n)
}

// evict makes room for one more log: the one that was longest untouched goes.
func (b *logBoard) evict() {
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

// liveCopy is a section as it is now. Its data only ever grows: what is there may be read.
type liveCopy struct {
	name  string
	data  []byte
	whole bool
}

// read returns the sections of a log and what is closed when there may be more; nil where
// this leader has nothing of it.
func (b *logBoard) read(id string) ([]liveCopy, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.logs[id]
	if l == nil {
		return nil, nil
	}
	out := make([]liveCopy, len(l.sections))
	for i, s := range l.sections {
		out[i] = liveCopy{s.name, s.data[:len(s.data):len(s.data)], s.whole()}
	}
	return out, l.changed
}

// ids lists the deployments whose logs are here.
func (b *logBoard) ids() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]string, 0, len(b.logs))
	for id := range b.logs {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}
