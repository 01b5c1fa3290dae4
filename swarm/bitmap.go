package swarm

import "math/bits"

// Bitmap is a set of chunks as it travels between machines: chunk i is bit i%8 of
// byte i/8, least significant first, in exactly (n+7)/8 bytes, the spare bits zero.
type Bitmap []byte

// NewBitmap returns the empty set for n chunks.
func NewBitmap(n int) Bitmap { return make(Bitmap, (n+7)/8) }

// Set adds chunk i.
func (b Bitmap) Set(i int) { b[i>>3] |= 1 << (i & 7) }

// Has reports whether chunk i is in the set; it is not if i is out of range.
func (b Bitmap) Has(i int) bool { return i >= 0 && i>>3 < len(b) && b[i>>3]&(1<<(i&7)) != 0 }

// Count returns the size of the set.
func (b Bitmap) Count() int {
	n := 0
	for _, v := range b {
		n += bits.OnesCount8(v)
	}
	return n
}

// Valid reports whether b has the form of a set of n chunks.
func (b Bitmap) Valid(n int) bool {
	return len(b) == (n+7)/8 && (n%8 == 0 || b[len(b)-1]>>(n%8) == 0)
}

// bitset is the same in memory, by words.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) set(i int)      { b[i>>6] |= 1 << (i & 63) }
func (b bitset) clear(i int)    { b[i>>6] &^= 1 << (i & 63) }
func (b bitset) has(i int) bool { return b[i>>6]&(1<<(i&63)) != 0 }

func (b bitset) bitmap(n int) Bitmap {
	m := NewBitmap(n)
	for i := range m {
		m[i] = byte(b[i>>3] >> (8 * (i & 7)))
	}
	return m
}

// each calls f for every member in rising order.
func (b bitset) each(f func(i int)) {
	for w, v := range b {
		for ; v != 0; v &= v - 1 {
			f(w<<6 + bits.TrailingZeros64(v))
		}
	}
}
