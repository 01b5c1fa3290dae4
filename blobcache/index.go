package blobcache

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// key names a blob: a chunk by its digest, or the envelope of an artifact.
type key struct {
	digest   starling.Digest
	manifest bool
}

// blob is what an index knows of one blob.
type blob struct {
	key      key
	bytes    int64
	verified bool          // matched its digest in this process, and had this sum then:
	sum      uint32        // CRC-32C, which costs a tenth of the digest
	durable  bool          // survives a crash
	touched  time.Time     // last use as noted on disk
	elem     *list.Element // in lru; nil while pinned
}

// index knows what a store holds, in which order it was used, and what is pinned.
// Both stores keep theirs in it; it does no I/O.
type index struct {
	maxBytes int64

	mu            sync.Mutex
	blobs         map[key]*blob
	lru           list.List // unpinned blobs, last used first
	usedBytes     int64
	reservedBytes int64 // of puts under way
	lost          uint64
	pinned        map[key]int // how many artifacts pin it
	owners        map[starling.Digest][]starling.Digest
	waiting       map[starling.Digest]*arrival
}

// arrival is shared by those that wait for one chunk.
type arrival struct {
	here    chan struct{} // closed when the chunk is held
	waiters int
}

func newIndex(maxBytes int64) *index {
	return &index{
		maxBytes: maxBytes,
		blobs:    map[key]*blob{},
		pinned:   map[key]int{},
		owners:   map[starling.Digest][]starling.Digest{},
		waiting:  map[starling.Digest]*arrival{},
	}
}

// get returns a copy of what is known of k and counts it as used now.
func (x *index) get(k key) (blob, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.blobs[k]
	if b == nil {
		return blob{}, false
	}
	if b.elem != nil {
		x.lru.MoveToFront(b.elem)
	}
	return *b, true
}

// note changes what is known of k, if it is still held.
func (x *index) note(k key, change func(*blob)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if b := x.blobs[k]; b != nil {
		change(b)
	}
}

// reserve makes room for bytes: it forgets the victims it returns, which the caller
// deletes. The caller ends with insert or unreserve. False: there is no room.
func (x *index) reserve(bytes int64) (victims []key, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	free := x.maxBytes - x.usedBytes - x.reservedBytes
	evictable := free
	for e := x.lru.Back(); e != nil && evictable < bytes; e = e.Prev() {
		evictable += e.Value.(*blob).bytes
	}
	if evictable < bytes {
		return nil, false
	}
	for free < bytes {
		b := x.lru.Back().Value.(*blob)
		free += b.bytes
		x.drop(b)
		victims = append(victims, b.key)
	}
	x.reservedBytes += bytes
	return victims, true
}

func (x *index) unreserve(bytes int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.reservedBytes -= bytes
}

// insert records a blob, in place of one of the same key, and wakes those who wait for it.
func (x *index) insert(b blob) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.blobs[b.key]; old != nil {
		x.drop(old)
	}
	n := &b
	if x.pinned[b.key] == 0 {
		n.elem = x.lru.PushFront(n)
	}
	x.blobs[b.key] = n
	x.usedBytes += b.bytes
	if a := x.waiting[b.key.digest]; a != nil && !b.key.manifest {
		close(a.here)
		delete(x.waiting, b.key.digest)
	}
}

// lose forgets a blob that turned out to be gone or damaged.
func (x *index) lose(k key) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if b := x.blobs[k]; b != nil {
		x.drop(b)
		x.lost++
	}
}

func (x *index) drop(b *blob) {
	if b.elem != nil {
		x.lru.Remove(b.elem)
		b.elem = nil
	}
	delete(x.blobs, b.key)
	x.usedBytes -= b.bytes
}

// pin implements Store.Pin.
func (x *index) pin(artifact starling.Digest, chunks []starling.Digest) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old, had := x.owners[artifact]
	if chunks == nil {
		delete(x.owners, artifact)
	} else {
		x.owners[artifact] = chunks
		x.pinKey(key{artifact, true})
		for _, d := range chunks {
			x.pinKey(key{d, false})
		}
	}
	if had { // after the new ones, so that what stays pinned never moves
		x.unpinKey(key{artifact, true})
		for _, d := range old {
			x.unpinKey(key{d, false})
		}
	}
}

func (x *index) pinKey(k key) {
	x.pinned[k]++
	if b := x.blobs[k]; b != nil && b.elem != nil {
		x.lru.Remove(b.elem)
		b.elem = nil
	}
}

func (x *index) unpinKey(k key) {
	if x.pinned[k]--; x.pinned[k] > 0 {
		return
	}
	delete(x.pinned, k)
	if b := x.blobs[k]; b != nil {
		b.elem = x.lru.PushFront(b)
	}
}

// wait implements Source.Wait.
func (x *index) wait(ctx context.Context, d starling.Digest) error {
	x.mu.Lock()
	if x.blobs[key{d, false}] != nil {
		x.mu.Unlock()
		return nil
	}
	a := x.waiting[d]
	if a == nil {
		a = &arrival{here: make(chan struct{})}
		x.waiting[d] = a
	}
	a.waiters++
	x.mu.Unlock()

	var err error
	select {
	case <-a.here:
	case <-ctx.Done():
		err = ctx.Err()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if a.waiters--; a.waiters == 0 && x.waiting[d] == a {
		delete(x.waiting, d)
	}
	return err
}

func (x *index) usage() Usage {
	x.mu.Lock()
	defer x.mu.Unlock()
	return Usage{UsedBytes: x.usedBytes, MaxBytes: x.maxBytes, Blobs: len(x.blobs), Lost: x.lost}
}
