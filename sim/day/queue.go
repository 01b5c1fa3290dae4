package day

import (
	"container/heap"
	"time"
)

// event is something that happens at a virtual time.
type event struct {
	at  time.Duration
	seq uint64 // in order of scheduling, for ties
	do  func()
}

// queue is the clock and what is still to happen.
type queue struct {
	now    time.Duration
	seq    uint64
	events events
}

// at lets do happen at a time, or now if that has passed.
func (q *queue) at(t time.Duration, do func()) {
	q.seq++
	heap.Push(&q.events, event{max(t, q.now), q.seq, do})
}

// after lets do happen d from now.
func (q *queue) after(d time.Duration, do func()) { q.at(q.now+d, do) }

// next takes the earliest event, unless there is none before end, and moves the clock.
func (q *queue) next(end time.Duration) (do func(), ok bool) {
	if len(q.events) == 0 || q.events[0].at > end {
		return nil, false
	}
	e := heap.Pop(&q.events).(event)
	q.now = e.at
	return e.do, true
}

type events []event

func (h events) Len() int { return len(h) }
func (h events) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h events) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *events) Push(x any)   { *h = append(*h, x.(event)) }
func (h *events) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}
