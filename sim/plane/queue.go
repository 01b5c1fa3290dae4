package plane

import "time"

// event is something that happens at a virtual time.
type event struct {
	at  time.Duration
	seq uint64 // in order of scheduling, for ties
	do  func()
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// queue is the world's clock and what is still to happen: a binary heap.
type queue struct {
	now    time.Duration
	seq    uint64
	events []event
}

// after lets do happen d from now.
func (q *queue) after(d time.Duration, do func()) { q.at(q.now+max(d, 0), do) }

// at lets do happen at a time, or now if that has passed.
func (q *queue) at(t time.Duration, do func()) {
	q.seq++
	q.events = append(q.events, event{max(t, q.now), q.seq, do})
	for i := len(q.events) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.events[i].before(&q.events[up]) {
			break
		}
		q.events[i], q.events[up] = q.events[up], q.events[i]
		i = up
	}
}

// next takes the earliest event, unless there is none before end, and moves the clock.
func (q *queue) next(end time.Duration) (event, bool) {
	if len(q.events) == 0 || q.events[0].at > end {
		return event{}, false
	}
	e, last := q.events[0], len(q.events)-1
	q.events[0] = q.events[last]
	q.events[last] = event{}
	q.events = q.events[:last]
	for i := 0; ; {
		least := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < last && q.events[child].before(&q.events[least]) {
				least = child
			}
		}
		if least == i {
			break
		}
		q.events[i], q.events[least] = q.events[least], q.events[i]
		i = least
	}
	q.now = e.at
	return e, true
}
