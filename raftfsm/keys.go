package raftfsm

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/starlingdeploy/starling"
)

// keyBuckets is over how many records the idempotency keys of the archive are spread: one
// for each would take several times the memory.
const keyBuckets = 4096

// bucket is a part of the archive's idempotency keys, derived from the heads of its
// segments. There are never more of them than of heads.
type bucket struct {
	n    uint64
	keys []archivedKey
}

// archivedKey says in which segment the deployment of an idempotency key is.
type archivedKey struct {
	hash uint64
	in   *Segment
}

// keyHash is what the archive keeps of an idempotency key; 0: there is none. A retry is
// given the deployment only if its key is that one's, so that two with one hash can
// at worst be refused.
func keyHash(app, idempotencyKey string) uint64 {
	if idempotencyKey == "" {
		return 0
	}
	sum := sha256.Sum256(newKey().str(app).str(idempotencyKey))
	return max(1, binary.BigEndian.Uint64(sum[:]))
}

func bucketKey(n uint64) []byte { return newKey().uint(n) }

// submitted returns the deployment that a key stands for. Where a region that was taken
// over had one that nobody else saw, the new home's counts.
func (r reader) submitted(app, idempotencyKey string) (Listed, bool) {
	var found Listed
	for d := range scan[starling.Deployment](r, tableDeployments, byKey, newKey().str(app).str(idempotencyKey)) {
		if found.Deployment == nil || d.rec.CurrentEpoch() > found.Deployment.CurrentEpoch() {
			found.Deployment = d.rec
		}
	}
	past, ok := r.submittedLongAgo(app, idempotencyKey)
	if ok && (found.Deployment == nil || past.Head.Epoch > found.Deployment.CurrentEpoch()) {
		return past, true
	}
	return found, found.Deployment != nil
}

// submittedLongAgo is submitted for what is in the archive.
func (r reader) submittedLongAgo(app, idempotencyKey string) (Listed, bool) {
	var found Listed
	hash := keyHash(app, idempotencyKey)
	b := get[bucket](r, tableKeys, byID, bucketKey(hash%keyBuckets))
	if b == nil {
		return found, false
	}
	for _, k := range b.rec.keys {
		if k.hash != hash {
			continue
		}
		for i := range k.in.Heads {
			h := &k.in.Heads[i]
			if h.Key == hash && h.App == app && (found.Head == nil || h.Epoch > found.Head.Epoch) {
				found = Listed{Segment: k.in, Head: h}
			}
		}
	}
	return found, found.Head != nil
}

// keepKeys makes the keys of a new segment known.
func (t *tx) keepKeys(s *Segment) {
	for i := range s.Heads {
		if hash := s.Heads[i].Key; hash != 0 {
			t.changeBucket(hash%keyBuckets, func(keys []archivedKey) []archivedKey {
				return slices.Concat(keys, []archivedKey{{hash, s}}) // no larger than it must be
			})
		}
	}
}

// forgetKeys is the reverse of keepKeys.
func (t *tx) forgetKeys(s *Segment) {
	for i := range s.Heads {
		if hash := s.Heads[i].Key; hash != 0 {
			t.changeBucket(hash%keyBuckets, func(keys []archivedKey) []archivedKey {
				return slices.DeleteFunc(slices.Clone(keys), func(k archivedKey) bool { return k.in == s })
			})
		}
	}
}

func (t *tx) changeBucket(n uint64, change func([]archivedKey) []archivedKey) {
	var keys []archivedKey
	old := get[bucket](t.reader, tableKeys, byID, bucketKey(n))
	if old != nil {
		keys = old.rec.keys
	}
	put(t, tableKeys, old, &row[bucket]{rec: &bucket{n, change(keys)}})
}

// rebuildKeys derives the buckets from the segments.
func (t *tx) rebuildKeys() {
	all := make([][]archivedKey, keyBuckets)
	for r := range scan[Segment](t.reader, tableHistory, byID, nil) {
		for i := range r.rec.Heads {
			if hash := r.rec.Heads[i].Key; hash != 0 {
				all[hash%keyBuckets] = append(all[hash%keyBuckets], archivedKey{hash, r.rec})
			}
		}
	}
	for n, keys := range all {
		if keys != nil {
			put(t, tableKeys, nil, &row[bucket]{rec: &bucket{uint64(n), slices.Clone(keys)}})
		}
	}
}
