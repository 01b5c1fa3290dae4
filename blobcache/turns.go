package blobcache

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

const (
	turnPatience = 20 * time.Second // that a turn waits in line before busy is answered
	admitWithin  = 10 * time.Second // of sending at the cap may wait before a chunk; beyond, busy is answered at once
	fairTurns    = 4                // every so many the nearest deadline does not count
)

// turns decides whose chunk a server sends next: the highest priority first, and
// within one priority three times of four the nearest deadline, and the fourth, or where
// deadlines are equal, the artifact that was sent the fewest bytes (start-time fair
// queueing, Goyal et al., SIGCOMM 1996, with equal weights); in order of arrival
// within an artifact. So the urgent is soon through, and nobody of its priority gets less
// than its part of a quarter.
//
// With a cap on what is sent, a chunk that would wait for longer than admitWithin is told
// when to come again instead: the line is as long as the cap can send in that time. A few are sent at once, so that each is soon whole at the other
// end and can be passed on. A transfer that falls behind the others, because the far
// side is slow or gone, goes on beside the next; the buffer budget bounds those.
type turns struct {
	slots      int    // chunks sent at once
	maxWaiting int    // chunks in line
	limit      *Limit // of what is sent; nil: none

	mu      sync.Mutex
	pace    swarm.SendPace
	sending int // slots taken
	waiting int
	left    int64                     // bytes still to be sent of those that were called
	begun   uint64                    // turns
	made    uint64                    // lanes
	lanes   map[starling.Digest]*lane // those with somebody waiting or sending
}

// lane is one artifact's line.
type lane struct {
	artifact  starling.Digest
	number    uint64 // breaks ties
	urgency   Urgency
	sentBytes int64 // since the lane is there, on top of what the others had then
	waiting   []*turn
	sending   int
}

func (l *lane) waitingBytes() (n int64) {
	for _, t := range l.waiting {
		n += t.bytes
	}
	return n
}

// turn is one chunk's place.
type turn struct {
	line  *turns
	bytes int64
	sent  int64 // of them
	began time.Time
	lane  *lane
	call  chan bool // true: it is your turn; false: make room for something urgent
	lease *time.Timer
	slot  bool // it has one, and keeps up
}

func newTurns(slots, maxWaiting int, limit *Limit) *turns {
	return &turns{slots: slots, maxWaiting: maxWaiting, limit: limit, lanes: map[starling.Digest]*lane{}}
}

// enter waits for a slot to send a chunk of an artifact; the caller says what it has sent,
// and ends with done. ErrUnavailable: too many wait already, or for too long.
func (q *turns) enter(ctx context.Context, artifact starling.Digest, u Urgency, bytes int) (*turn, error) {
	t := &turn{line: q, bytes: int64(bytes), call: make(chan bool, 1)}
	if err := q.join(t, artifact, u); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, turnPatience)
	defer cancel()
	called, ok := false, false
	select {
	case called = <-t.call:
		ok = called
	case <-ctx.Done():
		if called = q.leave(t); called {
			ok = <-t.call
		}
	}
	if !ok {
		return nil, busyUploads()
	}
	return t, nil
}

func busyUploads() error { return fmt.Errorf("%w: too many uploads at once", starling.ErrUnavailable) }

// join puts t in line, and begins it if there is a slot.
func (q *turns) join(t *turn, artifact starling.Digest, u Urgency) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if after := q.backlog(u.Priority) - admitWithin; after > 0 {
		return &BusyError{After: min(max(after, minAgain), maxAgain).Round(time.Millisecond)}
	}
	if q.waiting >= q.maxWaiting && !q.makeRoom(u.Priority) {
		return busyUploads()
	}
	l := q.lanes[artifact]
	if l == nil || l.urgency.Priority != u.Priority {
		level := q.level(u.Priority)
		if l == nil {
			q.made++
			l = &lane{artifact: artifact, number: q.made}
			q.lanes[artifact] = l
		}
		l.sentBytes = level
	}
	l.urgency = u
	l.waiting = append(l.waiting, t)
	t.lane = l
	q.waiting++
	q.next()
	return nil
}

// backlog is for how long what is before a chunk of a priority takes to send at the cap.
func (q *turns) backlog(priority int) time.Duration {
	rate := q.limit.bytesPerSecond()
	if rate == 0 {
		return 0
	}
	ahead := q.left
	for _, l := range q.lanes {
		if l.urgency.Priority >= priority {
			ahead += l.waitingBytes()
		}
	}
	return time.Duration(float64(ahead) / rate * float64(time.Second))
}

// level is where a new lane of a priority begins: beside the one that was sent least.
func (q *turns) level(priority int) int64 {
	least, found := int64(0), false
	for _, l := range q.lanes {
		if l.urgency.Priority == priority && (!found || l.sentBytes < least) {
			least, found = l.sentBytes, true
		}
	}
	return least
}

// makeRoom sends away the youngest in line of the lowest priority below the given one.
func (q *turns) makeRoom(priority int) bool {
	var lowest *lane
	for _, l := range q.lanes {
		if len(l.waiting) > 0 && l.urgency.Priority < priority && (lowest == nil || lowest.before(l, true)) {
			lowest = l
		}
	}
	if lowest == nil {
		return false
	}
	last := len(lowest.waiting) - 1
	t := lowest.waiting[last]
	lowest.waiting = lowest.waiting[:last]
	q.waiting--
	q.drop(lowest)
	t.call <- false
	return true
}

// next begins turns while there are slots. The caller holds mu.
func (q *turns) next() {
	for q.sending < q.slots && q.waiting > 0 {
		q.begun++
		fair := q.begun%fairTurns == 0
		var best *lane
		for _, l := range q.lanes {
			if len(l.waiting) > 0 && (best == nil || l.before(best, fair)) {
				best = l
			}
		}
		t := best.waiting[0]
		best.waiting = slices.Delete(best.waiting, 0, 1)
		q.waiting--
		q.sending++
		best.sending++
		best.sentBytes += t.bytes
		q.left += t.bytes
		t.slot, t.began = true, time.Now()
		t.lease = time.AfterFunc(q.pace.Patience(t.bytes, 0), t.check)
		t.call <- true
	}
}

// before reports whether l goes before o; fair: whatever their deadlines.
func (l *lane) before(o *lane, fair bool) bool {
	c := cmp.Compare(o.urgency.Priority, l.urgency.Priority)
	if c == 0 && !fair {
		c = l.urgency.compareDeadline(o.urgency)
	}
	return cmp.Or(c, cmp.Compare(l.sentBytes, o.sentBytes), cmp.Compare(l.number, o.number)) < 0
}

// progress notes that n more bytes have been sent.
func (t *turn) progress(n int) {
	t.line.mu.Lock()
	defer t.line.mu.Unlock()
	t.sent += int64(n)
	t.line.left -= int64(n)
}

// check gives the slot of a transfer that has fallen behind to the next.
func (t *turn) check() {
	q := t.line
	q.mu.Lock()
	defer q.mu.Unlock()
	if left := q.pace.Patience(t.bytes, t.sent) - time.Since(t.began); t.slot && left > 0 {
		t.lease.Reset(left)
		return
	}
	q.free(t)
}

func (q *turns) free(t *turn) {
	if t.slot {
		t.slot = false
		q.sending--
		q.next()
	}
}

// done ends a turn that was called.
func (t *turn) done() {
	q := t.line
	q.mu.Lock()
	defer q.mu.Unlock()
	t.lease.Stop()
	if t.sent >= t.bytes {
		q.pace.Sent(t.bytes, time.Since(t.began))
	}
	t.lane.sending--
	q.left -= t.bytes - t.sent
	q.free(t)
	q.drop(t.lane)
}

// drop forgets a lane that nobody is in.
func (q *turns) drop(l *lane) {
	if len(l.waiting) == 0 && l.sending == 0 {
		delete(q.lanes, l.artifact)
	}
}

// leave takes t out of the line. True: it was called meanwhile, and the call is there to be read.
func (q *turns) leave(t *turn) (called bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(t.lane.waiting, t)
	if i < 0 {
		return true
	}
	t.lane.waiting = slices.Delete(t.lane.waiting, i, i+1)
	q.waiting--
	q.drop(t.lane)
	return false
}
