package sim

import (
	"math/bits"
	"time"
)

// clock is the virtual time and what is to come, in order of time, then of entry. It
// is a radix heap (Ahuja, Mehlhorn, Orlin and Tarjan, 1990): nothing is ever entered
// before now, so an event lies in the bucket of the highest bit in which its time
// differs from the time last reached, and moves to a lower one at most once per bit.
// Buckets keep the order of entry, so equal times need no tie-break. Events are values
// without pointers: the garbage collector never looks at them.
type clock struct {
	now     time.Duration
	last    time.Duration // the time of bucket 0
	size    int
	taken   int // of bucket 0
	buckets [65][]event
}

// kind says what an event is; each has a case in world.happen.
type kind uint8

// event is something to come. What a, b and life mean depends on the kind.
type event struct {
	at   time.Duration
	kind kind
	a, b int32
	life uint32 // the event is void if its subject has moved on
}

func (c *clock) bucket(t time.Duration) int { return bits.Len64(uint64(t) ^ uint64(c.last)) }

// at enters an event for time t, or for now if t is past.
func (c *clock) at(t time.Duration, e event) {
	e.at = max(t, c.now)
	i := c.bucket(e.at)
	c.buckets[i] = append(c.buckets[i], e)
	c.size++
}

func (c *clock) after(d time.Duration, e event) { c.at(c.now+d, e) }

// next takes the next event; it returns false if there is none up to limit.
func (c *clock) next(limit time.Duration) (event, bool) {
	if c.taken == len(c.buckets[0]) && !c.refill() {
		return event{}, false
	}
	e := c.buckets[0][c.taken]
	if e.at > limit {
		return event{}, false
	}
	c.taken++
	c.size--
	c.now = e.at
	return e, true
}

// refill spreads the lowest bucket that is not empty over those below it.
func (c *clock) refill() bool {
	c.buckets[0], c.taken = c.buckets[0][:0], 0
	if c.size == 0 {
		return false
	}
	k := 1
	for len(c.buckets[k]) == 0 {
		k++
	}
	full := c.buckets[k]
	c.last = full[0].at
	for i := range full {
		c.last = min(c.last, full[i].at)
	}
	c.buckets[k] = full[:0] // all of them go below k
	for _, e := range full {
		i := c.bucket(e.at)
		c.buckets[i] = append(c.buckets[i], e)
	}
	return true
}
