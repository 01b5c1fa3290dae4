package blobcache

import "math"

// unknownCaches is among how many a cache divides the egress before the region's servers have
// told it anything: it may see nobody yet, and hold what the whole region asks for.
const unknownCaches = 16

// Egress is one cache's part of what the caches of a region may send together: the total
// over the live caches, so that they keep to it without a word among them. It follows them
// as they come and go; until gossip has told all of a change, the sum may be off by one
// cache's part.
type Egress struct {
	total, own int64 // bytes a second on the wire; 0: no cap
	limit      *Limit
}

// NewEgress returns a cache's part of total, and of own, its cap whatever the others do;
// 0: none.
func NewEgress(total, own int64) *Egress {
	e := &Egress{total: total, own: own}
	e.limit = NewLimit(e.part(unknownCaches))
	return e
}

// Limit is what the cache may send; nil: anything.
func (e *Egress) Limit() *Limit { return e.limit }

// live notes how many live caches the region has, this one included.
func (e *Egress) live(caches int) {
	if e.total > 0 {
		e.limit.Set(e.part(max(caches, 1)))
	}
}

// part is one cache's part; 0: no cap.
func (e *Egress) part(caches int) int64 {
	part := int64(math.MaxInt64)
	if e.total > 0 {
		part = max(e.total/int64(caches), 1)
	}
	if e.own > 0 {
		part = min(part, e.own)
	}
	if part == math.MaxInt64 {
		return 0
	}
	return part
}
