package delta

import (
	"encoding/binary"
	"math/bits"
)

// The encoder is greedy, in the manner of Xdelta (MacDonald, 2000): an index of the
// base's blocks finds where the target's bytes stood, a match is then grown both ways.
// Before it asks the index it looks on, where the last match would go on: bytes changed
// in place need no index.
const (
	strideBytes  = 16 // the base is indexed at each multiple of it
	windowBytes  = 16 // what the index compares by hash
	minCopyBytes = 24 // a shorter match found by the index costs about what it saves
	minSlotBits  = 10
	lateBytes    = windowBytes + strideBytes*maxStepBytes // how late a match may be found
	maxStepBytes = 15                                     // see step
	tagBits      = 12                                     // of a slot: more of the hash, so that the base is seldom looked at in vain
)

// Encoder makes patches. It keeps its index, of 512 KiB for each MiB of base at most,
// for the next one. It is not safe for concurrent use.
type Encoder struct {
	slots []uint32 // by hash: a tag, and position in the base / strideBytes + 1; 0: free
	shift uint
}

// Encode appends to dst a patch that makes target of base. It returns false, and dst as
// it was, if that takes more than limit bytes, or if base or target is too long.
func (e *Encoder) Encode(dst, base, target []byte, limit int) ([]byte, bool) {
	if len(base) > MaxBaseBytes || len(target) > MaxTargetBytes {
		return dst, false
	}
	e.build(base)
	w := writer{out: dst, room: len(dst) + limit, target: target}
	w.out = binary.AppendUvarint(w.out, uint64(len(target)))
	for at := 0; at+windowBytes <= len(target); {
		from, n := e.match(base, target, at, w.next+at-w.done)
		if n == 0 {
			if at += step(at - w.done); len(w.out)+at-w.done > w.room+lateBytes {
				return dst, false // not worth going on
			}
			continue
		}
		back := commonBack(base[:from], target[w.done:at])
		if !w.copy(at-back, from-back, back+n) {
			return dst, false
		}
		at += n
	}
	if !w.end() {
		return dst, false
	}
	return w.out, true
}

// step is how far to move on in what is not found in the base, by how much that is
// already. It is odd: a match that is long enough meets the index's stride all the same,
// and is then grown back.
func step(unmatched int) int { return min(1+unmatched>>7&^1, maxStepBytes) }

// match returns where in the base the bytes at i of target stand, and how many alike
// follow; 0 if that is not worth a copy. on is where they stand if what was not matched
// so far was changed in place.
func (e *Encoder) match(base, target []byte, i, on int) (from, n int) {
	if on >= 0 && on+8 <= len(base) && load(base, on) == load(target, i) {
		from, n = on, common(base[on:], target[i:])
	}
	if n >= minCopyBytes {
		return from, n
	}
	if p := e.find(target, i); p >= 0 {
		if m := common(base[p:], target[i:]); m >= minCopyBytes {
			return p, m
		}
	}
	return from, n
}

// build indexes base. Of equal blocks the first counts.
func (e *Encoder) build(base []byte) {
	n := len(base) / strideBytes
	b := max(bits.Len(uint(n)), minSlotBits)
	if size := 1 << b; cap(e.slots) < size {
		e.slots = make([]uint32, size)
	} else {
		e.slots = e.slots[:size]
		clear(e.slots)
	}
	e.shift = uint(64 - b)
	for i := n - 1; i >= 0; i-- {
		if p := i * strideBytes; p+windowBytes <= len(base) {
			h := hash(base, p)
			e.slots[h>>e.shift] = uint32(h)<<(32-tagBits) | uint32(i+1)
		}
	}
}

// find returns where in the base the bytes at i of target may stand; -1: nowhere.
func (e *Encoder) find(target []byte, i int) int {
	h := hash(target, i)
	slot := e.slots[h>>e.shift]
	if (slot^uint32(h)<<(32-tagBits))>>(32-tagBits) != 0 {
		return -1
	}
	return (int(slot&(1<<(32-tagBits)-1)) - 1) * strideBytes
}

func load(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }

// hash mixes the windowBytes at i.
func hash(b []byte, i int) uint64 {
	hi, lo := bits.Mul64(load(b, i)^0x9E3779B97F4A7C15, load(b, i+8)^0xC2B2AE3D27D4EB4F)
	return (hi ^ lo) * 0x9FB21C651E98DF25
}

// common returns how many bytes a and b begin with alike.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := load(a, i) ^ load(b, i); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// commonBack returns how many bytes a and b end with alike.
func commonBack(a, b []byte) int {
	i := 0
	for i < len(a) && i < len(b) && a[len(a)-1-i] == b[len(b)-1-i] {
		i++
	}
	return i
}

// writer writes the operations of a patch.
type writer struct {
	out    []byte
	room   int // out must not grow beyond it
	target []byte
	done   int // of target: what is written
	next   int // in the base: where done stands if nothing was moved
}

// copy has the bytes of target up to at inserted and then n copied from the base.
func (w *writer) copy(at, from, n int) bool {
	if !w.insert(at) {
		return false
	}
	w.out = binary.AppendUvarint(w.out, uint64(n))
	w.out = binary.AppendVarint(w.out, int64(from-w.next))
	w.done, w.next = at+n, from+n
	return len(w.out) <= w.room
}

func (w *writer) insert(end int) bool {
	data := w.target[w.done:end]
	if len(w.out)+len(data) > w.room {
		return false
	}
	w.out = binary.AppendUvarint(w.out, uint64(len(data)))
	w.out = append(w.out, data...)
	w.next += len(data)
	w.done = end
	return true
}

// end inserts what is left.
func (w *writer) end() bool {
	return (w.done == len(w.target) || w.insert(len(w.target))) && len(w.out) <= w.room
}
