package blobcache

import (
	"cmp"
	"time"
)

// Urgency says whose chunks go first: those of the higher priority; of equal ones those with
// the nearer deadline, though not all the time (see turns and Replicator.startPulls).
type Urgency struct {
	Priority int
	Deadline time.Time // zero: none, later than all others
}

// compare returns -1 where u goes before o.
func (u Urgency) compare(o Urgency) int {
	return cmp.Or(cmp.Compare(o.Priority, u.Priority), u.compareDeadline(o))
}

func (u Urgency) compareDeadline(o Urgency) int {
	switch none, other := u.Deadline.IsZero(), o.Deadline.IsZero(); {
	case none && other:
		return 0
	case none:
		return 1
	case other:
		return -1
	}
	return u.Deadline.Compare(o.Deadline)
}

// Max returns the more urgent of both.
func (u Urgency) Max(o Urgency) Urgency {
	if u.compare(o) <= 0 {
		return u
	}
	return o
}
